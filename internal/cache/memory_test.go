package cache_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/nar"
)

// serverVar has TestServerProcess be a server: a process of its own, whose memory can be told from the client's.
const serverVar = "CACHE_SERVER"

func TestServerProcess(t *testing.T) {
	if os.Getenv(serverVar) == "" {
		return
	}
	var storage cachetest.Storage
	check(t, json.Unmarshal([]byte(os.Getenv(serverVar)), &storage))
	s := storage.Start(t, 1, cache.Options{MaxNarBytes: 2 << 30})
	fmt.Println("\n" + s.URL)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark ends
}

// startServer starts a server process, and returns its URL and process.
func startServer(b *testing.B, storage *cachetest.Storage) (url string, p *os.Process) {
	b.Helper()
	description, err := json.Marshal(storage)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context())) // that of b ends before it is cleaned up
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestServerProcess$")
	cmd.Env = append(os.Environ(), serverVar+"="+string(description), "TMPDIR="+b.TempDir())
	stdin, err := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err, err2, cmd.Start()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		err := errors.Join(stdin.Close(), cmd.Wait())
		cancel()
		if err != nil {
			b.Error(err)
		}
	})
	var said []string
	for lines := bufio.NewScanner(stdout); lines.Scan(); said = append(said, lines.Text()) {
		if strings.HasPrefix(lines.Text(), "http") {
			go func() { _, _ = io.Copy(io.Discard, stdout) }()
			return lines.Text(), cmd.Process
		}
	}
	b.Fatal("the server did not start: ", strings.Join(said, "\n"))
	return "", nil
}

// peak is the most memory that a process had resident, in MB.
func peak(b *testing.B, p *os.Process) float64 {
	b.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1000
}

// largeNar is an archive of one file that zstd makes about a tenth of; no two seeds give the same.
func largeNar(seed int, size int64) io.Reader {
	r, w := io.Pipe()
	go func() {
		n := nar.NewWriter(w)
		err := n.Regular(false, size, &noise{seed: seed})
		w.CloseWithError(errors.Join(err, n.Close()))
	}()
	return bufio.NewReaderSize(r, 1<<20)
}

// noise is an endless text: blocks of 32 KiB, a tenth of each new and the rest as before.
type noise struct {
	seed, n int
	block   []byte
}

func (x *noise) Read(b []byte) (int, error) {
	if len(x.block) == 0 {
		x.n++
		x.block = make([]byte, 32<<10)
		sum := sha256.Sum256(fmt.Append(nil, x.seed, x.n))
		for i := 0; i < len(x.block)/10; i += len(sum) {
			sum = sha256.Sum256(sum[:])
			copy(x.block[i:], sum[:])
		}
	}
	n := copy(b, x.block)
	x.block = x.block[n:]
	return n, nil
}

const (
	uploads     = 16
	uploadBytes = 1 << 30
)

// BenchmarkUploadMemory is what 16 uploads of 1 GB at the same time take of the memory of the server, or of that of several which has most.
func BenchmarkUploadMemory(b *testing.B) {
	lab.EachStorage(b, func(b *testing.B, empty func(testing.TB) *cachetest.Storage, servers int) {
		for name, upload := range map[string]func(b *testing.B, url string, seed int){"put": putLarge(4 << 20), "put-wide": putLarge(8 << 20), "upload-path": uploadPathLarge} {
			b.Run(name, func(b *testing.B) {
				storage, urls, processes := empty(b), make([]string, servers), make([]*os.Process, servers)
				for i := range servers {
					urls[i], processes[i] = startServer(b, storage)
				}
				for b.Loop() {
					var all sync.WaitGroup
					for seed := range uploads {
						all.Go(func() { upload(b, urls[seed%servers], seed) })
					}
					all.Wait()
				}
				var most float64
				for _, p := range processes {
					most = max(most, peak(b, p))
				}
				b.ReportMetric(most, "peak-MB")
			})
		}
	})
}

// putLarge compresses as our client does, but for the window.
func putLarge(window int) func(b *testing.B, url string, seed int) {
	return func(b *testing.B, url string, seed int) {
		checked, err := nar.Check(largeNar(seed, uploadBytes), 2<<30)
		if err != nil {
			b.Error(err)
			return
		}
		r, w := io.Pipe()
		go func() {
			z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window), zstd.WithEncoderLevel(zstd.SpeedFastest))
			if err == nil {
				_, err = io.Copy(z, largeNar(seed, uploadBytes))
				err = errors.Join(err, z.Close())
			}
			w.CloseWithError(err)
		}()
		sendLarge(b, url+"/c/nar/"+checked.Hash.Nix32()+".nar.zst", r, "")
	}
}

func uploadPathLarge(b *testing.B, url string, seed int) {
	checked, err := nar.Check(largeNar(seed, uploadBytes), 2<<30)
	if err != nil {
		b.Error(err)
		return
	}
	hash := checked.Hash.Nix32()[:32]
	sendLarge(b, url+"/_api/v1/upload-path", largeNar(seed, uploadBytes), fmt.Sprintf(
		`{"cache":"c","store_path_hash":"%s","store_path":"/nix/store/%s-large","references":[],"sigs":[],"nar_hash":"sha256:%s","nar_size":%d}`,
		hash, hash, hex.EncodeToString(checked.Hash[:]), checked.Size))
}

func sendLarge(b *testing.B, url string, body io.Reader, description string) {
	req, err := http.NewRequestWithContext(b.Context(), "PUT", url, body)
	if err != nil {
		b.Error(err)
		return
	}
	req.Header.Set("Authorization", "bearer "+cachetest.PushToken)
	if description != "" {
		req.Header.Set("X-Attic-Nar-Info", description)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	defer res.Body.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, res.Body); err != nil || res.StatusCode != http.StatusOK {
		b.Errorf("%d %s, %v", res.StatusCode, &text, err)
	}
}
