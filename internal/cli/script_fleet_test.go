package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
)

// says HOST RELEASE PHASE [RESULT] has a host tell the hub, by its own token, what an agent would that knows RELEASE, by its number, of $WORK/origin.git and is in
// PHASE; and, before that, how a deployment of it ended. One that did not end well has failed its check "web".
func says(ts *testscript.TestScript, _ bool, args []string) {
	host, phase := args[0], fleet.Phase(args[2])
	number, err := strconv.Atoi(args[1])
	ts.Check(err)
	m := manifestOf(ts, number)
	now := time.Now().UTC()
	ref := fleet.ReleaseRef{Number: number, Commit: strings.Repeat("c", 40), Tag: strings.Repeat("d", 40), Source: m.Source}
	target := m.Hosts[host].Target(ref, now)
	s := fleet.Status{Schema: fleet.StatusSchema, Host: host, At: now, Version: "test", Phase: phase, Since: now, Newest: &ref, Active: target,
		Systems: fleet.Systems{Current: target.OutPath, Profile: target.OutPath, Booted: target.OutPath}, Remotes: []fleet.Remote{}, NextPoll: now.Add(time.Minute)}
	if phase != fleet.PhaseIdle {
		s.Active, s.Target = nil, target
	}
	if len(args) > 3 {
		d := fleet.Deployment{Schema: fleet.StatusSchema, Host: host, Release: ref, Toplevel: target.Toplevel, Result: fleet.Result(args[3]), Stages: []fleet.StageTime{}, EndedAt: now}
		if d.Result != fleet.Committed {
			d.Failure = &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck, Stage: fleet.Check, Message: "the check web failed 3 times:\n502", Hint: "see garrison logs"}
			s.Failure = d.Failure
		}
		s.Last = &d
		tellHub(ts, "/api/v1/deployments", host, fleet.DeploymentReport{Schema: fleet.StatusSchema, Deployment: d, Log: "said by " + host + "\n"})
	}
	tellHub(ts, "/api/v1/reports", host, s)
}

// manifestOf is that of a release in $WORK/origin.git.
func manifestOf(ts *testscript.TestScript, number int) *fleet.Manifest {
	cmd := exec.Command("git", "-C", ts.MkAbs("origin.git"), "for-each-ref", "--format=%(contents:subject)%0a%0a%(contents:body)", "refs/tags/"+fleet.TagName(number))
	out, err := cmd.Output()
	ts.Check(err)
	m, err := fleet.ParseTagMessage(out)
	ts.Check(err)
	return m
}

// ran SOURCE STATE has another CI tell the hub of a run for the commit SOURCE of $WORK/fleet that is in that state: running, or failed in its build.
func ran(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("git", "-C", ts.MkAbs("fleet"), "rev-parse", args[0])
	out, err := cmd.Output()
	ts.Check(err)
	commit := strings.TrimSpace(string(out))
	began := time.Now().UTC()
	r := fleet.Run{Schema: fleet.StatusSchema, Source: fleet.Source{Commit: commit, Branch: "main", Subject: "A change"}, State: fleet.RunState(args[1]), StartedAt: began,
		Stage: fleet.Build, Stages: []fleet.StageTime{}}
	if r.State == fleet.RunFailed {
		ended := began.Add(time.Millisecond)
		r.EndedAt, r.Failure = &ended, &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeBuild, Stage: fleet.Build, Message: "nixos-system-joker does not build"}
	}
	tellHub(ts, "/api/v1/runs", "ci", r)
}

// tellHub posts a document with the token of that name.
func tellHub(ts *testscript.TestScript, path, token string, doc any) {
	b, err := json.Marshal(doc)
	ts.Check(err)
	req, err := http.NewRequest(http.MethodPost, ts.Getenv("HUB")+path, bytes.NewReader(b))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer secret of "+token)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		var said bytes.Buffer
		_, _ = said.ReadFrom(resp.Body)
		ts.Fatalf("the hub answers %s: %s", resp.Status, said.String())
	}
	fmt.Fprintln(ts.Stdout(), resp.Status)
}

// proofread sets HUB to a proxy before the hub that holds every answer of its API against openapi.yaml, and writes down in $WORK/misprints what does not fit.
func proofread(ts *testscript.TestScript, _ bool, _ []string) {
	api, err := hubtest.NewAPI()
	ts.Check(err)
	to, err := url.Parse(ts.Getenv("HUB"))
	ts.Check(err)
	misprints := ts.MkAbs("misprints")
	var mu sync.Mutex
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: api.Proofread(http.DefaultTransport, func(wrong error) {
			mu.Lock()
			defer mu.Unlock()
			before, _ := os.ReadFile(misprints) // none is the usual case
			ts.Check(os.WriteFile(misprints, fmt.Appendf(before, "%v\n", wrong), 0o644))
		}),
		FlushInterval: -1, // streams pass as they are
	})
	ts.Defer(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	ts.Setenv("HUB", proxy.URL)
}
