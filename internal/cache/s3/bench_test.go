package s3_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/s3"
)

// BenchmarkSixteenUploads at the same time, of 64 MB each: bytes per second, and the most memory that the process had.
func BenchmarkSixteenUploads(b *testing.B) {
	s, err := s3.Open(b.Context(), lab.Bucket(b))
	if err != nil {
		b.Fatal(err)
	}
	const uploads, size = 16, 64 << 20
	chunk := content(64 << 10)
	b.SetBytes(uploads * size)
	for b.Loop() {
		var all sync.WaitGroup
		for i := range uploads {
			all.Go(func() {
				err := s.Put(b.Context(), fmt.Sprintf("upload-%d", i), func(w io.Writer) error {
					for range size / len(chunk) {
						if _, err := w.Write(chunk); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	b.ReportMetric(mostMemory(b), "MB-resident")
}

func BenchmarkRead(b *testing.B) {
	s, err := s3.Open(b.Context(), lab.Bucket(b))
	if err != nil {
		b.Fatal(err)
	}
	const size = 64 << 20
	if err := s.Put(b.Context(), key, writing(content(size))); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		r, err := s.Open(b.Context(), key)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); n != size || err != nil {
			b.Fatal(n, err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// mostMemory is the process's peak of resident memory, in MB.
func mostMemory(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if kb, ok := strings.CutPrefix(string(line), "VmHWM:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 64)
			if err != nil {
				b.Fatal(err)
			}
			return n / 1000
		}
	}
	b.Fatal("the kernel does not tell")
	return 0
}
