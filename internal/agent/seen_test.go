package agent_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/closure"
	"github.com/garrison-nix/garrison/internal/fleet"
)

var update = flag.Bool("update", false, "write golden files")

// local is what the host itself says of its deployments, newest first.
func (b *box) local() (past []fleet.Deployment) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.must("garrison history -o json")), &past); err != nil {
		b.t.Fatal(err)
	}
	return past
}

// exits runs garrison on the host and checks how it ended.
func (b *box) exits(code int, args ...string) (stdout, stderr string) {
	b.t.Helper()
	cmd := b.host.Command(testContext(b.t), "garrison", args...)
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	got := 0
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		b.t.Fatal(err)
	}
	if got != code {
		b.t.Errorf("garrison %s exits with %d, not %d\n%s%s", strings.Join(args, " "), got, code, &out, &said)
	}
	return out.String(), said.String()
}

func (b *box) fetch(path string) string {
	b.t.Helper()
	resp, err := b.client().Get("http://agent" + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s %s, %v", path, resp.Status, text, err)
	}
	return string(text)
}

// TestSeen: what a person, a script and a Prometheus see of a host, on it and by the hub.
func TestSeen(t *testing.T) {
	t.Parallel()
	_, url := needLab(t).mirror(t)
	b := newBox(t, boxOptions{systemd: true, config: "socket = \"/run/garrison/agent.sock\"\n[hub]\nurl = \"" + url + "\"\ntokenFile = \"/etc/garrison/hub-token\"\n[metrics]\nlisten = \"127.0.0.1:9101\"\n"})
	b.must("printf read-token > /etc/garrison/read-token")
	byHub := []string{"--hub", url, "--token-file", "/etc/garrison/read-token", "--host", "joker"}
	with := func(args ...string) []string { return append(args, byHub...) }

	b.await("a look at the empty origin", func(s fleet.Status) bool { return !s.Remote.LastOK.IsZero() })
	_, said := b.exits(5, "watch", "--until", "converged", "--timeout", "1s")
	if !strings.Contains(said, "not converged within 1s: no release active, has not seen a release yet") {
		t.Error(said)
	}
	b.exits(1, "logs")
	if out, _ := b.exits(0, "diff"); out != "joker has not seen a release yet\n" {
		t.Error(out)
	}

	watching := b.host.Command(testContext(t), "garrison", "watch")
	pipe, err := watching.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watching.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(pipe)
	saw := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Errorf("watch never said %q: %v", want, lines.Err())
	}
	saw("joker: no release active, has not seen a release yet")
	b.shut("in-test-good1")
	n := b.publish("good1")
	saw("no release active, activates release-1")
	b.reached("in-test-good1")
	b.open("in-test-good1")
	saw("joker: release-1 active")
	b.ended(n)
	if err := b.host.RestartService(testContext(t), b.unit); err != nil { // who watches comes back to the next agent
		t.Fatal(err)
	}

	// While a deployment is under way: what is said, and what would change.
	b.shut("in-test-good2")
	n = b.publish("good2")
	b.reached("in-test-good2")
	saw("release-1 active, activates release-2")
	_ = watching.Process.Kill()
	_ = watching.Wait()
	out, _ := b.exits(0, "diff")
	if !strings.Contains(out, "joker would change to release-2 ("+b.lab.out("good2")+")") || !strings.Contains(out, " → ") {
		t.Error(out)
	}
	var d fleet.HostDiff
	var c closure.Diff
	out, _ = b.exits(0, "diff", "-o", "json")
	if json.Unmarshal([]byte(out), &d) != nil || json.Unmarshal(d.Diff, &c) != nil || !d.Pending || d.Before != b.lab.out("good1") || c.PathsAfter == 0 || c.Empty() {
		t.Errorf("%s", out)
	}
	followed := b.host.Command(testContext(t), "garrison", "logs", "-f")
	if pipe, err = followed.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := followed.Start(); err != nil {
		t.Fatal(err)
	}
	lines = bufio.NewScanner(pipe)
	saw("test " + b.lab.out("good2"))
	b.open("in-test-good2")
	saw("boot " + b.lab.out("good2"))
	b.ended(n)
	b.exits(0, "watch", "--until", "converged", "--release", "2", "--timeout", "60s")
	b.exits(0, with("watch", "--until", "converged", "--release", "2", "--timeout", "60s")...)

	bad := b.publish("fails")
	b.exits(3, "watch", "--until", "converged", "--release", "3", "--timeout", "60s")
	b.exits(0, "watch", "--until", "healthy", "--release", "3", "--timeout", "60s")
	b.ended(bad)
	saw("the valve is stuck") // the log of the next activation is followed, too
	_ = followed.Process.Kill()
	_ = followed.Wait()
	if out, _ = b.exits(0, "logs", "release-2"); !strings.Contains(out, "test "+b.lab.out("good2")) || strings.Contains(out, "valve") {
		t.Errorf("log of release-2: %s", out)
	}
	b.exits(1, "logs", "77")

	// All of it by the hub.
	b.eventually("the hub was told", func() bool {
		out, err := b.run("garrison logs " + strings.Join(byHub, " "))
		return err == nil && strings.Contains(out, "the valve is stuck")
	})
	if out, _ = b.exits(3, with("status")...); !strings.Contains(out, "held: release-3 is bad for this host") {
		t.Error(out)
	}
	if out, _ = b.exits(3, "status", "--hub", url, "--token-file", "/etc/garrison/read-token"); !regexp.MustCompile(`(?m)^joker +failed +2 +3 .*switch-to-configuration exited with 2`).MatchString(out) {
		t.Error(out)
	}
	var past []fleet.Deployment
	out, _ = b.exits(0, with("history", "-o", "json")...)
	if mine := b.local(); json.Unmarshal([]byte(out), &past) != nil || len(past) < 3 || !past[0].Key().Equal(mine[0].Key()) || past[0].Failure == nil {
		t.Errorf("%s", out)
	}
	if out, _ = b.exits(0, with("logs", "2")...); !strings.Contains(out, "test "+b.lab.out("good2")) {
		t.Error(out)
	}
	b.eventually("the hub knows what waits", func() bool {
		out, err := b.run("garrison diff " + strings.Join(byHub, " "))
		return err == nil && strings.Contains(out, "joker would change to release-3") && strings.Contains(out, " paths, ")
	})
	b.exits(3, with("watch", "--until", "converged", "--release", "3", "--timeout", "60s")...)
	if _, said := b.exits(1, "status", "--hub", url, "--token-file", "/etc/garrison/read-token", "--host", "nobody"); !strings.Contains(said, "told nothing of that") {
		t.Error(said)
	}
	b.exits(2, "logs", "--hub", url)

	b.checkMetrics(bad)
}

// checkMetrics reads the metrics as strictly as Prometheus does, on both ways, and compares them with what the test did.
func (b *box) checkMetrics(newest int) {
	t := b.t
	t.Helper()
	for _, page := range []string{b.fetch("/metrics"), b.must("busybox wget -q -O - http://127.0.0.1:9101/metrics") + "\n"} {
		m := parseMetrics(t, page)
		for sample, want := range map[string]float64{
			`garrison_newest_release`: float64(newest), `garrison_active_release`: 2, `garrison_held`: 1, `garrison_converged`: 0, `garrison_drift`: 0,
			`garrison_reboot_needed`: 0, `garrison_phase{phase="held"}`: 1, `garrison_phase{phase="idle"}`: 0, `garrison_state_writable`: 1, `garrison_retry_attempt`: 1,
			`garrison_deployments_total{result="committed"}`: 1, `garrison_deployments_total{result="rolled-back"}`: 1, `garrison_failures_total{code="activate-failed"}`: 1,
			`garrison_refused{code="bad-signature"}`: 0, `garrison_contact_ok{peer="remote"}`: 1, `garrison_contact_ok{peer="hub"}`: 1,
			`garrison_stage_duration_seconds_count{stage="commit"}`: 1, `garrison_stage_duration_seconds_count{stage="fetch"}`: 2,
		} {
			if got, there := m[sample]; !there || got != want {
				t.Errorf("%s is %v (%v), want %v", sample, got, there, want)
			}
		}
		if at := m[`garrison_contact_last_success_timestamp_seconds{peer="cache"}`]; time.Since(time.UnixMilli(int64(at*1000))) > 5*time.Minute {
			t.Errorf("the cache was last used at %v", at)
		}
		if m[`garrison_free_bytes{of="store"}`] <= 0 || m[`garrison_stage_duration_seconds_sum{stage="activate"}`] <= 0 {
			t.Errorf("no free space, or no time spent:\n%s", page)
		}
		info := regexp.MustCompile(`(?m)^garrison_release_info\{role="active",number="2",commit="[0-9a-f]{40}",source="[0-9a-f]{40}"\} 1$`)
		if !info.MatchString(page) || !strings.Contains(page, `garrison_agent_info{host="joker",version="`) {
			t.Errorf("no info:\n%s", page)
		}
	}
	if out, err := b.lab.forge.Run(testContext(t), "busybox", "wget", "-q", "-T", "5", "-O", "-", "http://"+b.host.Addr().String()+":9101/metrics"); err == nil {
		t.Errorf("metrics are served beyond loopback: %s", out)
	}
}

var (
	sampleLine = regexp.MustCompile(`^([a-z_][a-z0-9_]*)(\{[a-z]+="(?:[^"\\]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\]|\\[\\"n])*")*\})? (\S+)$`)
	leLabel    = regexp.MustCompile(`,le="([^"]*)"`)
)

// parseMetrics reads Prometheus' text format: every sample has a HELP and a TYPE before it, no series or family comes twice,
// histograms grow up to +Inf, which is their count.
func parseMetrics(t testing.TB, page string) map[string]float64 {
	t.Helper()
	all, types := map[string]float64{}, map[string]string{}
	help, family, lastBucket := "", "", map[string]float64{}
	if !strings.HasSuffix(page, "\n") {
		t.Errorf("the page does not end with a line's end")
	}
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			help, _, _ = strings.Cut(rest, " ")
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if types[name] != "" || name != help || kind != "gauge" && kind != "counter" && kind != "histogram" || !strings.HasPrefix(name, "garrison_") || kind == "counter" != strings.HasSuffix(name, "_total") {
				t.Errorf("bad type: %q", line)
			}
			types[name], family = kind, name
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("not a sample: %q", line)
			continue
		}
		base := m[1]
		if types[family] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if _, twice := all[m[1]+m[2]]; err != nil || twice || base != family {
			t.Errorf("bad sample: %q, %v", line, err)
		}
		all[m[1]+m[2]] = value
		if le := leLabel.FindStringSubmatch(m[2]); le != nil {
			series := leLabel.ReplaceAllString(m[2], "")
			if value < lastBucket[series] {
				t.Errorf("a bucket is smaller than the one before: %q", line)
			}
			lastBucket[series] = value
		}
	}
	for series, n := range lastBucket {
		inf := strings.TrimSuffix(series, "}") + `,le="+Inf"}`
		if all["garrison_stage_duration_seconds_bucket"+inf] != n || all["garrison_stage_duration_seconds_count"+series] != n {
			t.Errorf("%s: %v observations are not all in +Inf", series, n)
		}
	}
	return all
}

// TestLogOfADeployment: what journalctl -f shows of one, line by line.
func TestLogOfADeployment(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	b.deploy("good2")
	log, err := b.host.ReadFile("/var/log/agent.log")
	if err != nil {
		t.Fatal(err)
	}
	text := string(log)
	i := strings.Index(text, "release=2")
	if i < 0 {
		t.Fatal(text)
	}
	got := text[strings.LastIndexByte(text[:i], '\n')+1:]
	for _, scrub := range [][2]string{{`(?m)^time=\S+ level=`, ""}, {`([= ])[0-9.]+m?s\b`, "${1}TIME"}, {`/nix/store/[0-9a-z]{32}`, "/nix/store/HASH"}} {
		got = regexp.MustCompile(scrub[0]).ReplaceAllString(got, scrub[1])
	}
	golden := filepath.Join("testdata", "deployment.log")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("got\n%swant\n%s(%v)", got, want, err)
	}
}
