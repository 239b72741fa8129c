package drill

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func unmarshal(b []byte, into any) error {
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%w, in: %.200s", err, b)
	}
	return nil
}

// request asks the hub as the demo, which may read; or, where at is a whole URL, another server of the forge's machine.
func (w *world) request(ctx context.Context, at string) (*http.Response, error) {
	if strings.HasPrefix(at, "/") {
		at = hubURL + at
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+w.token("demo"))
	resp, err := w.hub.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", at, resp.Status)
	}
	return resp, nil
}

const maxAnswer = 16 << 20

func (w *world) getBytes(ctx context.Context, path string) ([]byte, error) {
	resp, err := w.request(ctx, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

func (w *world) get(ctx context.Context, path string, into any) error {
	b, err := w.getBytes(ctx, path)
	if err != nil {
		return err
	}
	return unmarshal(b, into)
}

const (
	patience  = 60 * time.Second // for anything that the demo waits for
	lookAgain = 20 * time.Millisecond
)

// change is a commit on its way, as the hub's stream and the hosts tell it.
type change struct {
	commit   string
	pushedAt time.Time // just before git push
	run      fleet.Run
	hosts    map[string]fleet.Deployment
}

// listen opens the hub's stream; events come until ctx ends.
func (w *world) listen(ctx context.Context) (<-chan fleet.StreamEvent, error) {
	resp, err := w.request(ctx, "/api/v1/stream")
	if err != nil {
		return nil, err
	}
	events := make(chan fleet.StreamEvent)
	go func() {
		defer resp.Body.Close()
		defer close(events)
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, maxAnswer)
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			var e fleet.StreamEvent
			if !ok || json.Unmarshal([]byte(data), &e) != nil {
				continue
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events, nil
}

// push pushes the developer's main and follows the change: until CI ended and, if it
// released, until every followed host ended its deployment. With stages, each of CI's gets a line.
func (d *demo) push(ctx context.Context, commit string, stages bool) (*change, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	events, err := d.world.listen(ctx)
	if err != nil {
		return nil, fmt.Errorf("the hub's stream: %w", err)
	}
	c := &change{commit: commit, pushedAt: time.Now(), hosts: map[string]fleet.Deployment{}}
	pushed := make(chan error, 1)
	go func() {
		_, err := d.world.git(ctx, "push", "--quiet", "origin", "main")
		pushed <- err
	}()
	stop := d.out.waiting("git push")
	defer stop()
	told := 0
	if !stages {
		told = math.MaxInt
	}
	for !c.ended() {
		select {
		case <-ctx.Done():
			return c, fmt.Errorf("the change did not arrive: %w", context.Cause(ctx))
		case err := <-pushed:
			if err != nil {
				return c, fmt.Errorf("git push: %w", err)
			}
			d.out.event(time.Since(c.pushedAt), "developer", "git push", -1)
			pushed = nil
		case e, open := <-events:
			if !open {
				return c, fmt.Errorf("the hub's stream ended")
			}
			told = d.note(c, e, told)
		}
	}
	if pushed != nil {
		return c, <-pushed
	}
	return c, nil
}

// note takes an event in and shows what is new in it. told counts the stages of CI that have a line.
func (d *demo) note(c *change, e fleet.StreamEvent, told int) int {
	switch {
	case e.Run != nil && e.Run.Source.Commit == c.commit:
		c.run = *e.Run
		d.out.waitFor("CI: " + string(c.run.Stage))
		for _, s := range c.run.Stages[min(told, len(c.run.Stages)):] {
			d.out.event(s.EndedAt().Sub(c.pushedAt), "CI", string(s.Stage), s.Seconds)
			told++
		}
		if c.run.EndedAt != nil {
			what := string(c.run.State)
			if c.run.Release != nil {
				what += " " + fleet.TagName(c.run.Release.Number)
			}
			d.out.event(c.run.EndedAt.Sub(c.pushedAt), "CI", what, -1)
			d.out.waitFor("hosts")
		}
	case e.Status != nil && e.Status.Last != nil && e.Status.Last.Release.Source.Commit == c.commit:
		last := *e.Status.Last
		if _, seen := c.hosts[last.Host]; seen {
			break
		}
		c.hosts[last.Host] = last
		parts := make([]string, 0, len(last.Stages))
		for _, s := range last.Stages {
			parts = append(parts, fmt.Sprintf("%s %.2f", s.Stage, s.Seconds))
		}
		if told == math.MaxInt {
			parts = nil
		}
		d.out.event(last.EndedAt.Sub(c.pushedAt), last.Host, string(last.Result)+d.out.paint(grey, "  "+strings.Join(parts, " · ")), -1)
	}
	return told
}

// ended says whether nothing more is to come.
func (c *change) ended() bool {
	if c.run.EndedAt == nil {
		return false
	}
	if c.run.State != fleet.RunReleased {
		return true
	}
	for _, h := range followed {
		if _, ok := c.hosts[h]; !ok {
			return false
		}
	}
	return true
}

// slowest is the deployment that ended last.
func (c *change) slowest() fleet.Deployment {
	var last fleet.Deployment
	for _, d := range c.hosts {
		if d.EndedAt.After(last.EndedAt) {
			last = d
		}
	}
	return last
}

// journey is the slowest host's.
func (c *change) journey() journey {
	last := c.slowest()
	return journeyOf(pushed{commit: c.commit, at: c.pushedAt}, &c.run, &last)
}
