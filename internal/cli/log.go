package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// logger writes log lines to standard error: for the journal, when that is where it leads.
func (a *app) logger() *slog.Logger {
	level := slog.LevelInfo
	if a.verbose {
		level = slog.LevelDebug
	}
	if isJournal(a.Err, os.Getenv("JOURNAL_STREAM")) {
		return slog.New(newJournal(a.Err, level))
	}
	return slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: level}))
}

// isJournal says whether w is the stream that systemd names in JOURNAL_STREAM: its device and inode (systemd.exec(5)).
func isJournal(w io.Writer, stream string) bool {
	f, ok := w.(*os.File)
	if !ok || stream == "" {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journal is a handler for the journal, which has its own time and takes the priority from a prefix (sd-daemon(3)).
type journal struct {
	text slog.Handler // writes to line
	to   io.Writer
	mu   *sync.Mutex // guards line
	line *bytes.Buffer
}

func newJournal(to io.Writer, level slog.Level) *journal {
	line := &bytes.Buffer{}
	text := slog.NewTextHandler(line, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}})
	return &journal{text: text, to: to, mu: &sync.Mutex{}, line: line}
}

func (j *journal) Enabled(ctx context.Context, l slog.Level) bool { return j.text.Enabled(ctx, l) }

func (j *journal) Handle(ctx context.Context, r slog.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.line.Reset()
	fmt.Fprintf(j.line, "<%d>", priority(r.Level))
	if err := j.text.Handle(ctx, r); err != nil {
		return err
	}
	_, err := j.to.Write(j.line.Bytes())
	return err
}

func (j *journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *j
	with.text = j.text.WithAttrs(attrs)
	return &with
}

func (j *journal) WithGroup(name string) slog.Handler {
	with := *j
	with.text = j.text.WithGroup(name)
	return &with
}

// priority is syslog's for a level.
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}
