package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
)

// token is the device CA's key with a fault: sign may do what it likes.
type token struct {
	ca.Key
	sign func(digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (k token) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.sign(digest, opts)
}

// deviceKey is the fixture's key of the device CA.
func deviceKey(t *testing.T, f *catest.Fixture) ca.Key {
	t.Helper()
	k, err := f.Keys.Key(t.Context(), "test:"+catest.Device)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// with makes another CA on the fixture's database whose device key signs so.
func with(t *testing.T, f *catest.Fixture, cfg ca.Config, sign func(good ca.Key, digest []byte, opts crypto.SignerOpts) ([]byte, error)) *ca.CA {
	t.Helper()
	good := deviceKey(t, f)
	if sign != nil {
		f.Keys.Add("test:"+catest.Device, token{good, func(d []byte, o crypto.SignerOpts) ([]byte, error) { return sign(good, d, o) }})
		defer f.Keys.Add("test:"+catest.Device, good)
	}
	if cfg.Ledger == nil {
		cfg.Ledger = f.DB.Ledger()
	}
	cfg.Keys, cfg.Store = f.Keys, f.DB
	c, err := ca.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// request asks for a unit's birth certificate.
func request(t *testing.T, unit string, key crypto.Signer) ca.Request {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return ca.Request{
		Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: unit, Profile: string(profile.IDevID)},
		Subject:  profile.Subject{Organization: "Example", CommonName: unit, SerialNumber: unit}, SPKI: spki, Key: key.Public(),
		Requester: ca.Requester{Actor: "service:test"}, Origin: profile.OriginClaimed,
	}
}

func records(t *testing.T, f *catest.Fixture, unit string) []ca.Record {
	t.Helper()
	rs, err := f.DB.Records(t.Context(), ca.RecordQuery{Tenant: access.DefaultTenant, Holder: unit})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func tbsOf(t *testing.T, der []byte) []byte {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c.RawTBSCertificate
}

func TestIssue_AWrongSignatureLeavesNothing_A25(t *testing.T) {
	f := catest.New(t)
	other := catest.NewKey(t)
	for name, sign := range map[string]func(ca.Key, []byte, crypto.SignerOpts) ([]byte, error){
		"another key signs": func(_ ca.Key, d []byte, o crypto.SignerOpts) ([]byte, error) { return other.Sign(rand.Reader, d, o) },
		"a bit flips": func(k ca.Key, d []byte, o crypto.SignerOpts) ([]byte, error) {
			sig, err := k.Sign(rand.Reader, d, o)
			sig[len(sig)-1] ^= 1
			return sig, err
		},
		"other octets are signed": func(k ca.Key, d []byte, o crypto.SignerOpts) ([]byte, error) {
			return k.Sign(rand.Reader, append([]byte{d[0] ^ 1}, d[1:]...), o)
		},
		"the signature is empty": func(ca.Key, []byte, crypto.SignerOpts) ([]byte, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, "SN-"+strings.ReplaceAll(name, " ", "-"), catest.NewKey(t))
			size, err := f.DB.Log().Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := with(t, f, ca.Config{}, sign).Issue(t.Context(), r); !errors.Is(err, ca.ErrSignature) {
				t.Fatalf("got %v", err)
			}
			rs := records(t, f, r.Holder)
			if len(rs) != 1 || rs[0].DER != nil || len(rs[0].TBS) == 0 {
				t.Fatalf("stored: %+v", rs)
			}
			if now, err := f.DB.Log().Head(t.Context()); err != nil || now != size {
				t.Errorf("the log has %d leaves, had %d, %v", now, size, err)
			}
			// The good token comes back: the same octets are signed.
			out, err := f.CA.Issue(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(tbsOf(t, out.DER), rs[0].TBS) || out.Serial != rs[0].Serial {
				t.Error("another certificate came out")
			}
		})
	}
}

// repeats is a random source that gives the same octets a few times.
type repeats struct {
	mu    sync.Mutex
	left  int
	first []byte
}

func (r *repeats) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == nil {
		r.first = make([]byte, len(p))
		rand.Read(r.first)
		return copy(p, r.first), nil
	}
	if r.left > 0 {
		r.left--
		return copy(p, r.first), nil
	}
	return rand.Read(p)
}

func TestIssue_ARepeatedSerialNumberIsDrawnAnew_A5(t *testing.T) {
	f := catest.New(t)
	for _, c := range []struct {
		times int
		want  error
	}{{1, nil}, {2, nil}, {100, ca.ErrSerialTaken}} {
		signed := 0
		random := &repeats{left: c.times}
		broken := with(t, f, ca.Config{Random: random}, func(k ca.Key, d []byte, o crypto.SignerOpts) ([]byte, error) {
			signed++
			return k.Sign(rand.Reader, d, o)
		})
		unit := "SN-" + string(rune('A'+c.times%26))
		first, err := broken.Issue(t.Context(), request(t, unit+"1", catest.NewKey(t)))
		if err != nil {
			t.Fatal(err)
		}
		second, err := broken.Issue(t.Context(), request(t, unit+"2", catest.NewKey(t)))
		if !errors.Is(err, c.want) {
			t.Fatalf("%d repeats: got %v", c.times, err)
		}
		rs := records(t, f, unit+"2")
		if c.want != nil {
			if signed != 1 || len(rs) != 0 {
				t.Errorf("a source that only repeats: %d signatures, stored %+v", signed, rs)
			}
			continue
		}
		if signed != 2 || len(rs) != 1 || rs[0].Serial != second.Serial || second.Serial == first.Serial {
			t.Errorf("%d repeats: %d signatures, %d records", c.times, signed, len(rs))
		}
	}
}

// Two instances whose profiles differ: the request is accepted by one, which
// dies before it has signed, and retried at the other.
func TestIssue_ARetryAfterAProfileChangeGivesTheFirstOctets_A1(t *testing.T) {
	f := catest.New(t)
	key := catest.NewKey(t)
	old := with(t, f, ca.Config{}, func(ca.Key, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errors.New("token gone") })
	deployed := with(t, f, ca.Config{PolicyArc: "1.3.6.1.4.1.55555", Backdate: time.Hour}, nil)

	if _, err := old.Issue(t.Context(), request(t, "SN-1", key)); !errors.Is(err, ca.ErrSigner) {
		t.Fatalf("got %v", err)
	}
	reserved := records(t, f, "SN-1")[0]
	first, err := deployed.Issue(t.Context(), request(t, "SN-1", key))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(tbsOf(t, first.DER), reserved.TBS) {
		t.Error("the retry signed other octets than were reserved")
	}
	for _, c := range []*ca.CA{f.CA, deployed} {
		again, err := c.Issue(t.Context(), request(t, "SN-1", key))
		if err != nil || !again.Replayed || !bytes.Equal(again.DER, first.DER) {
			t.Errorf("asked again: %v, the same octets: %t", err, bytes.Equal(again.DER, first.DER))
		}
	}
	// The new profile is really another one.
	fresh, err := deployed.Issue(t.Context(), request(t, "SN-2", catest.NewKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := x509.ParseCertificate(fresh.DER); err != nil || len(c.PolicyIdentifiers) == 0 || c.PolicyIdentifiers[0].String()[:17] != "1.3.6.1.4.1.55555" {
		t.Errorf("policies %v, %v", c.PolicyIdentifiers, err)
	}
}

// dies is a ledger whose process ends before a signature is recorded.
type dies struct{ ca.Ledger }

var errDead = errors.New("the process is gone")

func (dies) Record(context.Context, ca.Reservation, []byte) (ca.Issued, error) {
	return ca.Issued{}, errDead
}

// What the key signs is on disk before, where another connection sees it (S8,
// the second of the ten ways), and has a status for ever.
func TestIssue_EveryOctetTheKeySawIsOnRecord_A2_S8(t *testing.T) {
	f := catest.New(t)
	signed := map[[32]byte]bool{}
	mortal := with(t, f, ca.Config{Ledger: dies{f.DB.Ledger()}}, func(k ca.Key, d []byte, o crypto.SignerOpts) ([]byte, error) {
		signed[[32]byte(d)] = true
		found := false
		for _, r := range records(t, f, "") {
			found = found || sha256.Sum256(r.TBS) == [32]byte(d)
		}
		if !found {
			t.Error("the key signs what no reservation holds")
		}
		return k.Sign(rand.Reader, d, o)
	})
	keys := map[string]crypto.Signer{}
	for _, unit := range []string{"SN-1", "SN-2", "SN-3", "SN-4", "SN-5"} {
		keys[unit] = catest.NewKey(t)
		for range 3 { // and three deaths give one serial number
			if _, err := mortal.Issue(t.Context(), request(t, unit, keys[unit])); !errors.Is(err, errDead) {
				t.Fatalf("got %v", err)
			}
		}
	}
	if len(signed) != len(keys) {
		t.Errorf("%d different octets were signed for %d units", len(signed), len(keys))
	}
	for unit, key := range keys {
		out, err := f.CA.Issue(t.Context(), request(t, unit, key))
		if err != nil {
			t.Fatal(err)
		}
		if !signed[sha256.Sum256(tbsOf(t, out.DER))] {
			t.Errorf("%s got another certificate than was signed before", unit)
		}
		st, err := f.DB.Status(t.Context(), catest.Device, out.Serial)
		if err != nil || !st.Issued || st.Revoked {
			t.Errorf("%s: status %+v, %v", unit, st, err)
		}
		delete(signed, sha256.Sum256(tbsOf(t, out.DER)))
	}
	if len(signed) != 0 {
		t.Errorf("%d signed octets have no certificate", len(signed))
	}
}
