package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// s3Part is how much of a large file goes into one request, and is kept in memory meanwhile.
const s3Part = 16 << 20

// bucket is an S3 bucket of files, as Nix's s3:// caches are.
type bucket struct {
	c    *Client
	s3   *minio.Client
	name string
}

// openS3 reads s3://bucket?endpoint=…&region=…&scheme=…&profile=…, parameters as Nix has them.
func (c *Client) openS3(u *url.URL) error {
	if u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.Fragment != "" {
		return badURL(u.Redacted())
	}
	if err := c.parameters(u, []string{"endpoint", "region", "scheme", "profile"}); err != nil {
		return err
	}
	q := u.Query()
	endpoint, scheme := q.Get("endpoint"), q.Get("scheme")
	if given, host, ok := strings.Cut(endpoint, "://"); ok {
		scheme, endpoint = given, host
	}
	if scheme != "" && scheme != "http" && scheme != "https" {
		return badURL(u.Redacted()).WithHint("scheme is http or https")
	}
	server, err := minio.New(cmp.Or(endpoint, "s3.amazonaws.com"), &minio.Options{
		// Like Nix: what the environment says, else the file ~/.aws/credentials, else the machine's own role.
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{Profile: q.Get("profile")}, &credentials.IAM{},
		}),
		Secure: scheme != "http", Transport: c.cfg.HTTP.Transport, Region: cmp.Or(q.Get("region"), "us-east-1"), MaxRetries: 1,
	})
	if err != nil {
		return badURL(u.Redacted()).WithCause(err).WithHint("endpoint is the server's name and port")
	}
	q.Del("secret-key")
	u.RawQuery = q.Encode()
	c.files, c.protocol, c.shown = bucket{c, server, u.Host}, plain, u.String()
	return nil
}

// try calls once, again after failures that may pass.
func (b bucket) try(ctx context.Context, what string, once func(context.Context) error) error {
	return b.c.try(ctx, what, func() error {
		err := once(ctx)
		var answer minio.ErrorResponse
		if errors.As(err, &answer) && answer.StatusCode != 0 {
			return &statusError{status: answer.StatusCode, kind: answer.Code, message: cmp.Or(answer.Message, answer.Code)}
		}
		return err
	})
}

// reading is try where a file may be absent.
func (b bucket) reading(ctx context.Context, what string, once func(context.Context) error) error {
	return absent(b.try(ctx, what, once))
}

func (b bucket) get(ctx context.Context, name string, most int64) (text []byte, err error) {
	return text, b.reading(ctx, "read "+name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, stallLimit)
		defer cancel()
		o, err := b.s3.GetObject(ctx, b.name, name, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer o.Close()
		text, err = io.ReadAll(io.LimitReader(o, most+1))
		if err == nil && int64(len(text)) > most {
			return fleet.Errorf(fleet.Local, fleet.CodeCache, "%s in %s is too large", name, b.c.shown)
		}
		return err
	})
}

func (b bucket) size(ctx context.Context, name string) (size int64, err error) {
	return size, b.reading(ctx, "look for "+name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, stallLimit)
		defer cancel()
		o, err := b.s3.StatObject(ctx, b.name, name, minio.StatObjectOptions{})
		size = o.Size
		return err
	})
}

func (b bucket) open(ctx context.Context, name string) (content io.ReadCloser, err error) {
	what := "read " + name
	return content, b.reading(ctx, what, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		o, err := b.s3.GetObject(ctx, b.name, name, minio.GetObjectOptions{})
		if err == nil {
			_, err = o.Stat() // which is when it asks
		}
		if err != nil {
			cancel()
			return err
		}
		content = &download{watched{o, time.AfterFunc(stallLimit, cancel)}, b.c, what, cancel}
		return nil
	})
}

func (b bucket) put(ctx context.Context, name, contentType string, content func() body) error {
	return b.try(ctx, "write "+name, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		from := content()
		dog := time.AfterFunc(stallLimit, cancel)
		defer dog.Stop()
		_, err := b.s3.PutObject(ctx, b.name, name, &watched{from.r, dog}, from.size, minio.PutObjectOptions{ContentType: contentType, PartSize: s3Part})
		return err
	})
}

func (b bucket) list(ctx context.Context, suffix string, each func(string) error) error {
	for o := range b.s3.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{}) {
		switch {
		case o.Err != nil:
			return b.try(ctx, "list the bucket", func(context.Context) error { return o.Err })
		case !strings.HasSuffix(o.Key, suffix):
			continue
		}
		if err := each(o.Key); err != nil {
			return err
		}
	}
	return ctx.Err()
}
