package bootstrap_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/netip"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"hallmark/bootstrap"
	"hallmark/broker"
	"hallmark/ca/catest"
	"hallmark/fleet/policy"
	"hallmark/fleet/registry"
)

// doorman makes the broker's identities of the door's admissions, as the service does.
type doorman struct{ s *site }

func (d doorman) Authenticate(ctx context.Context, state tls.ConnectionState, remote netip.AddrPort) (broker.Identity, error) {
	a, err := d.s.door.Admit(ctx, &state)
	if err != nil {
		return broker.Identity{}, err
	}
	return broker.Identity{
		Tenant: a.Tenant, Thing: a.Thing, Certificate: a.CertificateID, Authority: a.Authority, Serial: a.Serial, NotAfter: a.NotAfter, Claim: a.Claim,
		Recheck: func(ctx context.Context) error { return d.s.door.Recheck(ctx, &a) },
		Bind: func(client string, attributes []string) broker.Authoriser {
			b, err := d.s.Registry.Bind(context.Background(), registry.Connection{Tenant: a.Tenant, Certificate: a.Certificate, ClientID: client, SourceIP: remote.Addr()})
			if err != nil {
				return nil
			}
			return allows{b}
		},
	}, nil
}

type allows struct{ *registry.Binding }

func (a allows) Allows(action policy.Action, resource string) bool {
	return a.AllowsAction(action, resource)
}

// serve runs a broker in front of the site.
func (s *site) serve(t *testing.T) string {
	t.Helper()
	server := s.Server(t, "broker-1")
	b, err := broker.New(t.Context(), broker.Config{
		TLS:           &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert, NextProtos: broker.ALPN},
		Authenticator: doorman{s}, Topics: s.claims.Topics(),
	})
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); b.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return l.Addr().String()
}

// dial is a device with somebody else's client; it subscribes to nothing.
func (s *site) dial(t *testing.T, addr, client string, c *x509.Certificate, key crypto.Signer) (paho.Client, chan paho.Message, error) {
	t.Helper()
	in := make(chan paho.Message, 16)
	o := paho.NewClientOptions().AddBroker("ssl://" + addr).SetClientID(client).SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(10 * time.Second).SetCleanSession(true)
	o.SetTLSConfig(&tls.Config{RootCAs: s.Pool(), ServerName: "localhost", NextProtos: []string{"x-amzn-mqtt-ca"}, Certificates: []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}}})
	o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { in <- m })
	p := paho.NewClient(o)
	tok := p.Connect()
	if !tok.WaitTimeout(15 * time.Second) {
		t.Fatal("no answer to CONNECT")
	}
	if tok.Error() == nil {
		t.Cleanup(func() { p.Disconnect(50) })
	}
	return p, in, tok.Error()
}

// TestClaim_OverMQTTWithAnotherClient is the whole way of a device, over TLS and
// the broker, with a client that is not ours: claim, certificate, thing, life.
func TestClaim_OverMQTTWithAnotherClient(t *testing.T) {
	s := newSite(t, "")
	claimKey := catest.NewKey(t)
	claim, err := s.claims.CreateClaim(t.Context(), s.owner, bootstrap.ClaimRequest{Name: "line-1", Template: "fleet", Most: 5, CSR: s.request(t, claimKey)})
	must(t, err)
	addr := s.serve(t)
	p, in, err := s.dial(t, addr, "setup-1", leafOf(t, claim.CertificatePEM), claimKey)
	must(t, err)
	ask := func(topic string, body []byte) map[string]any {
		t.Helper()
		if tok := p.Publish(topic, 1, false, body); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
			t.Fatalf("publish to %s: %v", topic, tok.Error())
		}
		select {
		case m := <-in:
			var out map[string]any
			if err := json.Unmarshal(m.Payload(), &out); err != nil || m.Topic() != topic+"/accepted" {
				t.Fatalf("%s: %s", m.Topic(), m.Payload())
			}
			return out
		case <-time.After(10 * time.Second):
			t.Fatalf("no answer to %s", topic)
		}
		return nil
	}
	key := catest.NewKey(t)
	made := ask(topicCSR, payload(t, map[string]any{"certificateSigningRequest": string(s.request(t, key))}))
	c := leafOf(t, made["certificatePem"].(string))
	// The new certificate is nobody's yet.
	if _, _, err := s.dial(t, addr, "fp_SN-1", c, key); err == nil {
		t.Error("a pending certificate was let in")
	}
	if done := ask(topicReg, registerBody(t, made["certificateOwnershipToken"].(string), "SerialNumber", "SN-1")); done["thingName"] != "fp_SN-1" {
		t.Errorf("%v", done)
	}
	if _, _, err := s.dial(t, addr, "fp_SN-1", c, key); err != nil {
		t.Errorf("the device with its own certificate: %v", err)
	}
}

// TestJITP_OverMQTTWithAnotherClient: the first connection does not come up.
func TestJITP_OverMQTTWithAnotherClient(t *testing.T) {
	s := newSite(t, "")
	a := s.register(t, "Maker CA", "jitp")
	addr := s.serve(t)
	key := catest.NewKey(t)
	c := a.deviceFor(t, "press-1", "SN-1", key.Public())
	if _, _, err := s.dial(t, addr, "press-1", c, key); err == nil {
		t.Error("the first connection came up")
	}
	if _, _, err := s.dial(t, addr, "press-1", c, key); err != nil {
		t.Errorf("the second: %v", err)
	}
}
