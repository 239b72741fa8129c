package release

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/closure"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

func try(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return d[len(d)/2].Seconds()
}

// BenchmarkCheck50Hosts checks a fleet of 50 hosts made from examples/fleet, and looks at it as scripts do: nix flake check, and for each host nix eval of
// its secrets and of its drvPath. Both take turns, each on a commit of its own, as in CI. One iteration is five of each; medians are told.
func BenchmarkCheck50Hosts(b *testing.B) {
	dir, n := b.TempDir(), nixtest.System(b)
	hosts := largeFleet(b, dir, 50)
	do := func(program string, args ...string) {
		b.Helper()
		cmd := exec.CommandContext(b.Context(), program, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
		}
	}
	do("git", "init", "--quiet", "--initial-branch=main")
	repo, err := git.Open(b.Context(), dir)
	try(b, err)
	turn := 0
	commit := func() string {
		turn++
		try(b, os.WriteFile(filepath.Join(dir, "gitops-test"), []byte(fmt.Sprint(turn)), 0o644))
		do("git", "add", "--all")
		do("git", "commit", "--quiet", "--message", fmt.Sprint(turn))
		id, _, err := repo.Resolve(b.Context(), "HEAD")
		try(b, err)
		return id
	}
	nixDo := func(args ...string) {
		b.Helper()
		do("nix", append([]string{"--extra-experimental-features", "nix-command flakes", "--store", n.Store}, args...)...)
	}
	var ours, scripts []time.Duration
	var before, after syscall.Rusage
	for b.Loop() {
		ours, scripts = nil, nil
		for range 5 {
			id, began := commit(), time.Now()
			found, err := Check(b.Context(), CheckOptions{Repo: repo, Commit: id, Nix: n, EvalMemory: 1 << 30})
			ours = append(ours, time.Since(began))
			try(b, err)
			if !found.Passed || len(found.List) != len(hosts)+1 {
				b.Fatalf("%+v", found.Failed())
			}
			try(b, syscall.Getrusage(syscall.RUSAGE_CHILDREN, &before))
			commit()
			began = time.Now()
			nixDo("flake", "check")
			for _, h := range hosts {
				nixDo("eval", "--json", ".#nixosConfigurations."+h+".config.age.secrets")
				nixDo("eval", "--raw", ".#nixosConfigurations."+h+".config.system.build.toplevel.drvPath")
			}
			scripts = append(scripts, time.Since(began))
			try(b, syscall.Getrusage(syscall.RUSAGE_CHILDREN, &after))
		}
	}
	b.ReportMetric(median(ours), "s/check")
	b.ReportMetric(median(scripts), "s/scripts")
	b.ReportMetric(median(scripts)/median(ours), "times")
	b.ReportMetric(float64(before.Maxrss)/1024, "MB/largest-process")
}

// largeFleet is examples/fleet with n hosts like joker, each with a secret of its own.
func largeFleet(b *testing.B, dir string, n int) (hosts []string) {
	files, err := fs.Sub(examples.Fleet, "fleet")
	try(b, err)
	try(b, os.CopyFS(dir, files))
	pub, err := os.ReadFile(filepath.Join(dir, "hosts/joker/host.pub"))
	try(b, err)
	secret, err := os.ReadFile(filepath.Join(dir, "secrets/punchline.age"))
	try(b, err)
	var list strings.Builder
	for i := range n {
		h := fmt.Sprintf("host%02d", i)
		hosts = append(hosts, h)
		try(b, os.MkdirAll(filepath.Join(dir, "hosts", h), 0o755))
		for name, text := range map[string]string{
			"hosts/" + h + "/host.pub": string(pub), "secrets/" + h + ".age": string(secret),
			"hosts/" + h + "/default.nix": `{ nixpkgs.hostPlatform = "x86_64-linux"; age.secrets.own.file = ../../secrets/` + h + `.age; }`,
		} {
			try(b, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
		fmt.Fprintf(&list, "%s = nixosSystem %q; ", h, h)
	}
	try(b, os.Remove(filepath.Join(dir, "garrison.toml")))
	flake := "{ outputs = { self }: let inherit (import ./lib { root = ./.; }) nixosSystem; in { nixosConfigurations = { " + list.String() + "}; }; }"
	try(b, os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(flake), 0o644))
	return hosts
}

// pathsOf are those of a synthetic closure of 5,000 paths: a tenth of them is the version's own. The top comes last.
func pathsOf(version int) []nar.PathInfo {
	const n = 5000
	paths := make([]nar.PathInfo, n)
	for i := range paths {
		v := 0
		if i%10 == 0 || i == n-1 {
			v = version
		}
		name := fmt.Sprintf("package%d-1.%d", i, v)
		hash := nar.Hash(sha256.Sum256([]byte(name)))
		p := nar.PathInfo{StorePath: "/nix/store/" + hash.Nix32()[:32] + "-" + name, NarHash: hash, NarSize: int64(1000 + i)}
		for j := range i { // what changes depends on the nine before it, the top on all that changes and the last few
			if v != 0 && j > i-10 || i == n-1 && j%10 == 0 {
				p.References = append(p.References, paths[j].StorePath)
			}
		}
		slices.Sort(p.References)
		paths[i] = p
	}
	return paths
}

// BenchmarkPlan5000 compares a closure of 5,000 paths with another, asking for both included.
func BenchmarkPlan5000(b *testing.B) {
	before, after := pathsOf(1), pathsOf(2)
	tops := []string{before[len(before)-1].StorePath, after[len(after)-1].StorePath}
	compare := func(b *testing.B, o PlanOptions, s *state) {
		for b.Loop() {
			closures, err := o.closures(b.Context(), s, slices.Clone(tops))
			try(b, err)
			was, err := closures(tops[0])
			try(b, err)
			now, err := closures(tops[1])
			try(b, err)
			if d := closure.Compare(was, now); d.PathsBefore != 5000 || d.PathsAfter != 5000 || len(d.Changes) != 501 {
				b.Fatalf("%d, %d, %d", d.PathsBefore, d.PathsAfter, len(d.Changes))
			}
		}
	}
	n := nixtest.Elsewhere(b, nixtest.System(b))
	b.Run("cache", func(b *testing.B) {
		c := cachetest.NewServer(b, nil)
		for _, p := range slices.Concat(before, after) {
			n := cache.Nar{NarHash: p.NarHash, NarSize: p.NarSize, FileHash: p.NarHash, FileSize: 1, Blob: p.NarHash.Nix32()}
			try(b, c.Index.PutNar(b.Context(), n, ""))
			try(b, c.Blobs.Put(b.Context(), n.Blob, func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }))
			info := nar.NarInfo{PathInfo: p, URL: "nar/" + p.NarHash.Nix32() + ".nar.zst", Compression: "zstd"}
			path := cache.Path{Cache: "c", StorePath: p.StorePath, NarHash: p.NarHash, NarInfo: info.Encode()}
			_, err := c.Index.PutPaths(b.Context(), []cache.NewPath{{Path: path, References: p.References}}, time.Now())
			try(b, err)
		}
		o := PlanOptions{Closure: func(Config) (func(context.Context, []string) ([]nar.PathInfo, []string, error), error) {
			cl, err := client.New(client.Config{URL: c.CacheURL()})
			return cl.Closure, err
		}}
		compare(b, o, &state{Options: Options{Nix: n}})
	})
	b.Run("store", func(b *testing.B) {
		var db strings.Builder
		known := map[string]bool{}
		for _, p := range slices.Concat(before, after) {
			if !known[p.StorePath] {
				known[p.StorePath] = true
				fmt.Fprintf(&db, "%s\n%x\n%d\n\n%d\n%s", p.StorePath, p.NarHash[:], p.NarSize, len(p.References), strings.Join(append(p.References, ""), "\n"))
			}
		}
		cmd := exec.CommandContext(b.Context(), "nix-store", "--load-db", "--store", n.Store)
		cmd.Stdin = strings.NewReader(db.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		compare(b, PlanOptions{}, &state{Options: Options{Nix: n}})
	})
}
