package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	out    = "/nix/store/g76zcpqc540lrc8i6g7xy6ip0npn2hnp-nixos-system-joker-26.11"
	commit = "0123456789abcdef0123456789abcdef01234567"
)

func manifest() *Manifest {
	pushed := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	return &Manifest{
		Schema: 1, Number: 412, CreatedAt: pushed.Add(123 * time.Millisecond), Trace: "00-1-2-01",
		Source: Source{Commit: commit, Branch: "main", Subject: "Say hello <&> \"twice\"", PushedAt: &pushed},
		Hosts:  map[string]Entry{"joker": {Toplevel: Toplevel{OutPath: out, Built: true}, System: "x86_64-linux", DrvPath: out + ".drv", ClosurePaths: 3, ClosureBytes: 1 << 40}},
		Manual: []string{"drhorrible"},
	}
}

func TestManifestRoundTrip(t *testing.T) {
	m := manifest()
	msg, err := m.TagMessage()
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(string(msg), "\n"); first != `release-412: Say hello <&> "twice"` {
		t.Errorf("the summary is %q", first)
	}
	got, err := ParseTagMessage(msg)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%+v, %v", got, err)
	}
	newer := bytes.Replace(msg, []byte(`"schema": 1,`), []byte(`"schema": 1, "new": {"x": 1},`), 1)
	if got, err := ParseTagMessage(newer); err != nil || got.Number != 412 {
		t.Errorf("a field of a newer Garrison: %v", err)
	}
	m.Source.Subject = strings.Repeat("ü ", 500) + "\n-----BEGIN SSH SIGNATURE-----"
	msg, err = m.TagMessage()
	if first, rest, _ := strings.Cut(string(msg), "\n"); err != nil || len([]rune(first)) > 140 || !strings.HasPrefix(rest, "\n{") || strings.Contains(string(msg), "\n-----BEGIN") {
		t.Errorf("%.300q, %v", msg, err)
	}
}

func TestBadManifests(t *testing.T) {
	for name, change := range map[string]func(*Manifest){
		"schema":                 func(m *Manifest) { m.Schema = 2 },
		"a test of another host": func(m *Manifest) { m.Test, m.Base, m.Manual = "elsewhere", 3, nil },
		"a test of two hosts": func(m *Manifest) {
			m.Test, m.Base, m.Manual = "joker", 3, nil
			m.Hosts["ratched"] = m.Hosts["joker"]
		},
		"a test on nothing": func(m *Manifest) {
			m.Test, m.Manual = "joker", nil
		},
		"a base without a test": func(m *Manifest) { m.Base = 3 },
		"number":                func(m *Manifest) { m.Number = 0 },
		"number that overflows": func(m *Manifest) { m.Number = MaxNumber + 1 },
		"source":                func(m *Manifest) { m.Source.Commit = commit[1:] },
		"host":                  func(m *Manifest) { m.Hosts["../x"] = m.Hosts["joker"] },
		"outPath": func(m *Manifest) {
			m.Hosts["joker"] = Entry{DrvPath: out + ".drv", Toplevel: Toplevel{OutPath: "/etc"}}
		},
		"drvPath":   func(m *Manifest) { m.Hosts["joker"] = Entry{DrvPath: out, Toplevel: Toplevel{OutPath: out}} },
		"too large": func(m *Manifest) { m.Trace = strings.Repeat("x", MaxManifestBytes) },
	} {
		m := manifest()
		change(m)
		if _, err := m.TagMessage(); err == nil {
			t.Errorf("%s: was written", name)
		}
		body, _ := json.Marshal(m)
		if _, err := ParseTagMessage(append([]byte("x\n\n"), body...)); err == nil {
			t.Errorf("%s: was read", name)
		}
	}
	good, _ := manifest().TagMessage()
	for _, msg := range []string{"", "release-1: x", "x\n\n", "x\n\n[]", "x\n\n{}", string(good) + "{}", string(good[:len(good)-5])} {
		if m, err := ParseTagMessage([]byte(msg)); err == nil {
			t.Errorf("%.40q was read: %+v", msg, m)
		}
	}
}

func FuzzParseTagMessage(f *testing.F) {
	good, _ := manifest().TagMessage()
	f.Add(good)
	f.Add([]byte("x\n\n{\"schema\":1}"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		m, err := ParseTagMessage(msg)
		if err != nil {
			return
		}
		if again, err := m.TagMessage(); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		} else if m2, err := ParseTagMessage(again); err != nil || m2.Number != m.Number || len(m2.Hosts) != len(m.Hosts) {
			t.Errorf("%+v, %v", m2, err)
		}
	})
}

func TestSecrets(t *testing.T) {
	s := &Secrets{Schema: 1, Files: map[string]SecretRecord{
		"b.age": {Source: "1", Recipients: []string{"k", "l"}, Format: 1, Released: "2"}, "a.age": {Source: "3"}}}
	b, err := s.Encode()
	again, _ := s.Encode()
	if err != nil || !bytes.Equal(b, again) || bytes.Index(b, []byte("a.age")) > bytes.Index(b, []byte("b.age")) {
		t.Errorf("%s, %v", b, err)
	}
	if got, err := ParseSecrets(b); err != nil || !reflect.DeepEqual(got.Files["b.age"], s.Files["b.age"]) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", "{}", `{"schema":2}`, string(b) + "x"} {
		if _, err := ParseSecrets([]byte(bad)); err == nil || !strings.Contains(err.Error(), SecretsPath) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	r := s.Files["b.age"]
	other := r
	other.Released = "9"
	if !r.SameKey(other) {
		t.Error("what was released is not a part of the key")
	}
	for _, o := range []SecretRecord{{Source: "x", Recipients: r.Recipients, Format: 1}, {Source: "1", Recipients: r.Recipients, Format: 2}, {Source: "1", Recipients: []string{"k"}, Format: 1}} {
		if r.SameKey(o) {
			t.Errorf("%+v has the same key", o)
		}
	}
}

func FuzzParseSecrets(f *testing.F) {
	f.Add([]byte(`{"schema":1,"files":{"a":{"source":"x","recipients":null}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSecrets(b)
		if err != nil {
			return
		}
		first, err := s.Encode()
		again, err2 := ParseSecrets(first)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if second, err := again.Encode(); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became %s, %v", first, second, err)
		}
	})
}

func TestNames(t *testing.T) {
	for name, want := range map[string]int{
		"release-1": 1, "release-412": 412, "release-1073741824": MaxNumber,
		"release-0": 0, "release-01": 0, "release--1": 0, "release-+1": 0, "release-": 0, "release-1a": 0, "release-1 ": 0, "release-joker-test": 0,
		"Release-1": 0, "1": 0, "": 0, "release-1073741825": 0, "release-99999999999999999999": 0, "release-٣": 0,
	} {
		if n, ok := TagNumber(name); n != want || ok != (want > 0) {
			t.Errorf("%q has the number %d, %v", name, n, ok)
		}
		if want > 0 && TagName(want) != name {
			t.Errorf("%d is called %s", want, TagName(want))
		}
	}
	hosts := map[string]bool{"joker": true, "a": true, "web-1.example.org": true, "A_b": true, strings.Repeat("a", 253): true,
		"": false, "-a": false, "a-": false, ".a": false, "a..b": false, "a/b": false, "a b": false, "a\n": false, "ü": false, "a:b": false, strings.Repeat("a", 254): false}
	hash := "/nix/store/g76zcpqc540lrc8i6g7xy6ip0npn2hnp"
	paths := map[string]bool{out: true, out + ".drv": true, hash + "-a+._?=-Z9": true, hash + "-" + strings.Repeat("a", 211): true,
		"": false, hash: false, hash + "-": false, hash + "-a/b": false, hash + "-a\n": false, hash + "-ü": false, hash + "-" + strings.Repeat("a", 212): false,
		"/nix/store/e" + hash[12:] + "-a": false, "/nix/store/" + hash[12:] + "-a": false, "nix/store/x": false, "/gnu" + hash[4:] + "-a": false, hash + "-a b": false}
	commits := map[string]bool{commit: true, commit + commit[:24]: true, "": false, commit[1:]: false, strings.ToUpper(commit): false, commit + "\n": false, "HEAD": false}
	for _, c := range []struct {
		valid func(string) bool
		table map[string]bool
	}{{ValidHostName, hosts}, {ValidStorePath, paths}, {ValidCommit, commits}} {
		for s, want := range c.table {
			if c.valid(s) != want {
				t.Errorf("%q: %v", s, !want)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	inner := Errorf(Transient, CodeRemote, "cannot reach %s", "h").WithHint("is it up?").WithCause(io.EOF)
	outer := fmt.Errorf("while: %w", &Error{Code: CodeUsage, What: "outer", Err: inner})
	if CodeOf(outer) != CodeUsage || ClassOf(outer) != Transient || !errors.Is(outer, io.EOF) || inner.Error() != "cannot reach h: EOF" {
		t.Errorf("%s, %s, %v", CodeOf(outer), ClassOf(outer), outer)
	}
	if CodeOf(nil) != "" || CodeOf(io.EOF) != CodeInternal || ClassOf(io.EOF) != Local || ClassOf(nil) != Local || FailureOf(Build, nil) != nil {
		t.Error("of what is no Error")
	}
	if f := FailureOf(Fetch, inner); *f != (Failure{Transient, CodeRemote, Fetch, "cannot reach h: EOF", "is it up?"}) {
		t.Errorf("%+v", f)
	}
	began := time.Now()
	if e := (StageTime{StartedAt: began, Seconds: 1.5}).EndedAt(); e.Sub(began) != 1500*time.Millisecond {
		t.Errorf("ended after %s", e.Sub(began))
	}
}
