package notify_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc/proctest"
)

// program is what a script of scripts/ fetches.
func program(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join("..", "..", "scripts", script)).Output()
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return strings.TrimSpace(string(out))
}

// serve runs a server until the test ends; ready is a URL that it answers, or host:port to connect to.
func serve(t *testing.T, ready string, cmd *exec.Cmd) {
	t.Helper()
	var said lines
	cmd.Stdout, cmd.Stderr = &said, &said
	ended, err := proctest.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if answers(t.Context(), ready) {
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", cmd.Path, said.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not answer: %s", cmd.Path, said.String())
		}
	}
}

func answers(ctx context.Context, ready string) bool {
	if !strings.HasPrefix(ready, "http") {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", ready)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ready, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	return err == nil && resp.StatusCode == http.StatusOK
}

// free is an address of loopback on which nobody listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// askJSON asks a server, and reads what it answers.
func askJSON(t *testing.T, method, to, token string, doc, into any) {
	t.Helper()
	body, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, to, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(answer, into)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %v: %s", method, to, resp.Status, err, answer)
	}
}

// TestAlertmanager: Prometheus' own hears that an alert fires, and that it is over, and tells so.
func TestAlertmanager(t *testing.T) {
	l, r, addr := newLab(t), newReceiver(t), free(t)
	conf := write(t, "alertmanager.yml", fmt.Sprintf(`
route: {receiver: hook, group_by: [alertname, key], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}
receivers:
  - name: hook
    webhook_configs: [{url: %q, send_resolved: true}]
`, r.URL))
	serve(t, "http://"+addr+"/-/ready", exec.Command(program(t, "fetch-alertmanager"), "--config.file="+conf, "--storage.path="+t.TempDir(), "--web.listen-address="+addr, "--cluster.listen-address="))
	k := l.keeper(`
hub = "https://hub.example.org"
[[senders]]
name = "am"
type = "alertmanager"
url = "http://ADDR"
[[rules]]
types = ["garrison.*"] # of which only alerts are for it
`, "ADDR", addr)
	l.run(k)
	l.eventually("the cursor is set", func() bool { _, found, err := l.store.Cursor(t.Context()); return err == nil && found })
	l.put(k, "an act")
	l.report(k, host("web1", held))
	type group struct {
		Status string `json:"status"`
		Alerts []struct {
			Status      string            `json:"status"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"alerts"`
	}
	groups := func() (all []group) {
		for _, g := range r.all() {
			var one group
			l.must(json.Unmarshal(g.body, &one))
			all = append(all, one)
		}
		return all
	}
	l.eventually("it fires there", func() bool {
		g := groups()
		return len(g) > 0 && g[0].Status == "firing"
	})
	a := groups()[0].Alerts[0]
	if a.Labels["alertname"] != "deployment-failed" || a.Labels["host"] != "web1" || a.Labels["severity"] != "critical" || a.Annotations["summary"] == "" || !strings.Contains(a.Annotations["commands"], "garrison explain --host web1 --hub https://hub.example.org") {
		t.Errorf("it says %+v", a)
	}
	l.report(k, host("web1", func(s *fleet.Status) { s.At = time.Now().Add(time.Second) }))
	l.eventually("it is over there", func() bool {
		return slices.ContainsFunc(groups(), func(g group) bool { return g.Status == "resolved" })
	})
	tests, err := k.Test(t.Context(), nil)
	l.must(err)
	if tests[0].Error != "" {
		t.Errorf("the test says %+v", tests)
	}
}

// certificate is one for 127.0.0.1 that signs itself, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))), write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}

// TestMail: a mail server takes what is sent by STARTTLS and by TLS, with a password; and when it does not, that is said without the password.
func TestMail(t *testing.T) {
	mailpit := program(t, "fetch-mailpit")
	cert, key := certificate(t)
	users := write(t, "users", "garrison:correct-horse\n")
	for _, c := range []struct{ security, flag string }{{"starttls", "--smtp-require-starttls"}, {"tls", "--smtp-require-tls"}} {
		t.Run(c.security, func(t *testing.T) {
			l, web, smtp := newLab(t), free(t), free(t)
			serve(t, "http://"+web+"/readyz", exec.Command(mailpit, "--database", filepath.Join(t.TempDir(), "mails.db"), "--listen", web, "--smtp", smtp, "--smtp-tls-cert", cert, "--smtp-tls-key", key, c.flag, "--smtp-auth-file", users, "--disable-version-check", "--smtp-disable-rdns"))
			conf := `
[[senders]]
name = "mail"
type = "email"
server = "SMTP"
security = "SECURITY"
caFile = "CA"
user = "garrison"
passwordFile = "PASSWORD"
from = "Garrison <garrison@example.org>"
to = ["ops@example.org", "Ünser Téam <team@example.org>"]
`
			password := write(t, "password", "wrong-donkey\n")
			k := l.keeper(conf, "SMTP", smtp, "SECURITY", c.security, "CA", cert, "PASSWORD", password)
			l.run(k)
			l.report(k, host("web1", held))
			l.eventually("the password is refused", func() bool { s, err := k.Senders(t.Context()); return err == nil && s[0].Attempts > 0 })
			s, err := k.Senders(t.Context())
			l.must(err)
			if !strings.Contains(s[0].Error, "535") || strings.Contains(s[0].Error, "donkey") || strings.Contains(l.log.String(), "donkey") {
				t.Errorf("it says %q", s[0].Error)
			}
			l.must(os.WriteFile(password, []byte("correct-horse\n"), 0o600))
			var found struct {
				Messages []struct {
					ID, Subject string
					To          []struct{ Address string }
				} `json:"messages"`
			}
			l.eventually("the mail is there", func() bool {
				askJSON(t, http.MethodGet, "http://"+web+"/api/v1/messages", "", nil, &found)
				return len(found.Messages) > 0
			})
			if m := found.Messages; len(m) != 1 || m[0].Subject != "CRITICAL: web1 holds release-413: check-failed" || len(m[0].To) != 2 {
				t.Errorf("there came %+v", m)
			}
			var whole struct{ Text string }
			askJSON(t, http.MethodGet, "http://"+web+"/api/v1/message/"+found.Messages[0].ID, "", nil, &whole)
			if !strings.Contains(whole.Text, "what went wrong") || !strings.Contains(whole.Text, "garrison logs 413 --host web1") {
				t.Errorf("it says %q", whole.Text)
			}
			// One that is not to be believed.
			other, _ := certificate(t)
			tests, err := l.keeper(conf, "SMTP", smtp, "SECURITY", c.security, "CA", other, "PASSWORD", password).Test(t.Context(), nil)
			l.must(err)
			if !strings.Contains(tests[0].Error, "certificate") {
				t.Errorf("with another certificate: %+v", tests)
			}
		})
	}
}

// TestMatrix: a Matrix server shows the messages in the room, each once, although it asks for fewer.
func TestMatrix(t *testing.T) {
	l, addr, dir := newLab(t), free(t), t.TempDir()
	programs := program(t, "fetch-dendrite")
	key := filepath.Join(dir, "matrix_key.pem")
	if out, err := exec.CommandContext(t.Context(), filepath.Join(programs, "generate-keys"), "-private-key", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	conf := fmt.Sprintf("version: 2\nglobal:\n  server_name: localhost\n  private_key: %s\n  disable_federation: true\n  jetstream: {in_memory: true, storage_path: %[2]s}\n", key, dir)
	for _, part := range []string{"federation", "media", "room", "sync", "key", "relay"} {
		name := part + "_api"
		if part == "room" || part == "key" {
			name = part + "_server"
		}
		conf += fmt.Sprintf("%s:\n  database: {connection_string: \"file:%s/%s.db\"}\n", name, dir, part)
		if part == "media" {
			conf += "  base_path: " + dir + "/media\n"
		}
	}
	conf += fmt.Sprintf("user_api:\n  account_database: {connection_string: \"file:%[1]s/account.db\"}\n  device_database: {connection_string: \"file:%[1]s/device.db\"}\nmscs:\n  database: {connection_string: \"file:%[1]s/mscs.db\"}\n", dir)
	conf += "client_api:\n  registration_disabled: false\n  rate_limiting: {enabled: true, threshold: 5, cooloff_ms: 500}\n"
	cmd := exec.Command(filepath.Join(programs, "dendrite"), "-config", write(t, "dendrite.yaml", conf), "-http-bind-address", addr, "-really-enable-open-registration")
	cmd.Dir = dir
	serve(t, "http://"+addr+"/_matrix/client/versions", cmd)
	base := "http://" + addr + "/_matrix/client/v3"
	var user struct {
		Token string `json:"access_token"`
	}
	askJSON(t, http.MethodPost, base+"/register", "", map[string]any{"username": "garrison", "password": "correct-horse-battery", "auth": map[string]string{"type": "m.login.dummy"}}, &user)
	var room struct {
		ID string `json:"room_id"`
	}
	askJSON(t, http.MethodPost, base+"/createRoom", user.Token, map[string]any{"preset": "private_chat"}, &room)

	k := l.keeper(`
[[senders]]
name = "matrix"
type = "matrix"
url = "http://ADDR"
room = "ROOM"
tokenFile = "TOKEN"
[[rules]]
types = ["garrison.*"]
`, "ADDR", addr, "ROOM", room.ID, "TOKEN", write(t, "token", user.Token+"\n"))
	l.run(k)
	l.eventually("the cursor is set", func() bool { _, found, err := l.store.Cursor(t.Context()); return err == nil && found })
	for i := range 8 {
		l.put(k, fmt.Sprint("act ", i))
	}
	l.eventually("all are told", func() bool {
		done, err := l.store.LastDeliveries(t.Context(), 100)
		return err == nil && len(done) == 8
	})
	var found struct {
		Chunk []struct {
			Type    string
			Content struct{ Body string }
		}
	}
	askJSON(t, http.MethodGet, base+"/rooms/"+url.PathEscape(room.ID)+"/messages?dir=b&limit=100", user.Token, nil, &found)
	n := 0
	for _, m := range found.Chunk {
		if m.Type == "m.room.message" {
			n++
		}
	}
	if n != 8 {
		t.Errorf("there are %d messages in the room", n)
	}
	bad := l.keeper("[[senders]]\nname = \"matrix\"\ntype = \"matrix\"\nurl = \"http://ADDR\"\nroom = \"ROOM\"\ntokenFile = \"TOKEN\"\n", "ADDR", addr, "ROOM", room.ID, "TOKEN", write(t, "token", "not-a-token"))
	tests, err := bad.Test(t.Context(), nil)
	l.must(err)
	if !strings.Contains(tests[0].Error, "401") || strings.Contains(tests[0].Error, "not-a-token") {
		t.Errorf("with a token that is none: %+v", tests)
	}
}
