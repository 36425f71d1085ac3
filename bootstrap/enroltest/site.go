// Package enroltest gives the tests of an enrolment protocol what its Enroller
// stands on, real in every part: database, CA, gate, templates and an open order.
//
// Start reading at [New].
package enroltest

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/provisioner"
)

// Order is the open order of a site, for units U-001 to U-900.
const Order = "o-1"

// Site is a device door and what enrols beside it.
type Site struct {
	*bootstraptest.Door
	Provisioner *provisioner.Provisioner
	servers     int
}

// Officer may make passwords.
var Officer = access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "ann", Role: access.SecurityOfficer}

// New opens a site; the order has quantity units.
func New(t testing.TB, o bootstraptest.Options, quantity int64) *Site {
	t.Helper()
	o.Copied = true
	s := &Site{Door: bootstraptest.New(t, o)}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	orders, err := provisioner.NewOrders([]provisioner.Approver{{Name: "bob", Key: pub}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.Provisioner = provisioner.New(provisioner.Config{Orders: orders, Store: s.DB, Units: s.DB, Stations: s.DB, Records: s.DB, CA: s.CA, Now: s.Now,
		Nonce: func(n ca.Serial) []byte { return s.Box.MAC("commit-nonce", n[:]) }})
	ctx := context.Background()
	made, err := s.Provisioner.CreateOrder(ctx, Officer, provisioner.Body{ID: Order, Product: "lamp", Quantity: quantity, KeyOrigin: profile.OriginClaimed,
		Serials: provisioner.SerialRule{Prefix: "U-", First: 1, Last: 900, Width: 3}, Organization: "Example"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := provisioner.KeyID(pub)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := json.Marshal(provisioner.Envelope{PayloadType: provisioner.PayloadType, Payload: base64.StdEncoding.EncodeToString(made.Canonical),
		Signatures: []provisioner.Signature{{KeyID: id, Sig: base64.StdEncoding.EncodeToString(ed25519.Sign(key, provisioner.PAE(provisioner.PayloadType, made.Canonical)))}}})
	if err != nil {
		t.Fatal(err)
	}
	bob := Officer
	bob.Name = "bob"
	if _, err := s.Provisioner.ApproveOrder(ctx, bob, Order, envelope); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Provisioner.OpenOrder(ctx, Officer, Order); err != nil {
		t.Fatal(err)
	}
	return s
}

// Enroller makes one under rules.
func (s *Site) Enroller(rules bootstrap.Rules) *bootstrap.Enroller {
	return bootstrap.NewEnroller(bootstrap.EnrollerConfig{Rules: rules, Service: s.Service, Units: s.Provisioner, Passwords: s.DB,
		Secret: func(id string) []byte { return s.Box.MAC("enrol-password", []byte(id)) }, Revoker: s.Crl, Now: s.Now})
}

// Password makes a one-time password; its text is the second.
func (s *Site) Password(t testing.TB, e *bootstrap.Enroller, unit string, p profile.Name) (bootstrap.Password, string) {
	t.Helper()
	r := bootstrap.PasswordRequest{Unit: unit, Profile: p}
	if p == profile.IDevID {
		r.Order = Order
	}
	made, secret, err := e.CreatePassword(context.Background(), Officer, r)
	if err != nil {
		t.Fatal(err)
	}
	return made, secret.Reveal()
}

// PlainTLS serves a handler over TLS that asks for no certificate, and gives
// HOST:PORT.
func (s *Site) PlainTLS(t testing.TB, h http.Handler) string {
	t.Helper()
	s.servers++
	cert := s.Server(t, fmt.Sprintf("server-2-%d", s.servers))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}}
	done := make(chan struct{})
	go func() { defer close(done); srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String()
}

// CSR makes a request.
func CSR(t testing.TB, key crypto.Signer, cn, challenge string) []byte {
	t.Helper()
	raw, err := csr.Create(key, cn, challenge)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Certificate parses one.
func Certificate(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Records counts the certificates of a holder.
func (s *Site) Records(t testing.TB, holder string, p profile.Name) []ca.Record {
	t.Helper()
	all, err := s.DB.Records(context.Background(), ca.RecordQuery{Tenant: access.DefaultTenant, Holder: holder, Profile: string(p)})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
