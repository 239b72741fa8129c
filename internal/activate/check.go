package activate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

const (
	maxBody  = 1 << 20 // bytes of an answer that are looked at
	maxQuote = 200     // bytes of it that are told
	// overdue is how long checks may take to notice that their time is over, before nobody waits for them any more.
	overdue = 2 * time.Second
)

// before is what a system was like before the switch: only what got worse counts against the new one.
type before struct {
	units     unitStates
	reachable []Endpoint
}

// observe looks at the system that runs.
func (h *helper) observe(ctx context.Context) (before, error) {
	reached := make(chan []Endpoint, 1)
	go func() { reached <- reachable(ctx, h.req.Endpoints, probeTime) }()
	units := &services{}
	defer units.close()
	states, err := units.look(ctx)
	return before{states, <-reached}, err
}

// check waits until the new system is healthy, and no longer than the deadline, whatever hangs.
func (h *helper) check(ctx context.Context, was before) error {
	deadline := time.Duration(h.req.CheckSeconds * float64(time.Second))
	return proc.Stage(ctx, fleet.Check, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, deadline, fmt.Errorf("the %s for all checks are over", deadline))
		defer cancel()
		if err := h.intent(stepCheck); err != nil {
			return err
		}
		if now := current(); now != h.req.OutPath {
			return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "switch-to-configuration ended well, but %s is %q", CurrentSystem, now)
		}
		verdict := make(chan error, 1)
		go func() { verdict <- h.healthy(ctx, was) }()
		if err := inTime(ctx, verdict); err != nil {
			return err
		}
		return h.done(stepCheck, 0)
	})
}

// inTime is the dead-man's switch: it ends with ctx, whether there is a verdict or not.
func inTime(ctx context.Context, verdict <-chan error) error {
	select {
	case err := <-verdict:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-verdict: // it knows better what was missing
		return err
	case <-time.After(overdue):
		return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "the checks hang: %s", context.Cause(ctx))
	}
}

// healthy says what is worse than before, nil for nothing: units first, as checks of one that still starts would fail. They
// are looked at again at the end, as the checks may have taken long.
func (h *helper) healthy(ctx context.Context, was before) error {
	units := &services{}
	defer units.close()
	settled := func(ctx context.Context) error {
		if !HasSystemd() {
			return nil
		}
		return settle(ctx, units.look, was.units, patience)
	}
	if err := settled(ctx); err != nil {
		return err
	}
	var tasks []func(context.Context) error
	if len(was.reachable) > 0 {
		tasks = append(tasks, func(ctx context.Context) error { return awaitReachable(ctx, was.reachable) })
	}
	for _, c := range h.req.Checks {
		tasks = append(tasks, func(ctx context.Context) error { return h.declared(ctx, c) })
	}
	if len(tasks) == 0 {
		return nil
	}
	if err := allOf(ctx, tasks); err != nil {
		return err
	}
	return settled(ctx)
}

// allOf runs tasks beside each other until all succeeded; the first error ends the others.
func allOf(ctx context.Context, tasks []func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(tasks))
	for _, task := range tasks {
		go func() { ended <- task(ctx) }()
	}
	var first error
	for range tasks {
		if err := <-ended; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// declared tries a check until it passes or its tries are used up.
func (h *helper) declared(ctx context.Context, c fleet.HealthCheck) error {
	for try := 0; ; try++ {
		err := h.try(ctx, c)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			h.log.Warn("check failed", "check", c.Name, "try", try+1, "err", firstLine(err.Error()))
		}
		if try < c.Retries && sleep(ctx, c.Interval()) == nil {
			continue
		}
		when := ""
		if ctx.Err() != nil {
			when = " (" + context.Cause(ctx).Error() + ")"
		}
		return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "check %q failed: %s%s", c.Name, proc.Redact(err.Error()), when).
			WithHint("the host declares it: services.garrison.checks.%q", c.Name)
	}
}

func (h *helper) try(ctx context.Context, c fleet.HealthCheck) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout(), fmt.Errorf("not within %s", c.Timeout()))
	defer cancel()
	switch {
	case len(c.Command) > 0:
		return runCommand(ctx, c.Command, marker(h.req.ID))
	case c.HTTP != nil:
		return get(ctx, *c.HTTP)
	case c.TCP != "":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.TCP)
		if err != nil {
			return inTimeOr(ctx, err)
		}
		return conn.Close()
	case c.Unit != "":
		return isActive(ctx, c.Unit)
	}
	return errors.New("this Garrison does not know its kind")
}

// inTimeOr is err, or that there was no answer in time.
func inTimeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
	return err
}

// plainClient asks a server directly, follows nothing, and keeps no connection.
func plainClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, DialContext: (&net.Dialer{}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func get(ctx context.Context, c fleet.HTTPCheck) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "garrison")
	resp, err := plainClient().Do(req)
	if err != nil {
		return inTimeOr(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	ok, want := resp.StatusCode >= 200 && resp.StatusCode <= 299, "200 to 299"
	if c.Status != 0 {
		ok, want = resp.StatusCode == c.Status, fmt.Sprint(c.Status)
	}
	switch {
	case !ok:
		to := ""
		if l := resp.Header.Get("Location"); l != "" {
			to = " (to " + quoted(l) + ")"
		}
		return fmt.Errorf("%s answers with status %d%s, not %s: %s", c.URL, resp.StatusCode, to, want, quoted(string(body)))
	case err != nil:
		return fmt.Errorf("%s: its answer breaks off: %w", c.URL, inTimeOr(ctx, err))
	case !strings.Contains(string(body), c.Contains):
		return fmt.Errorf("%s does not answer with %s, but: %s", c.URL, quoted(c.Contains), quoted(string(body)))
	}
	return nil
}

// quoted is the beginning of a text from outside, in one line.
func quoted(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxQuote {
		s = strings.ToValidUTF8(s[:maxQuote], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
