package agent

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestCredentials: tokens that tell when they end do so in the status; what holds none, or is not there, is passed over.
func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	token := func(exp int) string {
		return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, exp)) + ".c2ln"
	}
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	var c Config
	c.Hub.TokenFile = write("hub", "s3cret, and no JWT")
	push := write("push", token(1900000001)+"\n")
	for _, url := range []string{"https://cache.example.org/fleet", "https://other.example.org/fleet", "https://third.example.org/fleet"} {
		c.Caches = append(c.Caches, struct {
			URL           string `toml:"url"`
			PublicKey     string `toml:"publicKey"`
			PushTokenFile string `toml:"pushTokenFile"`
		}{URL: url, PushTokenFile: push})
	}
	c.Caches[2].PushTokenFile = filepath.Join(dir, "gone")
	netrc := write("netrc", "machine other.example.org login garrison\n password "+token(1900000002)+"\nmachine third.example.org login x\nmachine x password "+token(3)+"\n")
	got := ""
	for _, k := range c.credentials(netrc) {
		got += fmt.Sprintf("%s: %d\n", k.Name, k.Ends.Unix())
	}
	want := "the token to push to https://cache.example.org/fleet in " + push + ": 1900000001\nthe token to read https://other.example.org/fleet in " + netrc + ": 1900000002\n"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// TestDisks: the store's and the state's space are known, of a place that is not there none.
func TestDisks(t *testing.T) {
	for _, d := range disks(t.TempDir()) {
		if d.Of == "" || d.TotalBytes <= 0 || d.FreeBytes < 0 || d.FreeBytes > d.TotalBytes {
			t.Errorf("%+v", d)
		}
	}
	if d, ok := DiskOf("state", t.TempDir()); !ok || d.Of != "state" {
		t.Errorf("%+v, %v", d, ok)
	}
	if d, ok := DiskOf("nothing", "/nowhere/at/all"); ok {
		t.Errorf("%+v", d)
	}
	if mounted("/") || !mounted("/proc") || mounted("/nowhere") {
		t.Error("what is mounted is not seen")
	}
}
