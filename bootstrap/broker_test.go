package bootstrap_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
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
		Authenticator: doorman{s}, Topics: append(s.claims.Topics(), s.Service.Topics()...),
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

// TestA47_AClaimIsForItsSites: its key is in every device of a line, so somewhere else
// it is a copy: refused, counted and named in the log, until the site is added.
func TestA47_AClaimIsForItsSites(t *testing.T) {
	s := newSite(t, "")
	claimKey := catest.NewKey(t)
	networks, err := bootstrap.ParseNetworks([]string{"10.1.2.3/16", "2001:db8::/32", "192.0.2.1"})
	must(t, err)
	claim, err := s.claims.CreateClaim(t.Context(), s.owner, bootstrap.ClaimRequest{Name: "line-1", Template: "fleet", Most: 5, CSR: s.request(t, claimKey), Networks: networks})
	must(t, err)
	p, in, err := s.dial(t, s.serve(t), "setup-1", leafOf(t, claim.CertificatePEM), claimKey)
	must(t, err)
	body := payload(t, map[string]any{"certificateSigningRequest": string(s.request(t, catest.NewKey(t)))})
	ask := func() string {
		t.Helper()
		if tok := p.Publish(topicCSR, 1, false, body); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
			t.Fatalf("publish: %v", tok.Error())
		}
		select {
		case m := <-in:
			return m.Topic()
		case <-time.After(10 * time.Second):
			t.Fatal("no answer")
		}
		return ""
	}
	if got := ask(); got != topicCSR+"/rejected" || s.claims.Foreign.Load() != 1 {
		t.Errorf("from 127.0.0.1, which is no site of it: %s, %d counted", got, s.claims.Foreign.Load())
	}
	budget := bootstrap.Budget{Name: bootstrap.ClaimBudget(claim.CertificateID), Most: 5}
	if b, err := s.claims.SetBudget(t.Context(), s.owner, budget); err != nil || len(b.Networks) != 3 || b.Networks[0].String() != "10.1.0.0/16" || b.Used != 0 {
		t.Errorf("a new budget without networks: %v %+v", err, b)
	}
	budget.Networks, err = bootstrap.ParseNetworks([]string{"127.0.0.0/8"})
	must(t, err)
	_, err = s.claims.SetBudget(t.Context(), s.owner, budget)
	must(t, err)
	if got := ask(); got != topicCSR+"/accepted" {
		t.Errorf("from its site: %s", got)
	}
	for _, bad := range []string{"", "10.1.0.0/33", "::ffff:10.0.0.0/104", "fe80::1%eth0", "all"} {
		if _, err := bootstrap.ParseNetworks([]string{bad}); !errors.Is(err, bootstrap.ErrClaimConfig) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	budget.Name = bootstrap.CABudget("any")
	if _, err := s.claims.SetBudget(t.Context(), s.owner, budget); !errors.Is(err, bootstrap.ErrClaimConfig) {
		t.Errorf("networks of a CA: %v", err)
	}
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
