package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// HealthCheck is something that must be well in a new system before it is committed. Exactly one of Command, HTTP, TCP and
// Unit is set. A host declares them by services.garrison.checks.
type HealthCheck struct {
	Name    string     `json:"name"`
	Command []string   `json:"command,omitempty"` // program and arguments; run as root, must exit with 0
	HTTP    *HTTPCheck `json:"http,omitempty"`
	TCP     string     `json:"tcp,omitempty"`  // host:port that must accept a connection
	Unit    string     `json:"unit,omitempty"` // systemd unit that must be active

	TimeoutSeconds  float64 `json:"timeoutSeconds"`  // of one try
	Retries         int     `json:"retries"`         // tries after the first one
	IntervalSeconds float64 `json:"intervalSeconds"` // between a try's end and the next one
}

// HTTPCheck is a GET that must be answered.
type HTTPCheck struct {
	URL      string `json:"url"`
	Status   int    `json:"status,omitempty"`   // 0 means 200 to 299
	Contains string `json:"contains,omitempty"` // text that must stand in the first MiB of the body
}

// What a check does unless it is declared otherwise.
const (
	checkTimeout  = 10
	checkRetries  = 3
	checkInterval = 1
)

// What is more than that was not meant, and would make manifests and reports too large.
const (
	maxChecks       = 100 // of one host
	maxChecksBytes  = 64 << 10
	maxCheckRetries = 1000
	maxCheckSeconds = 3600
)

var (
	checkName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9 ._@:-]{0,98}[A-Za-z0-9])?$`) })
	unitName  = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,240}\.(service|socket|target|timer|mount|automount|path|swap|device|slice|scope)$`)
	})
)

// Timeout and Interval are TimeoutSeconds and IntervalSeconds.
func (c HealthCheck) Timeout() time.Duration {
	return time.Duration(c.TimeoutSeconds * float64(time.Second))
}
func (c HealthCheck) Interval() time.Duration {
	return time.Duration(c.IntervalSeconds * float64(time.Second))
}

// declaredCheck is a HealthCheck as a host's configuration has it: what is not said is missing or null.
type declaredCheck struct {
	Command []string `json:"command"`
	HTTP    *struct {
		URL      *string `json:"url"`
		Status   *int    `json:"status"`
		Contains *string `json:"contains"`
	} `json:"http"`
	TCP      *string  `json:"tcp"`
	Unit     *string  `json:"unit"`
	Timeout  *float64 `json:"timeout"` // seconds
	Retries  *int     `json:"retries"`
	Interval *float64 `json:"interval"` // seconds
}

// ParseChecks reads what a host declares, JSON by the check's name, strictly, and sorts it by name. An error names the check.
func ParseChecks(declared map[string]json.RawMessage) ([]HealthCheck, error) {
	var checks []HealthCheck
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		c, err := parseCheck(name, declared[name])
		if err != nil {
			return nil, fmt.Errorf("check %q: %w", name, err)
		}
		checks = append(checks, c)
	}
	return checks, validateChecks(checks)
}

func parseCheck(name string, data []byte) (HealthCheck, error) {
	var d declaredCheck
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return HealthCheck{}, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	c := HealthCheck{Name: name, Command: d.Command, TCP: or(d.TCP, ""), Unit: or(d.Unit, ""),
		TimeoutSeconds: or(d.Timeout, checkTimeout), Retries: or(d.Retries, checkRetries), IntervalSeconds: or(d.Interval, checkInterval)}
	if h := d.HTTP; h != nil && (h.URL != nil || h.Status != nil || h.Contains != nil) {
		c.HTTP = &HTTPCheck{URL: or(h.URL, ""), Status: or(h.Status, 0), Contains: or(h.Contains, "")}
	}
	return c, nil
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// validateChecks checks what a host relies on before it runs them.
func validateChecks(checks []HealthCheck) error {
	if len(checks) > maxChecks {
		return fmt.Errorf("%d checks, at most %d are allowed", len(checks), maxChecks)
	}
	if data, err := json.Marshal(checks); err != nil || len(data) > maxChecksBytes {
		return fmt.Errorf("the checks have %d bytes, at most %d are allowed", len(data), maxChecksBytes)
	}
	names := map[string]bool{}
	for _, c := range checks {
		if names[c.Name] {
			return fmt.Errorf("check %q is there twice", c.Name)
		}
		names[c.Name] = true
		if err := c.validate(); err != nil {
			return fmt.Errorf("check %q: %w", c.Name, err)
		}
	}
	return nil
}

func (c HealthCheck) validate() error {
	kinds := 0
	for _, set := range []bool{len(c.Command) > 0, c.HTTP != nil, c.TCP != "", c.Unit != ""} {
		if set {
			kinds++
		}
	}
	switch {
	case !checkName().MatchString(c.Name):
		return errors.New("its name must be of letters, digits and ._@:- and at most 100 long")
	case kinds != 1:
		return errors.New("it must have one of command, http, tcp and unit")
	case len(c.Command) > 0 && !strings.HasPrefix(c.Command[0], "/"):
		return fmt.Errorf("its command must begin with the absolute path of a program, not %q", c.Command[0])
	case strings.Contains(strings.Join(c.Command, ""), "\x00"):
		return errors.New("its command has a NUL in it, which no program can be given")
	case c.Unit != "" && !unitName().MatchString(c.Unit):
		return fmt.Errorf("%q is not the full name of a systemd unit, such as nginx.service", c.Unit)
	case !(c.TimeoutSeconds > 0 && c.TimeoutSeconds <= maxCheckSeconds):
		return fmt.Errorf("its timeout of %v s must be above 0 and at most %d s", c.TimeoutSeconds, maxCheckSeconds)
	case !(c.IntervalSeconds >= 0 && c.IntervalSeconds <= maxCheckSeconds):
		return fmt.Errorf("its interval of %v s must be from 0 to %d s", c.IntervalSeconds, maxCheckSeconds)
	case c.Retries < 0 || c.Retries > maxCheckRetries:
		return fmt.Errorf("its %d retries must be from 0 to %d", c.Retries, maxCheckRetries)
	case c.TCP != "":
		return validAddress(c.TCP)
	case c.HTTP != nil:
		return c.HTTP.validate()
	}
	return nil
}

func validAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if n, perr := strconv.Atoi(port); err != nil || perr != nil || host == "" || n < 1 || n > 65535 || len(address) > 300 {
		return fmt.Errorf("%q is not of the form host:port", address)
	}
	return nil
}

func (h HTTPCheck) validate() error {
	u, err := url.Parse(h.URL)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", len(h.URL) > 2048:
		return fmt.Errorf("%q is not an http or https URL", h.URL)
	case u.User != nil:
		return errors.New("its URL must have no user or password: the manifest is no place for secrets")
	case h.Status != 0 && (h.Status < 100 || h.Status > 599):
		return fmt.Errorf("%d is not a status of HTTP", h.Status)
	}
	return nil
}
