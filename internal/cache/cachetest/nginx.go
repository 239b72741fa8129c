package cachetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Nginx runs an nginx on a port of loopback with that in its "server" block, and returns its URL. The block may use $DIR, a folder of its own.
func (l *Lab) Nginx(t testing.TB, server string) (url string) {
	t.Helper()
	program, err := fetched("fetch-nginx")
	must(t, err)
	dir := t.TempDir()
	l.mu.Lock()
	defer l.mu.Unlock()
	must(t, onFreePort(func(port string) error {
		url = "http://127.0.0.1:" + port
		return l.startNginx(program, dir, port, server)
	}))
	t.Cleanup(l.servers[len(l.servers)-1].stop) // its folder goes with the test
	return url
}

func (l *Lab) startNginx(program, dir, port, server string) error {
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
    listen 127.0.0.1:%[2]s;
    %[3]s
  }
}
`, dir, port, strings.ReplaceAll(server, "$DIR", dir))
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(program, "-p", dir, "-c", file, "-e", filepath.Join(dir, "error.log"))
	return l.start(cmd, syscall.SIGKILL, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
