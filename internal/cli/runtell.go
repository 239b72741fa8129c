package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

const (
	tellTime  = 10 * time.Second // for one word to a hub
	tellPause = 5 * time.Second  // after one that it did not take
	tellLast  = 5 * time.Second  // at the end, for what it does not know yet
	lastTries = 2
)

// runTeller tells a hub of a run of CI outside of it: that it begins, comes to a stage, ends. It does so in a goroutine of its own and leaves out what is no news
// any more; the run is neither held up nor failed by it. A nil one tells nobody.
type runTeller struct {
	url    string
	token  func() (string, error)
	stages func() []fleet.StageTime
	wake   chan struct{}
	done   chan struct{}
	cancel context.CancelFunc

	mu    sync.Mutex
	run   fleet.Run
	news  bool // the hub does not know the run as it is
	ended bool
	err   error // why it does not
}

// newRunTeller is nil where there is no hub, or no token for it.
func newRunTeller(url string, token func() (string, error), t *proc.Timeline) *runTeller {
	if url == "" || token == nil {
		return nil
	}
	return &runTeller{url: url, token: token, stages: t.Stages, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// hubTokenHere is the token for a hub that a command outside of any CI system is given.
func hubTokenHere() func() (string, error) {
	if token := os.Getenv("GARRISON_HUB_TOKEN"); token != "" {
		return func() (string, error) { return strings.TrimSpace(token), nil }
	}
	return tokenFrom(os.Getenv("GARRISON_HUB_TOKEN_FILE"))
}

// begin tells that a run of source began, once.
func (r *runTeller) begin(source fleet.Source, began time.Time) {
	if r == nil || r.cancel != nil || source.Commit == "" {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.set(fleet.Run{Schema: fleet.StatusSchema, Source: source, State: fleet.RunRunning, StartedAt: began.UTC(), URL: runURL()})
	go r.tell(ctx)
}

// runURL is where the CI system shows the run that this is part of; "" where it does not say.
func runURL() string {
	if url := os.Getenv("CI_JOB_URL"); url != "" { // GitLab's
		return url
	}
	server, repo, id := os.Getenv("GITHUB_SERVER_URL"), os.Getenv("GITHUB_REPOSITORY"), os.Getenv("GITHUB_RUN_ID")
	if server == "" || repo == "" || id == "" {
		return ""
	}
	return strings.TrimSuffix(server, "/") + "/" + repo + "/actions/runs/" + id
}

// onStage takes what a proc.Timeline tells. It returns at once.
func (r *runTeller) onStage(t fleet.StageTime, _ bool) {
	if r == nil || r.cancel == nil {
		return
	}
	r.mu.Lock()
	run := r.run
	r.mu.Unlock()
	run.Stage = t.Stage
	r.set(run)
}

// end tells how the run ended, and returns why the hub could not be told. It waits for it a little.
func (r *runTeller) end(ended fleet.Run) error {
	if r == nil || r.cancel == nil {
		return nil
	}
	r.mu.Lock()
	began := r.run
	r.ended = true
	r.mu.Unlock()
	ended.URL, ended.StartedAt = began.URL, began.StartedAt
	if ended.Source.Commit != began.Source.Commit { // no manifest says more
		ended.Source = began.Source
	}
	r.set(ended)
	select {
	case <-r.done:
	case <-time.After(tellLast):
	}
	r.cancel()
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.news && r.err == nil {
		r.err = fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "the hub %s did not answer in time", r.url)
	}
	return r.err
}

func (r *runTeller) set(run fleet.Run) {
	r.mu.Lock()
	r.run, r.news = run, true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// tell says what is news until the run has ended and the hub knows, or refuses.
func (r *runTeller) tell(ctx context.Context) {
	defer close(r.done)
	for last := 0; ctx.Err() == nil && last < lastTries; {
		r.mu.Lock()
		run, news, ended := r.run, r.news, r.ended
		r.news = false
		r.mu.Unlock()
		if !news {
			if ended {
				return
			}
			select {
			case <-ctx.Done():
			case <-r.wake:
			}
			continue
		}
		if run.EndedAt == nil {
			run.Stages = r.stages()
		}
		err := r.post(ctx, run)
		r.mu.Lock()
		r.err, r.news = err, r.news || err != nil
		r.mu.Unlock()
		switch {
		case err == nil:
		case fleet.ClassOf(err) != fleet.Transient:
			return
		default:
			pause := tellPause
			if ended {
				pause = time.Second
				last++
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			case <-r.wake:
			}
		}
	}
}

func (r *runTeller) post(ctx context.Context, run fleet.Run) error {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	body, err := json.Marshal(run)
	if err != nil {
		return err
	}
	return postHub(ctx, r.url, r.token, "/api/v1/runs", body)
}

// postHub tells a hub something. Errors: CodeRemote, CodeUnauthorized, CodeInvalid when it does not take that.
func postHub(ctx context.Context, url string, token func() (string, error), path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(url, "/")+path, bytes.NewReader(body))
	if err != nil {
		return fleet.Errorf("", fleet.CodeUsage, "%q is not a hub's URL", url).WithCause(err)
	}
	t, err := token()
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+t)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fleet.Errorf(fleet.Transient, fleet.CodeRemote, "cannot reach the hub %s", url).WithCause(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	said := strings.TrimSpace(string(text))
	switch code := resp.StatusCode; {
	case code < 300:
		return nil
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "the hub refuses: %s", said).WithHint("give it a token of scope ci")
	case code == http.StatusTooManyRequests, code >= 500:
		return fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the hub answers %s: %s", resp.Status, said)
	}
	return fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "the hub does not take that: %s", said).WithHint("have hub and command the same version?")
}
