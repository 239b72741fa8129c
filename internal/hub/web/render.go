package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// page is what a template gets.
type page struct {
	Title    string
	Template string
	Nav      string // the entry that is marked in the navigation
	// Live are the kinds of notices that this page is to be made anew for, and Host the one host whose notices those of kind host must be.
	Live, Host    string
	Status        int  // of the answer; 0: 200
	Still         bool // somebody types here: it is not loaded again by itself
	Visitor       visitor
	Now           time.Time
	Alerts        []fleet.Alert // open
	AlertsUnknown bool
	Version       string
	Body          any
}

// pages are the templates, one set for each page.
type pages struct {
	sets    map[string]*template.Template
	version string // of the static files
}

func parsePages(static fs.FS) (pages, error) {
	p := pages{sets: map[string]*template.Template{}}
	sum := sha256.New()
	err := fs.WalkDir(static, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(static, name)
		sum.Write(text)
		return err
	})
	if err != nil {
		return p, err
	}
	p.version = hex.EncodeToString(sum.Sum(nil))[:12]
	base, err := template.New("").Funcs(words()).ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return p, err
	}
	names, err := fs.Glob(files, "templates/*.html")
	for _, file := range names {
		name := strings.TrimPrefix(file, "templates/")
		if name == "layout.html" || name == "parts.html" || err != nil {
			continue
		}
		set, cloned := base.Clone()
		if err = cloned; err == nil {
			p.sets[name], err = set.ParseFS(files, file)
		}
	}
	return p, err
}

// send executes a page's template whole before anything of it is sent.
func (s *server) send(w http.ResponseWriter, r *http.Request, status int, p page) {
	p.Version = s.pages.version
	var text bytes.Buffer
	if err := s.pages.sets[p.Template].ExecuteTemplate(&text, "layout.html", p); err != nil {
		s.Log.Error("a page cannot be made", "path", r.URL.Path, "err", err)
		http.Error(w, "the hub cannot make this page", http.StatusInternalServerError)
		return
	}
	body := visible(text.Bytes())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// What is compressed holds no secret that what a visitor sends could be compared with.
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && len(body) > 1000 {
		var small bytes.Buffer
		z, _ := gzip.NewWriterLevel(&small, gzip.BestSpeed) // a level that there is
		_, _ = z.Write(body)                                // into memory
		_ = z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		body = small.Bytes()
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the reader went away
}

// visible replaces what hosts and commits could hide something with, or turn the line around with: control characters and those that set the
// direction of writing. No template of ours has any.
func visible(text []byte) []byte {
	return bytes.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
		case c < ' ', c >= 0x7f && c < 0xa0, c >= 0x202a && c <= 0x202e, c >= 0x2066 && c <= 0x2069, c == 0x200e, c == 0x200f, c == 0x061c, c == 0x2028, c == 0x2029:
			return utf8.RuneError
		}
		return c
	}, text)
}

// words are the functions of the templates.
func words() template.FuncMap {
	signs := symbols()
	symbol := func(word any) string {
		if s := signs[text(word)]; s != "" {
			return s
		}
		return "·"
	}
	return template.FuncMap{
		"at": at, "stamp": stamp, "lead": lead, "pair": func(b bar, ticks []tick) map[string]any { return map[string]any{"Bar": b, "Ticks": ticks} },
		"hostStages": hostStages, "took": took, "between": func(from time.Time, until any) float64 { return between(from, until).Seconds() },
		"isLink": func(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") },
		"short":  func(commit string) string { return brief(commit, 12, "") },
		"brief":  func(s string) string { return brief(fleet.FirstLine(s), 200, "…") },
		"line":   func(s string) string { return brief(fleet.FirstLine(s), 500, "…") },
		"rest": func(s string) string {
			_, rest, _ := strings.Cut(s, "\n")
			return brief(rest, 4000, "…")
		},
		"seconds": seconds, "span": span, "size": size, "symbol": symbol, "tag": fleet.TagName, "join": strings.Join,
		"percent": func(f *float64) string { return fmt.Sprintf("%.0f %%", *f*100) },
		"left":    func(t, now time.Time) string { return span(t.Sub(now).Seconds()) },
		"deref":   func(t *time.Time) time.Time { return *t },
		"slug":    slug,
		"parts":   ringParts, "countdown": countdown,
		"more":    func(n fleet.Named) int { return n.Count - min(len(n.Names), 8) },
		"rollout": func(v *rolloutView, now time.Time) map[string]any { return map[string]any{"Rollout": v, "Now": now} },
		"store":   storeName,
	}
}

// brief is s with at most so many characters, and then end.
func brief(s string, most int, end string) string {
	n := 0
	for i := range s {
		if n == most {
			return s[:i] + end
		}
		n++
	}
	return s
}

// at is a moment as how long ago it was, and exactly for who looks closer.
func at(t, now time.Time) template.HTML {
	if t.IsZero() {
		return "never"
	}
	b := make([]byte, 0, 120)
	b = t.UTC().AppendFormat(append(b, `<time class="ago" datetime="`...), time.RFC3339)
	b = append(append(append(b, `" title="`...), utc(t)...), `">`...)
	return template.HTML(append(append(b, ago(t, now)...), `</time>`...)) // digits and words of ours
}

// stamp is a moment in words.
func stamp(t time.Time) template.HTML {
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s</time>`, t.UTC().Format(time.RFC3339), utc(t))) // the same
}

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func between(from time.Time, until any) time.Duration {
	switch u := until.(type) {
	case *time.Time:
		return u.Sub(from)
	case time.Time:
		return u.Sub(from)
	}
	return 0
}

// hostStages are those that a host has.
func hostStages() []fleet.Stage {
	return []fleet.Stage{fleet.Fetch, fleet.Verify, fleet.Staging, fleet.Gate, fleet.Activate, fleet.Check, fleet.Commit}
}

// took is how long a stage was, where it was.
func took(stages []fleet.StageTime, stage fleet.Stage) string {
	for _, s := range stages {
		if s.Stage == stage {
			return seconds(s.Seconds)
		}
	}
	return ""
}

// ago is how long before now t was, in one unit. The script says the same.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "never"
	case d < -time.Minute:
		return "in " + span(-d.Seconds())
	case d < 5*time.Second:
		return "now"
	}
	return span(d.Seconds()) + " ago"
}

// span is a duration in one unit, for people.
func span(seconds float64) string {
	switch {
	case seconds < 0:
		return "no time"
	case seconds < 100:
		return fmt.Sprintf("%d s", int(seconds))
	case seconds < 100*60:
		return fmt.Sprintf("%d min", int(seconds/60))
	case seconds < 48*3600:
		return fmt.Sprintf("%d h", int(seconds/3600))
	}
	return fmt.Sprintf("%d days", int(seconds/86400))
}

// seconds is a duration of a stage.
func seconds(s float64) string {
	switch {
	case s < 10:
		return fmt.Sprintf("%.2f s", s)
	case s < 1000:
		return fmt.Sprintf("%.1f s", s)
	}
	return span(s)
}

func size(n int64) string {
	for _, u := range []struct {
		name string
		of   int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.of {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.of), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// symbols say without colour what a word does.
func symbols() map[string]string {
	return map[string]string{
		string(fleet.Failed): "✕", string(fleet.Silent): "?", string(fleet.Retrying): "↻", string(fleet.ByHand): "✎", string(fleet.Waiting): "‖",
		string(fleet.UnderWay): "→", string(fleet.Manual): "○", string(fleet.Gone): "–", string(fleet.AllWell): "✓",
		"done": "✓", "waits": "‖", "unchanged": "=", "superseded": "–", "under-way": "→", // of releases
		"released": "✓", "running": "→", // of runs
		string(fleet.Committed): "✓", string(fleet.Tested): "✎", string(fleet.RolledBack): "↩", string(fleet.NotActivated): "✕", string(fleet.RebootNeeded): "‖", string(fleet.RollbackFailed): "✕",
		"pass": "✓", "fail": "✕", "skip": "–", // of drills
		string(fleet.RolloutRolling): "→", string(fleet.RolloutSoaking): "◔", string(fleet.RolloutStopped): "✕", // of rings, beside done and waiting
		fleet.RolloutPromoted: "→", fleet.RolloutApproved: "✓", fleet.RolloutResumed: "→", fleet.RolloutFrozen: "‖", fleet.RolloutUnfrozen: "→", fleet.RolloutAborted: "↩", fleet.RolloutRebooting: "↻", fleet.RolloutComplete: "✓",
		"critical": "✕", "warning": "!", "resolved": "✓", // of alerts
	}
}

// slug is a word as a class.
func slug(word any) string { return strings.ReplaceAll(text(word), " ", "-") }

// text is a word of any of our types. The commonest are asked for by the thousand.
func text(word any) string {
	switch w := word.(type) {
	case string:
		return w
	case fleet.Standing:
		return string(w)
	}
	return fmt.Sprint(word)
}

// storeName is a store path without its folder and hash, which say nothing to a person.
func storeName(path string) string {
	name := strings.TrimPrefix(path, "/nix/store/")
	if len(name) > 33 && name != path && name[32] == '-' {
		return name[33:]
	}
	return path
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
