package web_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/web/webtest"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// desk takes orders about a roll-out as a controller does, onto a ledger in memory. How the rings stand is given.
type desk struct {
	mu     sync.Mutex
	v      fleet.Rollout
	ledger fleet.Ledger
	orders []fleet.RolloutCommand
	by     []string
	err    error // of all it is asked
}

func (d *desk) View(context.Context) (fleet.Rollout, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.v, d.err
}

func (d *desk) Order(_ context.Context, by string, c fleet.RolloutCommand) (fleet.Rollout, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.v, d.err
	}
	m := &fleet.Manifest{Number: d.v.Release}
	s := rollout.Standing{Branch: "release", Newest: m, Releases: map[int]bool{40: true, 41: true}, Tips: map[fleet.Step]int{}, Ledger: d.ledger, Now: time.Now()}
	for _, r := range d.v.Rings {
		m.Rings = append(m.Rings, r.Ring)
		s.Tips[fleet.Step{Ring: r.Name, Batch: 1}] = r.Offered
	}
	a, err := rollout.Carry(c, by, s)
	if err != nil {
		return d.v, err
	}
	d.orders, d.by, d.ledger = append(d.orders, c), append(d.by, by), a.Ledger
	d.v.Paused, d.v.Freeze = a.Ledger.Paused, a.Ledger.Freeze
	return d.v, nil
}

// newDesk gives a world a roll-out of release 41 that is soaking, stopped, and waiting for a person in its three rings.
func newDesk(t testing.TB, w *world, now time.Time) *desk {
	t.Helper()
	soak := now.Add(72 * time.Minute)
	d := &desk{v: fleet.Rollout{Schema: 1, At: now, Release: 41, State: fleet.RolloutStopped, LastGood: 40, Rings: []fleet.RolloutRing{
		{Ring: fleet.Ring{Name: "canary", Batches: 1, SoakSeconds: 7200}, State: fleet.RolloutSoaking, Reason: "soaks release-41 until 13:12 UTC (1 h 12 min left)", Offered: 41, Release: 41, Batch: 1, Hosts: 1, Done: fleet.Named{Count: 1, Names: []string{"ratched"}}, SoakUntil: &soak},
		{Ring: fleet.Ring{Name: "web", Batches: 1, Failures: 0}, State: fleet.RolloutStopped, Reason: "paused: joker was rolled back from release-41: nginx.service failed", Offered: 41, Release: 41, Batch: 1, Hosts: 5,
			Done: fleet.Named{Count: 3, Names: []string{"ursula", "hal", "loki"}}, Failed: fleet.Named{Count: 1, Names: []string{"joker"}}, Away: fleet.Named{Count: 1, Names: []string{"medusa"}}},
		{Ring: fleet.Ring{Name: "rest", Batches: 1, Manual: true, DrillDays: 7, Windows: []string{"Mon-Fri 09:00-16:00"}}, State: fleet.RolloutWaiting, Reason: "has release-40; release-41 waits for a person's word", Offered: 40, Release: 40, Batch: 1, Hosts: 6, Approve: true, Candidate: 41},
	}}}
	w.Rollout = d
	return d
}

// act tells the hub of an act of the roll-out.
func (w *world) act(a fleet.RolloutAct) {
	w.t.Helper()
	e, err := fleet.NewEvent(fleet.EventRollout, "/rollout", a.Act+a.Ring+a.At.String(), a.Ring, a.At, a)
	must(w.t, err)
	_, err = w.store.PutEvents(w.t.Context(), []fleet.Event{e})
	must(w.t, err)
}

// TestRolloutShown: ring by ring, with what keeps it, who failed, and what may be done; on the front page, the newest release's, and its own.
func TestRolloutShown(t *testing.T) {
	w := trouble(t)
	for _, path := range []string{"/", "/-/releases/41", "/-/rollout"} {
		text := w.get(path)
		for _, want := range []string{"release-41 is paused", `class="ring soaking"`, `<time class="left"`, "1 h 1", `class="ring paused"`, `<a href="/-/hosts/joker">joker</a>`, "waits for a person&#39;s word", "on 3 of 5 hosts", "after a drill of at most 7 days",
			"garrison promote --to rest release-41 --reason WHY", `href="/-/rollout/order?act=promote&amp;release=41&amp;ring=rest"`, "Abort: back to release-40"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q", path, want)
			}
		}
	}
	if text := w.get("/-/releases/40"); strings.Contains(text, "waits for a person") {
		t.Error("an older release's page shows the newest one's roll-out")
	}
	if text := w.get("/-/releases/41"); !strings.Contains(text, "Which ring was given it when") || !strings.Contains(text, `<th scope="row">canary</th>`) {
		t.Error("it does not say when which ring was given it")
	}
	if text := w.get("/-/rollout"); !strings.Contains(text, "joker was rolled back") || !strings.Contains(text, "ring canary passed it") {
		t.Error("what was done is not listed")
	}

	// Without rings, nothing of it.
	w.Rollout = &desk{v: fleet.Rollout{Schema: 1, Release: 41, State: fleet.RolloutDone, Rings: []fleet.RolloutRing{}}}
	for _, path := range []string{"/", "/-/releases/41"} {
		if text := w.get(path); strings.Contains(text, "Roll-out") || strings.Contains(text, "/-/rollout") {
			t.Errorf("%s shows something of a roll-out", path)
		}
	}
	plain := newWorld(t, hub.WebTable{})
	for _, path := range []string{"/-/rollout", "/-/rollout/order?act=pause"} {
		if got := plain.request(http.MethodGet, path, "", token("read")).StatusCode; got != http.StatusNotFound {
			t.Errorf("a hub without a roll-out answers %s with %d", path, got)
		}
	}
}

// TestOrderSaysWhat: before anything is done it is said what will be.
func TestOrderSaysWhat(t *testing.T) {
	w := trouble(t)
	for path, want := range map[string][]string{
		"act=abort&release=41&to=40":       {"What release-40 has is released again, as a new release", "given to no further ring", "canary (has release-41), web (has release-41)", "go back to what release-40 has for them", `<a href="/-/hosts/ratched">ratched</a>`, "at once, and not ring by ring"},
		"act=promote&ring=rest&release=41": {"Ring rest (6 hosts) may be given release-41", "now, whatever else keeps it"},
		"act=promote&ring=web&release=41":  {"Ring web (5 hosts) is given release-41 now, though paused: joker was rolled back", "are not waited for", `type="hidden" name="force" value="1"`},
		"act=resume&release=41":            {"Ring web: what failed until now does not stop it any more (joker)."},
		"act=freeze":                       {"until the end of the freeze", `name="until"`},
		"act=unfreeze":                     {"No freeze is in force."},
		"act=pause&release=41":             {"until somebody resumes", "of scope <code>rollout</code>"},
	} {
		text := w.get("/-/rollout/order?" + path)
		for _, want := range want {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q:\n%s", path, want, text)
			}
		}
		if strings.Contains(text, "http-equiv") {
			t.Errorf("%s is loaded again while somebody types", path)
		}
	}
	// joker and those that have the release before go nowhere.
	if text := w.get("/-/rollout/order?act=abort&release=41&to=40"); strings.Contains(text, `<a href="/-/hosts/joker">`) || strings.Contains(text, `<a href="/-/hosts/hal">`) {
		t.Error("hosts go back that have nothing newer")
	}
	for _, path := range []string{"", "act=destroy", "act=promote", "act=promote&ring=nowhere&release=41", "act=promote&ring=rest", "act=promote&ring=../x&release=41", "act=abort&release=41", "act=abort&release=x&to=40"} {
		if got := w.request(http.MethodGet, "/-/rollout/order?"+path, "", token("read")).StatusCode; got != http.StatusNotFound {
			t.Errorf("%q: %d", path, got)
		}
	}
}

// TestOrder: who may, by which token, and what comes of it.
func TestOrder(t *testing.T) {
	w := newWorld(t, hub.WebTable{}, "joker")
	w.writeTokens("read", "push", "rollout")
	d := newDesk(t, w, time.Now().UTC())
	cookie := w.session()
	as := func(r *http.Request) { r.AddCookie(cookie) }
	order := func(form url.Values, change ...func(*http.Request)) (int, string) {
		t.Helper()
		resp := w.request(http.MethodPost, "/-/rollout/order", form.Encode(), change...)
		return resp.StatusCode, read(t, resp)
	}
	pause := url.Values{"act": {"pause"}, "release": {"41"}, "reason": {"one more look"}}
	with := func(f url.Values, more ...string) url.Values {
		c := url.Values{}
		for k, v := range f {
			c[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			c.Set(more[i], more[i+1])
		}
		return c
	}
	for name, c := range map[string]struct {
		form   url.Values
		change []func(*http.Request)
		status int
		says   string
	}{
		"a stranger":                  {with(pause, "token", secretOf("rollout")), nil, http.StatusUnauthorized, "Log in"},
		"who may only read":           {pause, []func(*http.Request){as}, http.StatusForbidden, "takes a token of scope rollout"},
		"a token for something else":  {with(pause, "token", secretOf("push")), []func(*http.Request){as}, http.StatusForbidden, "That is no token of scope rollout"},
		"a token that is none":        {with(pause, "token", "guess"), []func(*http.Request){as}, http.StatusForbidden, "That is no token of scope rollout"},
		"from another site":           {with(pause, "token", secretOf("rollout")), []func(*http.Request){as, header("Sec-Fetch-Site", "cross-site")}, http.StatusForbidden, ""},
		"from another origin":         {with(pause, "token", secretOf("rollout")), []func(*http.Request){as, header("Origin", "https://evil.example.org")}, http.StatusForbidden, ""},
		"without a reason":            {with(pause, "token", secretOf("rollout"), "reason", " "), []func(*http.Request){as}, http.StatusBadRequest, "needs a reason"},
		"a freeze without an end":     {url.Values{"act": {"freeze"}, "reason": {"x"}, "token": {secretOf("rollout")}}, []func(*http.Request){as}, http.StatusBadRequest, "needs an end"},
		"a freeze until nobody knows": {url.Values{"act": {"freeze"}, "until": {"tuesday"}, "reason": {"x"}, "token": {secretOf("rollout")}}, []func(*http.Request){as}, http.StatusBadRequest, "must be a time like"},
		"no freeze to end":            {url.Values{"act": {"unfreeze"}, "reason": {"x"}, "token": {secretOf("rollout")}}, []func(*http.Request){as}, http.StatusConflict, "no freeze is in force"},
		"what is no order":            {with(pause, "act", "destroy", "token", secretOf("rollout")), []func(*http.Request){as}, http.StatusNotFound, "Not here"},
		"more than a form":            {with(pause, "reason", strings.Repeat("x", 100_000)), []func(*http.Request){as}, http.StatusBadRequest, ""},
		"back to what never was":      {url.Values{"act": {"abort"}, "release": {"41"}, "to": {"7"}, "reason": {"x"}, "token": {secretOf("rollout")}}, []func(*http.Request){as}, http.StatusNotFound, "there is no release-7"},
	} {
		status, text := order(c.form, c.change...)
		if status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d, and not %d: %s", name, status, c.status, text)
		}
		if strings.Contains(text, secretOf("rollout")) {
			t.Errorf("%s: the token is in the answer", name)
		}
	}
	if len(d.orders) > 0 {
		t.Fatalf("something was ordered all the same: %+v", d.orders)
	}

	status, text := order(with(pause, "token", secretOf("rollout")), as)
	if status != http.StatusOK || !strings.Contains(text, "Done") || !strings.Contains(text, "by token rollout: one more look") {
		t.Errorf("a pause: %d: %s", status, text)
	}
	if len(d.orders) != 1 || d.by[0] != "token rollout" || d.orders[0] != (fleet.RolloutCommand{Act: fleet.RolloutPause, Release: 41, Reason: "one more look"}) {
		t.Errorf("it came as %+v by %v", d.orders, d.by)
	}
	if text := read(t, w.request(http.MethodGet, "/", "", as)); !strings.Contains(text, "by token rollout: one more look") || !strings.Contains(text, ">Resume</a>") {
		t.Error("the front page does not say who paused it")
	}
	status, text = order(url.Values{"act": {"freeze"}, "until": {"3d"}, "reason": {"holidays"}, "token": {secretOf("rollout")}}, as)
	if status != http.StatusOK || d.ledger.Freeze == nil || time.Until(*d.ledger.Freeze.Until) < 71*time.Hour {
		t.Errorf("a freeze: %d: %s", status, text)
	}
	d.err = fleet.Errorf(fleet.Transient, fleet.CodeRemote, "git is away").WithHint("is it up?")
	if status, text := order(with(pause, "token", secretOf("rollout")), as); status != http.StatusServiceUnavailable || !strings.Contains(text, "git is away: is it up?") {
		t.Errorf("git is away: %d: %s", status, text)
	}
}

// TestOrderBySession: who logged in with a token that may read and order types it once.
func TestOrderBySession(t *testing.T) {
	w := newWorld(t, hub.WebTable{}, "joker")
	w.writeTokens("read", "rollout")
	w.writeBoth("ops", "read", "rollout")
	d := newDesk(t, w, time.Now().UTC())
	in := w.request(http.MethodPost, "/-/login", url.Values{"token": {secretOf("ops")}}.Encode())
	if len(in.Cookies()) != 1 {
		t.Fatalf("login: %s", in.Status)
	}
	as := func(r *http.Request) { r.AddCookie(in.Cookies()[0]) }
	if text := read(t, w.request(http.MethodGet, "/-/rollout/order?act=resume&release=41", "", as)); strings.Contains(text, `spellcheck="false" required`) || !strings.Contains(text, "another one than yours") {
		t.Error("the token is asked for again")
	}
	resp := w.request(http.MethodPost, "/-/rollout/order", url.Values{"act": {"resume"}, "release": {"41"}, "reason": {"it was the network"}}.Encode(), as)
	if resp.StatusCode != http.StatusOK || len(d.by) != 1 || d.by[0] != "token ops" {
		t.Errorf("%s, by %v", resp.Status, d.by)
	}
	w.writeTokens("read", "rollout") // ops is revoked
	if got := w.request(http.MethodPost, "/-/rollout/order", url.Values{"act": {"pause"}, "release": {"41"}, "reason": {"x"}}.Encode(), as).StatusCode; got != http.StatusUnauthorized {
		t.Errorf("after its token went: %d", got)
	}
}

// TestBrowserRollout: the countdown counts, what changes is there without anybody asking, and an order is given by keyboard alone.
func TestBrowserRollout(t *testing.T) {
	w := trouble(t)
	w.writeTokens("read", "rollout")
	now := time.Now().UTC()
	d := newDesk(t, w, now)
	soon := now.Add(90 * time.Second)
	d.v.Rings[0].SoakUntil = &soon
	b := webtest.Start(t)
	tab := w.open(b, 1280, 900)
	tab.Go(w.url + "/")
	tab.Until("the page is live", `document.querySelector("#link").textContent == "live"`)
	tab.Until("it counts", `(() => { const t = document.querySelector("time.left").textContent; if (!window.first) { window.first = t; return false; } return t != window.first && / s left$/.test(t); })()`)

	d.mu.Lock()
	d.v.Rings[1].State, d.v.Rings[1].Reason, d.v.Rings[1].Failed = fleet.RolloutDone, "has release-41", fleet.Named{}
	d.mu.Unlock()
	w.Show(fleet.Event{Type: fleet.EventRollout})
	tab.Until("the ring is done", `document.querySelectorAll(".ring")[1].classList.contains("done")`)
	quiet(t, "the panel", tab)

	tab.Eval(`[...document.querySelectorAll(".orders a")].find(a => a.textContent == "Pause").focus()`, nil)
	tab.Key("Enter")
	tab.Until("it says what happens", `location.pathname == "/-/rollout/order" && document.querySelector("h1").textContent == "Pause the roll-out" && document.querySelector("#will")`)
	tab.Eval(`document.querySelector("#reason").focus()`, nil)
	tab.Type("one more look")
	tab.Eval(`document.querySelector("#token").focus()`, nil)
	tab.Type(secretOf("rollout"))
	tab.Key("Enter")
	tab.Until("it says what was done", `document.querySelector(".banner.good")?.textContent.includes("Done") && document.querySelector(".facts").textContent.includes("one more look")`)
	quiet(t, "the order", tab)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.orders) != 1 || d.orders[0].Reason != "one more look" {
		t.Errorf("%+v", d.orders)
	}
}
