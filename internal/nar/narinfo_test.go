package nar_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nar"
)

// sample is a narinfo as cache.nixos.org wrote it, with its signature.
const sample = `StorePath: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60_p20170221182432
URL: nar/1094wph9z4nwlgvsd53abfz8i117ykiv5dwnq9nnhz846s7xqd7d.nar.xz
Compression: xz
FileHash: sha256:1094wph9z4nwlgvsd53abfz8i117ykiv5dwnq9nnhz846s7xqd7d
FileSize: 114980
NarHash: sha256:0lxjvvpr59c2mdram7ympy5ay741f180kv3349hvfc3f8nrmbqf6
NarSize: 464152
References: 7gx4kiv5m0i7d7qkixq2cwzbr10lvxwc-glibc-2.27
Deriver: 10dx1q4ivjb115y3h90mipaaz533nr0d-net-tools-1.60_p20170221182432.drv
Sig: cache.nixos.org-1:sn5s/RrqEI+YG6/PjwdbPjcAC7rcta7sJU4mFOawGvJBLsWkyLtBrT2EuFt/LJjWkTZ+ZWOI9NTtjo/woMdvAg==
`

const nixosKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

func parse(t *testing.T, text string) *nar.NarInfo {
	t.Helper()
	n, err := nar.ParseNarInfo([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestParseNarInfo(t *testing.T) {
	n := parse(t, sample)
	if n.NarSize != 464152 || n.FileSize != 114980 || n.Compression != "xz" {
		t.Errorf("%+v", n)
	}
	if want := []string{"/nix/store/7gx4kiv5m0i7d7qkixq2cwzbr10lvxwc-glibc-2.27"}; !reflect.DeepEqual(n.References, want) {
		t.Errorf("references %q", n.References)
	}
	if n.Deriver != "/nix/store/10dx1q4ivjb115y3h90mipaaz533nr0d-net-tools-1.60_p20170221182432.drv" {
		t.Errorf("deriver %q", n.Deriver)
	}
	if string(n.Encode()) != sample {
		t.Errorf("it was written otherwise than it was read:\n%s", n.Encode())
	}
}

func TestSignatureOfNixosCacheIsValid(t *testing.T) {
	key, err := nar.ParsePublicKey(nixosKey)
	if err != nil {
		t.Fatal(err)
	}
	n := parse(t, sample)
	if !n.SignedBy(key) {
		t.Error("the signature of cache.nixos.org does not verify")
	}
	n.NarSize++
	if n.SignedBy(key) {
		t.Error("it verifies for another size")
	}
}

func TestParseNarInfoTolerates(t *testing.T) {
	for name, text := range map[string]string{
		"unknown keys":     sample + "System: x86_64-linux\nSystem: twice\n",
		"several sigs":     sample + "Sig: other:AAAA\n",
		"no references":    strings.Replace(sample, "7gx4kiv5m0i7d7qkixq2cwzbr10lvxwc-glibc-2.27", "", 1),
		"unknown deriver":  replaceLine(sample, "Deriver", "Deriver: unknown-deriver"),
		"no file hash":     replaceLine(replaceLine(sample, "FileHash", ""), "FileSize", ""),
		"hexadecimal hash": replaceLine(sample, "NarHash", "NarHash: "+emptyHex),
	} {
		if _, err := nar.ParseNarInfo([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := parse(t, replaceLine(sample, "Compression", "")); n.Compression != "bzip2" {
		t.Errorf("no Compression became %q", n.Compression)
	}
	if n := parse(t, replaceLine(sample, "Deriver", "Deriver: unknown-deriver")); n.Deriver != "" {
		t.Errorf("an unknown deriver became %q", n.Deriver)
	}
}

func TestParseNarInfoRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":              "",
		"no StorePath":         replaceLine(sample, "StorePath", ""),
		"no URL":               replaceLine(sample, "URL", ""),
		"no NarHash":           replaceLine(sample, "NarHash", ""),
		"no NarSize":           replaceLine(sample, "NarSize", ""),
		"NarSize 0":            replaceLine(sample, "NarSize", "NarSize: 0"),
		"negative NarSize":     replaceLine(sample, "NarSize", "NarSize: -1"),
		"huge NarSize":         replaceLine(sample, "NarSize", "NarSize: 9223372036854775808"),
		"NarSize with blanks":  replaceLine(sample, "NarSize", "NarSize: 1 "),
		"two References":       sample + "References: \n",
		"two CA":               sample + "CA: a\nCA: a\n",
		"two StorePath":        sample + sample,
		"a reference twice":    replaceLine(sample, "References", "References: "+hashPart+"-a "+hashPart+"-a"),
		"a reference's path":   replaceLine(sample, "References", "References: /nix/store/"+hashPart+"-a"),
		"deriver no drv":       replaceLine(sample, "Deriver", "Deriver: "+hashPart+"-a"),
		"a line without colon": sample + "x\n",
		"an empty line":        sample + "\n",
		"no last newline":      strings.TrimSuffix(sample, "\n"),
		"a blank in the URL":   replaceLine(sample, "URL", "URL: a b"),
		"control in CA":        sample + "CA: a\rb\n",
		"StorePath elsewhere":  replaceLine(sample, "StorePath", "StorePath: "+hashPart+"-a"),
	} {
		if _, err := nar.ParseNarInfo([]byte(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// replaceLine replaces the line of key by line, or removes it when line is "".
func replaceLine(text, key, line string) string {
	var out strings.Builder
	for l := range strings.Lines(text) {
		switch {
		case !strings.HasPrefix(l, key+":"):
			out.WriteString(l)
		case line != "":
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

func FuzzParseNarInfo(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(sample + "CA: fixed:r:" + emptyNix32 + "\n"))
	f.Add([]byte("StorePath: /nix/store/" + hashPart + "-a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := nar.ParseNarInfo(text)
		if err != nil {
			return
		}
		written := n.Encode()
		again, err := nar.ParseNarInfo(written)
		if err != nil {
			t.Fatalf("what it wrote does not parse: %v\n%s", err, written)
		}
		if !bytes.Equal(again.Encode(), written) {
			t.Fatal("it is not stable")
		}
	})
}
