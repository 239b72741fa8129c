package client_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// TestBucket pushes to a bucket of a real S3 server in Nix's layout, and has Nix read what lies there.
func TestBucket(t *testing.T) {
	bucket := lab.Bucket(t)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", bucket.CredentialsFile)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	file, public := signingKey(t, "bucket-1")
	u := "s3://" + bucket.Bucket + "?endpoint=" + strings.TrimPrefix(bucket.Endpoint, "http://") + "&scheme=http&region=us-east-1"
	store := cachetest.NewStore(t)
	paths := store.BuildClosure(t, "bucket")
	top := paths[len(paths)-1].StorePath
	c := newClient(t, u+"&secret-key="+file, "")
	if _, missing, err := c.Closure(t.Context(), []string{top}); err != nil || len(missing) != 1 {
		t.Fatalf("an empty bucket misses %v, %v", missing, err)
	}
	stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()})
	if err != nil || stats.Pushed != len(paths) {
		t.Fatalf("%+v, %v", stats, err)
	}
	if again, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()}); err != nil || again.Pushed != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	dir := t.TempDir()
	large := noise(t, dir, 34<<20) // several requests
	if _, err := c.Push(t.Context(), []nar.PathInfo{large}, client.PushOptions{RealStoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	have, missing, err := c.Closure(t.Context(), []string{top, large.StorePath})
	if err != nil || len(missing) != 0 || len(have) != len(paths)+1 {
		t.Errorf("%d paths, missing %v, %v", len(have), missing, err)
	}

	files := t.TempDir()
	var names []string
	for o := range lab.S3(t).ListObjectsIter(t.Context(), bucket.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		names = append(names, o.Key)
		if err := lab.S3(t).FGetObject(t.Context(), bucket.Bucket, o.Key, filepath.Join(files, o.Key), minio.GetObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Contains(names, "nix-cache-info") || len(names) != 1+2*(len(paths)+1) {
		t.Errorf("the bucket holds %v", names)
	}
	wantCopied(t, "file://"+files, top, public)

	// What is in a bucket comes into another cache as from any other.
	s := largeServer(t, nil)
	from := newClient(t, u, "")
	imported, err := newClient(t, s.CacheURL(), cachetest.PushToken).Import(t.Context(), from, nil, client.ImportOptions{Keys: []nar.PublicKey{public}})
	if err != nil || imported.Pushed != len(paths)+1 {
		t.Fatalf("%+v, %v", imported, err)
	}
	wantCopied(t, s.CacheURL(), top, s.Key)

	for _, c := range []struct {
		name, url string
		code      fleet.Code
	}{
		{"no bucket", "s3://no-such-bucket?endpoint=" + strings.TrimPrefix(bucket.Endpoint, "http://") + "&scheme=http", fleet.CodeNotFound},
		{"no server", "s3://bucket?endpoint=127.0.0.1:1&scheme=http", fleet.CodeCache},
		{"wrong secret", u, fleet.CodeUnauthorized},
	} {
		if c.name == "wrong secret" { // from here on
			wrong := filepath.Join(t.TempDir(), "credentials")
			if err := os.WriteFile(wrong, []byte("[default]\naws_access_key_id = lab-access\naws_secret_access_key = wrong\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", wrong)
		}
		_, err := newClient(t, c.url, "").Push(t.Context(), []nar.PathInfo{large}, client.PushOptions{RealStoreDir: dir})
		if fleet.CodeOf(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
