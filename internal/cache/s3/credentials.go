package s3

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const maxCredentialsBytes = 64 << 10

// credentialsFile is what lets in, from a file in AWS's format. It is read again when it was replaced or
// changed; while it cannot be read, what was read last is used. It implements credentials.Provider.
type credentialsFile struct {
	path string

	mu   sync.Mutex
	info os.FileInfo
	last credentials.Value
}

// openCredentials reads the file at path for the first time.
func openCredentials(path string) (*credentialsFile, error) {
	f := &credentialsFile{path: path}
	if err := f.read(); err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "the credentials for S3 in %s cannot be used", path).WithCause(err).
			WithHint("write the lines aws_access_key_id = … and aws_secret_access_key = …")
	}
	return f, nil
}

func (f *credentialsFile) credentials() *credentials.Credentials { return credentials.New(f) }

// IsExpired says whether the file is another than the one that was read.
func (f *credentialsFile) IsExpired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	return err == nil && (f.info == nil || !os.SameFile(info, f.info) || info.ModTime() != f.info.ModTime() || info.Size() != f.info.Size())
}

// RetrieveWithCredContext implements credentials.Provider.
func (f *credentialsFile) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return f.Retrieve()
}

// Retrieve implements credentials.Provider.
func (f *credentialsFile) Retrieve() (credentials.Value, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.read() // what was read last is as good as it gets
	return f.last, nil
}

func (f *credentialsFile) read() error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(file, maxCredentialsBytes))
	if err != nil {
		return err
	}
	v, err := parseCredentials(b)
	if err != nil {
		return err
	}
	f.info, f.last = info, v
	return nil
}

// parseCredentials reads the section [default], or what stands before any section.
func parseCredentials(b []byte) (credentials.Value, error) {
	v := credentials.Value{SignerType: credentials.SignatureV4}
	section := "default"
	for line := range bytes.Lines(b) {
		text := strings.TrimSpace(string(line))
		if name, ok := strings.CutPrefix(text, "["); ok {
			section = strings.TrimSpace(strings.TrimSuffix(name, "]"))
		}
		key, value, ok := strings.Cut(text, "=")
		if !ok || section != "default" {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "aws_access_key_id":
			v.AccessKeyID = value
		case "aws_secret_access_key":
			v.SecretAccessKey = value
		case "aws_session_token":
			v.SessionToken = value
		}
	}
	if v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return v, fmt.Errorf("aws_access_key_id or aws_secret_access_key is missing")
	}
	return v, nil
}
