package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/broker/brokertest"
	"hallmark/internal/fault"
)

func TestFabricConfig_SaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"{servers: [nats.example.com]}":                          "fabric.servers",
		"{servers: ['http://nats.example.com:4222']}":            "fabric.servers",
		"{servers: ['tls://nats.example.com']}":                  "fabric.servers",
		"{servers: ['tls://user:secret@nats.example.com:4222']}": "password",
		"{credentials: node.creds}":                              "fabric.servers",
		"{tls: {ca: ca.pem}}":                                    "fabric.servers",
		"{servers: ['tls://n:4222'], jetstream: streams}":        "fabric.jetstream",
		"{servers: ['tls://n:4222'], tls: {cert: a.pem}}":        "fabric.tls",
		"{node_timeout: 100ms}":                                  "fabric.node_timeout",
		"{node_timeout: 1h}":                                     "fabric.node_timeout",
		"{servers: ['tls://n:4222'], tls: {kay: x}}":             "\"key\"",
		"{servers: ['tls://n:4222'], nodetimeout: 10s}":          "\"node_timeout\"",
	} {
		_, err := parseConfig([]byte("fabric: "+text+"\n"), t.TempDir())
		if err == nil || !strings.Contains(fault.From(err).Detail, want) {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	dir := t.TempDir()
	c, err := parseConfig([]byte("fabric: {servers: ['tls://n:4222', 'nats://127.0.0.1:4222'], credentials: node.creds, tls: {ca: ca.pem}, node_timeout: 20s}\n"), dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Fabric.Credentials != filepath.Join(dir, "node.creds") || c.Fabric.TLS.CA != filepath.Join(dir, "ca.pem") || time.Duration(c.Fabric.NodeTimeout) != 20*time.Second {
		t.Errorf("%+v", c.Fabric)
	}
}

// TestFabricConfig_ProductionWantsTLS_S44: nodes do not talk in clear over a network.
func TestFabricConfig_ProductionWantsTLS_S44(t *testing.T) {
	for text, refused := range map[string]bool{
		"{servers: ['nats://nats.example.com:4222']}":                    true,
		"{servers: ['tls://nats.example.com:4222']}":                     false,
		"{servers: ['nats://nats.example.com:4222'], tls: {ca: ca.pem}}": false,
		"{servers: ['nats://127.0.0.1:4222', 'nats://localhost:4223']}":  false,
	} {
		c, err := parseConfig([]byte("production: true\nfabric: "+text+"\n"), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(c.conveniences(), "; "), "fabric.servers"); got != refused {
			t.Errorf("%s: refused %v", text, got)
		}
	}
}

func TestFabricTLS_ReadsItsFiles(t *testing.T) {
	ca, cert, key := brokertest.New().Files(t, "acme/node1")
	conf, err := (&FabricTLS{CA: ca, Cert: cert, Key: key}).config(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := conf.GetClientCertificate(nil); err != nil || len(c.Certificate) == 0 || conf.RootCAs == nil {
		t.Errorf("%+v %v", conf, err)
	}
	bad := filepath.Join(t.TempDir(), "bad.pem")
	if err := os.WriteFile(bad, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []FabricTLS{{CA: "missing"}, {CA: bad}, {Cert: bad, Key: key}} {
		if _, err := c.config(time.Now); !errors.Is(err, errConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
