package hsmtest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"hallmark/hsm/pkcs11"
)

var (
	p11kitServers = []string{"/usr/libexec/p11-kit/p11-kit-server", "/usr/lib/p11-kit/p11-kit-server"}
	p11kitClients = []string{"/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib64/pkcs11/p11-kit-client.so"}
)

// Remote is a SoftHSM token behind a p11-kit server: the nearest thing to a
// network HSM that can be killed. Its Module is the client's.
type Remote struct {
	Token
	server, socket, provider string
	cmd                      *exec.Cmd
}

// Server starts a token behind a server; the test's end stops it.
func Server(t testing.TB) *Remote {
	t.Helper()
	return ServerLabel(t, "test")
}

// ServerLabel is [Server] for a token with the given label.
func ServerLabel(t testing.TB, label string) *Remote {
	t.Helper()
	server, client := first(p11kitServers), first(p11kitClients)
	if server == "" || client == "" {
		Missing(t, "p11-kit: not installed; apt-get install -y --no-install-recommends p11-kit p11-kit-modules")
	}
	r := &Remote{Token: SoftHSMLabel(t, label), server: server}
	r.provider = r.Module
	// Socket paths are short by law; a test's directory may not be.
	dir, err := os.MkdirTemp("", "p11")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r.socket = filepath.Join(dir, "s")
	r.Module = filepath.Join(r.Dir, "p11-kit-client.so")
	copyFile(t, client, r.Module)
	if err := pkcs11.SetModuleEnv(r.Module, "P11_KIT_SERVER_ADDRESS", "unix:path="+r.socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.cmd != nil {
			r.Kill()
		}
	})
	r.Start()
	return r
}

// Start starts the server and waits until it listens.
func (r *Remote) Start() {
	r.t.Helper()
	os.Remove(r.socket)
	r.cmd = exec.Command(r.server, "-f", "-n", r.socket, "--provider", r.provider, "pkcs11:")
	r.cmd.Env = append(os.Environ(), r.Env()...)
	// The server has a child per connection; the group is what is killed.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", r.socket); err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatal("the p11-kit server does not listen")
		}
	}
}

// Kill ends the server and every connection at once.
func (r *Remote) Kill() {
	r.t.Helper()
	syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	r.cmd.Wait()
	r.cmd = nil
}

// LeaveFrozen freezes the server for good and makes room for another one on the
// same address. The frozen one ends with end, or with the test.
func (r *Remote) LeaveFrozen() (end func()) {
	r.t.Helper()
	r.Freeze()
	cmd := r.cmd
	r.cmd = nil
	end = sync.OnceFunc(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	r.t.Cleanup(end)
	return end
}

// Freeze stops the server without closing its connections.
func (r *Remote) Freeze() { syscall.Kill(-r.cmd.Process.Pid, syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (r *Remote) Thaw() { syscall.Kill(-r.cmd.Process.Pid, syscall.SIGCONT) }

func first(paths []string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}
