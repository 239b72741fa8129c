package notify

import (
	"cmp"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// Config is the table [notify] of the hub's file.
type Config struct {
	Hub     string            `toml:"hub"`     // URL of the hub as people reach it, for commands and links
	Title   string            `toml:"title"`   // template of the line, for senders that have none
	Text    string            `toml:"text"`    // of the text
	Timeout tomlfile.Duration `toml:"timeout"` // of one attempt, default 15s
	GiveUp  tomlfile.Duration `toml:"giveUp"`  // after which time what nobody takes is given up, default 24h

	Senders   []SenderConfig `toml:"senders"`
	Rules     []RuleConfig   `toml:"rules"`
	Limits    LimitsConfig   `toml:"limits"`
	Heartbeat struct {
		URL     string            `toml:"url"`
		URLFile string            `toml:"urlFile"`
		Every   tomlfile.Duration `toml:"every"` // default 1m
	} `toml:"heartbeat"`
}

// LimitsConfig are Limits as they are written.
type LimitsConfig struct {
	Fetch       tomlfile.Duration `toml:"fetch"`
	Retrying    tomlfile.Duration `toml:"retrying"`
	Push        tomlfile.Duration `toml:"push"`
	Credential  tomlfile.Duration `toml:"credential"`
	Undelivered tomlfile.Duration `toml:"undelivered"`
	DiskBytes   int64             `toml:"diskBytes"`
	DiskPercent int               `toml:"diskPercent"`
	Group       int               `toml:"group"`
}

// SenderConfig is one of [[notify.senders]]. Which keys a type takes is in senderTypes.
type SenderConfig struct {
	Name         string   `toml:"name"`
	Type         string   `toml:"type"`
	URL          string   `toml:"url"`
	URLFile      string   `toml:"urlFile"`
	TokenFile    string   `toml:"tokenFile"`
	SecretFile   string   `toml:"secretFile"`
	CAFile       string   `toml:"caFile"`
	Room         string   `toml:"room"`
	Server       string   `toml:"server"`
	Security     string   `toml:"security"`
	User         string   `toml:"user"`
	PasswordFile string   `toml:"passwordFile"`
	From         string   `toml:"from"`
	To           []string `toml:"to"`
	Title        string   `toml:"title"`
	Text         string   `toml:"text"`
	PerHour      int      `toml:"perHour"`
}

// RuleConfig is one of [[notify.rules]]: an event for which all that is set holds goes to Senders. A list that is not set holds for all.
type RuleConfig struct {
	Types    []string `toml:"types"`    // of events, patterns; default: alerts, firing and resolved
	Kinds    []string `toml:"kinds"`    // of alerts
	Severity string   `toml:"severity"` // of alerts, at least
	Hosts    []string `toml:"hosts"`    // patterns
	Releases []string `toml:"releases"` // patterns of tags
	Senders  []string `toml:"senders"`  // default: all
}

// manner is how a type of sender takes many messages.
type manner int

const (
	toPeople   manner = iota // so many an hour one by one, and what is more in one
	oneByOne                 // all of them, each by itself
	alertsOnly               // as many as there are at once, alerts alone
)

// senderTypes are the types, the keys that each needs and may have beside those of all, and how it is made.
var senderTypes = map[string]struct {
	needs, may []string
	manner     manner
	make       func(c SenderConfig, p *poster, hub string) Sender
}{
	"webhook": {[]string{"url"}, []string{"tokenFile", "secretFile"}, oneByOne, func(c SenderConfig, p *poster, _ string) Sender { return &webhook{p, c.place(), c.SecretFile} }},
	"alertmanager": {[]string{"url"}, []string{"tokenFile"}, alertsOnly, func(c SenderConfig, p *poster, hub string) Sender {
		return &alertmanager{poster: p, place: c.place(), hub: hub, now: time.Now}
	}},
	"ntfy":       {[]string{"url"}, []string{"tokenFile"}, toPeople, func(c SenderConfig, p *poster, _ string) Sender { return &ntfy{p, c.place()} }},
	"matrix":     {[]string{"url", "tokenFile", "room"}, nil, toPeople, func(c SenderConfig, p *poster, _ string) Sender { return &matrix{p, c.place(), c.Room} }},
	"slack":      {[]string{"urlFile"}, nil, toPeople, chatOf(chat{make: slack})},
	"mattermost": {[]string{"urlFile"}, nil, toPeople, chatOf(chat{make: mattermost})},
	"discord":    {[]string{"urlFile"}, nil, toPeople, chatOf(chat{make: discord})},
	"teams":      {[]string{"urlFile"}, nil, toPeople, chatOf(chat{make: teams})},
	"telegram":   {[]string{"tokenFile", "room"}, []string{"url"}, toPeople, chatOf(chat{make: telegram, path: func(token string) string { return "/bot" + url.PathEscape(token) + "/sendMessage" }})},
	"gotify":     {[]string{"url", "tokenFile"}, nil, toPeople, chatOf(chat{make: gotify, path: func(string) string { return "/message" }, head: "X-Gotify-Key"})},
	"email":      {[]string{"server", "from", "to"}, []string{"security", "user", "passwordFile"}, toPeople, nil},
}

func chatOf(made chat) func(SenderConfig, *poster, string) Sender {
	return func(c SenderConfig, p *poster, _ string) Sender {
		s := made
		s.poster, s.place, s.room = p, c.place(), c.Room
		return &s
	}
}

func (c SenderConfig) place() place {
	return place{url: strings.TrimRight(c.URL, "/"), urlFile: c.URLFile, tokenFile: c.TokenFile}
}

// keys are those that are not for every type, and whether they are set.
func (c SenderConfig) keys() map[string]bool {
	return map[string]bool{"url": c.URL != "", "urlFile": c.URLFile != "", "tokenFile": c.TokenFile != "", "secretFile": c.SecretFile != "", "room": c.Room != "", "server": c.Server != "",
		"security": c.Security != "", "user": c.User != "", "passwordFile": c.PasswordFile != "", "from": c.From != "", "to": len(c.To) > 0}
}

var senderName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$`)

// Check fills in the defaults, and says what is wrong with the table of the file at path. Errors have CodeConfig. Files with secrets are not read: they may come later.
func (c *Config) Check(file string) error {
	bad := func(hint, format string, args ...any) error {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: notify: %s", file, fmt.Sprintf(format, args...)).WithHint("%s", hint)
	}
	const see = "docs/ALERTS.md says what it takes"
	c.Timeout, c.GiveUp, c.Heartbeat.Every = tomlfile.Duration(c.Timeout.Or(15*time.Second)), tomlfile.Duration(c.GiveUp.Or(24*time.Hour)), tomlfile.Duration(c.Heartbeat.Every.Or(time.Minute))
	for what, u := range map[string]string{"hub": c.Hub, "heartbeat.url": c.Heartbeat.URL} {
		if u != "" && !plainURL(u) {
			return bad(see, "%s is no URL of http or https without a user in it", what)
		}
	}
	if c.Heartbeat.URL != "" && c.Heartbeat.URLFile != "" {
		return bad("leave one of them out", "heartbeat has url and urlFile")
	}
	if l := c.Limits; l.DiskBytes < 0 || l.DiskPercent < 0 || l.DiskPercent > 100 || l.Group < 0 || l.Group == 1 {
		return bad(see, "limits.diskBytes and limits.diskPercent must not be below 0 or above 100 percent, and limits.group not below 2")
	}
	if _, err := ParseTexts(c.Title, c.Text); err != nil {
		return bad("templates are those of Go's text/template; docs/ALERTS.md lists the fields", "%s", err)
	}
	var names []string
	for i := range c.Senders {
		s := &c.Senders[i]
		if what, hint := s.check(); what != "" {
			return bad(cmp.Or(hint, see), "senders[%d] (%s): %s", i, s.Name, what)
		}
		if slices.Contains(names, s.Name) {
			return bad("give each a name of its own", "two senders are named %q", s.Name)
		}
		names = append(names, s.Name)
	}
	for i, r := range c.Rules {
		if what := r.check(names); what != "" {
			return bad(see, "rules[%d]: %s", i, what)
		}
	}
	return nil
}

// check says what is wrong with a sender, and what to do about it.
func (c *SenderConfig) check() (what, hint string) {
	if !senderName.MatchString(c.Name) {
		return "its name must have letters, digits and ._-, at most 50", "set name"
	}
	t, known := senderTypes[c.Type]
	if !known {
		return fmt.Sprintf("there is no type %q", c.Type), "types are: " + strings.Join(types(), ", ")
	}
	set := c.keys()
	if set["url"] && set["urlFile"] {
		return "it has url and urlFile", "leave one of them out"
	}
	for _, k := range t.needs {
		if !set[k] && !(k == "url" && set["urlFile"]) {
			if k == "urlFile" {
				hint = "its URL is a secret: write it into a file, and that file's path as urlFile"
			}
			return fmt.Sprintf("type %s needs %s", c.Type, k), hint
		}
	}
	for k, is := range set {
		if is && !slices.Contains(t.needs, k) && !slices.Contains(t.may, k) && !(k == "urlFile" && slices.Contains(t.needs, "url")) {
			return fmt.Sprintf("type %s takes no %s", c.Type, k), ""
		}
	}
	if c.URL != "" && !plainURL(c.URL) {
		return "its url is no URL of http or https without a user in it", "what of it is secret belongs into a file: urlFile, tokenFile"
	}
	if c.Type == "ntfy" && c.URL != "" && strings.Count(strings.TrimRight(c.URL, "/"), "/") < 3 {
		return "its url has no topic", "like https://ntfy.example.org/fleet"
	}
	if c.Type == "telegram" && c.URL == "" {
		c.URL = "https://api.telegram.org"
	}
	if c.PerHour < 0 {
		return "perHour must be above 0", ""
	}
	if _, err := ParseTexts(c.Title, c.Text); err != nil {
		return err.Error(), "templates are those of Go's text/template; docs/ALERTS.md lists the fields"
	}
	if c.Type == "email" {
		return c.checkEmail()
	}
	return "", ""
}

func (c *SenderConfig) checkEmail() (what, hint string) {
	host, _, err := net.SplitHostPort(c.Server)
	c.Security = cmp.Or(c.Security, "starttls")
	switch {
	case err != nil || host == "":
		return fmt.Sprintf("server %q is not host:port", c.Server), "like smtp.example.org:587"
	case !slices.Contains([]string{"starttls", "tls", "none"}, c.Security):
		return fmt.Sprintf("there is no security %q", c.Security), "it is starttls (port 587), tls (port 465) or none"
	case (c.User == "") != (c.PasswordFile == ""):
		return "user and passwordFile go together", ""
	case c.User != "" && c.Security == "none" && host != "localhost" && !net.ParseIP(host).IsLoopback():
		return "it would send its password without TLS", "set security to starttls or tls"
	}
	for _, a := range append([]string{c.From}, c.To...) {
		if _, err := mail.ParseAddress(a); err != nil {
			return fmt.Sprintf("%q is no address", a), ""
		}
	}
	return "", ""
}

func types() (names []string) {
	for name := range senderTypes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func plainURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil
}

func (r RuleConfig) check(senders []string) string {
	for _, p := range slices.Concat(r.Types, r.Hosts, r.Releases) {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Sprintf("%q is no pattern", p)
		}
	}
	for _, p := range r.Types {
		if !slices.ContainsFunc(fleet.EventTypes(), func(t string) bool { ok, _ := path.Match(p, t); return ok }) {
			return fmt.Sprintf("no event has the type %q: there are %s", p, strings.Join(fleet.EventTypes(), ", "))
		}
	}
	for _, k := range r.Kinds {
		if !slices.Contains(fleet.AlertKinds(), fleet.AlertKind(k)) {
			return fmt.Sprintf("there is no kind of alert %q", k)
		}
	}
	if r.Severity != "" && r.Severity != string(fleet.Warning) && r.Severity != string(fleet.Critical) {
		return fmt.Sprintf("there is no severity %q, but warning and critical", r.Severity)
	}
	for _, s := range r.Senders {
		if !slices.Contains(senders, s) {
			return fmt.Sprintf("there is no sender %q", s)
		}
	}
	return ""
}

// limits are Defaults with what is set.
func (c *Config) limits() Limits {
	l := Defaults()
	l.Hub = c.Hub
	for d, set := range map[*time.Duration]tomlfile.Duration{&l.Fetch: c.Limits.Fetch, &l.Retrying: c.Limits.Retrying, &l.Push: c.Limits.Push, &l.Credential: c.Limits.Credential, &l.Undelivered: c.Limits.Undelivered} {
		*d = set.Or(*d)
	}
	l.DiskBytes = cmp.Or(c.Limits.DiskBytes, l.DiskBytes)
	if c.Limits.DiskPercent > 0 {
		l.DiskShare = float64(c.Limits.DiskPercent) / 100
	}
	l.Group = cmp.Or(c.Limits.Group, l.Group)
	return l
}
