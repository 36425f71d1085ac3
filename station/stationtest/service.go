package stationtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/ca/csr"
	"hallmark/station/uplink"
)

// Authority is a CA in memory.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// Issued is a unit's certificate as the service remembers it.
type Issued struct {
	Unit, Serial string
	DER          []byte
	SPKI         [32]byte
	Nonce        []byte
	Committed    int // how often the commit arrived
	Operator     string
	Order        string
	Revoked      bool
}

// Service is a service in memory.
type Service struct {
	Root, Infra, Device Authority
	Factory, Enrolment  *httptest.Server

	// Intercept sees each operation (order, issue, commit, renew, enrol) before
	// it is done, with its number from 1. It returns true when it answered.
	Intercept func(w http.ResponseWriter, op string, n int) bool
	// After sees each operation when it is done and before the answer leaves;
	// true drops the connection instead.
	After func(op string, n int) bool

	mu       sync.Mutex
	calls    map[string]int
	State    string          // of the order
	closed   map[string]bool // other orders, which were closed
	Order    string
	Quantity int64
	units    map[string]*Issued
	history  []*Issued // every certificate that was ever made for a unit
	next     int
	code     uplink.Code
	codeKey  [32]byte // who redeemed the code
	redeemed bool
	issuer   *Authority // of units; another one on purpose
	mangle   func(*x509.Certificate)
	omitRoot bool

	handshakes int
}

// New starts a service with the order "O-1", open, for 100 units.
func New(t testing.TB) *Service {
	t.Helper()
	s := &Service{State: "open", Order: "O-1", Quantity: 100, calls: map[string]int{}, units: map[string]*Issued{}, closed: map[string]bool{}}
	s.Root = NewAuthority(t, "Test Root", nil)
	s.Infra = NewAuthority(t, "Test Infrastructure CA", &s.Root)
	s.Device = NewAuthority(t, "Test Device CA", &s.Root)
	s.issuer = &s.Device

	factory := http.NewServeMux()
	factory.HandleFunc("GET /factory/v1/orders/{order}", s.order)
	factory.HandleFunc("POST /factory/v1/units/issue", s.issue)
	factory.HandleFunc("POST /factory/v1/units/commit", s.commit)
	factory.HandleFunc("POST /factory/v1/station/renew", s.renew)
	enrol := http.NewServeMux()
	enrol.HandleFunc("POST /enrol/v1/station", s.enrol)

	roots := x509.NewCertPool()
	roots.AddCert(s.Root.Cert)
	s.Factory = s.serve(t, factory, &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
	s.Enrolment = s.serve(t, enrol, &tls.Config{})
	return s
}

func (s *Service) serve(t testing.TB, h http.Handler, cfg *tls.Config) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := Sign(t, s.Infra, key.Public(), func(c *x509.Certificate) {
		c.Subject.CommonName = "localhost"
		c.DNSNames = []string{"localhost"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	cert := tls.Certificate{Certificate: [][]byte{der, s.Infra.Cert.Raw, s.Root.Cert.Raw}, PrivateKey: key}
	short := cert
	short.Certificate = cert.Certificate[:2]
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.handshakes++
		if s.omitRoot {
			return &short, nil
		}
		return &cert, nil
	}
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = cfg
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// URL is a server's address by the name that its certificate has.
func URL(srv *httptest.Server) string { return strings.Replace(srv.URL, "127.0.0.1", "localhost", 1) }

// NewAuthority makes a CA, self-signed if issuer is nil.
func NewAuthority(t testing.TB, name string, issuer *Authority) Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := Authority{Key: key}
	if issuer == nil {
		issuer = &a
	}
	der := Sign(t, *issuer, key.Public(), func(c *x509.Certificate) {
		c.Subject.CommonName = name
		c.IsCA, c.BasicConstraintsValid = true, true
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	})
	if a.Cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// Sign makes a certificate; an issuer without one signs itself.
func Sign(t testing.TB, issuer Authority, pub crypto.PublicKey, change func(*x509.Certificate)) []byte {
	t.Helper()
	der, err := sign(issuer, pub, change)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func sign(issuer Authority, pub crypto.PublicKey, change func(*x509.Certificate)) ([]byte, error) {
	serial := make([]byte, 20)
	rand.Read(serial)
	serial[0] = serial[0]&0x3f | 0x40
	c := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	change(c)
	parent := issuer.Cert
	if parent == nil {
		parent = c
	}
	return x509.CreateCertificate(rand.Reader, c, parent, pub, issuer.Key)
}

// Code is an enrolment string for one station.
func (s *Service) Code() string {
	text, code := uplink.NewCode(nil, sha256.Sum256(s.Root.Cert.RawSubjectPublicKeyInfo))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.redeemed = code, false
	return text
}

// IssueFrom makes unit certificates come from another CA.
func (s *Service) IssueFrom(a Authority) { s.mu.Lock(); s.issuer = &a; s.mu.Unlock() }

// Mangle changes unit certificates before they are signed.
func (s *Service) Mangle(f func(*x509.Certificate)) { s.mu.Lock(); s.mangle = f; s.mu.Unlock() }

// Close makes what belongs to an order be refused.
func (s *Service) Close(order string) { s.mu.Lock(); s.closed[order] = true; s.mu.Unlock() }

// Revoke makes a unit's certificate be refused from now on.
func (s *Service) Revoke(unit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.units[strings.ToLower(unit)].Revoked = true
}

// OmitRoot leaves the root out of the servers' TLS chains.
func (s *Service) OmitRoot() { s.mu.Lock(); s.omitRoot = true; s.mu.Unlock() }

// Units are the units with their current certificate.
func (s *Service) Units() map[string]Issued {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]Issued{}
	for k, v := range s.units {
		out[k] = *v
	}
	return out
}

// Made is how many unit certificates were ever made.
func (s *Service) Made() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.history) }

// Handshakes is how many TLS connections were begun at both doors.
func (s *Service) Handshakes() int { s.mu.Lock(); defer s.mu.Unlock(); return s.handshakes }

// Calls is how often an operation arrived.
func (s *Service) Calls(op string) int { s.mu.Lock(); defer s.mu.Unlock(); return s.calls[op] }

// Problem answers as the service does.
func Problem(w http.ResponseWriter, status int, code, next string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"type": "/problems/" + code, "title": "Refused: " + code + ".", "status": status, "code": code, "next": next, "request_id": "req-" + code})
}

// do runs one operation with everything around it; f runs under the lock.
func (s *Service) do(w http.ResponseWriter, op string, f func() (any, int, string)) {
	s.mu.Lock()
	s.calls[op]++
	n := s.calls[op]
	s.mu.Unlock()
	if s.Intercept != nil && s.Intercept(w, op, n) {
		return
	}
	s.mu.Lock()
	v, status, code := f()
	s.mu.Unlock()
	if s.After != nil && s.After(op, n) {
		panic(http.ErrAbortHandler)
	}
	if code != "" {
		Problem(w, status, code, "Do the next thing.")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func read[T any](r *http.Request) (v T) {
	json.NewDecoder(r.Body).Decode(&v)
	return v
}

func (s *Service) order(w http.ResponseWriter, r *http.Request) {
	s.do(w, "order", func() (any, int, string) {
		if r.PathValue("order") != s.Order {
			return nil, 404, "order-unknown"
		}
		return factoryapi.FactoryOrder{Id: s.Order, Product: "p", State: s.State, Quantity: s.Quantity, Used: int64(len(s.units)), Serials: "any", KeyOrigin: "claimed"}, 0, ""
	})
}

func (s *Service) issue(w http.ResponseWriter, r *http.Request) {
	q := read[factoryapi.IssueRequest](r)
	s.do(w, "issue", func() (any, int, string) {
		req, err := csr.Parse(q.Csr)
		if err != nil {
			return nil, 400, "csr-malformed"
		}
		unit := ""
		if q.Unit != nil {
			unit = *q.Unit
		}
		if unit == "" { // the same key gets the same unit
			for _, u := range s.units {
				if u.SPKI == req.SPKIHash {
					unit = u.Unit
				}
			}
		}
		if unit == "" {
			s.next++
			unit = fmt.Sprintf("AUTO-%04d", s.next)
		}
		if s.closed[q.Order] {
			return nil, 409, "account-closed"
		}
		have := s.units[strings.ToLower(unit)]
		if have != nil && have.SPKI == req.SPKIHash && have.Revoked {
			return nil, 409, "identity-revoked"
		}
		if have != nil && have.SPKI == req.SPKIHash {
			return s.answer(have, true), 0, ""
		}
		if have != nil && have.Committed > 0 {
			return nil, 409, "identity-rework-required"
		}
		if have == nil && int64(len(s.units)) >= s.Quantity {
			return nil, 429, "quota-exhausted"
		}
		der, err := sign(*s.issuer, req.PublicKey, func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: unit, SerialNumber: unit}
			c.NotBefore = time.Now().Add(-10 * time.Minute) // as far back as the service does
			if s.mangle != nil {
				s.mangle(c)
			}
		})
		if err != nil {
			return nil, 500, "internal"
		}
		c, _ := x509.ParseCertificate(der)
		u := &Issued{Unit: unit, Serial: c.SerialNumber.Text(16), DER: der, SPKI: req.SPKIHash, Nonce: []byte(rand.Text()), Order: q.Order}
		if q.Operator != nil {
			u.Operator = *q.Operator
		}
		s.units[strings.ToLower(unit)] = u
		s.history = append(s.history, u)
		return s.answer(u, false), 0, ""
	})
}

func (s *Service) answer(u *Issued, replayed bool) factoryapi.IssueAnswer {
	return factoryapi.IssueAnswer{Order: u.Order, Unit: u.Unit, Serial: u.Serial, Certificate: u.DER, Chain: [][]byte{s.issuer.Cert.Raw}, Nonce: u.Nonce, Replayed: replayed}
}

func (s *Service) commit(w http.ResponseWriter, r *http.Request) {
	q := read[factoryapi.CommitRequest](r)
	s.do(w, "commit", func() (any, int, string) {
		u := s.units[strings.ToLower(q.Unit)]
		if u == nil || u.Serial != q.Serial {
			return nil, 404, "unit-unknown"
		}
		if u.Revoked {
			return nil, 409, "identity-revoked"
		}
		c, _ := x509.ParseCertificate(u.DER)
		if uplink.VerifyCommit(c.PublicKey, uplink.CommitMessage(u.Nonce, u.Unit, u.DER), q.Signature) != nil {
			return nil, 400, "commit-unproven"
		}
		u.Committed++
		used := int64(len(s.units))
		return factoryapi.CommitAnswer{Unit: u.Unit, State: "installed", Proven: true, Used: &used, Quantity: &s.Quantity}, 0, ""
	})
}

func (s *Service) enrol(w http.ResponseWriter, r *http.Request) {
	q := read[factoryapi.EnrolRequest](r)
	s.do(w, "enrol", func() (any, int, string) {
		code, root, err := uplink.ParseCode(q.Code)
		req, csrErr := csr.Parse(q.Csr)
		if err != nil || csrErr != nil || !bytes.Equal(code[:], s.code[:]) || root != sha256.Sum256(s.Root.Cert.RawSubjectPublicKeyInfo) || s.redeemed && s.codeKey != req.SPKIHash {
			return nil, 401, "station-code-refused"
		}
		s.redeemed, s.codeKey = true, req.SPKIHash
		return s.station(q.Station, req), 0, ""
	})
}

func (s *Service) renew(w http.ResponseWriter, r *http.Request) {
	q := read[factoryapi.RenewRequest](r)
	s.do(w, "renew", func() (any, int, string) {
		req, err := csr.Parse(q.Csr)
		if err != nil {
			return nil, 400, "csr-malformed"
		}
		return s.station(r.TLS.PeerCertificates[0].Subject.CommonName, req), 0, ""
	})
}

func (s *Service) station(id string, req *csr.Request) factoryapi.StationCertificate {
	der, err := sign(s.Infra, req.PublicKey, func(c *x509.Certificate) {
		c.Subject.CommonName = id
		c.NotAfter = c.NotBefore.Add(90 * 24 * time.Hour)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	if err != nil {
		panic(err)
	}
	url := URL(s.Factory)
	return factoryapi.StationCertificate{Station: id, Site: "site-1", Tenant: "main", Certificate: der, Chain: [][]byte{s.Infra.Cert.Raw}, Roots: [][]byte{s.Root.Cert.Raw}, FactoryUrl: &url}
}

// Station is a certificate for a client of the factory door.
func (s *Service) Station(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := Sign(t, s.Infra, key.Public(), func(c *x509.Certificate) {
		c.Subject.CommonName = "st-1"
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	return tls.Certificate{Certificate: [][]byte{der, s.Infra.Cert.Raw}, PrivateKey: key}
}

// Client is a client of the factory door.
func (s *Service) Client(t testing.TB) *uplink.Client {
	t.Helper()
	c, err := uplink.NewClient(uplink.Config{Server: URL(s.Factory), Roots: []*x509.Certificate{s.Root.Cert}, Certificate: s.Station(t), Patience: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
