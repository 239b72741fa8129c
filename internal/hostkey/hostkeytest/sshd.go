// Package hostkeytest is a real sshd for tests. Start at Serve.
package hostkeytest

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
)

// Serve answers on a free loopback port with an sshd that has the given host keys (files). script is the path of
// scripts/fetch-sshd. stop ends it and waits for the end of what it started.
func Serve(script string, keys ...string) (address string, stop func() error, err error) {
	out, err := exec.Command(script).Output()
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", script, err)
	}
	args := []string{"-i", "-e", "-f", "/dev/null", "-o", "LoginGraceTime=60"}
	for _, k := range keys {
		args = append(args, "-h", k)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var failed error
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				err = answer(conn, strings.TrimSpace(string(out)), args, &running)
			}
			mu.Lock()
			failed = errors.Join(failed, err)
			mu.Unlock()
		}
	})
	return l.Addr().String(), func() error {
		err := l.Close()
		running.Wait()
		return errors.Join(failed, err)
	}, nil
}

// answer has an sshd of its own talk to whoever connected.
func answer(conn net.Conn, program string, args []string, running *sync.WaitGroup) error {
	defer conn.Close()
	socket, err := conn.(*net.TCPConn).File()
	if err != nil {
		return err
	}
	defer socket.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout = socket, socket
	if err := cmd.Start(); err != nil {
		return err
	}
	running.Go(func() { _ = cmd.Wait() }) // it fails because nobody logs in
	return nil
}
