package cache_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

// BenchmarkAgainstNginx reads from the cache and from nginx, which serves the same files, in turns: an nginx as it comes, and one that was told to
// keep files open. A ratio above 1 says that the cache is faster. wrk asks for narinfos; curl, whose library nix reads with, for archives, and wrk as well, which reads
// 8 kB at a time. They are on the same machine. Run it with -benchtime 1x, on a machine that does nothing else.
func BenchmarkAgainstNginx(b *testing.B) {
	for _, program := range []string{"nginx", "wrk", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Fatalf("%s is not installed: apt-get install nginx-light wrk", program)
		}
	}
	lab.EachStorage(b, againstNginx)
}

func againstNginx(b *testing.B, empty func(testing.TB) *cachetest.Storage, servers int) {
	b.Cleanup(cache.Calm())
	s := empty(b).Start(b, servers, cache.Options{})
	dir := b.TempDir()
	small := tinyPaths(b, dir, 0, 2000)
	large := largePaths(b, dir, 100, 5<<20)
	c := newClient(b, s)
	if _, err := c.Push(b.Context(), slices.Concat(small, large), client.PushOptions{RealStoreDir: dir}); err != nil {
		b.Fatal(err)
	}
	nginx := startNginx(b, s, slices.Concat(small, large), "")
	tuned := startNginx(b, s, slices.Concat(small, large), "open_file_cache max=10000;")
	ours := s.CacheURL()
	hits, misses, nars := []string{}, []string{}, []string{}
	for _, p := range small {
		hash, _ := nar.HashPart(p.StorePath)
		hits = append(hits, "/"+hash+".narinfo")
		misses = append(misses, "/"+strings.Repeat("z", 16)+hash[16:]+".narinfo")
	}
	for _, p := range large {
		nars = append(nars, "/nar/"+p.NarHash.Nix32()+".nar.zst")
	}
	byWrk := func(paths []string, connections int, bytes bool) func(url string) float64 {
		script := wrkScript(b, paths)
		return func(url string) float64 { return wrk(b, url, script, connections, bytes) }
	}
	byCurl := func(connections int) func(url string) float64 {
		return func(url string) float64 { return curl(b, url, nars, connections) }
	}
	for _, load := range []struct {
		name, unit string
		measure    func(url string) float64
	}{
		{"narinfo-hits-c16", "/s", byWrk(hits, 16, false)}, {"narinfo-misses-c16", "/s", byWrk(misses, 16, false)},
		{"nar-c1", "-MB/s", byCurl(1)}, {"nar-c16", "-MB/s", byCurl(16)},
		{"nar-wrk-c1", "-MB/s", byWrk(nars, 1, true)}, {"nar-wrk-c16", "-MB/s", byWrk(nars, 16, true)},
	} {
		b.Run(load.name, func(b *testing.B) {
			for b.Loop() {
				var us, them, open []float64
				for range 5 {
					us = append(us, load.measure(ours))
					them = append(them, load.measure(nginx))
					open = append(open, load.measure(tuned))
				}
				b.ReportMetric(median(us), "cache"+load.unit)
				b.ReportMetric(median(them), "nginx"+load.unit)
				b.ReportMetric(median(us)/median(them), "ratio")
				b.ReportMetric(median(us)/median(open), "ratio-open-files")
			}
		})
	}
}

func median(f []float64) float64 {
	slices.Sort(f)
	return f[len(f)/2]
}

// startNginx serves a directory in which everything is that the cache serves of paths, and returns its URL. more is configuration.
func startNginx(b *testing.B, s *cachetest.Server, paths []nar.PathInfo, more string) string {
	b.Helper()
	root := filepath.Join(b.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(root, "nar"), 0o755); err != nil {
		b.Fatal(err)
	}
	for _, p := range paths {
		hash, _ := nar.HashPart(p.StorePath)
		text := fetch(b, s.CacheURL()+"/"+hash+".narinfo")
		file := filepath.Join(root, "nar", p.NarHash.Nix32()+".nar.zst")
		n, _, err := s.Cache.Index.Nar(b.Context(), p.NarHash)
		if err == nil && s.Dir != "" {
			err = os.Link(filepath.Join(s.Dir, "nar", n.Blob[:2], n.Blob), file)
		} else if err == nil {
			err = os.WriteFile(file, fetch(b, s.CacheURL()+"/nar/"+filepath.Base(file)), 0o644)
		}
		if err != nil && !os.IsExist(err) {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, hash+".narinfo"), text, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "nix-cache-info"), fetch(b, s.CacheURL()+"/nix-cache-info"), 0o644); err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	conf := filepath.Join(b.TempDir(), "nginx.conf")
	text := fmt.Sprintf(`daemon off; user root; worker_processes auto; pid %[1]s.pid; error_log %[1]s.log;
events { worker_connections 1024; }
http { access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000; %[4]s types { text/x-nix-narinfo narinfo; }
server { listen %[2]s; root %[3]s; } }`, conf, address, root, more)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("nginx", "-c", conf)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for range 100 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return "http://" + address
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.Fatal("nginx does not answer")
	return ""
}

// curl returns the megabytes a second that curl, whose library nix reads with, gets of the archives, over so many connections.
func curl(b *testing.B, url string, paths []string, connections int) float64 {
	b.Helper()
	var config strings.Builder
	for range 3 {
		for _, p := range paths {
			fmt.Fprintf(&config, "url = %s%s\noutput = /dev/null\n", url, p)
		}
	}
	args := []string{"--disable", "--silent", "--fail", "--write-out", "%{size_download}\n", "--config", "-"}
	if connections > 1 {
		args = append(args, "--parallel", "--parallel-immediate", "--parallel-max", strconv.Itoa(connections))
	}
	cmd := exec.CommandContext(b.Context(), "curl", args...)
	cmd.Stdin = strings.NewReader(config.String())
	start := time.Now()
	out, err := cmd.Output()
	took := time.Since(start).Seconds()
	if err != nil {
		b.Fatalf("curl: %v", err)
	}
	var bytes float64
	for _, line := range strings.Fields(string(out)) {
		n, err := strconv.ParseFloat(line, 64)
		if err != nil {
			b.Fatal(err)
		}
		bytes += n
	}
	return bytes / took / 1e6
}

// wrkScript has wrk ask for the paths in turn.
func wrkScript(b *testing.B, paths []string) string {
	b.Helper()
	file := filepath.Join(b.TempDir(), "load.lua")
	var text strings.Builder
	text.WriteString("local paths = {\n")
	for _, p := range paths {
		fmt.Fprintf(&text, "%q,\n", p)
	}
	text.WriteString("}\nlocal i = 0\nlocal prefix = ''\nfunction init(args) prefix = args[1] or '' end\n" +
		"function request() i = i % #paths + 1; return wrk.format('GET', prefix .. paths[i]) end\n")
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	return file
}

// wrk returns requests, or megabytes, per second.
func wrk(b *testing.B, url, script string, connections int, bytes bool) float64 {
	b.Helper()
	base, prefix := url, ""
	if i := strings.Index(url[8:], "/"); i >= 0 {
		base, prefix = url[:8+i], url[8+i:]
	}
	out, err := exec.CommandContext(b.Context(), "wrk", "-t1", fmt.Sprint("-c", connections), "-d2s", "-s", script, base, "--", prefix).CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	if bytes {
		m := regexp.MustCompile(`Transfer/sec:\s+([0-9.]+)([KMG]?)B`).FindSubmatch(out)
		f, _ := strconv.ParseFloat(string(m[1]), 64)
		return f * map[string]float64{"": 1e-6, "K": 1e-3, "M": 1, "G": 1e3}[string(m[2])]
	}
	m := regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`).FindSubmatch(out)
	f, _ := strconv.ParseFloat(string(m[1]), 64)
	return f
}

// largePaths makes files that do not compress.
func largePaths(b *testing.B, dir string, count, size int) []nar.PathInfo {
	b.Helper()
	var paths []nar.PathInfo
	random := rand.NewChaCha8([32]byte{})
	for i := range count {
		content := make([]byte, size)
		_, _ = random.Read(content)
		base := fmt.Sprintf("1%031d-large", i)
		if err := os.WriteFile(filepath.Join(dir, base), content, 0o444); err != nil {
			b.Fatal(err)
		}
		paths = append(paths, infoOf(b, base, content))
	}
	return paths
}

// BenchmarkNixCopyFrom has nix fetch a closure of 500 MB in 100 paths from the cache, and from nginx, which serves the same files, in turns. -benchtime 1x.
func BenchmarkNixCopyFrom(b *testing.B) { lab.EachStorage(b, nixCopyFrom) }

func nixCopyFrom(b *testing.B, empty func(testing.TB) *cachetest.Storage, servers int) {
	b.Cleanup(cache.Calm())
	s := empty(b).Start(b, servers, cache.Options{})
	dir := b.TempDir()
	paths := largePaths(b, dir, 100, 5<<20)
	for i := range paths[:99] {
		paths[99].References = append(paths[99].References, paths[i].StorePath)
	}
	slices.Sort(paths[99].References)
	if _, err := newClient(b, s).Push(b.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
		b.Fatal(err)
	}
	nginx := startNginx(b, s, paths, "")
	fetch := func(url string) float64 {
		to := cachetest.NewStore(b)
		unix.Sync() // what the one before left to be written is not this one's to wait for
		start := time.Now()
		to.Nix(b, "copy", "--from", url, "--option", "trusted-public-keys", s.Key.String(), paths[99].StorePath)
		took := time.Since(start).Seconds()
		if err := os.RemoveAll(to.Root); err != nil {
			_ = exec.Command("chmod", "-R", "u+w", to.Root).Run()
			_ = os.RemoveAll(to.Root)
		}
		return took
	}
	for b.Loop() {
		var us, them []float64
		for range 5 {
			us = append(us, fetch(s.CacheURL()))
			them = append(them, fetch(nginx), fetch(nginx))
			us = append(us, fetch(s.CacheURL()))
		}
		b.ReportMetric(median(us), "cache-s")
		b.ReportMetric(median(them), "nginx-s")
		b.ReportMetric(median(us)/median(them), "ratio")
	}
}
