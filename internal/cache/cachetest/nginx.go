package cachetest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool runs one of the scripts that fetch a program, called from a package's folder below internal/cache, and returns the program's path.
func tool(t testing.TB, script string) string {
	t.Helper()
	root := "../../.."
	if _, err := os.Stat(filepath.Join(root, "scripts", script)); err != nil {
		root = "../.."
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(root, "scripts", script)).Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

// Nginx runs an nginx on a port of loopback with that in its "server" block, and returns its URL. The block may use $DIR, a folder of its own.
func Nginx(t testing.TB, server string) (url string) {
	t.Helper()
	program, dir, port := tool(t, "fetch-nginx"), t.TempDir(), freePort(t)
	conf := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/error.log warn;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen 127.0.0.1:%[2]d;
    %[3]s
  }
}
`, dir, port, strings.ReplaceAll(server, "$DIR", dir))
	must(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600))
	cmd := exec.Command(program, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "error.log"))
	start(t, cmd, port)
	return fmt.Sprintf("http://127.0.0.1:%d", port)
}

// start runs a server until the test ends, and waits until it listens on the port of loopback.
func start(t testing.TB, cmd *exec.Cmd, port int) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ends: %v\n%s", cmd.Path, err, said.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not listen: %v", cmd.Path, err)
		}
	}
}

// freePort returns a port of loopback that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
