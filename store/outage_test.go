package store_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
	"hallmark/store/storetest"
)

// wire stands between the service and PostgreSQL and breaks when told to.
type wire struct {
	t      testing.TB
	server string // socket of PostgreSQL
	url    string // of the database, through the wire
	closed chan struct{}

	gate sync.RWMutex // held while nothing passes

	mu    sync.Mutex
	plan  []cut // for the next COMMITs, in their order
	conns map[net.Conn]bool
	cuts  int
}

// cut is what happens to one COMMIT.
type cut int

const (
	passes cut = iota
	cutBefore
	cutAfter // PostgreSQL has committed, its answer is lost
)

func newWire(t testing.TB) *wire {
	t.Helper()
	u, err := url.Parse(storetest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "wire") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	const socket = ".s.PGSQL.5432"
	w := &wire{t: t, server: filepath.Join(u.Query().Get("host"), socket), closed: make(chan struct{}), conns: map[net.Conn]bool{}}
	u.RawQuery = url.Values{"host": {dir}}.Encode()
	w.url = u.String()
	l, err := net.Listen("unix", filepath.Join(dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		w.drop()
		os.RemoveAll(dir)
	})
	return w
}

// arm says what happens to the next COMMITs.
func (w *wire) arm(plan ...cut) { w.mu.Lock(); w.plan = plan; w.mu.Unlock() }

func (w *wire) next() cut {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.plan) == 0 {
		return passes
	}
	c := w.plan[0]
	w.plan = w.plan[1:]
	if c != passes {
		w.cuts++
	}
	return c
}

// drop ends every connection.
func (w *wire) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

// stall lets nothing pass until the answer is called.
func (w *wire) stall() func() { w.gate.Lock(); return w.gate.Unlock }

func (w *wire) serve(client net.Conn) {
	server, err := net.Dial("unix", w.server)
	if err != nil {
		client.Close()
		return
	}
	w.mu.Lock()
	w.conns[client], w.conns[server] = true, true
	w.mu.Unlock()
	defer func() {
		client.Close()
		server.Close()
		w.mu.Lock()
		delete(w.conns, client)
		delete(w.conns, server)
		w.mu.Unlock()
	}()
	last := make(chan struct{}) // closed when the answer to a COMMIT must be lost
	go func() {
		defer client.Close()
		defer server.Close()
		for {
			m, err := message(server, true)
			if err != nil {
				return
			}
			select {
			case <-last:
				if m[0] == 'C' && bytes.HasPrefix(m[5:], []byte("COMMIT")) {
					return
				}
				continue
			default:
			}
			w.gate.RLock()
			_, err = client.Write(m)
			w.gate.RUnlock()
			if err != nil {
				return
			}
		}
	}()
	commits := map[string]bool{} // names of statements
	for first := true; ; first = false {
		m, err := message(client, !first)
		if err != nil {
			return
		}
		if !first {
			part := bytes.Split(m[5:], []byte{0})
			switch {
			case m[0] == 'P' && string(part[1]) == "COMMIT":
				commits[string(part[0])] = true
			case m[0] == 'B' && commits[string(part[1])], m[0] == 'Q' && string(part[0]) == "COMMIT":
				switch w.next() {
				case cutBefore:
					return
				case cutAfter:
					close(last)
				}
			}
		}
		w.gate.RLock()
		_, err = server.Write(m)
		w.gate.RUnlock()
		if err != nil {
			return
		}
	}
}

// message reads one message of PostgreSQL's protocol; only the first of a
// connection has no type.
func message(r io.Reader, typed bool) ([]byte, error) {
	head := make([]byte, 4, 512)
	if typed {
		head = head[:5]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[len(head)-4:])) - 4
	m := append(head, make([]byte, n)...)
	_, err := io.ReadFull(r, m[len(head):])
	return m, err
}

// counted is a CA key that remembers what it signed.
type counted struct {
	ca.Key
	mu     sync.Mutex
	signed map[[32]byte]bool
}

func (k *counted) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.mu.Lock()
	k.signed[[32]byte(digest)] = true
	k.mu.Unlock()
	return k.Key.Sign(rand.Reader, digest, opts)
}

// factory issues through the wire.
type factory struct {
	*catest.Fixture
	wire *wire
	ca   *ca.CA
	key  *counted
	ders [][]byte
	mu   sync.Mutex
}

func newFactory(t *testing.T, patience time.Duration) *factory {
	t.Helper()
	w := newWire(t)
	f := &factory{Fixture: catest.Open(t, catest.Config{URL: w.url, Patience: patience}), wire: w, key: &counted{signed: map[[32]byte]bool{}}}
	var err error
	if f.key.Key, err = f.Keys.Key(t.Context(), "test:"+catest.Device); err != nil {
		t.Fatal(err)
	}
	f.Keys.Add("test:"+catest.Device, f.key)
	if f.ca, err = ca.New(t.Context(), ca.Config{Ledger: f.DB.Ledger(), Keys: f.Keys, Store: f.DB}); err != nil {
		t.Fatal(err)
	}
	return f
}

// issue sends one request again until it is answered, and counts the failures.
func (f *factory) issue(t *testing.T, unit string) (failures int) {
	key := catest.NewKey(t)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Error(err)
		return 0
	}
	for deadline := time.Now().Add(time.Minute); ; failures++ {
		out, err := f.ca.Issue(context.Background(), ca.Request{
			Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: unit, Profile: string(profile.IDevID)},
			Subject:  profile.Subject{Organization: "Example", CommonName: unit, SerialNumber: unit}, SPKI: spki, Key: key.Public(),
			Requester: ca.Requester{Actor: "service:test"}, Origin: profile.OriginClaimed,
		})
		if err == nil {
			f.mu.Lock()
			f.ders = append(f.ders, out.DER)
			f.mu.Unlock()
			return failures
		}
		if fault.KindOf(err) != fault.Unavailable || time.Now().After(deadline) {
			t.Errorf("%s: %v", unit, err)
			return failures
		}
	}
}

// check proves that the outage left one certificate a unit and nothing else.
func (f *factory) check(t *testing.T) {
	t.Helper()
	left := len(f.key.signed)
	for _, der := range f.ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if !f.key.signed[sha256.Sum256(c.RawTBSCertificate)] {
			t.Errorf("%s was not signed here", c.Subject)
		}
		left--
		rs, err := f.DB.Records(t.Context(), ca.RecordQuery{Tenant: access.DefaultTenant, Holder: c.Subject.CommonName})
		if err != nil || len(rs) != 1 || !bytes.Equal(rs[0].DER, der) {
			t.Errorf("%s has %d records, %v", c.Subject, len(rs), err)
		}
	}
	if left != 0 {
		t.Errorf("the key signed %d octets that are in no certificate", left)
	}
	found, err := ca.Fsck(t.Context(), f.DB, time.Now(), nil)
	if err != nil || len(found) > 0 {
		t.Errorf("fsck: %v %v", found, err)
	}
}

func TestPostgres_AConnectionLostInACommitIsResolvedByAskingAgain_A80(t *testing.T) {
	f := newFactory(t, 0)
	for name, plan := range map[string][]cut{
		"R1": {cutBefore}, "R2": {cutAfter}, // the reservation's commit
		"C1": {passes, cutBefore}, "C2": {passes, cutAfter}, // the certificate's
		"B1": {cutAfter, cutAfter}, "B2": {cutBefore, passes, cutAfter},
	} {
		f.wire.arm(plan...)
		before := f.wire.cuts
		if failures := f.issue(t, name); failures == 0 || f.wire.cuts == before {
			t.Errorf("%s: nothing was cut", name)
		}
	}
	// Many at once, with every third commit lost one way or the other.
	var plan []cut
	for range 6 {
		plan = append(plan, passes, cutBefore, passes, passes, cutAfter, passes)
	}
	f.wire.arm(plan...)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() { f.issue(t, fmt.Sprintf("P%d", i)) })
	}
	wg.Wait()
	f.wire.arm()
	f.check(t)
}

func TestPostgres_AStalledOneComesBackByItself_A80(t *testing.T) {
	stall, patience := 6*time.Second, 30*time.Second
	if os.Getenv("HALLMARK_PROOF") == "1" {
		stall = 10 * time.Second
	}
	for _, c := range []struct {
		name     string
		patience time.Duration
	}{{"shorter than the patience", patience}, {"longer", stall / 3}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFactory(t, c.patience)
			f.issue(t, "A1")
			release := f.wire.stall()
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() { f.issue(t, fmt.Sprintf("B%d", i)) })
			}
			time.AfterFunc(stall, release)
			wg.Wait()
			f.issue(t, "C1")
			f.check(t)
		})
	}
}
