// Package tomlfile reads Garrison's TOML files strictly: an unknown key or a
// value of the wrong kind is an error that names the file, the line and, for a
// key, what was probably meant.
package tomlfile

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// MaxBytes bounds a file.
const MaxBytes = 8 << 20

// Duration is a time.Duration written as in Go: "90s", "5m".
type Duration time.Duration

// UnmarshalText reads a positive duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is not a positive duration like \"90s\" or \"5m\"", b)
	}
	*d = Duration(v)
	return nil
}

// Or returns d, or def when d is not set.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// ParseDays reads a duration as Go does, or a number of days, weeks or years: "30d", "4w", "1y".
func ParseDays(s string) (time.Duration, error) {
	for unit, days := range map[string]time.Duration{"d": 1, "w": 7, "y": 365} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseUint(number, 10, 16)
			if d := time.Duration(n) * days * 24 * time.Hour; err == nil && d/days/24/time.Hour == time.Duration(n) {
				return d, nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf(`%q is not a time like "30d" or "36h"`, s)
	}
	return d, nil
}

// Rate is so many bytes a second, written with a unit of thousands: "500KB", "10MB", "1GB".
type Rate int64

// UnmarshalText reads a positive rate.
func (r *Rate) UnmarshalText(b []byte) error {
	for unit, n := range map[string]int64{"KB": 1e3, "MB": 1e6, "GB": 1e9} {
		if digits, ok := strings.CutSuffix(string(b), unit); ok {
			if v, err := strconv.ParseInt(digits, 10, 32); err == nil && v > 0 {
				*r = Rate(v * n)
				return nil
			}
		}
	}
	return fmt.Errorf("%q is not so much a second like \"500KB\" or \"10MB\"", b)
}

// Read decodes the file at path into the struct that v points to. Errors have CodeConfig.
func Read(path string, v any) error {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "there is no configuration %s", path).
			WithHint("write it (docs/FORMATS.md says how), or correct its path").WithCause(err)
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "cannot read the configuration %s", path).WithCause(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "cannot read the configuration %s", path).WithCause(err)
	}
	return Decode(path, data, v)
}

// Decode is Read for bytes that came from elsewhere; name stands for the file in errors.
func Decode(name string, data []byte, v any) error {
	if len(data) > MaxBytes {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s has more than %d bytes", name, MaxBytes)
	}
	d := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		return nil
	}
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) && len(missing.Errors) > 0 {
		return unknownKey(name, missing.Errors[0], v)
	}
	var bad *toml.DecodeError
	if !errors.As(err, &bad) {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: %s", name, strings.TrimPrefix(err.Error(), "toml: "))
	}
	what := strings.TrimPrefix(bad.Error(), "toml: ")
	if all, ok := parse(data); ok {
		if want := kindOf(typeAt(reflect.TypeOf(v), bad.Key()), valueAt(all, bad.Key())); want != "" {
			what = fmt.Sprintf("%s must be %s", strings.Join(bad.Key(), "."), want)
		}
	}
	row, col := bad.Position()
	return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s:%d:%d: %s", name, row, col, what)
}

const listOfStrings = `a list of strings: ["…"]`

// parse reads data as TOML, whatever it means, and says whether it is any.
func parse(data []byte) (all map[string]any, ok bool) {
	err := toml.Unmarshal(data, &all)
	return all, err == nil
}

// valueAt is what stands at path; nil for nothing. Of several tables in a list it is that of the one whose value is no list, if there is one: that one is wrong
// where a list is wanted.
func valueAt(all any, path []string) (found any) {
	if tables, ok := all.([]any); ok && len(path) > 0 {
		for _, table := range tables {
			v := valueAt(table, path)
			if _, isList := v.([]any); v != nil && !isList {
				return v
			} else if isList {
				found = v
			}
		}
		return found
	}
	if len(path) == 0 {
		return all
	}
	table, _ := all.(map[string]any)
	return valueAt(table[path[0]], path[1:])
}

// kindOf names what a value of type t is in TOML; "" when the type, or that of a list's elements, reads itself from text and says what it wants.
func kindOf(t reflect.Type, value any) string {
	reads := func(t reflect.Type) bool {
		return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reads(t) {
		return ""
	}
	if t.Kind() == reflect.Slice && reads(t.Elem()) {
		if _, isList := value.([]any); isList {
			return ""
		}
		return listOfStrings
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		switch t.Elem().Kind() {
		case reflect.String:
			return listOfStrings
		case reflect.Struct:
			return "a list of tables: [[…]]"
		}
	case reflect.Struct, reflect.Map:
		return "a table: […]"
	}
	return ""
}

func unknownKey(name string, e toml.DecodeError, v any) error {
	row, _ := e.Position()
	key := e.Key()
	known := keysAt(reflect.TypeOf(v), key[:max(len(key)-1, 0)])
	err := fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s:%d: unknown key %q", name, row, strings.Join(key, "."))
	if len(key) == 0 || len(known) == 0 {
		return err
	}
	if near := nearest(key[len(key)-1], known); near != "" {
		return err.WithHint("did you mean %q?", near)
	}
	return err.WithHint("allowed here: %s", strings.Join(known, ", "))
}

// keysAt lists the keys that the table at path may hold.
func keysAt(t reflect.Type, path []string) []string {
	if t = typeAt(t, path); t == nil {
		return nil
	}
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for f := range t.Fields() {
		if tag := tagOf(f); tag != "" && tag != "-" {
			keys = append(keys, tag)
		}
	}
	slices.Sort(keys)
	return keys
}

// typeAt is the type of what stands at path, nil when nothing may stand there.
func typeAt(t reflect.Type, path []string) reflect.Type {
	if len(path) == 0 {
		return t
	}
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Map:
		return typeAt(t.Elem(), path[1:])
	case reflect.Struct:
		for f := range t.Fields() {
			if tagOf(f) == path[0] {
				return typeAt(f.Type, path[1:])
			}
		}
	}
	return nil
}

func tagOf(f reflect.StructField) string {
	tag, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
	return tag
}

// nearest is the key that differs from what was written by at most a third of its letters.
func nearest(wrong string, known []string) string {
	best, at := "", len(wrong)/3+2
	for _, k := range known {
		if d := distance(strings.ToLower(wrong), strings.ToLower(k)); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, diag+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// ParseUntil reads the end of something that begins now: a time (in zone, where it names none) or a duration with days. An error says what it takes.
func ParseUntil(text string, now time.Time, zone *time.Location) (time.Time, error) {
	if d, err := ParseDays(text); err == nil && d > 0 {
		return now.Add(d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q, and must be a time like 2026-12-27 or 2026-12-27T08:00+01:00, or a duration like 36h or 3d", text)
}
