package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"strings"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// Authenticator tells who is at the other end of a connection whose handshake
// proved the possession of the certificate's key. It answers a refusal as a fault of
// kind Unauthenticated or Forbidden, and its own trouble as Unavailable. It is
// called once a connection, after the CONNECT was read, and concurrently.
type Authenticator interface {
	Authenticate(ctx context.Context, state tls.ConnectionState, remote netip.AddrPort) (Identity, error)
}

// Authoriser decides one action of one connection. It is asked for every
// publish, subscription and delivery, so it must answer from memory; it is
// called concurrently. The broker asks for Connect, Publish, RetainPublish, Subscribe
// and Receive; [policy.Bound] is one.
type Authoriser interface {
	Allows(action policy.Action, resource string) bool
}

// The connect attributes that a CONNECT can have.
const (
	PersistentConnect = "PersistentConnect"
	LastWill          = "LastWill"
)

// Identity is a device that the authenticator let in.
type Identity struct {
	Tenant string
	Thing  fleet.ThingName // empty for a claim certificate
	// Things are those that a certificate without a thing of its own may act for:
	// the client identifier of a connection says which (Thing is then that).
	Things      []fleet.ThingName
	Certificate string    // lower-case hex of the SHA-256 of the certificate's DER
	Authority   string    // that issued it
	Serial      string    // its serial number, hex
	NotAfter    time.Time // the connection ends then (A73); zero = never
	// Foreign is the certificate itself if its CA is not ours (Authority is then
	// ""): that CA's own list may come to name it.
	Foreign   *x509.Certificate
	Claim     bool // a claim certificate: any client id, no persistent session
	AnyClient bool // the tenant relaxed the rule for client ids (S25)

	// Bind gives what this connection may do, once the client identifier and the
	// connect attributes are known; it is called again by [Broker.Rebind], and for
	// a will that is due. A nil function, and a nil answer, allow nothing.
	Bind func(clientID string, connectAttributes []string) Authoriser

	// Recheck, if there is one, is asked after the connection can be found by
	// [Broker.Drop]: it closes the gap in which a revocation would have missed it.
	Recheck func(context.Context) error
}

func (id *Identity) sender(client string) fleet.Sender {
	return fleet.Sender{Tenant: id.Tenant, Thing: id.Thing, Client: client, Certificate: id.Certificate}
}

// mayUse is the structural rule for client identifiers (S25): the thing's name, or
// that and a number.
func (id *Identity) mayUse(client string) bool {
	if id.Claim || id.AnyClient {
		// Identifiers that begin with $ are the service's own.
		return !strings.HasPrefix(client, "$")
	}
	return names(client, id.Thing)
}

// names tells whether a client identifier is a thing's.
func names(client string, of fleet.ThingName) bool {
	thing := string(of)
	if thing == "" {
		return false
	}
	if client == thing {
		return true
	}
	number, ok := strings.CutPrefix(client, thing+"-")
	if !ok || number == "" || len(number) > 9 {
		return false
	}
	for _, c := range []byte(number) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// choose finds the thing of a connection whose certificate has several: the one
// that the client identifier names, as it is or with a number.
func (id *Identity) choose(client string) {
	if id.Thing != "" || id.Claim {
		return
	}
	for _, t := range id.Things {
		if client == string(t) {
			id.Thing = t
			return
		}
	}
	for _, t := range id.Things {
		if names(client, t) {
			id.Thing = t
			return
		}
	}
}

// sessionKey is under what a session is found in its tenant. Claim certificates
// are shared by many devices and choose any identifier, so theirs are kept apart:
// none can take over a device's session.
func (id *Identity) sessionKey(client string) string {
	if id.Claim {
		return "\x00claim/" + id.Certificate + "/" + client
	}
	return client
}
