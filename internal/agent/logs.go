package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/stream"
)

const (
	logsKept   = 20
	maxLogKept = 256 << 10 // bytes of each; of a longer one its end
	followLog  = 200 * time.Millisecond
)

func (a *Agent) logsDir() string { return filepath.Join(a.Config.StateDir, "logs") }

// logFile is where the log of a deployment is kept.
func (a *Agent) logFile(k fleet.DeploymentKey) string {
	return filepath.Join(a.logsDir(), fmt.Sprintf("%d-%d.log", k.Release, k.EndedAt.UnixMilli()))
}

// keepLog keeps the log of the activation that just ended; the next one's takes its place. Nothing depends on it.
func (a *Agent) keepLog(k fleet.DeploymentKey) {
	text, err := tail(activate.LogFile(a.activationDir()), maxLogKept)
	if err == nil {
		err = os.MkdirAll(a.logsDir(), 0o755)
	}
	if err == nil {
		err = durable.WriteFile(a.logFile(k), []byte(text), 0o640)
	}
	if err == nil {
		err = a.dropLogs()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // nothing was switched, nothing said
		a.Log.Warn("the activation's log cannot be kept", "release", k.Release, "err", err)
	}
}

// dropLogs removes all but the newest.
func (a *Agent) dropLogs() error {
	if err := durable.Sweep(a.logsDir()); err != nil {
		return err
	}
	kept, err := a.keptLogs()
	for _, k := range kept[min(len(kept), logsKept):] {
		err = errors.Join(err, os.Remove(a.logFile(k)))
	}
	return err
}

// keptLogs are the deployments whose logs are kept, newest first.
func (a *Agent) keptLogs() ([]fleet.DeploymentKey, error) {
	files, err := os.ReadDir(a.logsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var kept []fleet.DeploymentKey
	for _, f := range files {
		release, milli, ok := strings.Cut(strings.TrimSuffix(f.Name(), ".log"), "-")
		n, errN := strconv.Atoi(release)
		ms, errMS := strconv.ParseInt(milli, 10, 64)
		if ok && errN == nil && errMS == nil {
			kept = append(kept, fleet.DeploymentKey{Release: n, EndedAt: time.UnixMilli(ms)})
		}
	}
	slices.SortFunc(kept, func(x, y fleet.DeploymentKey) int {
		return cmp.Or(y.EndedAt.Compare(x.EndedAt), cmp.Compare(y.Release, x.Release))
	})
	return kept, nil
}

// tail reads the end of a file, at most so many bytes and beginning with a whole line; what was left out is said.
func tail(path string, most int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	left := max(0, info.Size()-most)
	text, err := io.ReadAll(io.NewSectionReader(f, left, most))
	if err != nil || left == 0 {
		return string(text), err
	}
	if part, rest, ok := strings.Cut(string(text), "\n"); ok {
		left += int64(len(part)) + 1
		text = []byte(rest)
	}
	return fmt.Sprintf("… %d bytes before are left out\n%s", left, text), nil
}

const (
	tellLogEvery = time.Second
	mostLiveLog  = 1 << 20                  // bytes of one activation that the hub is told while they are said
	mostLogPart  = fleet.MaxReportedLog / 4 // bytes at once; what replaces a byte that is no text is longer
)

// tellLog tells the hub what is said in an activation while it is under way, by whole lines, until stop is called; what was said last is told
// after that. Whoever follows it there cannot ask this host for it: a hub has nothing to say here. Nothing depends on it: what does not
// arrive is in the deployment's report.
func (a *Agent) tellLog(ctx context.Context, r activate.Request) (stop func()) {
	if a.Config.Hub.URL == "" {
		return func() {}
	}
	ended := make(chan struct{})
	a.tasks.Go(func() {
		l := liveLog{agent: a, client: &http.Client{Timeout: reportTime}, part: fleet.LogPart{Schema: fleet.StatusSchema, Host: a.Config.Host, Activation: r.ID}}
		for last := false; !last && l.part.Offset < mostLiveLog; {
			select {
			case <-ctx.Done():
				return
			case <-ended:
				last = true
			case <-time.After(jittered(tellLogEvery)):
			}
			more, err := true, error(nil)
			for more && err == nil && l.part.Offset < mostLiveLog {
				more, err = l.tell(ctx)
			}
			if fleet.CodeOf(err) == fleet.CodeInvalid {
				return // a hub that does not know of it
			}
		}
	})
	return func() { close(ended) }
}

// liveLog is how much the hub was told of a log.
type liveLog struct {
	agent  *Agent
	client *http.Client
	read   int64         // of the file
	part   fleet.LogPart // the next one
}

// tell tells what is new, or the first part of that; more says that there was something.
func (l *liveLog) tell(ctx context.Context) (more bool, err error) {
	f, err := os.Open(activate.LogFile(l.agent.activationDir()))
	if err != nil {
		return false, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, l.read, mostLogPart))
	n := bytes.LastIndexByte(text, '\n') + 1
	l.part.Text = reportable(string(text[:n]))
	if n == 0 && len(text) == mostLogPart {
		n, l.part.Text = len(text), "… a long line is left out\n"
	}
	if err != nil || n == 0 {
		return false, err
	}
	body, err := json.Marshal(l.part)
	if err == nil {
		err = l.agent.tellHub(ctx, l.client, "/api/v1/logs", body, nil)
	}
	if err == nil {
		l.read += int64(n)
		l.part.Offset += int64(len(l.part.Text))
	}
	return err == nil, err
}

// reportable is a log without credentials, and such that JSON changes nothing of it.
func reportable(log string) string { return strings.ToValidUTF8(proc.Redact(log), "\uFFFD") }

// serveLogs answers with what was said in a deployment: of ?deployment=N, a release's number, its newest; else of the one that is
// under way, or was last. With ?follow=1 it goes on with what is said now, until the client goes away.
func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	file := activate.LogFile(a.activationDir())
	s := a.Status()
	under := 0 // the release that is being activated
	if s.Phase == fleet.PhaseActivating && s.Target != nil {
		under = s.Target.Release.Number
	}
	if q := r.URL.Query().Get("deployment"); q != "" {
		n, ok := fleet.TagNumber(fleet.TagPrefix + q)
		if !ok {
			http.Error(w, "deployment must be the number of a release", http.StatusBadRequest)
			return
		}
		if n != under {
			kept, err := a.keptLogs()
			i := slices.IndexFunc(kept, func(k fleet.DeploymentKey) bool { return k.Release == n })
			if err != nil || i < 0 {
				http.Error(w, fmt.Sprintf("no log of a deployment of release-%d is kept", n), http.StatusNotFound)
				return
			}
			file = a.logFile(kept[i])
		}
	}
	if r.URL.Query().Get("follow") != "" {
		_, leave, ok := a.watching.join() // so that followers, too, leave room for others
		if !ok {
			http.Error(w, tooManyWatch, http.StatusServiceUnavailable)
			return
		}
		defer leave()
		follow(w, r, file)
		return
	}
	text, err := tail(file, maxLogKept)
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "nothing was activated yet", http.StatusNotFound)
		return
	}
	if err != nil {
		http.Error(w, "the log cannot be read: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text) // the client went away
}

// follow copies a file as it grows, and whatever takes its place, until the client goes away.
func follow(w http.ResponseWriter, r *http.Request, path string) {
	f := (*os.File)(nil)
	defer func() { f.Close() }()
	stream.Follow(w, r, nil, followLog, func(w io.Writer) error {
		for {
			if f != nil {
				if _, err := io.Copy(w, f); err != nil {
					return err
				}
			}
			now, err := os.Open(path)
			if err != nil {
				return nil
			}
			if f != nil && sameFile(f, now) {
				return now.Close()
			}
			f.Close()
			f = now
		}
	})
}

func sameFile(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}

func sleepContext(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
