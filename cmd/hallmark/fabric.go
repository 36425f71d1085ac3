package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hallmark/broker"
	"hallmark/fabric"
	"hallmark/internal/durable"
)

// FabricConfig connects the nodes of one service.
type FabricConfig struct {
	// Servers are NATS servers, tls://HOST:PORT or nats://HOST:PORT. Empty means one
	// inside this process, which no other node reaches: this node is alone.
	Servers []string `yaml:"servers"`
	// Credentials is a file with a NATS user's credentials.
	Credentials string `yaml:"credentials"`
	// TLS is for the connections to Servers.
	TLS FabricTLS `yaml:"tls"`
	// JetStream is the directory in which the server inside this process keeps streams.
	JetStream string `yaml:"jetstream"`
	// NodeTimeout is after which time without a sign of life another node is taken for
	// dead; default 10s.
	NodeTimeout Duration `yaml:"node_timeout"`
}

// FabricTLS names PEM files.
type FabricTLS struct {
	CA   string `yaml:"ca"`   // roots of the servers; the system's if empty
	Cert string `yaml:"cert"` // of this node
	Key  string `yaml:"key"`
}

// complete checks what can be checked without starting.
func (c *FabricConfig) complete(dir, state string) error {
	for _, s := range c.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" || u.Port() == "" || u.Path != "" {
			return errConfig.New("fabric.servers: %q is not tls://HOST:PORT or nats://HOST:PORT.", s)
		}
		if u.User != nil {
			return errConfig.New("fabric.servers: %s has a password in it; use fabric.credentials or fabric.tls.", u.Redacted())
		}
	}
	alone := len(c.Servers) == 0
	switch {
	case alone && (c.Credentials != "" || c.TLS != FabricTLS{}):
		return errConfig.New("fabric: credentials and tls are for fabric.servers, of which there are none.")
	case !alone && c.JetStream != "":
		return errConfig.New("fabric.jetstream is for the server inside this process; those of fabric.servers have their own.")
	case (c.TLS.Cert == "") != (c.TLS.Key == ""):
		return errConfig.New("fabric.tls: cert and key belong together.")
	}
	for _, f := range []*string{&c.Credentials, &c.TLS.CA, &c.TLS.Cert, &c.TLS.Key} {
		if *f != "" && !filepath.IsAbs(*f) {
			*f = filepath.Join(dir, *f)
		}
	}
	if c.JetStream != "" && !filepath.IsAbs(c.JetStream) {
		c.JetStream = filepath.Join(state, c.JetStream)
	}
	if d := time.Duration(c.NodeTimeout); d != 0 && (d < time.Second || d > 5*time.Minute) {
		return errConfig.New("fabric.node_timeout: %s is not 1s to 5m.", d)
	}
	return nil
}

// unprotected lists servers that are reached without TLS.
func (c *FabricConfig) unprotected() (list []string) {
	for _, s := range c.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme == "tls" || (c.TLS != FabricTLS{}) {
			continue
		}
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			list = append(list, u.Host)
		}
	}
	return list
}

// config reads the files.
func (c *FabricTLS) config(now func() time.Time) (*tls.Config, error) {
	if *c == (FabricTLS{}) {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, Time: now}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, errConfig.New("fabric.tls.ca: %v.", err)
		}
		if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, errConfig.New("fabric.tls.ca: %s has no certificate in PEM.", c.CA)
		}
	}
	if c.Cert != "" {
		// Read again for every connection, so that a renewed certificate is used without
		// a restart.
		if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
			return nil, errConfig.New("fabric.tls: %v.", err)
		}
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			return &cert, err
		}
	}
	return t, nil
}

// openFabric connects this node with the others of its service: those that have
// its seal key.
func (s *Server) openFabric(ctx context.Context) (*fabric.Fabric, error) {
	c := &s.cfg.Fabric
	conf, err := c.TLS.config(s.now)
	if err != nil {
		return nil, err
	}
	return fabric.Open(ctx, fabric.Config{Key: s.box.MAC("fabric"), Servers: c.Servers, TLS: conf, Credentials: c.Credentials, JetStream: c.JetStream, Log: s.log})
}

// nodeName is what other nodes call this one. It is the same after a restart, and
// no other's even if two machines have one name.
func (s *Server) nodeName() (string, error) {
	file := filepath.Join(s.cfg.State, "node")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		var r [6]byte
		rand.Read(r[:])
		text = []byte(hex.EncodeToString(r[:]) + "\n")
		err = durable.WriteFile(file, text, 0o644)
	}
	if err != nil {
		return "", err
	}
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(text))
	if id == "" || len(id) > 64 {
		return "", fmt.Errorf("%s does not hold this node's name: remove it", file)
	}
	return host + " " + id, nil
}

// join makes the broker one of several, if there can be several.
func (r *fleetRuntime) join(s *Server, c *broker.Config) {
	if !r.fabric.Shared() {
		return
	}
	c.Fabric, c.Node, c.NodeTimeout = r.fabric, r.node, time.Duration(s.cfg.Fabric.NodeTimeout)
	c.NodeGone = func(name string) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		n, err := s.db.ResetPresence(ctx, name, "SERVER_ERROR", s.now())
		if err != nil {
			s.log.ErrorContext(ctx, "connections of a node that is gone are still shown", "node", name, "error", err)
		} else if n > 0 {
			s.log.InfoContext(ctx, "connections of a node ended with it", "node", name, "clients", n)
		}
	}
}

// trustWord tells other nodes that the log has grown. They look for themselves: it
// only saves them the wait for their next look.
const trustWord = "trust"

// spread tells the other nodes of revocations, and hears of theirs.
func (r *fleetRuntime) spread(ctx context.Context, s *Server, wg *sync.WaitGroup) {
	if !r.fabric.Shared() {
		return
	}
	heard := make(chan struct{}, 1)
	if err := r.fabric.Hear(trustWord, func() {
		select {
		case heard <- struct{}{}:
		default:
		}
	}); err != nil {
		s.log.Error("revocations at other nodes are noticed by looking only", "error", err)
	}
	wg.Go(func() {
		for {
			grown := s.db.TrustChanged()
			select {
			case <-ctx.Done():
				return
			case <-grown:
				r.fabric.Tell(trustWord)
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-heard:
				if err := s.set.Follow(ctx); err != nil && ctx.Err() == nil {
					s.log.ErrorContext(ctx, "a revocation at another node was not read yet", "error", err)
				}
			}
		}
	})
}
