package cachetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/garrison-nix/garrison/internal/cache/s3"
)

type s3Server struct {
	port        string
	credentials string // a file
	client      *minio.Client
}

const (
	s3Access, s3Secret = "lab-access", "lab-secret"
	// S3Domain is the host below which the S3 server finds a bucket's name in the host name of a request.
	S3Domain = "s3.test"
)

// Bucket returns an empty bucket, which Lab.S3 can look into.
func (l *Lab) Bucket(t testing.TB) s3.Config {
	t.Helper()
	server := l.s3Server(t)
	bucket := unique()
	must(t, server.client.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}))
	return s3.Config{
		Endpoint: "http://127.0.0.1:" + server.port, Bucket: bucket, Prefix: "garrison/", PathStyle: true,
		CredentialsFile: server.credentials, SpoolDir: t.TempDir(),
	}
}

// S3 is a client that may do everything.
func (l *Lab) S3(t testing.TB) *minio.Client {
	t.Helper()
	return l.s3Server(t).client
}

func (l *Lab) s3Server(t testing.TB) *s3Server {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s3 == nil {
		s, err := l.startS3()
		must(t, err)
		l.s3 = s
	}
	return l.s3
}

func (l *Lab) startS3() (*s3Server, error) {
	program, err := fetched("fetch-versitygw")
	if err != nil {
		return nil, err
	}
	dir, err := l.folder("s3")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	s := &s3Server{credentials: filepath.Join(dir, "credentials")}
	text := "[default]\naws_access_key_id = " + s3Access + "\naws_secret_access_key = " + s3Secret + "\n"
	if err := os.WriteFile(s.credentials, []byte(text), 0o600); err != nil {
		return nil, err
	}
	err = onFreePort(func(port string) error {
		s.port = port
		cmd := exec.Command(program, "--quiet", "--keep-alive", "--port", "127.0.0.1:"+port, "--health", "/health",
			"--virtual-domain", S3Domain+":"+port, "posix", data)
		cmd.Env = []string{"ROOT_ACCESS_KEY=" + s3Access, "ROOT_SECRET_KEY=" + s3Secret}
		return l.start(cmd, syscall.SIGKILL, func(ctx context.Context) error { return answers(ctx, "http://127.0.0.1:"+port+"/health") })
	})
	if err != nil {
		return nil, err
	}
	s.client, err = minio.New("127.0.0.1:"+s.port, &minio.Options{
		Creds: credentials.NewStaticV4(s3Access, s3Secret, ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath})
	return s, err
}

func answers(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

type postgresServer struct{ port string }

// PostgresURL returns the URL of an empty schema of a database: quicker to make than a database, and as good.
func (l *Lab) PostgresURL(t testing.TB) string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.postgres == nil {
		s, err := l.startPostgres()
		must(t, err)
		l.postgres = s
	}
	name := unique()
	admin, err := pgx.Connect(t.Context(), l.postgres.url("postgres"))
	must(t, err)
	_, err = admin.Exec(t.Context(), "CREATE SCHEMA "+name)
	must(t, errors.Join(err, admin.Close(t.Context())))
	return l.postgres.url("postgres") + "&search_path=" + name
}

func (s *postgresServer) url(database string) string {
	return "postgres://postgres@127.0.0.1:" + s.port + "/" + database + "?sslmode=disable"
}

func (l *Lab) startPostgres() (*postgresServer, error) {
	programs, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	dir, err := l.folder("postgres")
	if err != nil {
		return nil, err
	}
	as, err := notRoot(dir)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	command := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(programs, program), args...)
		cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: as}
		return cmd
	}
	initdb := command("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	s := &postgresServer{}
	err = onFreePort(func(port string) error {
		s.port = port
		cmd := command("postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "port="+port,
			"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=200", "-c", "logging_collector=off")
		return l.start(cmd, syscall.SIGINT, func(ctx context.Context) error {
			c, err := pgx.Connect(ctx, s.url("postgres"))
			if err != nil {
				return err
			}
			return c.Close(ctx)
		})
	})
	return s, err
}

// postgresPrograms is the folder of the newest PostgreSQL that Debian has installed.
func postgresPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.Join(err, errors.New("PostgreSQL is not installed; scripts/setup test does that"))
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return postgresVersion(a) - postgresVersion(b) })
	return filepath.Dir(newest), nil
}

func postgresVersion(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// notRoot gives dir to whom PostgreSQL may run as, which is not root; nil unless this process is root's.
func notRoot(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, uid, gid)
}
