package cli

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/s3"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/postgres"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// CacheTable is the table [cache] of hub.toml and of cache.toml.
type CacheTable struct {
	Name     string `toml:"name"`     // a public cache that is made when it is not there, with the key in dataDir/cache/keys
	BaseURL  string `toml:"baseUrl"`  // how clients reach the server; default: what they asked for
	Priority int    `toml:"priority"` // of caches that say nothing else
	// Upstreams are public keys: what these caches signed is not kept here, hosts fetch it from there.
	// Default: cache.nixos.org's; none when the list is there and empty.
	Upstreams []string          `toml:"upstreams"`
	Retention tomlfile.Duration `toml:"retention"` // of caches that say nothing else; default: for ever
	MaxBytes  int64             `toml:"maxBytes"`  // of the archives of a cache that says nothing else: beyond it, what was used longest ago goes; default: any number
	TokenKeys []string          `toml:"tokenKeys"` // files with secrets or public keys of JSON web tokens
	Dir       string            `toml:"dir"`       // content; default dataDir/cache
	S3        s3.Config         `toml:"s3"`        // in place of dir, where a bucket is named
	Index     string            `toml:"index"`     // SQLite's file; default dataDir/cache.db
	Postgres  postgres.Config   `toml:"postgres"`  // in place of index, where a URL is given
	Proxies   []netip.Prefix    `toml:"proxies"`   // whose X-Forwarded-For is believed; default loopback

	Limits struct {
		RequestsPerSecond int   `toml:"requestsPerSecond"` // of a token or an address; default: any number
		Uploads           int   `toml:"uploads"`           // of a token or an address at the same time; default: any number
		AllUploads        int   `toml:"allUploads"`        // at the same time; default 16
		NarBytes          int64 `toml:"narBytes"`          // of an archive, uncompressed; default 64 GiB
	} `toml:"limits"`

	Metrics struct {
		Listen string `toml:"listen"` // default: nowhere
	} `toml:"metrics"`

	upstreams []nar.PublicKey
}

// CacheFile is cache.toml.
type CacheFile struct {
	Listen  string     `toml:"listen"`  // default 127.0.0.1:8421
	DataDir string     `toml:"dataDir"` // default /var/lib/garrison-cache
	Cache   CacheTable `toml:"cache"`
}

// nixosKey is the key of cache.nixos.org, which NixOS trusts unless it is told otherwise.
const nixosKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// ReadCacheFile reads and checks the configuration of garrison cache serve. Errors have CodeConfig.
func ReadCacheFile(path string) (CacheFile, error) {
	var c CacheFile
	if err := tomlfile.Read(path, &c); err != nil {
		return c, err
	}
	for s, def := range map[*string]string{&c.Listen: "127.0.0.1:8421", &c.DataDir: "/var/lib/garrison-cache"} {
		if *s == "" {
			*s = def
		}
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: listen %q is not host:port", path, c.Listen).WithCause(err)
	}
	return c, c.Cache.check(path)
}

// check fills in what is not said. Errors have CodeConfig.
func (t *CacheTable) check(path string) error {
	wrong := func(format string, args ...any) *fleet.Error {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, path+": cache."+format, args...)
	}
	if t.Upstreams == nil {
		t.Upstreams = []string{nixosKey}
	}
	for _, s := range t.Upstreams {
		k, err := nar.ParsePublicKey(s)
		if err != nil {
			return wrong("upstreams: %v", err).WithHint("list public keys as nix.conf's trusted-public-keys does: name:base64")
		}
		t.upstreams = append(t.upstreams, k)
	}
	if t.Proxies == nil {
		t.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	if t.BaseURL != "" {
		u, err := url.Parse(t.BaseURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			return wrong("baseUrl is %q, and must be like \"https://cache.example.org\", without a path", t.BaseURL)
		}
		t.BaseURL = strings.TrimSuffix(t.BaseURL, "/")
	}
	if d := time.Duration(t.Retention); d != 0 && d < cache.MinUnused {
		return wrong("retention is %v, and cannot be less than %v", d, cache.MinUnused)
	}
	if t.Dir != "" && t.S3.Bucket != "" {
		return wrong("dir and cache.s3 are both set").WithHint("the content is in one or the other")
	}
	if t.Index != "" && t.Postgres != (postgres.Config{}) {
		return wrong("index and cache.postgres are both set").WithHint("the index is in one or the other")
	}
	if t.Name != "" {
		if err := cache.CheckName(t.Name); err != nil {
			return wrong("name: %v", err)
		}
	}
	for name, n := range map[string]int64{
		"priority": int64(t.Priority), "limits.requestsPerSecond": int64(t.Limits.RequestsPerSecond), "limits.uploads": int64(t.Limits.Uploads),
		"maxBytes": t.MaxBytes, "limits.allUploads": int64(t.Limits.AllUploads), "limits.narBytes": t.Limits.NarBytes,
	} {
		if n < 0 {
			return wrong("%s is %d, and cannot be negative", name, n)
		}
	}
	if _, _, err := net.SplitHostPort(t.Metrics.Listen); err != nil && t.Metrics.Listen != "" {
		return wrong("metrics.listen %q is not host:port", t.Metrics.Listen)
	}
	return nil
}

// options adds what the table says to o.
func (t *CacheTable) options(o cache.Options) cache.Options {
	o.Upstreams, o.BaseURL, o.Priority, o.Proxies = t.upstreams, t.BaseURL, t.Priority, t.Proxies
	o.Retention.Unused, o.Retention.MaxBytes = time.Duration(t.Retention), t.MaxBytes
	o.MaxNarBytes, o.MaxUploads = t.Limits.NarBytes, t.Limits.AllUploads
	o.Limits = cache.Limits{RequestsPerSecond: t.Limits.RequestsPerSecond, Uploads: t.Limits.Uploads}
	return o
}
