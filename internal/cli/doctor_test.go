package cli

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/release"
)

// What servers, kernels and systemd seldom say is judged here; what they usually say, in the scripts and on a host.
func TestDiagnoses(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	may := forge.Access{User: "ci", Scopes: []string{"write:repository"}, Read: true, Write: true}
	with := func(change func(*forge.Access)) forge.Access { a := may; change(&a); return a }
	failure := &fleet.Failure{Message: "it is away"}
	idle := fleet.Status{Host: "joker", Phase: fleet.PhaseIdle}
	status := func(change func(*fleet.Status)) diagnosis { s := idle; change(&s); return agentHealth(s, "joker") }
	unit := map[string]string{"LoadState": "loaded", "ActiveState": "active", "Restart": "always", "WatchdogUSec": "5min", "ProtectSystem": "no"}
	trusting := &release.Declared{}
	for name, c := range map[string]struct {
		got  diagnosis
		want health
		seen string
	}{
		"a token that may write":          {tokenHealth(may, "lair/fleet", now), healthy, "ci (write:repository) may write"},
		"one that may only read":          {tokenHealth(with(func(a *forge.Access) { a.Write = false }), "lair/fleet", now), broken, "may not write to lair/fleet"},
		"one that may not even":           {tokenHealth(with(func(a *forge.Access) { a.Read = false }), "lair/fleet", now), broken, "may not read"},
		"one that ended":                  {tokenHealth(with(func(a *forge.Access) { a.Expires = now.Add(-time.Hour) }), "lair/fleet", now), broken, "ended on 2026-11-28"},
		"one that ends soon":              {tokenHealth(with(func(a *forge.Access) { a.Expires = now.Add(72 * time.Hour) }), "lair/fleet", now), doubt, "until 2026-12-01"},
		"one that ends later":             {tokenHealth(with(func(a *forge.Access) { a.Expires = now.AddDate(1, 0, 0) }), "lair/fleet", now), healthy, "until 2027-11-28"},
		"a release branch for all":        {branchHealth(forge.Protection{MayPush: true}, true, true), doubt, "everybody"},
		"a protected one":                 {branchHealth(forge.Protection{Protected: true, MayPush: true}, true, true), healthy, "protected"},
		"one that the token may not":      {branchHealth(forge.Protection{Protected: true}, true, true), broken, "may not push"},
		"one that wants pull requests":    {branchHealth(forge.Protection{Protected: true, MayPush: true, NeedsPull: true}, true, true), broken, "pull requests only"},
		"a source branch that wants them": {branchHealth(forge.Protection{Protected: true, NeedsPull: true}, false, true), healthy, "protected"},
		"clocks alike":                    {clockHealth(time.Second, "x"), healthy, ""},
		"a clock that is behind":          {clockHealth(-20*time.Second, "x"), doubt, "20s"},
		"one that is far ahead":           {clockHealth(time.Hour, "x"), broken, "1h0m0s"},
		"a clock that is kept":            {synchronised(true, 3*time.Millisecond, nil), healthy, "3ms"},
		"one that nobody keeps":           {synchronised(false, 0, nil), doubt, "nothing keeps"},
		"one that cannot be asked":        {synchronised(false, 0, errors.New("no")), doubt, "no"},
		"a disk":                          {diskHealth("/nix/store", 20<<30, 1<<20, 10<<30, 1<<30, ""), healthy, "20.0 GiB"},
		"one that fills":                  {diskHealth("/nix/store", 5<<30, -1, 10<<30, 1<<30, "collect"), doubt, "5.0 GiB"},
		"one that is full":                {diskHealth("/nix/store", 100<<20, -1, 10<<30, 1<<30, "collect"), broken, "0.10 GiB"},
		"one that is full of files":       {diskHealth("/nix/store", 20<<30, 10, 10<<30, 1<<30, "collect"), broken, "10 more files"},
		"an agent that is idle":           {agentHealth(idle, "joker"), healthy, ""},
		"one that refuses":                {status(func(s *fleet.Status) { s.Refused = &fleet.Refusal{Failure: *failure} }), broken, "refuses"},
		"one that holds a release":        {status(func(s *fleet.Status) { s.Phase, s.Failure = fleet.PhaseHeld, failure }), broken, "held: it is away"},
		"one without a remote":            {status(func(s *fleet.Status) { s.Remote.Failure = failure }), broken, "no remote"},
		"one without its hub":             {status(func(s *fleet.Status) { s.Hub.Failure = failure }), doubt, "hub"},
		"one that cannot push":            {status(func(s *fleet.Status) { s.Push.Failure = failure }), doubt, "push"},
		"one that somebody overruled":     {status(func(s *fleet.Status) { s.Phase = fleet.PhaseOverruled }), doubt, ""},
		"a unit":                          {unitHealth(unit), healthy, ""},
		"no unit":                         {unitHealth(map[string]string{"LoadState": "not-found"}), broken, "not-found"},
		"nix told of the cache":           {nixTrusts(map[string]string{"substituters": "https://c/fleet/ https://d", "trusted-public-keys": "f:A"}, "https://c/fleet", "f:A"), healthy, "names it with its key"},
		"nix told of the cache alone":     {nixTrusts(map[string]string{"substituters": "https://c/fleet"}, "https://c/fleet", "f:A"), doubt, "does not trust its key"},
		"nix told of neither":             {nixTrusts(nil, "https://c/fleet", "f:A"), healthy, "the agent fetches"},
		"an old git":                      {gitVersion("2.30.2"), broken, "2.30.2"},
		"no agents at all":                {cacheTrust(trusting, nil, "https://c/fleet", "f:A"), healthy, ""},
	} {
		if c.got.State != c.want || !strings.Contains(c.got.Seen, c.seen) {
			t.Errorf("%s: %s, %q; want %s, %q", name, c.got.State, c.got.Seen, c.want, c.seen)
		}
		if c.got.Remedy == "" && c.want != healthy && !strings.HasPrefix(name, "one that is full") {
			t.Errorf("%s: there is no remedy", name)
		}
	}
}

func TestSigners(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF2PjE51L+jbCeBiv+cVEDmY6vp53IQx4/Zw6FiGnrKp release"
	for text, want := range map[string]health{
		"garrison " + key + "\n": healthy,
		"# old\ngarrison namespaces=\"git\",valid-before=\"20300101\" " + key + "\n\na@b,c@d " + key: healthy,
		"":                                  broken,
		"# nobody\n":                        broken,
		"garrison " + key + "\nssh-ed25519": broken,
		"garrison ssh-ed25519 AAAA":         broken,
	} {
		file := filepath.Join(t.TempDir(), "signers")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lookSigners(file); got.State != want {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// A check that does not end in time is a failure, and holds none of the others up.
func TestInspectAll(t *testing.T) {
	all := []inspection{
		{"heedless", 50 * time.Millisecond, func(context.Context) diagnosis { select {} }},
		{"heedful", 50 * time.Millisecond, func(ctx context.Context) diagnosis {
			<-ctx.Done()
			return because(broken, fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "too slow").WithHint("be quick"), "")
		}},
		{"leaky", 0, func(context.Context) diagnosis { return well("fetched from https://user:secret@forge.example.org/x") }},
	}
	r, err := inspectAll(t.Context(), "host", all)
	if err != nil || r.Passed || len(r.Findings) != 3 {
		t.Fatal(r, err)
	}
	if d := r.Findings[0]; d.Check != "heedless" || d.State != broken || !strings.Contains(d.Seen, "no answer within 50ms") {
		t.Errorf("%+v", d)
	}
	if d := r.Findings[1]; d.Seen != "too slow" || d.Remedy != "be quick" {
		t.Errorf("%+v", d)
	}
	if d := r.Findings[2]; d.State != healthy || strings.Contains(d.Seen, "secret") {
		t.Errorf("%+v", d)
	}
}

func TestClockSkew(t *testing.T) {
	var at time.Duration
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(at).UTC().Format(http.TimeFormat))
	}))
	defer srv.Close()
	for _, at = range []time.Duration{0, -time.Hour, 10 * time.Minute} {
		got, err := clockSkew(t.Context(), srv.URL)
		if err != nil || (got+at).Abs() > 3*time.Second {
			t.Errorf("a server that is %s ahead: %s, %v", at, got, err)
		}
	}
}
