package nix

import (
	"context"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Build realises derivations, all that can be (a failure of one does not stop the others), and
// keeps their outputs from garbage collection by links in rootDir. Errors: CodeBuild, with Nix's words in it;
// class release when a builder failed, else what the machine or the network is to blame for.
func (n *Nix) Build(ctx context.Context, drvs []string, rootDir string) error {
	args := append([]string{"--realise", "--keep-going"}, drvs...)
	args = append(args, "--add-root", filepath.Join(rootDir, "result"), "--indirect")
	_, err := n.run(ctx, "nix-store", args...)
	if err == nil || ctx.Err() != nil {
		return err
	}
	class := fleet.Local
	if code, ok := proc.ExitCode(err); ok && code >= builderFailed {
		class = fleet.Bad
	}
	return fleet.Errorf(classOf(err, class), fleet.CodeBuild, "%s", buildMessage(err))
}

// buildMessage is Message, and before it what builders said last.
func buildMessage(err error) string {
	complaint := Message(err, maxBuildMessage)
	before, _, _ := strings.Cut("\n"+proc.Redact(proc.Said(err)), "\nerror:")
	var said []string
	for line := range strings.Lines(before) {
		line = strings.TrimRight(line, "\r\n")
		if line != "" && !progress.MatchString(line) {
			said = append(said, line)
		}
	}
	said = said[max(0, len(said)-builderLines):]
	return strings.ToValidUTF8(strings.Join(append(said, complaint), "\n"), "")
}

// builderLines is how many lines of builders are kept.
const builderLines = 20

// progress is what nix-store says of what it is going to do.
var progress = regexp.MustCompile(`^(building|copying path|fetching path) '/nix/store/|^  /nix/store/|^(this|these) .*(will be (built|fetched)|path)`)

// builderFailed is the least exit status of nix-store --realise that blames a builder: 100 failed, 101 timed out,
// 102 made something else than it promised, 104 not twice the same (nix-store(1)). 1 is anything else.
const builderFailed = 100

// maxBuildMessage bounds what is kept of a failed build's words, in bytes.
const maxBuildMessage = 8 << 10

// Substitution says where a closure may come from.
type Substitution struct {
	Caches     []string // URLs, asked besides those of nix.conf
	PublicKeys []string // that one of must have signed each path
	Timeout    time.Duration
	Root       string // link to keep it from garbage collection
}

// Substitute makes path valid by fetching what is missing of its closure; it never builds.
// Errors: CodeSubstitute; class host when the disk is full, else transient: the cache may have it later.
func (n *Nix) Substitute(parent context.Context, path string, s Substitution) error {
	ctx, cancel := context.WithTimeoutCause(parent, s.Timeout, fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "fetching took longer than %s", s.Timeout))
	defer cancel()
	_, err := n.run(ctx, "nix-store", "--realise", path, "--add-root", s.Root, "--indirect",
		"--max-jobs", "0",
		"--option", "builders", "",
		"--option", "substitute", "true",
		"--option", "extra-substituters", strings.Join(s.Caches, " "),
		"--option", "extra-trusted-public-keys", strings.Join(s.PublicKeys, " "),
		"--option", "require-sigs", "true",
		"--option", "narinfo-cache-negative-ttl", "0",
		"--option", "connect-timeout", "5",
		"--option", "stalled-download-timeout", strconv.Itoa(60))
	if err == nil || parent.Err() != nil {
		return err
	}
	if strings.Contains(proc.Said(err), "No space left on device") {
		return fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "no space left to fetch %s", path).
			WithHint("make room: nix-collect-garbage -d").WithCause(err)
	}
	return fleet.Errorf(fleet.Transient, fleet.CodeSubstitute, "cannot fetch %s from %s", path, proc.Redact(strings.Join(s.Caches, ", "))).
		WithHint("is the cache up, does it have the path, and is its key among the agent's?").WithCause(err)
}
