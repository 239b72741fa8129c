// Package tomlfile reads Garrison's TOML files strictly: an unknown key or a
// value of the wrong kind is an error that names the file, the line and, for a
// key, what was probably meant.
package tomlfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// MaxBytes bounds a file.
const MaxBytes = 1 << 20

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

// Read decodes the file at path into the struct that v points to. Errors have CodeConfig.
func Read(path string, v any) error {
	f, err := os.Open(path)
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
	if errors.As(err, &bad) {
		row, col := bad.Position()
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s:%d:%d: %s", name, row, col, strings.TrimPrefix(bad.Error(), "toml: "))
	}
	return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: %s", name, strings.TrimPrefix(err.Error(), "toml: "))
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
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if len(path) > 0 && t.Kind() == reflect.Map {
		return keysAt(t.Elem(), path[1:])
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for f := range t.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if len(path) > 0 && tag == path[0] {
			return keysAt(f.Type, path[1:])
		}
		if tag != "" && tag != "-" {
			keys = append(keys, tag)
		}
	}
	if len(path) > 0 {
		return nil
	}
	slices.Sort(keys)
	return keys
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
