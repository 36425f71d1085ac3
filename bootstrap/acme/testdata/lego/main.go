// Lego obtains, renews and revokes with the ACME client of
// github.com/go-acme/lego. It is a module of its own: the client's many providers
// are none of the service's business.
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/go-acme/lego/v4/acme"
	"github.com/go-acme/lego/v4/certcrypto"
	"github.com/go-acme/lego/v4/certificate"
	"github.com/go-acme/lego/v4/challenge/http01"
	"github.com/go-acme/lego/v4/lego"
	"github.com/go-acme/lego/v4/registration"
)

type user struct {
	key          crypto.PrivateKey
	registration *registration.Resource
}

func (u *user) GetEmail() string                        { return "ops@example.com" }
func (u *user) GetRegistration() *registration.Resource { return u.registration }
func (u *user) GetPrivateKey() crypto.PrivateKey        { return u.key }

func main() {
	log.SetFlags(log.Lshortfile)
	directory := flag.String("directory", "", "URL")
	root := flag.String("root", "", "PEM file")
	port := flag.String("port", "", "of http-01")
	kid := flag.String("kid", "", "external account key")
	secret := flag.String("hmac", "", "of the external account key")
	names := flag.String("names", "", "with commas")
	flag.Parse()

	pem, err := os.ReadFile(*root)
	must(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		log.Fatal("no root")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	u := &user{key: key}
	config := lego.NewConfig(u)
	config.CADirURL = *directory
	config.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	config.Certificate.KeyType = certcrypto.EC256
	c, err := lego.NewClient(config)
	must(err)
	must(c.Challenge.SetHTTP01Provider(http01.NewProviderServer("127.0.0.1", *port)))
	u.registration, err = c.Registration.RegisterWithExternalAccountBinding(registration.RegisterEABOptions{TermsOfServiceAgreed: true, Kid: *kid, HmacEncoded: *secret})
	must(err)

	first, err := c.Certificate.Obtain(certificate.ObtainRequest{Domains: strings.Split(*names, ","), Bundle: true})
	must(err)
	// Renewed with another key, and once more with that key, which has its
	// certificate already.
	again := *first
	again.PrivateKey = nil
	second, err := c.Certificate.RenewWithOptions(again, &certificate.RenewOptions{Bundle: true})
	must(err)
	if bytes.Equal(first.Certificate, second.Certificate) {
		log.Fatal("the renewed certificate is the old one")
	}
	third, err := c.Certificate.RenewWithOptions(*second, &certificate.RenewOptions{Bundle: true})
	must(err)
	if !bytes.Equal(second.Certificate, third.Certificate) {
		log.Fatal("the same key has another certificate")
	}
	reason := uint(acme.CRLReasonSuperseded)
	must(c.Certificate.RevokeWithReason(first.Certificate, &reason))
	if err := c.Certificate.Revoke(first.Certificate); err == nil || !strings.Contains(err.Error(), "alreadyRevoked") {
		log.Fatal("revoked twice: ", err)
	}
	must(c.Registration.DeleteRegistration())
	os.Stdout.Write(second.Certificate)
	fmt.Fprintln(os.Stderr, "obtained, renewed, revoked")
}

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}
