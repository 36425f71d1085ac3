//go:build linux

package vpiv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	driver = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"
	port   = 0x8c7b // the driver's own, inside a network of our own

	hint = "apt-get install -y --no-install-recommends pcscd vsmartcard-vpcd iproute2 util-linux"
)

// ErrMissing is that a part of the virtual reader is not installed, or that we
// are not root. Its text says what to do.
var ErrMissing = errors.New("vpiv: needs root and " + hint)

// Reader is a pcscd with one virtual reader, in namespaces of its own: the
// driver would listen on every address otherwise.
type Reader struct {
	Socket string // for PCSCLITE_CSOCK_NAME

	dir   string
	cmd   *exec.Cmd
	alive io.Closer
}

// The daemon ends when our end of its standard input does: by Stop, or because
// the test died.
const script = `
ip link set lo up && mkdir -p /run/pcscd && mount --bind "$VPIV/run" /run/pcscd || exit 1
pcscd --foreground --info --config "$VPIV/readers" </dev/null &
daemon=$!
read -r _ || true
kill -9 $daemon
wait $daemon
`

// StartReader starts the daemon. The PC/SC library remembers its socket for the
// life of a process, so a test binary has one reader.
func StartReader() (*Reader, error) {
	for _, f := range []string{driver, "/usr/sbin/pcscd"} {
		if _, err := os.Stat(f); err != nil {
			return nil, ErrMissing
		}
	}
	if os.Geteuid() != 0 {
		return nil, ErrMissing
	}
	dir, err := os.MkdirTemp("", "vpiv")
	if err != nil {
		return nil, err
	}
	r := &Reader{dir: dir, Socket: filepath.Join(dir, "run", "pcscd.comm")}
	for _, d := range []string{"run", "readers"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf("FRIENDLYNAME \"Yubico YubiKey CCID\"\nDEVICENAME /dev/null:%#x\nLIBPATH %s\nCHANNELID %#x\n", port, driver, port)
	if err := os.WriteFile(filepath.Join(dir, "readers", "vpcd"), []byte(conf), 0o644); err != nil {
		return nil, err
	}
	if err := r.start(); err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

func (r *Reader) start() error {
	log, err := os.Create(filepath.Join(r.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	r.cmd = exec.Command("/bin/sh", "-c", script)
	r.cmd.Env = append(os.Environ(), "VPIV="+r.dir)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	if r.alive, err = r.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(filepath.Join(r.dir, "log"))
		if strings.Contains(string(b), "daemon ready") {
			return nil
		}
	}
	b, _ := os.ReadFile(filepath.Join(r.dir, "log"))
	return fmt.Errorf("vpiv: pcscd does not start: %s", b)
}

func (r *Reader) end() {
	if r.alive != nil {
		r.alive.Close()
		r.cmd.Wait()
	}
}

// Restart kills the daemon and starts it again.
func (r *Reader) Restart() error {
	r.end()
	os.Remove(r.Socket)
	os.Remove(filepath.Join(r.dir, "run", "pcscd.pid"))
	return r.start()
}

// Stop ends the daemon and removes its files.
func (r *Reader) Stop() {
	r.end()
	os.RemoveAll(r.dir)
}

// Insert puts a card into the reader and returns when the daemon has powered
// it. The function it gives pulls the card.
func (r *Reader) Insert(c *Card) (pull func(), err error) {
	conn, err := r.dial()
	if err != nil {
		return nil, err
	}
	powered := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(c, conn, powered)
		conn.Close()
		c.reset()
	}()
	select {
	case <-powered:
	case <-done:
		return nil, errors.New("vpiv: the reader refused the card")
	case <-time.After(10 * time.Second):
		conn.Close()
		return nil, errors.New("vpiv: the daemon does not see the card")
	}
	return func() { conn.Close(); <-done }, nil
}

// dial connects inside the daemon's network: a socket stays in the network it
// was made in, so one thread goes there and dies after.
func (r *Reader) dial() (*net.TCPConn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not given back
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", r.cmd.Process.Pid))
		if err != nil {
			ch <- result{nil, err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			ch <- result{nil, err}
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var d net.Dialer
		for {
			conn, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil || ctx.Err() != nil {
				ch <- result{conn, err}
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	res := <-ch
	if res.err != nil {
		return nil, res.err
	}
	return res.conn.(*net.TCPConn), nil
}

// atr is T=1 with the historical bytes "vpiv"; the last byte is its checksum.
var atr = func() []byte {
	b := []byte{0x3b, 0x84, 0x80, 0x01, 'v', 'p', 'i', 'v'}
	var sum byte
	for _, c := range b[1:] {
		sum ^= c
	}
	return append(b, sum)
}()

// serve speaks the driver's protocol: messages behind a length of two bytes, of
// which those of one byte are about power and the rest are commands.
func serve(c *Card, conn *net.TCPConn, powered chan<- struct{}) {
	var once sync.Once
	for {
		msg, err := receive(conn)
		if err != nil {
			return
		}
		var out []byte
		switch {
		case len(msg) == 1 && msg[0] == 4:
			out = atr
			once.Do(func() { close(powered) })
		case len(msg) == 1: // off, on, reset
			c.reset()
			continue
		case len(msg) == 0:
			continue
		default:
			out = c.Transmit(msg)
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}

func receive(conn *net.TCPConn) ([]byte, error) {
	var head [2]byte
	// The driver writes length and body apart; unless the first is acknowledged
	// at once, the second waits for 40 ms.
	quick(conn)
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	quick(conn)
	msg := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(conn, msg)
	return msg, err
}

func quick(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}
