# make demo and make test do everything on a Debian machine with Go, git and make, as
# root; on other systems scripts/setup says what is missing.

# Commit and state of the checkout go into the binary; a copy without git has none.
VCS := $(shell git status --porcelain >/dev/null 2>&1 && echo true || echo false)
# What of the tests: make test TEST=./internal/git TEST_FLAGS='-race -run Race -v'
TEST ?= ./...
TEST_FLAGS ?= -race -timeout 30m -p 2
STATICCHECK_VERSION := v0.8.2
STATICCHECK := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/garrison/bin/staticcheck-$(STATICCHECK_VERSION)

.PHONY: build demo drill test bench lint clean setup setup-test go
build: go
	@echo 'building bin/garrison (the first time, libraries too: about a minute)'
	@CGO_ENABLED=0 go build -buildvcs=$(VCS) -trimpath -ldflags '-s -w' -o bin/garrison ./cmd/garrison
	@bin/garrison version

demo: setup build
	@bin/garrison demo

# With systemd hosts where scripts/host-base has made their base.
drill: setup build
	@bin/garrison drill

test: setup-test go
	go test $(TEST_FLAGS) $(TEST)

bench: setup build
	@bin/garrison bench
	go test -run '^$$' -bench . -benchtime 1s ./internal/...

lint: go $(STATICCHECK)
	@out=$$(gofmt -l .) && test -z "$$out" || { echo "not formatted by gofmt: $$out" >&2; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...

$(STATICCHECK): | go
	@echo 'building staticcheck $(STATICCHECK_VERSION), once'
	@mkdir -p $(@D)/tmp && GOBIN=$(@D)/tmp go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)
	@mv $(@D)/tmp/staticcheck $@

clean:
	rm -rf bin build

setup:
	@scripts/setup

setup-test:
	@scripts/setup test

# Go from 1.21 on reads the version that it needs from go.mod, and says so.
go:
	@command -v go >/dev/null || { echo 'Go is missing: install $(shell sed -n 's/^go /Go /p' go.mod) or newer, from https://go.dev/dl' >&2; exit 1; }
