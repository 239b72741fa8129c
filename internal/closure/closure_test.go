package closure

import (
	"fmt"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

func p(name string, size int64) Path {
	return Path{"/nix/store/00000000000000000000000000000000-" + name, size}
}

func q(name string, size int64) Path {
	return Path{"/nix/store/11111111111111111111111111111111-" + name, size}
}

func TestCompare(t *testing.T) {
	before := []Path{p("openssl-3.0.13", 100), p("openssl-3.0.13-dev", 10), p("curl-8.1", 50), p("gone-1", 7), p("same-2", 1), p("python3-3.11.1", 5), p("glibc-2.39-5", 9)}
	after := []Path{p("openssl-3.0.14", 110), p("openssl-3.0.14-dev", 10), q("curl-8.1", 53), p("same-2", 1), p("new-tool-1.0", 3), p("python3-3.11.1", 5), p("python3-3.12.0", 6), p("glibc-2.38-5", 9)}
	got := Compare(before, after)
	want := Diff{
		Added:   []Package{{"new-tool", []string{"1.0"}, 3}},
		Removed: []Package{{"gone", []string{"1"}, 7}},
		Changes: []Change{
			{"curl", Rebuilt, []string{"8.1"}, []string{"8.1"}, 3},
			{"glibc", Downgraded, []string{"2.39-5"}, []string{"2.38-5"}, 0},
			{"openssl", Upgraded, []string{"3.0.13"}, []string{"3.0.14"}, 10},
			{"python3", Changed, []string{"3.11.1"}, []string{"3.11.1", "3.12.0"}, 6},
		},
		PathsBefore: 7, PathsAfter: 8, BytesBefore: 182, BytesAfter: 197,
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	if got.Empty() || !Compare(before, before).Empty() {
		t.Error("Empty is wrong")
	}
}

// TestAsNixDoes compares Split and CompareVersions with Nix's own builtins.
func TestAsNixDoes(t *testing.T) {
	names := []string{"hello-2.12", "nix-2.8.0pre20220530_af23d38", "perl5.36-URI-5.12", "x-y", "a-1-b-2", "font-awesome", "linux-6.6.32-modules-shrunk", "python3.11-foo-1", "-1", "a-", "unit-foo.service", "etc-hosts"}
	versions := []string{"1.0", "1.0pre1", "1.0pre", "2.3.1", "2.3", "2.3a", "2.3c", "2.3pre1", "2.3pre3", "2.3q", "", "0", "00", "1-2", "1.0.0", "10", "9", "unstable-2024-01-01"}
	var exprs, want []string
	for _, n := range names {
		exprs = append(exprs, fmt.Sprintf(`(let p = builtins.parseDrvName %q; in p.name + "|" + p.version)`, n))
		name, version := Split("/nix/store/00000000000000000000000000000000-" + n)
		want = append(want, name+"|"+version)
	}
	for _, a := range versions {
		for _, b := range versions {
			exprs = append(exprs, fmt.Sprintf(`(toString (builtins.compareVersions %q %q))`, a, b))
			want = append(want, fmt.Sprint(CompareVersions(a, b)))
		}
	}
	out, err := exec.Command("nix-instantiate", "--eval", "--store", "dummy://", "--expr", `builtins.concatStringsSep "," [`+strings.Join(exprs, " ")+`]`).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.Trim(strings.TrimSpace(string(out)), `"`), ",")
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s: Nix says %s, we say %s", exprs[i], got[i], want[i])
		}
	}
}

func BenchmarkCompare5000(b *testing.B) {
	var before, after []Path
	for i := range 5000 {
		before = append(before, p(fmt.Sprintf("package%d-1.%d", i, i%7), int64(i)))
		after = append(after, q(fmt.Sprintf("package%d-1.%d", i, i%5), int64(i)))
	}
	for b.Loop() {
		Compare(before, after)
	}
}
