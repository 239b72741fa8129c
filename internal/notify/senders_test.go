package notify_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/notify"
)

// TestWebhookSigned: a webhook's request is a CloudEvent in structured mode, and signed so that its receiver can tell, with the secret as it is now.
func TestWebhookSigned(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	secret := write(t, "secret", "first\n")
	k := l.keeper(toWebhook+"secretFile = \"SECRET\"\ntokenFile = \"TOKEN\"\n", "URL", r.URL, "SECRET", secret, "TOKEN", write(t, "token", "the-token\n"))
	for i, s := range []string{"first", "second"} {
		l.must(os.WriteFile(secret, []byte(s+"\n"), 0o600))
		tests, err := k.Test(t.Context(), []string{"hook"})
		l.must(err)
		if tests[0].Error != "" {
			t.Fatal(tests[0].Error)
		}
		got := r.all()[i]
		var at int64
		if _, err := fmt.Sscanf(got.Header.Get(notify.SignatureHeader), "t=%d,", &at); err != nil {
			t.Fatal(err)
		}
		if want := notify.Sign(s, time.Unix(at, 0), got.body); got.Header.Get(notify.SignatureHeader) != want || got.Header.Get("Authorization") != "Bearer the-token" || got.Header.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" {
			t.Errorf("its header is %v, the signature should be %s", got.Header, want)
		}
		e := r.events(t)[i]
		if e.SpecVersion != "1.0" || e.ID == "" || e.Source != "/alerts" || e.Type != notify.EventTest || e.ContentType != "application/json" {
			t.Errorf("the event is %+v", e)
		}
	}
}

// services are those that tests have after their documentation: what each wants, and how it shows that it was wrong.
var services = []struct {
	kind, conf string // URL and TOKEN stand for a file with the URL, and one with the token; BASE for the server
	path       string
	header     [2]string
	check      func(doc map[string]any) bool
}{
	{"ntfy", `url = "BASE/fleet"` + "\n" + `tokenFile = "TOKEN"`, "/", [2]string{"Authorization", "Bearer secret-token"}, func(d map[string]any) bool {
		return d["topic"] == "fleet" && d["priority"] == 5.0 && strings.HasPrefix(str(d["title"]), "CRITICAL: web1") && str(d["message"]) != "" && len(d["tags"].([]any)) == 1
	}},
	{"slack", `urlFile = "URL"`, "/services/T0/B0/secret-token", [2]string{}, func(d map[string]any) bool {
		return len(d) == 1 && strings.Contains(str(d["text"]), "&lt;!channel&gt;") && !strings.Contains(str(d["text"]), "<!")
	}},
	{"mattermost", `urlFile = "URL"`, "/services/T0/B0/secret-token", [2]string{}, func(d map[string]any) bool {
		return len(d) == 1 && strings.Contains(str(d["text"]), "CRITICAL: web1") && !strings.Contains(str(d["text"]), "@all")
	}},
	{"discord", `urlFile = "URL"`, "/services/T0/B0/secret-token", [2]string{}, func(d map[string]any) bool {
		return len(str(d["content"])) <= 2000 && len(d["allowed_mentions"].(map[string]any)["parse"].([]any)) == 0
	}},
	{"teams", `urlFile = "URL"`, "/services/T0/B0/secret-token", [2]string{}, func(d map[string]any) bool {
		card := d["attachments"].([]any)[0].(map[string]any)
		return d["type"] == "message" && card["contentType"] == "application/vnd.microsoft.card.adaptive" && len(card["content"].(map[string]any)["body"].([]any)) == 2
	}},
	{"telegram", `url = "BASE"` + "\n" + `tokenFile = "TOKEN"` + "\n" + `room = "-100"`, "/botsecret-token/sendMessage", [2]string{}, func(d map[string]any) bool {
		return d["chat_id"] == "-100" && len(str(d["text"])) <= 4096
	}},
	{"gotify", `url = "BASE"` + "\n" + `tokenFile = "TOKEN"`, "/message", [2]string{"X-Gotify-Key", "secret-token"}, func(d map[string]any) bool {
		return d["priority"] == 8.0 && str(d["title"]) != "" && str(d["message"]) != ""
	}},
}

func str(v any) string { s, _ := v.(string); return s }

// TestServices: each service gets what its documentation says, and a host's words are no commands there; a service that refuses is told of without the secret.
func TestServices(t *testing.T) {
	for _, c := range services {
		t.Run(c.kind, func(t *testing.T) {
			l, r := newLab(t), newReceiver(t)
			r.answers(func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintln(w, "{}")
			})
			conf := "[[senders]]\nname = \"it\"\ntype = \"" + c.kind + "\"\n" + c.conf + "\n"
			k := l.keeper(conf, "BASE", r.URL, "URL", write(t, "url", r.URL+"/services/T0/B0/secret-token\n"), "TOKEN", write(t, "token", "secret-token\n"))
			l.run(k)
			l.report(k, host("web1", func(s *fleet.Status) {
				held(s)
				s.Failure.Message = "@all <!channel> " + strings.Repeat("ä", 5000)
			}))
			l.eventually("it is told", func() bool { return r.count() > 0 })
			got := r.all()[0]
			var doc map[string]any
			l.must(json.Unmarshal(got.body, &doc))
			if got.URL.Path != c.path || got.Header.Get("Content-Type") != "application/json" || c.header[0] != "" && got.Header.Get(c.header[0]) != c.header[1] || !c.check(doc) {
				t.Errorf("it got %s %s %v: %.600s", got.Method, got.URL.Path, got.Header, got.body)
			}
			r.answers(func(w http.ResponseWriter, req *http.Request) {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, "no such thing as secret-token at "+req.URL.Path)
			})
			tests, err := k.Test(t.Context(), nil)
			l.must(err)
			if !strings.Contains(tests[0].Error, "answers 403") || strings.Contains(tests[0].Error, "secret-token") || strings.Contains(l.log.String(), "secret-token") {
				t.Errorf("it says %q", tests[0].Error)
			}
			r.Close()
			if tests, err = k.Test(t.Context(), nil); err != nil || tests[0].Error == "" || strings.Contains(tests[0].Error, "secret-token") {
				t.Errorf("of a server that is away it says %+v, %v", tests, err)
			}
		})
	}
}

// TestHostile: a server that misbehaves costs a bounded time and memory, and says something that is not its own endless words.
func TestHostile(t *testing.T) {
	endless := func(w http.ResponseWriter, status int) {
		w.WriteHeader(status)
		for chunk := []byte(strings.Repeat("x", 64<<10)); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		then http.HandlerFunc
		want string
	}{
		"hangs":          {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "does not answer in time"},
		"endless":        {func(w http.ResponseWriter, _ *http.Request) { endless(w, 500) }, "answers 500: xxx"},
		"endless and ok": {func(w http.ResponseWriter, _ *http.Request) { endless(w, 200) }, ""},
		"closes": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
		}, "EOF"},
		"closes in the middle": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
				conn.Close()
			}
		}, "unexpected EOF"},
		"no HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "220 mail.example.org\r\n")
				conn.Close()
			}
		}, "malformed HTTP"},
		"endless header": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20))
				conn.Close()
			}
		}, "exceeded"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, "a redirect, which is not followed"},
		"wants control": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "\x1b[31mred\nnext", http.StatusBadGateway)
		}, "answers 502: [31mred next"},
	} {
		t.Run(name, func(t *testing.T) {
			l, r := newLab(t), newReceiver(t)
			r.answers(c.then)
			tests, err := l.keeper("timeout = \"500ms\"\n"+toWebhook, "URL", r.URL).Test(t.Context(), nil)
			l.must(err)
			if got := tests[0].Error; !strings.Contains(got, c.want) || c.want == "" && got != "" || len(got) > 300 {
				t.Errorf("it says %q, and should %q", got, c.want)
			}
		})
	}
	t.Run("bad TLS", func(t *testing.T) {
		l := newLab(t)
		s := httptest.NewTLSServer(http.NotFoundHandler())
		defer s.Close()
		tests, err := l.keeper(toWebhook, "URL", s.URL).Test(t.Context(), nil)
		l.must(err)
		if !strings.Contains(tests[0].Error, "certificate") {
			t.Errorf("it says %q", tests[0].Error)
		}
	})
	t.Run("endless mail server", func(t *testing.T) {
		l := newLab(t)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		l.must(err)
		defer listener.Close()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					for chunk := []byte("220" + strings.Repeat("x", 64<<10)); ; {
						if _, err := conn.Write(chunk); err != nil {
							return
						}
					}
				}()
			}
		}()
		tests, err := l.keeper("[[senders]]\nname = \"mail\"\ntype = \"email\"\nserver = \"ADDR\"\nsecurity = \"none\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n", "ADDR", listener.Addr().String()).Test(t.Context(), nil)
		l.must(err)
		if !strings.Contains(tests[0].Error, "more than an SMTP server has to") {
			t.Errorf("it says %q", tests[0].Error)
		}
	})
}

// TestRetryAfter: a sender that asks to be left alone is; what it will never take is given up and shown, and what comes after it goes on.
func TestRetryAfter(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	r.answers(func(w http.ResponseWriter, req *http.Request) {
		switch r.count() {
		case 1:
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	})
	k := l.keeper(toWebhook, "URL", r.URL)
	l.run(k)
	l.eventually("the cursor is set", func() bool { _, found, err := l.store.Cursor(t.Context()); return err == nil && found })
	began := time.Now()
	l.report(k, host("web1", held))
	l.report(k, host("db1", held))
	l.eventually("both are done", func() bool {
		done, err := l.store.LastDeliveries(t.Context(), 10)
		return err == nil && len(done) == 2
	})
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it was asked again after %s", took)
	}
	s, err := k.Senders(t.Context())
	l.must(err)
	if s[0].GivenUp != 1 || s[0].Delivered == nil {
		t.Errorf("the sender is %+v", s[0])
	}
}

// TestFlood: of many messages people get some, and of the rest one; machines get all.
func TestFlood(t *testing.T) {
	l, people, machine := newLab(t), newReceiver(t), newReceiver(t)
	k := l.keeper(`
[[senders]]
name = "people"
type = "slack"
urlFile = "PEOPLE"
[[senders]]
name = "machine"
type = "webhook"
url = "MACHINE"
[[rules]]
types = ["garrison.*"]
`, "PEOPLE", write(t, "url", people.URL), "MACHINE", machine.URL)
	l.run(k)
	l.eventually("the cursor is set", func() bool { _, found, err := l.store.Cursor(t.Context()); return err == nil && found })
	var ids []string
	for i := range 46 {
		ids = append(ids, fmt.Sprint("act ", i))
	}
	l.put(k, ids...)
	l.eventually("all are told", func() bool {
		pending, err := l.store.Deliveries(t.Context(), 100)
		return err == nil && len(pending) == 0 && machine.count() == 46
	})
	all := people.all()
	if last := string(all[len(all)-1].body); len(all) != 10 || !strings.Contains(last, "37 more") {
		t.Errorf("people got %d messages; the last is %s", len(all), last)
	}
}

// TestTemplate: people get what the template makes; when it cannot be made, the default with a note, and that is shown.
func TestTemplate(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	k := l.keeper(`
title = "[{{.Alert.Kind}}] {{.Alert.Host}}"
text = "{{index .Alert.Commands 1}}{{if .Over}}{{index .Alert.Commands 99}}{{end}}"
[[senders]]
name = "ntfy"
type = "ntfy"
url = "URL/topic"
`, "URL", r.URL)
	l.run(k)
	l.report(k, host("web1", held))
	l.eventually("it fires", func() bool { return r.count() == 1 })
	l.report(k, host("web1", func(s *fleet.Status) { s.At = time.Now().Add(time.Second) }))
	l.eventually("it is over", func() bool { return r.count() == 2 })
	var docs [2]struct{ Title, Message string }
	for i, g := range r.all() {
		l.must(json.Unmarshal(g.body, &docs[i]))
	}
	if docs[0].Title != "[deployment-failed] web1" || docs[0].Message != "garrison logs 413 --host web1" {
		t.Errorf("it says %+v", docs[0])
	}
	if !strings.Contains(docs[1].Message, "over since") || !strings.Contains(docs[1].Message, "The configured text could not be made") {
		t.Errorf("when over it says %+v", docs[1])
	}
	l.eventually("that is shown", func() bool {
		s, err := k.Senders(t.Context())
		return err == nil && strings.Contains(s[0].Template, "index out of range")
	})
}

// TestHeartbeat: it is sent while all works, and not when no sender does.
func TestHeartbeat(t *testing.T) {
	l, beats, bad := newLab(t), newReceiver(t), newReceiver(t)
	bad.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	k := l.keeper("heartbeat.url = \"BEATS\"\nheartbeat.every = \"10ms\"\n"+toWebhook, "URL", bad.URL, "BEATS", beats.URL)
	l.run(k)
	l.eventually("it beats", func() bool { return beats.count() > 2 })
	l.report(k, host("web1", held))
	l.eventually("it is noticed", func() bool { return l.log.count("no sender works") > 0 })
	n := beats.count()
	l.eventually("it is tried again", func() bool { return bad.count() >= 2 })
	if got := beats.count(); got > n+1 {
		t.Errorf("%d beats more came", got-n)
	}
}
