// Package proctest starts the servers that tests need.
package proctest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Start starts a program to which the kernel sends the signal when the tests end, however they do. The channel is closed when the program has ended.
func Start(cmd *exec.Cmd, end syscall.Signal) (<-chan struct{}, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = end
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The kernel sends the signal when the thread ends that started the program, and threads do end: those on which a test entered a namespace.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // what it wrote says more
			close(ended)
		}
	}()
	return ended, <-started
}
