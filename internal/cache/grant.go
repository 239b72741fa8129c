package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Permission is what may be done with a cache: one thing, or several.
type Permission uint8

// The permissions. Attic's tokens call them r, w, d, cc, cr, cq and cd.
const (
	Pull               Permission = 1 << iota
	Push                          // also to ask what is missing
	Delete                        // paths
	Create                        // the cache
	Configure                     // settings and keys
	ConfigureRetention            // also the quota, and what the cache fetches from elsewhere: what costs whoever runs the server
	Destroy                       // the cache
	Everything         Permission = 1<<iota - 1
)

// permissions are the names of Permissions, by bit: Attic's, and ours in English.
var permissions = [...]struct{ claim, words string }{
	{"r", "pull from"}, {"w", "push to"}, {"d", "delete from"}, {"cc", "create"}, {"cr", "configure"}, {"cq", "configure the retention of"}, {"cd", "destroy"},
}

func (p Permission) String() string {
	var words []string
	for i, name := range permissions {
		if p&(1<<i) != 0 {
			words = append(words, name.words)
		}
	}
	return strings.Join(words, ", ")
}

// CacheGrant allows something on caches.
type CacheGrant struct {
	Pattern string // a cache's name, in which "*" stands for any characters
	May     Permission
}

// CacheGrants are in the order in which they are looked at.
type CacheGrants []CacheGrant

// Grant is what a token allows.
type Grant struct {
	ID        string // of the token, for its revocation and its limits; "" for who has none
	Subject   string // whom it was given to
	ExpiresAt time.Time
	Caches    CacheGrants
}

// On returns what the grant allows on a cache: what it says of the very name, else what the first pattern says that fits.
func (g Grant) On(cache string) Permission {
	for _, c := range g.Caches {
		if c.Pattern == cache {
			return c.May
		}
	}
	for _, c := range g.Caches {
		if fits, _ := path.Match(c.Pattern, cache); fits {
			return c.May
		}
	}
	return 0
}

// Allow adds may to what the grant allows on the caches of pattern.
func (g *Grant) Allow(pattern string, may Permission) {
	for i := range g.Caches {
		if g.Caches[i].Pattern == pattern {
			g.Caches[i].May |= may
			return
		}
	}
	g.Caches = append(g.Caches, CacheGrant{Pattern: pattern, May: may})
}

// OnAll says whether the grant allows everything on every cache.
func (g Grant) OnAll() bool {
	for _, c := range g.Caches {
		if c.Pattern == "*" && c.May == Everything {
			return true
		}
	}
	return false
}

var cachePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9*][A-Za-z0-9_+*-]{0,49}$`) })

// CheckPattern returns an error unless pattern can stand for caches.
func CheckPattern(pattern string) error {
	if !cachePattern().MatchString(pattern) {
		return fmt.Errorf("%s is no pattern of caches' names: letters, digits, and any of -_+*", quoted(pattern))
	}
	return nil
}

// maxGrants bounds what is looked through for each request.
const maxGrants = 1000

// MarshalJSON writes the claim as Attic does, in order: {"name": {"r": 1}}.
func (g CacheGrants) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, c := range g {
		if i > 0 {
			b.WriteByte(',')
		}
		may := map[string]int{}
		for bit, name := range permissions {
			if c.May&(1<<bit) != 0 {
				may[name.claim] = 1
			}
		}
		rights, err := json.Marshal(may)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", c.Pattern, rights)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads what MarshalJSON writes, and keeps the order. Permissions that it does not know are none.
func (g *CacheGrants) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("caches is not an object")
	}
	*g = nil
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		pattern, _ := t.(string) // the decoder has nothing else for a key
		var may map[string]claimed
		if err := d.Decode(&may); err != nil {
			return err
		}
		if err := CheckPattern(pattern); err != nil {
			return err
		}
		c := CacheGrant{Pattern: pattern}
		for bit, name := range permissions {
			if may[name.claim] {
				c.May |= 1 << bit
			}
		}
		if *g = append(*g, c); len(*g) > maxGrants {
			return fmt.Errorf("more than %d patterns", maxGrants)
		}
	}
	return nil
}

// claimed is a permission as Attic writes it: 1, or 0.
type claimed bool

func (c *claimed) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "1", "true":
		*c = true
	case "0", "false":
	default:
		return fmt.Errorf("a permission is %s, not 0 or 1", b)
	}
	return nil
}
