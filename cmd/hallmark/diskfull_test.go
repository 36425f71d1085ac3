package main

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ocsp"

	"hallmark/hsm/hsmtest"
)

// TestDiskFull_IsA503AndNothingHalfDone_A76_A79 runs the service with all its
// state on a small disk and fills it: what writes is refused with a code, what
// reads goes on, and all of it comes back with the space, without a restart.
func TestDiskFull_IsA503AndNothingHalfDone_A76_A79(t *testing.T) {
	if os.Getuid() != 0 {
		hsmtest.Missing(t, "mounting a small disk needs root")
	}
	s := newSite(t, "software", "", anyName(2000))
	first := s.issue(newUnit(t, "SN-0")).Leaf
	s.halt()
	state := s.path("state")
	if err := os.Rename(state, state+".before"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=16m"); err != nil {
		hsmtest.Missing(t, fmt.Sprintf("a small disk cannot be mounted: %v", err))
	}
	t.Cleanup(func() {
		s.halt()
		if err := syscall.Unmount(state, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	if out, err := exec.Command("cp", "-a", state+".before/.", state).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.again()
	s.good(first) // the responder has its certificate from here on

	cert := s.stationPair()
	client, url := s.client(&cert, 8), "https://"+s.door("factory")+"/factory/v1/units/issue"
	units := 0
	issue := func() (unit, reply) {
		t.Helper()
		units++
		u := newUnit(t, fmt.Sprintf("SN-%d", units))
		r, err := call(t.Context(), client, "POST", url, u.request())
		if err != nil {
			t.Fatal(err)
		}
		return u, r
	}
	for round := range 3 {
		filler := filepath.Join(state, "filler")
		fill(t, filler)
		// The write-ahead log has room that was used before; then it ends.
		var refused []unit
		for n := 0; len(refused) == 0; n++ {
			u, r := issue()
			switch {
			case r.status == http.StatusServiceUnavailable && r.code == "store-write-failed":
				refused = append(refused, u)
			case r.status != http.StatusOK || n > 500:
				t.Fatalf("round %d, unit %d on a full disk: %s", round, n, r)
			}
			fill(t, filler)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		for i := range 8 { // many at once
			u := newUnit(t, fmt.Sprintf("P-%d-%d", round, i))
			wg.Go(func() {
				r, err := call(t.Context(), client, "POST", url, u.request())
				if err != nil || r.code != "store-write-failed" {
					t.Errorf("%s on a full disk: %v %s", u.name, err, r)
				}
				mu.Lock()
				defer mu.Unlock()
				refused = append(refused, u)
			})
		}
		wg.Wait()
		o := lamps(1)
		o.Id = fmt.Sprintf("ORDER-X%d", round)
		a, err := s.api("ann").CreateOrderWithResponse(t.Context(), o)
		if err != nil || a.StatusCode() != http.StatusServiceUnavailable || !bytes.Contains(a.Body, []byte("store-write-failed")) {
			t.Errorf("an order on a full disk: %v %d %s", err, a.StatusCode(), a.Body)
		}

		// Reading goes on.
		used := s.order(siteOrder).Used
		s.publicList()
		s.good(first)

		// And so does everything when there is space, without a restart.
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		for _, u := range refused {
			s.issue(u)
		}
		if now := s.order(siteOrder).Used; now != used+int64(len(refused)) {
			t.Errorf("round %d: %d units used, then %d for %d that were refused", round, used, now, len(refused))
		}
		a, err = s.api("ann").CreateOrderWithResponse(t.Context(), o)
		if err != nil || a.JSON201 == nil {
			t.Errorf("the order again: %v %s", err, a.Body)
		}
		s.clean()
	}
}

// fill takes all the space that is left.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 4
		}
	}
}

// good asks the OCSP responder about a device's certificate.
func (s *site) good(leaf *x509.Certificate) {
	s.t.Helper()
	issuer := readCert(s.t, s.path("pki", "issuing.pem"))
	q, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := http.Post("http://"+s.door("public")+"/ocsp/device-1", "application/ocsp-request", bytes.NewReader(q))
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if a, err := ocsp.ParseResponseForCert(b, leaf, issuer); err != nil || a.Status != ocsp.Good {
		s.t.Errorf("OCSP says %v %+v", err, a)
	}
}
