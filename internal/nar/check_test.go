package nar_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/garrison-nix/garrison/internal/nar"
)

// tokens writes strings as a NAR does.
func tokens(ss ...string) []byte {
	var b bytes.Buffer
	for _, s := range ss {
		binary.Write(&b, binary.LittleEndian, uint64(len(s)))
		b.WriteString(s)
		b.Write(make([]byte, -len(s)&7))
	}
	return b.Bytes()
}

// archive puts a root node's tokens behind the magic.
func archive(ss ...string) []byte { return tokens(append([]string{"nix-archive-1"}, ss...)...) }

func file(contents string) []string {
	return []string{"(", "type", "regular", "contents", contents, ")"}
}

func directory(entries ...[]string) []string {
	ss := []string{"(", "type", "directory"}
	for _, e := range entries {
		ss = append(ss, e...)
	}
	return append(ss, ")")
}

func entry(name string, node []string) []string {
	return append(append([]string{"entry", "(", "name", name, "node"}, node...), ")")
}

var (
	executable = []string{"(", "type", "regular", "executable", "", "contents", "#!/bin/sh\n", ")"}
	symlink    = []string{"(", "type", "symlink", "target", "/nix/store", ")"}
)

func TestCheckAccepts(t *testing.T) {
	for name, b := range map[string][]byte{
		"file":       archive(file("hello")...),
		"empty file": archive(file("")...),
		"large file": archive(file(strings.Repeat("x", 1<<20+3))...),
		"executable": archive(executable...),
		"symlink":    archive(symlink...),
		"empty":      archive(directory()...),
		"tree":       archive(directory(entry("a", directory(entry("x", executable))), entry("a.b", symlink), entry("\xff", file("")))...),
	} {
		for _, r := range []io.Reader{bytes.NewReader(b), iotest.OneByteReader(bytes.NewReader(b)), iotest.DataErrReader(bytes.NewReader(b))} {
			got, err := nar.Check(r, int64(len(b)))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got.Size != int64(len(b)) || got.Hash != nar.Hash(sha256.Sum256(b)) {
				t.Errorf("%s: %+v", name, got)
			}
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	good := archive(file("hello")...)
	padded := bytes.Clone(good)
	padded[bytes.Index(padded, []byte("hello"))+6] = 1
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"another magic":        tokens("nix-archive-2"),
		"only magic":           tokens("nix-archive-1"),
		"cut":                  good[:len(good)-1],
		"cut in contents":      good[:bytes.Index(good, []byte("hello"))+2],
		"something after it":   append(bytes.Clone(good), 0),
		"padding":              padded,
		"unknown type":         archive("(", "type", "fifo", ")"),
		"no contents":          archive("(", "type", "regular", ")"),
		"executable not empty": archive("(", "type", "regular", "executable", "x", "contents", "", ")"),
		"token after contents": archive("(", "type", "regular", "contents", "", "contents", "", ")"),
		"empty target":         archive("(", "type", "symlink", "target", "", ")"),
		"zero byte in target":  archive("(", "type", "symlink", "target", "a\x00b", ")"),
		"long target":          archive("(", "type", "symlink", "target", strings.Repeat("a", 4096), ")"),
		"unknown token in dir": archive("(", "type", "directory", "x", ")"),
		"unsorted":             archive(directory(entry("b", file("")), entry("a", file("")))...),
		"twice":                archive(directory(entry("a", file("")), entry("a", file("")))...),
		"name empty":           archive(directory(entry("", file("")))...),
		"name .":               archive(directory(entry(".", file("")))...),
		"name ..":              archive(directory(entry("..", file("")))...),
		"name with slash":      archive(directory(entry("a/b", file("")))...),
		"name with zero":       archive(directory(entry("a\x00", file("")))...),
		"long name":            archive(directory(entry(strings.Repeat("a", 256), file("")))...),
		"huge length":          append(tokens("nix-archive-1", "(", "type", "regular", "contents"), 255, 255, 255, 255, 255, 255, 255, 127),
		"longer than it says":  append(tokens("nix-archive-1", "(", "type", "regular", "contents"), 0, 0, 0, 0, 0, 0, 0, 16),
		"too deep":             archive(deep(5000)...),
	} {
		if _, err := nar.Check(bytes.NewReader(b), 1<<30); !errors.Is(err, nar.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func deep(n int) []string {
	var ss []string
	for range n {
		ss = append(ss, "(", "type", "directory", "entry", "(", "name", "a", "node")
	}
	return ss
}

func TestCheckKeepsReadersError(t *testing.T) {
	b := archive(file("hello")...)
	broken := errors.New("the line went dead")
	for n := range len(b) {
		r := io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken))
		if _, err := nar.Check(r, 1<<20); !errors.Is(err, broken) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

func TestCheckBoundsSize(t *testing.T) {
	b := archive(file(strings.Repeat("x", 200_000))...)
	if _, err := nar.Check(bytes.NewReader(b), int64(len(b)-1)); !errors.Is(err, nar.ErrTooLarge) {
		t.Error(err)
	}
}

func TestWriterWritesWhatCheckAccepts(t *testing.T) {
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	w.Directory()
	w.Entry("a")
	w.Regular(true, 10, strings.NewReader("#!/bin/sh\nand more"))
	w.EndEntry()
	w.Entry("b")
	w.Symlink("/nix/store")
	w.EndEntry()
	w.EndDirectory()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if want := archive(directory(entry("a", executable), entry("b", symlink))...); !bytes.Equal(b.Bytes(), want) {
		t.Errorf("got\n%q, not\n%q", b.Bytes(), want)
	}
}

func TestWriterReportsShortFile(t *testing.T) {
	w := nar.NewWriter(io.Discard)
	if err := w.Regular(false, 6, strings.NewReader("hello")); err == nil || w.Close() == nil {
		t.Error("a file that shrank went unnoticed")
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(archive(directory(entry("a", executable), entry("b", symlink), entry("c", file("hello")))...))
	f.Add(archive(file("")...))
	f.Add(deepBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := nar.Check(bytes.NewReader(b), 1<<20)
		if err == nil && got.Hash != nar.Hash(sha256.Sum256(b)) {
			t.Fatal("it hashed something else than it read")
		}
		if err != nil && !errors.Is(err, nar.ErrMalformed) && !errors.Is(err, nar.ErrTooLarge) {
			t.Fatal(err)
		}
	})
}

func deepBytes() []byte { return archive(deep(3)...) }

// FuzzList: what Check accepts has a listing, which is JSON, unless names are no UTF-8; what it does not accept has none.
func FuzzList(f *testing.F) {
	f.Add(archive(executable...))
	f.Add(archive(directory(entry("a", directory(entry("x", executable))), entry("a.b", symlink), entry("b\"<", file("hello")))...))
	f.Add(archive(directory(entry("\xff", file("")))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		checked, err := nar.Check(bytes.NewReader(b), 1<<20)
		var out bytes.Buffer
		listed, err2 := nar.List(bytes.NewReader(b), 1<<20, &out)
		if errors.Is(err2, nar.ErrNoListing) {
			return
		}
		if (err == nil) != (err2 == nil) || checked != listed {
			t.Fatalf("%v, listed: %v", err, err2)
		}
		var listing struct {
			Version int
			Root    listingNode
		}
		if err != nil {
			return
		}
		if err := json.Unmarshal(out.Bytes(), &listing); err != nil || listing.Version != 1 {
			t.Fatalf("%s: %v", &out, err)
		}
		listing.Root.check(t, b)
	})
}

type listingNode struct {
	Type            string
	NarOffset, Size int64
	Target          string
	Entries         map[string]listingNode
}

// check fails the test unless the contents of each file are where the listing says: behind their length.
func (n listingNode) check(t *testing.T, archive []byte) {
	switch n.Type {
	case "directory":
		for _, e := range n.Entries {
			e.check(t, archive)
		}
	case "regular":
		if n.NarOffset < 8 || n.NarOffset+n.Size > int64(len(archive)) || binary.LittleEndian.Uint64(archive[n.NarOffset-8:]) != uint64(n.Size) {
			t.Errorf("a file of %d bytes is not at %d", n.Size, n.NarOffset)
		}
	case "symlink":
		if n.Target == "" {
			t.Error("a symlink without a target")
		}
	default:
		t.Errorf("type %q", n.Type)
	}
}

func FuzzParseHash(f *testing.F) {
	for _, s := range []string{emptyNix32, emptyHex, emptySRI} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := nar.ParseHash(s)
		if err != nil {
			return
		}
		if again, err := nar.ParseHash(h.String()); err != nil || again != h {
			t.Fatal(h, again, err)
		}
	})
}
