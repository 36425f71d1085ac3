//go:build unix

package adapter

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps the program out of the terminal's group: Ctrl-C asks the
// station to finish its units, for which it needs the program.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func killGroup(cmd *exec.Cmd) { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
