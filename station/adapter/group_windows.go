package adapter

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps the program out of the console's group: Ctrl-C asks the
// station to finish its units, for which it needs the program.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func killGroup(cmd *exec.Cmd) { cmd.Process.Kill() }
