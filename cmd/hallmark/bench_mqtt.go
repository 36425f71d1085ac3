package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/durable"
)

// benchMQTT serves a registered fleet and an open order, for load from outside.
type benchMQTT struct {
	benchRun
	devices string // PEM file of devices that exist
	count   int    // of devices made here
}

// benchBroker is a broker for a load generator.
type benchBroker struct {
	Name       string `json:"name"`
	Addr       string `json:"addr"`
	TLS        bool   `json:"tls"`
	CAFile     string `json:"ca_file"`
	ServerName string `json:"server_name"`
	PIDFile    string `json:"pid_file"`
}

// benchConfig has limits that are off, or as wide as the brokers' that are measured beside: a
// benchmark asks what the machine can do. A load generator's devices choose their
// client identifiers.
const benchConfig = `  any_client: [main]
mqtt:
  limits: {publish_rate: -1, publish_bytes: -1, connect_rate: -1, per_address: 4096, handshakes: 4096, receive_maximum: 1000, inflight: 1000}
`

func newBenchMQTTCmd(g *globals) *cobra.Command {
	b := &benchMQTT{benchRun: benchRun{stage: stage{g: g, freePorts: true, more: benchConfig}}}
	cmd := &cobra.Command{
		Use: "mqtt", Short: "A registered fleet and an open order, for load from outside", Args: cobra.NoArgs,
		Long: `The service starts with the broker's rate limits off and waits. Devices are made and
registered as things with a policy of least privilege, or come from a PEM file with a
certificate and a key each; those may use every topic.

DIR/mqtt.json describes the broker to a load generator, DIR/bench.json the station's
side as bench issue --serve does. DIR/devices.pem and DIR/inter.crt are the devices
that were made, for hallmark device simulate.`,
		Example: `  hallmark bench mqtt --dir /tmp/bench -n 5000 --hsm software
  hallmark device simulate --bundle /tmp/bench/devices.pem --chain /tmp/bench/inter.crt --ca-file /tmp/bench/pki/root.pem --endpoint localhost:PORT -n 5000 --idle --duration 1m`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (b.devices == "") == (b.count == 0) || b.count < 0 || b.count > 1_000_000 {
				return errUsage{errors.New("give either --devices or -n, 1 to 1000000")}
			}
			return b.wait(cmd.Context(), b.register)
		},
	}
	f := cmd.Flags()
	f.StringVar(&b.hsm, "hsm", "", "softhsm, or software; default softhsm if it is installed")
	f.StringVar(&b.database, "db", "", "sqlite (default) or a postgres:// URL of an empty database")
	f.StringVar(&b.dir, "dir", "", "directory")
	f.StringVar(&b.devices, "devices", "", "PEM file of devices to register: a certificate and a key each")
	f.IntVarP(&b.count, "count", "n", 0, "devices to make")
	return cmd
}

// benchPolicy allows a device of the load generator's own everything.
const benchPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`

// register registers the devices and writes mqtt.json.
func (b *benchMQTT) register(ctx context.Context) error {
	r, main := b.server.reged, access.Scope{Tenant: access.DefaultTenant}
	policy, name := benchPolicy, "bench"
	if b.count > 0 {
		policy, name = demoPolicyDocument, demoPolicy
		if err := b.make(); err != nil {
			return err
		}
	}
	if _, err := r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: name, Document: policy}); err != nil && !errors.Is(err, registry.ErrPolicyExists) {
		return err
	}
	certs, err := readLeaves(b.devices)
	if err != nil {
		return err
	}
	one := func(c *x509.Certificate) error {
		cert, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, c, registry.HowBYOC, fleet.Active), true)
		if err != nil {
			return err
		}
		if err := r.AttachPolicy(ctx, main, registry.CertificateTarget(cert.ID), name); err != nil {
			return err
		}
		thing := fleet.ThingName(c.Subject.CommonName)
		if _, err := r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: thing}); err != nil {
			return err
		}
		return r.Attach(ctx, main, thing, cert.ID, registry.Exclusive, false)
	}
	work, failed := make(chan *x509.Certificate), make([]error, 16)
	var wg sync.WaitGroup
	for i := range failed { // many share a commit
		wg.Go(func() {
			for c := range work {
				if err := one(c); err != nil && failed[i] == nil {
					failed[i] = fmt.Errorf("device %s: %w", c.Subject.CommonName, err)
				}
			}
		})
	}
	for _, c := range certs {
		work <- c
	}
	close(work)
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	text, err := json.MarshalIndent([]benchBroker{{Name: "hallmark", Addr: b.server.publicAddr("mqtt"), TLS: true,
		CAFile: b.path("pki", "root.pem"), ServerName: "localhost", PIDFile: b.path("hallmark.pid")}}, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(b.path("mqtt.json"), append(text, '\n'), 0o644)
}

// make makes devices under an authority that nobody else knows.
func (b *benchMQTT) make() error {
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Bench Device CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, issuer, issuer, ca.Public(), ca)
	if err != nil {
		return err
	}
	if issuer, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	if err := durable.WriteFile(b.path("inter.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	var out bytes.Buffer
	for i := range b.count {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(int64(i) + 2), Subject: pkix.Name{CommonName: fmt.Sprintf("bench-%06d", i)}, NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		der, err := x509.CreateCertificate(rand.Reader, leaf, issuer, key.Public(), ca)
		if err != nil {
			return err
		}
		sec1, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
		pem.Encode(&out, &pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})
	}
	b.devices = b.path("devices.pem")
	return durable.WriteFile(b.devices, out.Bytes(), 0o600)
}

// readLeaves reads the certificates of a PEM file.
func readLeaves(file string) (out []*x509.Certificate, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for p, rest := pem.Decode(text); p != nil; p, rest = pem.Decode(rest) {
		if p.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", file, len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no certificate", file)
	}
	return out, nil
}
