package hub_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/hub"
)

// hooked serves webhooks, and keeps which refs were heard of.
type hooked struct {
	t    *testing.T
	url  string
	file string // of secrets
	log  logBuffer
	from func() string

	mu   sync.Mutex
	refs []string
}

const oldSecret, newSecret = "the secret until yesterday", "the secret from tomorrow on"

func newHooked(t *testing.T) *hooked {
	t.Helper()
	h := &hooked{t: t, file: filepath.Join(t.TempDir(), "secrets"), from: func() string { return "192.0.2.1" }}
	must(t, os.WriteFile(h.file, []byte(oldSecret+"\n"), 0o600))
	watched := &durable.Watched[[]string]{Path: h.file, Read: hub.ReadSecrets}
	s := httptest.NewServer(hub.NewWebhooks(hub.WebhookOptions{Repo: "ops/fleet", Secrets: watched.Get,
		From: func(*http.Request) string { return h.from() },
		Hint: func(ref string, _ time.Time) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.refs = append(h.refs, ref)
			return ref == "refs/heads/main"
		}, Log: slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}))
	t.Cleanup(s.Close)
	h.url = s.URL
	return h
}

// deliver sends a delivery as Gitea does, and returns what is answered.
func (h *hooked) deliver(id, event, body, secret string) (status int, said string) {
	h.t.Helper()
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.url, strings.NewReader(body))
	must(h.t, err)
	for k, v := range map[string]string{"Content-Type": "application/json", "X-Gitea-Event": event, "X-Gitea-Delivery": id, "X-Gitea-Signature": hex.EncodeToString(mac.Sum(nil))} {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	must(h.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(h.t, err)
	return resp.StatusCode, strings.TrimSpace(string(text))
}

func (h *hooked) heard() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.refs, " ")
}

// push is the body of a push.
func push(repo, ref string) string {
	return fmt.Sprintf(`{"ref":%q,"after":%q,"repository":{"full_name":%q}}`, ref, strings.Repeat("a", 40), repo)
}

// TestWebhooks: what the forge signed is a hint, once; the rest is answered, logged and otherwise ignored.
func TestWebhooks(t *testing.T) {
	h := newHooked(t)
	main := push("ops/fleet", "refs/heads/main")
	for _, c := range []struct {
		name, id, event, body, secret string
		status                        int
		said, logged                  string
	}{
		{"a push", "1", "push", main, oldSecret, 202, "looking", "a webhook was delivered\""},
		{"the same again", "1", "push", main, oldSecret, 202, "known already", "delivered before"},
		{"a forgery", "2", "push", main, "a guess that is long enough", 401, "not signed with a secret", "is ignored"},
		{"the delivery whose id was forged", "2", "push", main, oldSecret, 202, "looking", "a webhook was delivered\""},
		{"another secret's", "3", "push", main, newSecret, 401, "not signed with a secret", "is ignored"},
		{"another branch", "4", "push", push("ops/fleet", "refs/heads/topic"), oldSecret, 202, "concerns nobody", "concerns nobody"},
		{"another repository", "5", "push", push("ops/other", "refs/heads/main"), oldSecret, 202, "another repository's", "another repository"},
		{"an issue", "6", "issues", `{"repository":{"full_name":"ops/fleet"}}`, oldSecret, 202, "concerns nobody", "concerns nobody"},
		{"no JSON", "7", "push", `{"ref":`, oldSecret, 400, "cannot be read", "is ignored"},
	} {
		status, said := h.deliver(c.id, c.event, c.body, c.secret)
		if status != c.status || !strings.Contains(said, c.said) {
			t.Errorf("%s: %d %s", c.name, status, said)
		}
		lines := strings.Split(strings.TrimSpace(h.log.String()), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, c.logged) || !strings.Contains(last, "192.0.2.1") {
			t.Errorf("%s: logged %s", c.name, last)
		}
	}
	if got := h.heard(); got != "refs/heads/main refs/heads/main refs/heads/topic" {
		t.Errorf("heard of %s", got)
	}
	if strings.Contains(h.log.String(), oldSecret) {
		t.Errorf("a secret in the log: %s", h.log.String())
	}

	// While one secret takes the place of another, both will do; then the new one alone.
	must(t, os.WriteFile(h.file, []byte(newSecret+"\n\n  "+oldSecret+" \n"), 0o600))
	for id, secret := range map[string]string{"8": oldSecret, "9": newSecret} {
		if status, said := h.deliver(id, "push", main, secret); status != 202 || said != "looking" {
			t.Errorf("%d %s", status, said)
		}
	}
	must(t, os.WriteFile(h.file, []byte(newSecret), 0o600))
	if status, _ := h.deliver("10", "push", main, oldSecret); status != 401 {
		t.Errorf("%d for a secret that is no more", status)
	}
	must(t, os.Remove(h.file))
	if status, _ := h.deliver("11", "push", main, newSecret); status != 503 {
		t.Errorf("%d without secrets", status)
	}
}

// TestWebhookBounds: neither large, nor slow, nor many deliveries keep others out, fill the memory, or the log.
func TestWebhookBounds(t *testing.T) {
	h := newHooked(t)
	main := push("ops/fleet", "refs/heads/main")
	if status, _ := h.deliver("1", "push", main+strings.Repeat(" ", 1<<20), oldSecret); status != 413 {
		t.Errorf("%d for more than 1 MiB", status)
	}
	if status, said := h.deliver("2", "push", main+strings.Repeat(" ", 1<<20-len(main)), oldSecret); status != 202 || said != "looking" {
		t.Errorf("%d %s for 1 MiB", status, said)
	}
	// Bodies that never come, as many as one address may begin.
	refused := 0
	for range 50 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(h.url, "http://"))
		must(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: hub\r\nContent-Length: 100\r\n\r\n{")
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		answer := make([]byte, 64)
		if n, _ := conn.Read(answer); bytes.Contains(answer[:n], []byte(" 429 ")) {
			refused++
		}
	}
	if refused < 20 || refused > 40 {
		t.Errorf("%d of 50 were refused", refused)
	}
	if status, _ := h.deliver("3", "push", main, oldSecret); status != 429 {
		t.Errorf("%d for one more of them", status)
	}
	h.from = func() string { return "192.0.2.2" }
	if status, said := h.deliver("4", "push", main, oldSecret); status != 202 || said != "looking" {
		t.Errorf("%d %s from elsewhere", status, said)
	}
	// What the forge signs is not held against it, but against all; forgeries from everywhere are, too.
	for n := range 50 {
		if status, said := h.deliver(fmt.Sprint("forge", n), "push", main, oldSecret); status != 202 {
			t.Fatalf("%d %s for the forge's delivery %d", status, said, n)
		}
	}
	last := 0
	for n := range 200 {
		h.from = func() string { return fmt.Sprint("198.51.100.", n) }
		if last, _ = h.deliver(fmt.Sprint("many", n), "push", main, "a guess that is long enough"); last == 429 {
			break
		}
	}
	if last != 429 {
		t.Errorf("%d for many addresses' forgeries", last)
	}
	if lines := strings.Count(h.log.String(), "level=WARN"); lines < 10 || lines > 40 {
		t.Errorf("%d lines were logged", lines)
	}
}

func TestReadSecrets(t *testing.T) {
	for text, want := range map[string]string{"": "has no secret", "\n \n": "has no secret", "short\n": "at least 16", strings.Repeat("x", 16): ""} {
		file := filepath.Join(t.TempDir(), "secrets")
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if _, err := hub.ReadSecrets(file); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := hub.ReadSecrets("/does/not/exist"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
