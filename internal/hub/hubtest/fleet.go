package hubtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// Fleet is a fleet in rings: its repository, with releases that are published as CI does, and hosts that report to a hub.
type Fleet struct {
	T       testing.TB
	Dir     string
	Origin  *git.Repo // bare: what hubs push to
	Signers string    // file with the key of releases
	Rings   []fleet.Ring
	Hosts   map[string]fleet.Step
	Newest  *fleet.Manifest

	releases map[int]*fleet.Manifest
	tip      string
}

// NewFleet makes one without a release.
func NewFleet(tb testing.TB, rings []fleet.Ring, hosts map[string]fleet.Step) *Fleet {
	tb.Helper()
	f := &Fleet{T: tb, Dir: tb.TempDir(), Rings: rings, Hosts: hosts, releases: map[int]*fleet.Manifest{}}
	f.Signers = filepath.Join(f.Dir, "signers")
	var err error
	f.Origin, err = git.Init(tb.Context(), filepath.Join(f.Dir, "origin.git"))
	f.must(err)
	f.must(exec.CommandContext(tb.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f.key()).Run())
	public, err := os.ReadFile(f.key() + ".pub")
	f.must(err)
	f.must(os.WriteFile(f.Signers, append([]byte("garrison "), public...), 0o600))
	return f
}

func (f *Fleet) key() string { return filepath.Join(f.Dir, "release") }

func (f *Fleet) must(err error) {
	f.T.Helper()
	if err != nil {
		f.T.Fatal(err)
	}
}

// System is the store path of a host's system by a release.
func System(host string, release int) string {
	return fmt.Sprintf("/nix/store/%032d-nixos-system-%s", release, host)
}

// Release publishes the next one: branch, signed tag, and the first step of its roll-out if nothing keeps it.
func (f *Fleet) Release(change func(*fleet.Manifest)) *fleet.Manifest {
	f.T.Helper()
	ctx, number := f.T.Context(), 1
	if f.Newest != nil {
		number = f.Newest.Number + 1
	}
	tree, err := f.Origin.TreeOf(ctx, "flake.nix", fmt.Appendln(nil, number))
	f.must(err)
	now := time.Now().UTC()
	c := git.Commit{Tree: tree, Message: fmt.Sprint("change ", number), When: now}
	if f.tip != "" {
		c.Parents = []string{f.tip}
	}
	commit, err := f.Origin.WriteCommit(ctx, c)
	f.must(err)
	m := &fleet.Manifest{Schema: fleet.ManifestSchema, Number: number, CreatedAt: now, Source: fleet.Source{Commit: commit, Branch: "main", Subject: c.Message}, Hosts: map[string]fleet.Entry{}, Rings: f.Rings}
	for host, s := range f.Hosts {
		e := fleet.Entry{System: "x86_64-linux", DrvPath: System(host, number) + ".drv", Changed: true, Ring: s.Ring, Batch: s.Batch}
		e.OutPath, e.Built = System(host, number), true
		m.Hosts[host] = e
	}
	if change != nil {
		change(m)
	}
	message, err := m.TagMessage()
	f.must(err)
	tag, err := f.Origin.SignTag(ctx, "refs/garrison/test", m.Name(), commit, message, f.key(), now)
	f.must(err)
	moves := []git.Move{{Ref: "refs/heads/release", From: f.tip, To: commit}, {Ref: "refs/tags/" + m.Name(), To: tag}}
	book := ledger.Book{Repo: f.Origin, Remote: git.Remote{URL: f.Origin.Dir}, Release: "release"}
	publish := func(p ledger.Page) (*ledger.Entry, error) {
		e := &ledger.Entry{By: "CI <ci@example.org>", Summary: m.Name() + " is published", Ledger: p.Ledger, With: moves}
		if rollout.First(m, p.Ledger, now) == "" {
			branch := fleet.RingBranch("release", m.Rings[0].Name, 1)
			e.Advances = []ledger.Advance{{Branch: branch, From: p.Rings[branch], To: commit}}
			e.Ledger.Promoted(branch, fleet.Promotion{Release: number, At: now, By: "ci", Reason: "published"})
		}
		return e, nil
	}
	if len(m.Rings) > 0 {
		_, err = book.Change(ctx, publish)
	} else {
		err = f.Origin.Push(ctx, f.Origin.Dir, moves...)
	}
	f.must(err)
	f.tip, f.Newest, f.releases[number] = commit, m, m
	return m
}

// Given is the number of the release that a step's branch points at; 0 for none.
func (f *Fleet) Given(s fleet.Step) int {
	f.T.Helper()
	commit, there, err := f.Origin.Resolve(f.T.Context(), "refs/heads/"+fleet.RingBranch("release", s.Ring, s.Batch))
	f.must(err)
	for n, m := range f.releases {
		if there && m.Source.Commit == commit {
			return n
		}
	}
	return 0
}

// Ledger is the one in the repository.
func (f *Fleet) Ledger() fleet.Ledger {
	f.T.Helper()
	text, _, err := f.Origin.ReadFile(f.T.Context(), "refs/heads/release-rollout", fleet.LedgerPath)
	f.must(err)
	l, err := fleet.ParseLedger(text)
	f.must(err)
	return l
}

// Log is what a hub logged.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Running is a hub of a Fleet that listens.
type Running struct {
	*hub.Hub
	Rings    *hub.Controller
	Follower *hub.Follower
	Log      *Log
	URL      string
	fleet    *Fleet
	mu       sync.Mutex
	said     map[string]fleet.Status
	stop     func()
}

// Stop ends the hub as a kill does: whatever it was about.
func (r *Running) Stop() { r.stop() }

// fleetToken speaks for every host, and may order and read.
const fleetToken = "s3cret-of-the-fleet"

// Start has a hub with that store listen, follow the repository and roll out, until it is stopped or the test ends. Its copy of the repository is in dir.
func (f *Fleet) Start(store hub.Store, dir string, change func(*hub.ControllerOptions)) *Running {
	f.T.Helper()
	scopes := []string{hub.ScopeRead, hub.ScopeRollout, hub.ScopeCI}
	for host := range f.Hosts {
		scopes = append(scopes, hub.ScopeReport+":"+host)
	}
	tokens := hub.Tokens{}.With(hub.Token{Name: "ann", SHA256: hub.HashToken(fleetToken), Scopes: scopes})
	r := &Running{Log: &Log{}, fleet: f, said: map[string]fleet.Status{}}
	log := slog.New(slog.NewTextHandler(r.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.Hub = hub.New(hub.Options{Store: store, Tokens: func() (hub.Tokens, error) { return tokens, nil }, Silent: time.Hour, LogDir: dir, Log: log, Cache: http.NotFoundHandler()})
	repo, err := git.Init(f.T.Context(), filepath.Join(dir, "repo.git"))
	f.must(err)
	at := git.Remote{URL: f.Origin.Dir}
	o := hub.ControllerOptions{Hub: r.Hub, Repo: repo, Branch: "release", Signers: f.Signers, Silent: time.Hour, Moves: true, Log: log, Remote: func() (git.Remote, error) { return at, nil },
		Moved: func(tips map[string]string) { r.Follower.RingsMoved(tips) }}
	if change != nil {
		change(&o)
	}
	r.Rings = hub.NewController(o)
	r.Rollout, r.Told, r.Noted = r.Rings, r.Rings.Reported, r.Rings.Noted
	r.Follower = hub.NewFollower(hub.FollowOptions{Remote: at, Repo: repo, Branch: "release", Signers: f.Signers, Poll: time.Hour, Wake: r.WakeAgents, Hub: r.Hub, Seen: r.Rings.Seen, Log: log,
		Newest: func(m *fleet.Manifest) { r.SetNewest(m); r.Rings.Changed() }})
	server := httptest.NewServer(r.Handler())
	r.URL = server.URL
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.T.Context()))
	var all sync.WaitGroup
	all.Go(func() { r.Follower.Run(ctx) })
	all.Go(func() { r.Rings.Run(ctx) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		r.CloseStreams()
		server.Close()
		all.Wait()
	})
	f.T.Cleanup(r.stop)
	return r
}

// Ask makes a request of the API in the name of token ann.
func (r *Running) Ask(method, path string, body any) (status int, answer string) {
	r.fleet.T.Helper()
	doc, err := json.Marshal(body)
	r.fleet.must(err)
	req, err := http.NewRequestWithContext(r.fleet.T.Context(), method, r.URL+path, bytes.NewReader(doc))
	r.fleet.must(err)
	req.Header.Set("Authorization", "Bearer "+fleetToken)
	resp, err := http.DefaultClient.Do(req)
	r.fleet.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	r.fleet.must(err)
	return resp.StatusCode, string(text)
}

// tell posts what must be taken.
func (r *Running) tell(path string, body any) {
	r.fleet.T.Helper()
	if status, answer := r.Ask(http.MethodPost, path, body); status >= 300 {
		r.fleet.T.Fatalf("%s: %d %s", path, status, answer)
	}
}

// Has has a host say that it has a release since, and is well.
func (r *Running) Has(host string, release int) {
	r.fleet.T.Helper()
	now := time.Now().UTC()
	r.Says(host, release, func(s *fleet.Status) {})
	r.tell("/api/v1/deployments", fleet.DeploymentReport{Schema: 1, Deployment: fleet.Deployment{Schema: 1, Host: host, Release: fleet.ReleaseRef{Number: release},
		Toplevel: fleet.Toplevel{OutPath: System(host, release)}, Result: fleet.Committed, EndedAt: now}})
}

// Fails has a host say that it was rolled back from a release, and holds it.
func (r *Running) Fails(host string, release int) {
	r.fleet.T.Helper()
	now := time.Now().UTC()
	bad := &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck, Message: "unit nginx.service failed"}
	d := fleet.Deployment{Schema: 1, Host: host, Release: fleet.ReleaseRef{Number: release}, Toplevel: fleet.Toplevel{OutPath: System(host, release)}, Result: fleet.RolledBack, Failure: bad, EndedAt: now}
	r.Says(host, release-1, func(s *fleet.Status) {
		s.Newest, s.Phase, s.Failure, s.Last = &fleet.ReleaseRef{Number: release}, fleet.PhaseHeld, bad, &d
		s.Target = &fleet.Target{Release: fleet.ReleaseRef{Number: release}, Toplevel: d.Toplevel, At: now}
	})
	r.tell("/api/v1/deployments", fleet.DeploymentReport{Schema: 1, Deployment: d})
}

// Says has a host that has a release (0: none) report, but for what change does to what it says.
func (r *Running) Says(host string, release int, change func(*fleet.Status)) {
	r.fleet.T.Helper()
	now := time.Now().UTC()
	s := fleet.Status{Schema: 1, Host: host, At: now, Since: now, Phase: fleet.PhaseNew, NextPoll: now.Add(time.Minute), Boot: "boot-1"}
	if step, ok := r.fleet.Hosts[host]; ok {
		s.Ring, s.Batch = step.Ring, step.Batch
	}
	if release > 0 {
		s.Phase, s.Newest = fleet.PhaseIdle, &fleet.ReleaseRef{Number: release}
		s.Active = &fleet.Target{Release: *s.Newest, Toplevel: fleet.Toplevel{OutPath: System(host, release)}, At: now}
	}
	change(&s)
	r.mu.Lock()
	r.said[host] = s
	r.mu.Unlock()
	r.tell("/api/v1/reports", s)
}

// Beat has all hosts that said something say it again, as they do at each look.
func (r *Running) Beat() {
	r.fleet.T.Helper()
	for _, s := range r.said {
		s.NextPoll = s.NextPoll.Add(time.Since(s.At))
		s.At = time.Now().UTC()
		r.tell("/api/v1/reports", s)
	}
}

// Acts are the events of the roll-out, as words, oldest first.
func (r *Running) Acts() (words []string) {
	r.fleet.T.Helper()
	list, err := r.Store.Events(r.fleet.T.Context(), []string{fleet.EventRollout}, 0, 1000)
	r.fleet.must(err)
	for _, e := range list {
		words = append(words, strings.TrimPrefix(e.Words(), "roll-out: "))
	}
	return words
}

// View is what the API says of the roll-out.
func (r *Running) View() (v fleet.Rollout) {
	r.fleet.T.Helper()
	status, answer := r.Ask(http.MethodGet, "/api/v1/rollout", nil)
	if status != http.StatusOK {
		return fleet.Rollout{Trouble: &fleet.Failure{Message: answer}}
	}
	r.fleet.must(json.Unmarshal([]byte(answer), &v))
	return v
}

// Until waits for something.
func (r *Running) Until(what string, ok func() bool) {
	r.fleet.T.Helper()
	for range 18000 { // the lock of a git that was killed is in the way for a minute, and the next try comes within another
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	doc, _ := json.MarshalIndent(r.View(), "", " ")
	r.fleet.T.Fatalf("it never came to this: %s\n%s\n%s", what, doc, r.Log)
}

// UntilGiven waits until a step is given a release.
func (r *Running) UntilGiven(ring string, batch, release int) {
	r.fleet.T.Helper()
	s := fleet.Step{Ring: ring, Batch: batch}
	r.Until(fmt.Sprintf("%s goes to %s, batch %d", fleet.TagName(release), ring, batch), func() bool { return r.fleet.Given(s) == release })
}

// Order orders something, and says how that was answered.
func (r *Running) Order(c fleet.RolloutCommand) (int, string) {
	r.fleet.T.Helper()
	return r.Ask(http.MethodPost, "/api/v1/rollout/orders", c)
}
