package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ownHosts starts three hosts, one with a systemd, and in each what could be left
// behind; it prints their process ids and waits.
func ownHosts(dir string) int {
	ctx := context.Background()
	lan, err := NewLAN(ctx, Options{Dir: dir})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	base, err := HostBase(ctx, "../../scripts/host-base")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for i, base := range []string{"", "", base} {
		h, err := lan.Start(ctx, HostOptions{
			Name: fmt.Sprintf("h%d", i), Addr: netip.AddrFrom4([4]byte{192, 0, 2, 10 + byte(i)}), Base: base,
			Services: []Service{{Name: "s", Args: []string{"sleep", "1000"}, Restart: true}},
		})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if _, err := h.Run(ctx, "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & mount -t tmpfs none /root"); err != nil {
			fmt.Println(err)
			return 1
		}
		go func() { _, _ = h.Run(ctx, "sleep", "1000") }()
		fmt.Println(h.proc.pid)
		fmt.Println(h.leader())
	}
	fmt.Println("ready")
	time.Sleep(time.Hour)
	return 0
}

func TestOwnerKilledLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerMode+"="+dir)
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	namespaces := map[string]bool{}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("the owner says: %s", lines.Text())
		}
		for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc"} {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			if err != nil {
				t.Fatal(err)
			}
			namespaces[ns] = true
		}
	}
	if users := usersOf(t, namespaces); len(users) < 12 { // 3 × (init, service, daemon, command)
		t.Errorf("only %d processes in the hosts", len(users))
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	eventually(t, "no process in the namespaces and no descriptor of one", func() bool { return len(usersOf(t, namespaces)) == 0 })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("a mount is left: %v", err)
	}
}

// usersOf lists what keeps one of the namespaces: processes in it, and descriptors of it.
func usersOf(t *testing.T, namespaces map[string]bool) (users []string) {
	t.Helper()
	for _, pattern := range []string{"/proc/[0-9]*/ns/*", "/proc/[0-9]*/fd/*"} {
		links, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, link := range links {
			target, err := os.Readlink(link)
			pid := strings.Split(link, "/")[2]
			if err == nil && namespaces[target] && !found[pid] {
				found[pid] = true
				users = append(users, link)
			}
		}
	}
	return users
}
