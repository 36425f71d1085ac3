//go:build cgo

package pkcs11

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loaded is SoftHSM in this process, loaded and not initialised: it refuses all
// it is asked, and the C code of the module's process asks it.
func loaded(t testing.TB) *local {
	t.Helper()
	path := installed(t, softHSMs)
	l := &local{}
	if _, err := l.load(path); err != nil {
		t.Fatal(err)
	}
	if s := (&server{lib: l}); !s.functions(path) || s.functions("/nowhere.so") {
		t.Fatal("the functions of the module are not where the binding should have them: signatures take the slow way")
	}
	return l
}

// served starts a server and gives the other end of its socket.
func served(t testing.TB, l *local) (fd int, s *server) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds[0], newServer(fds[1], l)
}

// Whatever comes to a module's process gets one answer, or ends it.
func FuzzServer(f *testing.F) {
	l := loaded(f)
	plain := anAsk()
	plain.c, plain.secret, plain.tmpl = 0, nil, [2][]attr{}
	good, _ := appendAsk(nil, 9, plain)
	other, _ := appendAsk(nil, 9, anAsk())
	for _, b := range [][]byte{good, other, good[:len(good)-1], good[:36], good[:40], append(bytes.Clone(good), 0), {wireVersion, byte(opSign), 0, 0}, {0}} {
		f.Add(b)
	}
	long := bytes.Clone(good)
	copy(long[36:], []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(long)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > maxFrame || len(b) > 1 && b[1] == byte(opInitialize) {
			return // nothing was sent, or not by us, or it would be initialised
		}
		fd, s := served(t, l)
		defer func() { // its threads end with the socket
			unix.Close(fd)
			s.threads.Wait()
			unix.Close(s.fd)
		}()
		if _, err := unix.Write(fd, b); err != nil {
			t.Fatal(err)
		}
		in := make([]byte, maxFrame)
		_, _, malformed := parseAsk(b)
		if malformed != nil {
			select {
			case code := <-s.over:
				if code != 1 {
					t.Errorf("it ended with %d", code)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%x is not refused: %v", b, malformed)
			}
			return
		}
		n, err := unix.Read(fd, in)
		if err != nil {
			t.Fatal(err)
		}
		id, r, err := parseReply(in[:n])
		if err != nil || id != le.Uint16(b[2:]) || r.code == 0 {
			t.Fatalf("%x is answered %d, %+v, %v", b, id, r, err)
		}
	})
}

// The answers of C and of Go are the same.
func TestServer_AnswersInTheFormOfTheProtocol(t *testing.T) {
	l := loaded(t)
	fd, s := served(t, l)
	defer func() {
		unix.Close(fd)
		s.threads.Wait()
		unix.Close(s.fd)
	}()
	q := anAsk()
	q.c, q.secret, q.tmpl = 0, nil, [2][]attr{}
	b, err := appendAsk(nil, 300, q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, b); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, maxFrame)
	n, err := unix.Read(fd, in)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := l.call(q)
	want, _ := appendReply(nil, 300, &r)
	if !bytes.Equal(in[:n], want) {
		t.Errorf("C answers %x, Go %x", in[:n], want)
	}
}
