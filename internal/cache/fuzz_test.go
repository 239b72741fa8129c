package cache

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/mikelolasagasti/xz"

	"github.com/garrison-nix/garrison/internal/nar"
)

// FuzzAtticPath: a description that is accepted is a narinfo that reads back the same.
func FuzzAtticPath(f *testing.F) {
	f.Add([]byte(`{"cache":"c","store_path_hash":"00000000000000000000000000000000","store_path":"/nix/store/00000000000000000000000000000000-x","references":["00000000000000000000000000000000-x"],
		"system":null,"deriver":"00000000000000000000000000000000-x.drv","sigs":["a:b"],"ca":null,"nar_hash":"sha256:90abc0e15b03a2ae1ddd9cbd841e24fe4e7d58484229ced92cdabb57c45ac56a","nar_size":1}`))
	f.Add([]byte(`{"store_path":"/nix/store/00000000000000000000000000000000-x\nSig: a"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, info, err := parseAtticPath(text)
		if err != nil {
			return
		}
		again, err := nar.ParseNarInfo(info.Encode())
		if err != nil || again.StorePath != p.StorePath || !bytes.Equal(again.Encode(), info.Encode()) {
			t.Fatalf("%s: %v\n%s", text, err, info.Encode())
		}
	})
}

// FuzzRealisation: one that is accepted is served as JSON that is accepted again, and means the same.
func FuzzRealisation(f *testing.F) {
	const id, out = "sha256:90abc0e15b03a2ae1ddd9cbd841e24fe4e7d58484229ced92cdabb57c45ac56a!out", "00000000000000000000000000000000-x"
	f.Add("", id+".doi", []byte(`{"dependentRealisations":{"`+id+`":"`+out+`"},"id":"`+id+`","outPath":"`+out+`","signatures":["a:b"]}`))
	f.Add(out+".drv", "out.doi", []byte(`{"outPath":"`+out+`","signatures":[{"keyName":"a","sig":"`+strings.Repeat("A", 86)+`=="}]}`))
	key, err := nar.GenerateKey("c")
	if err != nil {
		f.Fatal(err)
	}
	c := &Cache{Name: "c", Keys: []Key{KeyOf(key)}}
	f.Fuzz(func(t *testing.T, drv, file string, text []byte) {
		n, err := named(drv, file)
		if err != nil || n.parse(text) != nil {
			return
		}
		if err := CheckBlobKey(n.key(c)); err != nil {
			t.Fatal(err)
		}
		served, err := n.signed(c)
		if err != nil || !json.Valid(served) {
			t.Fatalf("%s, %v", served, err)
		}
		again, err := named(drv, file)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.parse(served); err != nil {
			t.Fatalf("%s: %v", served, err)
		}
		a, err := n.fingerprint()
		if b, err2 := again.fingerprint(); err != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Fatalf("%s and %s, %v, %v", a, b, err, err2)
		}
	})
}

// FuzzStoredXz: what is put into an xz file comes out of it.
func FuzzStoredXz(f *testing.F) {
	f.Add([]byte("hello"), 1)
	f.Add([]byte("hello"), 70_000)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, times int) {
		in := bytes.Repeat(b, min(max(times, 0), 100_000/(len(b)+1)))
		var file bytes.Buffer
		if err := storedXz(&file, bytes.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		r, err := xz.NewReader(&file, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(r); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%d bytes come back as %d, %v", len(in), len(out), err)
		}
	})
}
