package s3

import (
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// Config says where the bucket is and what lets in.
type Config struct {
	Endpoint        string            `toml:"endpoint"`                  // "https://s3.example.org"
	Bucket          string            `toml:"bucket"`                    // it must be there
	Prefix          string            `toml:"prefix"`                    // of all names in the bucket, "garrison/" say; default none
	Region          string            `toml:"region"`                    // default "us-east-1"
	PathStyle       bool              `toml:"pathStyle"`                 // https://host/bucket/… and not https://bucket.host/…
	CredentialsFile string            `toml:"credentialsFile"`           // in AWS's format; read again when it changes
	PublicEndpoint  string            `toml:"publicEndpoint"`            // where clients reach the same bucket; "" = they are not sent there
	SpoolDir        string            `toml:"spoolDir"`                  // 16 MiB for each upload in progress; default the system's temporary folder
	Timeout         tomlfile.Duration `toml:"timeout" json:",omitempty"` // without a byte to or from the server; default 60s
}

var (
	buckets  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`) })
	prefixes = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*/?)*$`) })
)

// check returns an error of code fleet.CodeConfig that says which setting is wrong.
func (c Config) check() error {
	switch {
	case !buckets().MatchString(c.Bucket):
		return wrong("bucket = %q: a bucket's name has 3 to 63 of a-z, 0-9, \"-\" and \".\"", c.Bucket)
	case len(c.Prefix) > 512 || !prefixes().MatchString(c.Prefix):
		return wrong("prefix = %q: give a folder, like \"garrison/\", or nothing", c.Prefix)
	case c.CredentialsFile == "":
		return wrong("credentialsFile is missing: a file with aws_access_key_id = … and aws_secret_access_key = …")
	}
	if _, err := parseEndpoint("endpoint", c.Endpoint); err != nil {
		return err
	}
	if c.PublicEndpoint == "" {
		return nil
	}
	_, err := parseEndpoint("publicEndpoint", c.PublicEndpoint)
	return err
}

func wrong(format string, args ...any) error {
	return fleet.Errorf(fleet.Local, fleet.CodeConfig, "s3: "+format, args...)
}

func parseEndpoint(key, s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, wrong("%s = %q: give the server's URL without a path, like \"https://s3.example.org\"", key, s)
	}
	return u, nil
}

func (c Config) timeout() time.Duration { return c.Timeout.Or(time.Minute) }

func (c Config) spoolDir() string {
	if c.SpoolDir != "" {
		return c.SpoolDir
	}
	return os.TempDir()
}

// options are those of a client of endpoint.
func (c Config) options(endpoint *url.URL, cred *credentialsFile) *minio.Options {
	o := &minio.Options{
		Creds: cred.credentials(), Secure: endpoint.Scheme == "https", Transport: newTransport(c.timeout()),
		Region: c.Region, BucketLookup: minio.BucketLookupDNS, MaxRetries: tries,
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if c.PathStyle {
		o.BucketLookup = minio.BucketLookupPath
	}
	return o
}
