package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/stream"
)

const (
	reportTime = 15 * time.Second
	retryLeast = time.Second
	retryMost  = time.Minute
	maxToken   = 16 << 10
	diffAfter  = 2 * time.Second // a diff is for people, and takes nix some work: not while all hosts deploy
)

// listen keeps a stream from the hub open. All that a hub can say is "look again"; the agent looks as well
// each time that it connects, for what it missed.
func (a *Agent) listen(ctx context.Context) {
	client := &http.Client{}
	a.persist(ctx, func() (err error) {
		streamCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		silence := time.AfterFunc(stream.Silence, cancel)
		defer silence.Stop()
		defer func() {
			if ctx.Err() == nil {
				a.contacted(&a.status.Hub, err, fleet.Reporting, "hub")
			}
		}()
		resp, err := a.ask(streamCtx, client, http.MethodGet, "/api/v1/stream?kinds=wake", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		a.contacted(&a.status.Hub, nil, fleet.Reporting, "hub")
		a.Wake()
		_, err = stream.Read(resp.Body, func() { silence.Reset(stream.Silence) }, func(e fleet.StreamEvent) (bool, error) {
			if e.Kind == "wake" {
				a.Wake()
			}
			return false, nil
		})
		return fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the hub's stream ended").WithHint("releases are polled for meanwhile").WithCause(err)
	})
}

// reportAll sends the newest status whenever it changed, and some time later what that changes on the host.
func (a *Agent) reportAll(ctx context.Context) {
	client := &http.Client{Timeout: reportTime}
	var diffDue <-chan time.Time // nil while none is
	for {
		select {
		case <-ctx.Done():
			return
		case <-diffDue:
			diffDue = nil
			if err := a.tellDiff(ctx, client); err != nil {
				a.Log.Debug("the hub was not told what changes", "stage", fleet.Reporting, "err", err)
				diffDue = time.After(jittered(retryMost))
			}
		case <-a.report:
			var r fleet.Received
			persistUntil(ctx, func() error { return a.reportStatus(ctx, client, &r) })
			if r.Schema == fleet.StatusSchema && diffDue == nil {
				diffDue = time.After(diffAfter)
			}
		}
	}
}

// reportStatus sends the status, and the deployments that the hub then says to miss.
func (a *Agent) reportStatus(ctx context.Context, client *http.Client, r *fleet.Received) error {
	body, err := json.Marshal(a.Status())
	if err != nil {
		return err
	}
	*r = fleet.Received{}
	err = a.tellHub(ctx, client, "/api/v1/reports", body, r)
	if err == nil && r.Schema == fleet.StatusSchema { // else it keeps no deployments
		err = a.tellMissing(ctx, client, *r)
	}
	if ctx.Err() == nil {
		a.contacted(&a.status.Hub, err, fleet.Reporting, "hub")
	}
	return err
}

// ask makes a request to the hub with the token as it stands in its file now.
func (a *Agent) ask(ctx context.Context, client *http.Client, method, path string, body []byte) (*http.Response, error) {
	token, err := readToken(a.Config.Hub.TokenFile)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(a.Config.Hub.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	asked := time.Now()
	resp, err := client.Do(req)
	if err == nil {
		a.noteClock(asked, resp)
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "cannot reach the hub %s", a.Config.Hub.URL).WithHint("releases are polled for meanwhile").WithCause(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusNotFound, http.StatusMethodNotAllowed:
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "the hub does not take what it was told: %s", bytes.TrimSpace(said)).WithHint("have hub and agents the same version?")
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "the hub refuses the token in %s", a.Config.Hub.TokenFile).WithHint("renew it; it is read again by itself")
	}
	err = fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the hub answers %s: %s", resp.Status, bytes.TrimSpace(said))
	if seconds, ok := strconv.Atoi(resp.Header.Get("Retry-After")); ok == nil && seconds > 0 {
		return nil, &later{err, min(time.Duration(seconds)*time.Second, mostLater)}
	}
	return nil, err
}

// noteClock compares the host's clock with the hub's: it showed what the answer says between then and now.
func (a *Agent) noteClock(asked time.Time, answer *http.Response) {
	hub, err := http.ParseTime(answer.Header.Get("Date")) // in whole seconds
	if err != nil {
		return
	}
	off := fleet.ClockOff(asked.Add(time.Since(asked)/2), hub.Add(time.Second/2))
	a.mu.Lock()
	was := a.status.ClockOffSeconds
	a.status.ClockOffSeconds = off
	a.mu.Unlock()
	if off != 0 && was == 0 {
		a.Log.Warn("this host's clock is not the hub's", "offSeconds", math.Round(off), "hint", "timedatectl set-ntp true")
	}
}

// later is an error of a hub that wants to be asked again no sooner than after some time.
type later struct {
	error
	after time.Duration
}

// Unwrap returns the error without that.
func (l *later) Unwrap() error { return l.error }

// mostLater bounds what a hub may ask for.
const mostLater = 5 * time.Minute

func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read the token in %s", file).WithHint("put it there; it is read again by itself").WithCause(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken))
	return strings.TrimSpace(string(b)), err
}

// persist calls f again and again until ctx ends, with growing pauses while it fails quickly. What lasted for longer than the pause before it did not:
// a proxy may cut every stream after a few seconds of silence.
func (a *Agent) persist(ctx context.Context, f func() error) {
	wait := retryLeast
	for ctx.Err() == nil {
		began := time.Now()
		err := f()
		if time.Since(began) > 2*wait {
			wait = retryLeast
		}
		if ctx.Err() == nil {
			a.Log.Debug("hub", "err", err, "retryIn", wait)
		}
		wait = pause(ctx, wait)
	}
}

// persistUntil is persist, until f succeeds. A hub that asks for more time gets it.
func persistUntil(ctx context.Context, f func() error) {
	for wait := retryLeast; ctx.Err() == nil; {
		err := f()
		if err == nil {
			return
		}
		var l *later
		if errors.As(err, &l) {
			pause(ctx, 2*l.after) // at least half of which is waited
		} else {
			wait = pause(ctx, wait)
		}
	}
}

// pause waits about d and returns the next, longer pause. All agents lose a hub at the same moment, and must not come back at the same moment.
func pause(ctx context.Context, d time.Duration) time.Duration {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration((0.5 + random()) * float64(d))):
	}
	return min(2*d, retryMost)
}
