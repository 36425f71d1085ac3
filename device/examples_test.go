package device

import (
	"crypto/x509"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"hallmark/bootstrap"
	"hallmark/ca/catest"
	"hallmark/crl"
)

// Issue 6, acceptance 6: devices with stock MQTT libraries and a page of Python or
// JavaScript change their certificates.
func TestExample_ADeviceWithAStockLibraryRotatesItself(t *testing.T) {
	modules, err := filepath.Abs("../cmd/hallmark/testdata/sdk/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		check     []string
		device    []string
		installed string
	}{
		{"Python", []string{"/usr/bin/python3", "-c", "import paho.mqtt.client, cryptography"}, []string{"/usr/bin/python3", "../examples/rotation-python/device.py"}, "apt-get install python3-paho-mqtt python3-cryptography"},
		{"Node", []string{"node", "-e", "require('aws-iot-device-sdk-v2')"}, []string{"node", "../examples/rotation-node/device.js"}, "scripts/setup.sh installs the device SDK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := func(argv ...string) *exec.Cmd {
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				return cmd
			}
			if err := run(c.check...).Run(); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(c.installed)
				}
				t.Skip(c.installed)
			}
			example(t, run, c.device, c.name == "Python" || os.Getenv("HALLMARK_PROOF") != "")
		})
	}
}

// example rotates; whole also falls back to the old certificate, and to the birth
// certificate.
func example(t *testing.T, run func(...string) *exec.Cmd, device []string, whole bool) {
	s := newService(t)
	u := s.unit(1)
	dir := t.TempDir()
	for from, to := range map[string]string{certFile: "a.pem", keyFile: "a.key"} {
		raw, err := os.ReadFile(filepath.Join(u.cfg.Dir, "slots", "A", from))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"idevid.pem": "birth.pem", "idevid.key": "birth.key"} {
		raw, err := os.ReadFile(filepath.Join(u.cfg.Dir, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), catest.PEM(s.Root), 0o600); err != nil {
		t.Fatal(err)
	}
	broker, cut := cuttable(t, s.addr)
	_, port, _ := strings.Cut(broker, ":")
	_, door, _ := strings.Cut(s.Addr, ":")
	var said strings.Builder
	begin := func() (end func()) {
		cmd := run(append(device, dir, "localhost:"+port, u.thing, "https://localhost:"+door)...)
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	end := begin()
	defer func() {
		end()
		if t.Failed() {
			t.Log(said.String())
		}
	}()
	with := func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.thing(u.thing).with
	}
	j := s.ask(u.thing, "j1", rotateNow)
	status, step := s.ended(u.thing, j)
	b := with()
	if status != succeeded || step != "connected" || b != j.Details["certificateId"] {
		t.Errorf("%s %v, connected with %s", status, j.Details, b)
	}
	// The connection is lost, as with every restart of the service: it connects again.
	cut()
	j = s.ask(u.thing, "after", `{"operation":"echo"}`)
	if status, _ := s.ended(u.thing, j); status != rejected || with() != b {
		t.Errorf("%s %v, connected with %s", status, j.Details, with())
	}
	if !whole {
		return
	}
	// The next one is not let in: it goes back to what it had, and says so.
	s.mu.Lock()
	s.thing(u.thing).door = func(certificate string) error {
		if certificate != b {
			return bootstrap.ErrRevoked.New("")
		}
		return nil
	}
	s.mu.Unlock()
	j = s.ask(u.thing, "j2", strings.NewReplacer("c1", "c2", `"attempts":3`, `"attempts":1`).Replace(rotateNow))
	if status, step := s.ended(u.thing, j); status != failed || step != "fallback" || j.Details["certificateId"] != b || with() != b {
		t.Errorf("%s %v, connected with %s", status, j.Details, with())
	}
	// Nothing that it has is let in any more: it comes back as what the factory made.
	end()
	s.mu.Lock()
	s.thing(u.thing).door = nil
	s.mu.Unlock()
	for _, rec := range issued(t, s.Door, u.sn) {
		c, err := x509.ParseCertificate(rec.DER)
		if err != nil {
			t.Fatal(err)
		}
		s.Revoke(t, c, crl.Superseded)
	}
	j = s.ask(u.thing, "j3", `{"operation":"echo"}`)
	end = begin()
	if status, _ := s.ended(u.thing, j); status != rejected || with() == b {
		t.Errorf("%s %v, connected with %s", status, j.Details, with())
	}
}

// cuttable is a way to addr whose connections can be cut.
func cuttable(t *testing.T, addr string) (at string, cut func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	cut = func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			c.Close()
		}
		open = nil
	}
	t.Cleanup(func() { l.Close(); cut() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", addr)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					io.Copy(way[0], way[1])
					way[0].Close()
				}()
			}
		}
	}()
	return l.Addr().String(), cut
}
