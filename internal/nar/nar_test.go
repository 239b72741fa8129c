package nar_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nar"
)

// The hash of "", as `nix hash` prints it.
const (
	emptyNix32 = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
	emptyHex   = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	emptySRI   = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
)

func TestParseHashReadsAllSpellings(t *testing.T) {
	for _, s := range []string{emptyNix32, emptyHex, emptySRI} {
		h, err := nar.ParseHash(s)
		if err != nil {
			t.Fatal(err)
		}
		if h.String() != emptyNix32 {
			t.Errorf("%s became %s", s, h)
		}
	}
}

func TestParseHashRefuses(t *testing.T) {
	for _, s := range []string{
		"", "sha256:", "sha512:" + emptyNix32[7:], emptyNix32[7:], emptyNix32 + "0", emptyNix32[:58],
		"sha256:z" + emptyNix32[8:],    // bits beyond the 256th
		"sha256:e" + emptyNix32[8:],    // not in the alphabet
		emptySRI[:len(emptySRI)-1],     // padding missing
		"sha256-aGVsbG8=",              // too short
		strings.ToUpper(emptyNix32),    // Nix refuses it too
		"sha256:" + emptyHex[8:] + "g", // not hexadecimal
	} {
		if h, err := nar.ParseHash(s); err == nil {
			t.Errorf("%q became %s", s, h)
		}
	}
}

func TestHashInJSON(t *testing.T) {
	var v struct{ H nar.Hash }
	if err := json.Unmarshal([]byte(`{"H":"`+emptySRI+`"}`), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil || string(b) != `{"H":"`+emptyNix32+`"}` {
		t.Fatalf("%s, %v", b, err)
	}
}

const hashPart = "0c0zp3kd7q5hh7zbdl9lqkqdxbr1wpsf"

func TestSplitStorePath(t *testing.T) {
	dir, hash, name, err := nar.SplitStorePath("/nix/store/" + hashPart + "-a+b-1.2_x?=y")
	if err != nil || dir != "/nix/store" || hash != hashPart || name != "a+b-1.2_x?=y" {
		t.Fatal(dir, hash, name, err)
	}
	for _, bad := range []string{
		"", "/", "/nix/store", "/nix/store/", hashPart + "-a", "nix/store/" + hashPart + "-a",
		"/nix/store/" + hashPart, "/nix/store/" + hashPart + "-", "/nix/store/" + hashPart + "-a/b",
		"/nix/store/" + hashPart[1:] + "-a", "/nix/store/" + strings.ToUpper(hashPart) + "-a",
		"/nix/store/e" + hashPart[1:] + "-a", "/nix//store/" + hashPart + "-a", "/nix/../store/" + hashPart + "-a",
		"/nix/store/" + hashPart + "-..", "/nix/store/" + hashPart + "-a b", "/nix/store/" + hashPart + "-a\n",
		"/nix/store/" + hashPart + "-é", "/nix/store/" + hashPart + "-" + strings.Repeat("a", 212),
	} {
		if _, _, _, err := nar.SplitStorePath(bad); err == nil {
			t.Errorf("%q was taken for a store path", bad)
		}
	}
}
