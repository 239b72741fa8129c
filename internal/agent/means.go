package agent

import (
	"context"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// What the host cannot do without: space, and tokens and keys that end one day. They are in the status, and no reason of their own to report it.

const (
	meansEvery = 10 * time.Minute
	netrcFile  = "/etc/nix/netrc"
)

// DiskOf is the space where a path is; false when that cannot be found out. name is what a person calls it.
func DiskOf(name, path string) (fleet.Disk, bool) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0) // which has nothing mounted that is mounted on demand
	if err != nil {
		return fleet.Disk{}, false
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Blocks == 0 {
		return fleet.Disk{}, false
	}
	return fleet.Disk{Of: name, FreeBytes: int64(fs.Bavail) * fs.Bsize, TotalBytes: int64(fs.Blocks) * fs.Bsize}, true
}

// disks are those of the store and the agent's state, and that of the boot loader where it has one of its own.
func disks(stateDir string) (list []fleet.Disk) {
	places := [][2]string{{"store", "/nix/store"}, {"state", stateDir}}
	for _, boot := range []string{"/boot", "/efi", "/boot/efi"} {
		if mounted(boot) {
			places = append(places, [2]string{"boot", boot})
			break
		}
	}
	for _, p := range places {
		if d, ok := DiskOf(p[0], p[1]); ok {
			list = append(list, d)
		}
	}
	return list
}

// mounted says whether path is another file system than the folder that it lies in.
func mounted(path string) bool {
	var at, above unix.Stat_t
	return unix.Lstat(path, &at) == nil && unix.Lstat(filepath.Dir(path), &above) == nil && at.Dev != above.Dev
}

// credentials are those whose ends were looked up; of the loop alone.
type credentials struct {
	at     time.Time
	tag    string // of the newest release
	signer []byte // who signed it
}

// lookCredentials brings what the status says of credentials up to date: now and then, and after a release.
func (a *Agent) lookCredentials(ctx context.Context) {
	c, newest := &a.credentials, a.record.Newest
	if tag := tagOf(newest); tag != c.tag {
		c.tag, c.signer, c.at = tag, nil, time.Time{}
		if tag != "" {
			c.signer, _ = a.looker.repo.TagSigner(ctx, tag) // that of a tag which is not here any more is not known
		}
	}
	if time.Since(c.at) < meansEvery {
		return
	}
	c.at = time.Now()
	list := a.Config.credentials(netrcFile)
	if text, err := readFew(a.Config.AllowedSigners); err == nil && c.signer != nil {
		if ends, ok := git.SignerEnds(text, c.signer); ok {
			list = append(list, fleet.Credential{Name: "the key that signed " + newest.Name() + ", in " + a.Config.AllowedSigners, Ends: ends})
		}
	}
	a.note(func(s *fleet.Status) { s.Credentials = list })
}

func tagOf(r *fleet.ReleaseRef) string {
	if r == nil {
		return ""
	}
	return r.Tag
}

// credentials are the tokens in the agent's files, and those that nix reads for the agent's caches, as far as they tell when they end.
func (c Config) credentials(netrc string) (list []fleet.Credential) {
	add := func(name, token string) {
		if ends, ok := fleet.TokenEnds(token); ok {
			list = append(list, fleet.Credential{Name: name, Ends: ends})
		}
	}
	files := map[string]bool{}
	addFile := func(name, file string) {
		if file == "" || files[file] {
			return
		}
		files[file] = true
		if text, err := readFew(file); err == nil {
			add(name+" in "+file, text)
		}
	}
	addFile("the hub's token", c.Hub.TokenFile)
	known, _ := readFew(netrc) // mostly there is none
	for _, cache := range c.Caches {
		addFile("the token to push to "+cache.URL, cache.PushTokenFile)
		if u, err := url.Parse(cache.URL); err == nil {
			add("the token to read "+cache.URL+" in "+netrc, passwordFor(known, u.Hostname()))
		}
	}
	return list
}

// passwordFor is the password of a machine in a netrc; "" when it has none.
func passwordFor(netrc, machine string) string {
	words := strings.Fields(netrc)
	for i := 0; i+1 < len(words); i++ {
		if words[i] != "machine" || words[i+1] != machine {
			continue
		}
		rest := words[i+2:]
		if next := slices.Index(rest, "machine"); next >= 0 {
			rest = rest[:next]
		}
		if at := slices.Index(rest, "password"); at >= 0 && at+1 < len(rest) {
			return rest[at+1]
		}
	}
	return ""
}

// readFew reads the beginning of a small file.
func readFew(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256<<10))
	return string(b), err
}
