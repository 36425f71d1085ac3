package simulate

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"

	"hallmark/broker"
	"hallmark/broker/brokertest"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// gate lets every certificate in and allows everything.
type gate struct{}

func (gate) Authenticate(_ context.Context, s tls.ConnectionState, _ netip.AddrPort) (broker.Identity, error) {
	c := s.PeerCertificates[0]
	sum := sha256.Sum256(c.Raw)
	return broker.Identity{Tenant: c.Subject.Organization[0], Thing: fleet.ThingName(c.Subject.CommonName), Certificate: hex.EncodeToString(sum[:]), Authority: "test", Serial: c.SerialNumber.Text(16), NotAfter: c.NotAfter,
		Bind: func(string, []string) broker.Authoriser { return gate{} }}, nil
}

func (gate) Allows(policy.Action, string) bool { return true }

// The same fleet at our own broker.
func TestRun_AtOurBroker(t *testing.T) {
	p := brokertest.New()
	b, err := broker.New(t.Context(), broker.Config{TLS: p.Server(broker.ALPN...), Authenticator: gate{}, Limits: broker.Limits{ConnectRate: -1}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		b.Close()
	})
	for _, version := range []byte{mqtt.V311, mqtt.V5} {
		out, err := Run(t.Context(), Config{Endpoint: ln.Addr().String(), ServerName: "localhost", Roots: p.Pool(), Devices: devicesOf(t, p, 60), Version: version, Rate: 5, QoS: 1, Dials: 16, Duration: time.Second, Reconnect: true})
		if err != nil || !out.OK || len(out.Errors) != 0 || out.Resumed != 60 || out.Ack.Count < 200 {
			t.Errorf("%+v %v", out, err)
		}
	}
}
