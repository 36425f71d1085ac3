package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"sync"
)

// ALPN is what device software offers for MQTT, on every port.
const ALPN = "x-amzn-mqtt-ca"

// TLS is the configuration of one device for all its connections: its
// certificate, the roots it believes, and the place where it keeps the ticket
// of its last session. An empty name is taken from the address.
//
// The ticket is the device's own. A cache that several devices shared would
// resume the session of another: the server would see the wrong certificate.
func TLS(cert tls.Certificate, roots *x509.CertPool, serverName string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            roots,
		ServerName:         serverName,
		Certificates:       []tls.Certificate{cert},
		NextProtos:         []string{ALPN},
		ClientSessionCache: new(ticket),
	}
}

// ticket is a cache for one session of one device with one server.
type ticket struct {
	mu    sync.Mutex
	key   string
	state *tls.ClientSessionState
}

// Get gives the session of the server.
func (t *ticket) Get(key string) (*tls.ClientSessionState, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil || t.key != key {
		return nil, false
	}
	return t.state, true
}

// Put keeps a session, or forgets it if it is nil.
func (t *ticket) Put(key string, s *tls.ClientSessionState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.key, t.state = key, s
}
