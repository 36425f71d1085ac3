// Command globalsign drives the EST client of github.com/globalsign/est through
// the life of a device; the test of the parent package runs it. It is a module of
// its own, because that client needs an older version of a module that the service
// needs too.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"os"

	"github.com/globalsign/est"
)

func main() {
	log.SetFlags(0)
	root := flag.String("root", "", "PEM file with the root")
	passwords := flag.String("passwords", "", "HOST:PORT of the door with one-time passwords")
	devices := flag.String("devices", "", "HOST:PORT of the door with certificates")
	unit := flag.String("unit", "", "user name")
	birth := flag.String("birth", "", "one-time password of the birth certificate")
	serverKey := flag.String("serverkey", "", "one-time password for a key of the service")
	flag.Parse()
	ctx := context.Background()

	text, err := os.ReadFile(*root)
	check(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		log.Fatal("no root")
	}
	open := est.Client{Host: *passwords, ExplicitAnchor: pool, Username: *unit, Password: *birth}
	certs, err := open.CACerts(ctx)
	check(err)
	if len(certs) < 3 {
		log.Fatalf("%d CA certificates", len(certs))
	}
	device := x509.NewCertPool()
	for _, c := range certs {
		device.AddCert(c)
	}
	_, err = open.CSRAttrs(ctx)
	check(err)

	// 1. A birth certificate by password.
	key := newKey()
	first, err := open.Enroll(ctx, request(key, pkix.Name{CommonName: *unit}))
	check(err)
	verify(first, device)
	// 2. With it the operational one, then the next.
	with := est.Client{Host: *devices, ExplicitAnchor: pool, Certificates: []*x509.Certificate{first}, PrivateKey: key}
	key = newKey()
	second, err := with.Enroll(ctx, request(key, pkix.Name{CommonName: "ignored"}))
	check(err)
	with.Certificates, with.PrivateKey = []*x509.Certificate{second}, key
	key = newKey()
	third, err := with.Reenroll(ctx, request(key, second.Subject))
	check(err)
	verify(third, device)
	if third.Subject.String() != second.Subject.String() || third.SerialNumber.Cmp(second.SerialNumber) == 0 {
		log.Fatalf("renewed %v to %v", second.Subject, third.Subject)
	}
	attrs, err := with.CSRAttrs(ctx)
	check(err)
	if len(attrs.Attributes) != 1 {
		log.Fatalf("attributes %v", attrs)
	}
	// 3. A key that the service makes.
	open.Password = *serverKey
	fourth, pkcs8, err := open.ServerKeyGen(ctx, request(newKey(), pkix.Name{CommonName: *unit}))
	check(err)
	made, err := x509.ParsePKCS8PrivateKey(pkcs8)
	check(err)
	if !made.(*ecdsa.PrivateKey).PublicKey.Equal(fourth.PublicKey) {
		log.Fatal("key and certificate do not fit")
	}
	// 4. What is refused is an error with its status.
	_, err = open.Enroll(ctx, request(newKey(), pkix.Name{CommonName: *unit}))
	if e, ok := err.(est.Error); !ok || e.StatusCode() != 401 {
		log.Fatalf("a used password: %v", err)
	}
	fmt.Printf("%s\n", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: third.Raw}))
}

func check(err error) {
	if err != nil {
		log.Output(2, "globalsign/est: "+err.Error())
		os.Exit(1)
	}
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return key
}

func request(key *ecdsa.PrivateKey, subject pkix.Name) *x509.CertificateRequest {
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	check(err)
	r, err := x509.ParseCertificateRequest(raw)
	check(err)
	return r
}

func verify(c *x509.Certificate, pool *x509.CertPool) {
	_, err := c.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	check(err)
}
