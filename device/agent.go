package device

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"hallmark/api/deviceapi"
	"hallmark/ca/csr"
	"hallmark/device/mqtt"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

// The channel binding of RFC 9266, Section 2.
const (
	exporterLabel  = "EXPORTER-Channel-Binding"
	exporterLength = 32
)

// Config says what a device knows before its first boot.
type Config struct {
	Dir        string            // of the device, with idevid.pem and idevid.key
	Server     string            // URL of the device listener, https://…
	Roots      *x509.CertPool    // that the factory installed: for the service and for the device's own certificate
	Parameters map[string]string // for the template
	// KeyURI makes new keys in a token: a pkcs11: URI whose object is the first
	// part of their names. Empty means files. Keys opens what a key file refers to;
	// it is needed for the one and the other.
	KeyURI string
	Keys   Keys
	// Renew makes a new key although there is a certificate that works.
	Renew   bool
	Timeout time.Duration // of one exchange; 0 means 30 s
	Log     *slog.Logger
	Now     func() time.Time

	// Hooks spoil the device; nil for a real one.
	Hooks *Hooks

	// again says that the pair in use was refused: if the service refuses it here
	// too, the device registers anew as its birth certificate.
	again bool
	// step is called before each step that can be cut off; tests end the run there.
	step func(name string) error
	// dial opens a stream; nil = TCP. Tests cut the network with it.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// write replaces a file as one step; tests fill the disk with it.
	write func(name string, data []byte, perm os.FileMode) error
}

// Result is what the device is after its first boot.
type Result struct {
	Thing         string            `json:"thing"`
	Serial        string            `json:"serial"` // of the operational certificate
	Slot          string            `json:"slot"`
	Status        string            `json:"status"`
	NotAfter      time.Time         `json:"not_after"`
	Configuration map[string]string `json:"configuration"`
	Policies      []string          `json:"policies"`
	Resumed       bool              `json:"resumed"` // nothing was asked for: the device was registered before
}

type agent struct {
	cfg Config
	url *url.URL
	now func() time.Time
	log *slog.Logger
	h   *home
}

// newAgent fills in what the configuration leaves open.
func newAgent(cfg Config) (*agent, error) {
	cfg.hook()
	a := &agent{cfg: cfg, now: cfg.Now, log: cfg.Log}
	if a.now == nil {
		a.now = time.Now
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.cfg.Timeout <= 0 {
		a.cfg.Timeout = 30 * time.Second
	}
	if a.cfg.step == nil {
		a.cfg.step = func(string) error { return nil }
	}
	if a.cfg.write == nil {
		a.cfg.write = durable.WriteFile
	}
	var err error
	if a.url, err = url.Parse(cfg.Server); err != nil || a.url.Scheme != "https" || a.url.Host == "" || a.cfg.Roots == nil {
		return nil, ErrServer.New("The URL %q must begin with https://, and a root is needed.", cfg.Server)
	}
	return a, nil
}

// FirstBoot registers the device, or finds that it is registered. Each step
// leaves on disk what the next one needs, so a run that was cut off anywhere is
// repeated with the same key and ends the same:
//
//  1. open: the directory, the birth certificate, the pair in use.
//  2. key: new, or the one of a run that was cut off; on disk before it is used.
//  3. connect: as the birth certificate, or as the pair in use for a renewal.
//  4. ask: a CSR bound to this very connection.
//  5. check: key, chain and name of what came.
//  6. store: answer and certificate.
//  7. prove: connect with the new certificate; the service must know the thing.
//  8. activate: one file says which pair is in use.
func FirstBoot(ctx context.Context, cfg Config) (Result, error) {
	a, err := newAgent(cfg)
	if err != nil {
		return Result{}, err
	}
	// 1. open
	if a.h, err = openHome(cfg.Dir); err != nil {
		return Result{}, err
	}
	defer a.h.close()
	a.h.keys, a.h.write = keyring{ctx, cfg.Keys, cfg.KeyURI}, a.cfg.write
	birth, err := a.h.birth()
	if err != nil {
		return Result{}, err
	}
	used, err := a.h.active()
	if err != nil {
		return Result{}, err
	}
	active := ""
	if used != nil {
		active = used.slot
	}
	if used != nil && cfg.again {
		out, err := a.prove(ctx, used)
		switch refusal(err) { // what the owner did on purpose is not to be got round
		case "device-revoked", "device-expired", "device-inactive", "device-unknown":
			used = nil
		default:
			out.Resumed = true
			return out, err
		}
	}
	slot := a.h.waiting(active)
	if used != nil && slot == "" && !cfg.Renew && a.now().Before(used.Leaf.NotAfter) {
		out, err := a.prove(ctx, used)
		out.Resumed = true
		return out, err
	}
	fresh := slot == ""
	if fresh {
		slot = other(active)
	}
	out, err := a.boot(ctx, slot, fresh, birth, used)
	if code := refusal(err); !fresh && dead(err) {
		// The key that was left over is of no use any more: it was replaced or
		// revoked while the device was off. Once, with a new one.
		a.log.WarnContext(ctx, "left-over key is refused, making a new one", "code", code)
		out, err = a.boot(ctx, slot, true, birth, used)
	}
	return out, err
}

// boot is steps 2 to 8 for one slot.
func (a *agent) boot(ctx context.Context, slot string, fresh bool, birth, used *pair) (Result, error) {
	// 2. key
	if err := a.cfg.step("key"); err != nil {
		return Result{}, err
	}
	var next *pair
	if !fresh {
		next = a.h.load(slot)
	}
	if next == nil {
		key, err := a.h.key(slot, fresh)
		if err != nil {
			return Result{}, err
		}
		// 3. to 6. A pair in use that is refused is no reason to give up: the
		// birth certificate may still be good.
		as := birth
		if used != nil && a.now().Before(used.Leaf.NotAfter) {
			as = used
		}
		next, err = a.enrol(ctx, as, slot, key, birth)
		if as != birth && strings.HasPrefix(refusal(err), "device-") {
			next, err = a.enrol(ctx, birth, slot, key, birth)
		}
		if err != nil {
			return Result{}, err
		}
	}
	// 7. prove
	if err := a.cfg.step("prove"); err != nil {
		return Result{}, err
	}
	return a.prove(ctx, next)
}

// enrol asks for a certificate for key and stores it in slot.
func (a *agent) enrol(ctx context.Context, as *pair, slot string, key crypto.Signer, birth *pair) (*pair, error) {
	// 3. connect
	if err := a.cfg.step("connect"); err != nil {
		return nil, err
	}
	conn, err := a.dial(ctx, as)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// 4. ask
	state := conn.ConnectionState()
	challenge := ""
	if b, err := state.ExportKeyingMaterial(exporterLabel, nil, exporterLength); err == nil {
		challenge = base64.StdEncoding.EncodeToString(b)
	} // a stack without it (TLS 1.2 without extended master secret) proves the key by connecting
	request, err := csr.Create(key, birth.Leaf.Subject.CommonName, challenge)
	if err != nil {
		return nil, err
	}
	client, err := a.client(conn)
	if err != nil {
		return nil, err
	}
	body := deviceapi.RegisterRequest{Csr: request}
	if len(a.cfg.Parameters) > 0 {
		body.Parameters = &a.cfg.Parameters
	}
	if err := a.cfg.step("ask"); err != nil {
		return nil, err
	}
	got, err := client.RegisterDeviceWithResponse(ctx, body)
	if err != nil {
		return nil, ErrServer.Wrap(err, "")
	}
	if err := a.cfg.step("answered"); err != nil {
		return nil, err
	}
	if got.StatusCode() != http.StatusOK || got.JSON200 == nil {
		return nil, refused(got.HTTPResponse, got.Body)
	}
	// 5. check
	if err := a.check(got.JSON200, key); err != nil {
		return nil, err
	}
	// 6. store
	if err := a.cfg.step("store"); err != nil {
		return nil, err
	}
	if err := a.h.store(slot, append([][]byte{got.JSON200.Certificate}, got.JSON200.Chain...), got.Body); err != nil {
		return nil, err
	}
	next := a.h.load(slot)
	if next == nil {
		return nil, ErrDir.New("The slot cannot be read back.")
	}
	return next, nil
}

// pseudonym tells whether a subject is one that names nobody: 32 hexadecimal digits,
// twice (S43). The certificate is this device's by its key, not by its subject.
func pseudonym(n pkix.Name) bool {
	return len(n.CommonName) == 32 && n.CommonName == n.SerialNumber && strings.Trim(n.CommonName, "0123456789abcdef") == ""
}

// check proves that an answer is a certificate for this device's key, under the
// device's own roots, whoever sent it.
func (a *agent) check(r *deviceapi.Registration, key crypto.Signer) error {
	c, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return ErrCertificate.Wrap(err, "It does not parse.")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(spki, c.RawSubjectPublicKeyInfo) {
		return ErrCertificate.Wrap(err, "It is for another key.")
	}
	if c.Subject.CommonName != r.Thing && !pseudonym(c.Subject) {
		return ErrCertificate.New("It names %q, and the answer %q.", c.Subject.CommonName, r.Thing)
	}
	inter := x509.NewCertPool()
	for _, der := range r.Chain {
		if i, err := x509.ParseCertificate(der); err == nil {
			inter.AddCert(i)
		}
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: a.cfg.Roots, Intermediates: inter, CurrentTime: a.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return ErrCertificate.Wrap(err, "It does not lead to the device's roots.")
	}
	return nil
}

// prove connects with the pair, asks the service who that is, and puts the pair
// into use.
func (a *agent) prove(ctx context.Context, p *pair) (Result, error) {
	var answer deviceapi.Registration
	raw, err := os.ReadFile(a.h.path(p.slot, answerFile))
	if err == nil {
		err = readMessage(raw, &answer)
	}
	if err != nil {
		return Result{}, ErrDir.Wrap(err, "The slot's registration cannot be read.")
	}
	conn, err := a.dial(ctx, p)
	if err != nil {
		return Result{}, err
	}
	defer conn.Close()
	client, err := a.client(conn)
	if err != nil {
		return Result{}, err
	}
	who, err := client.WhoamiWithResponse(ctx)
	if err != nil {
		return Result{}, ErrServer.Wrap(err, "")
	}
	if who.StatusCode() != http.StatusOK || who.JSON200 == nil {
		return Result{}, refused(who.HTTPResponse, who.Body)
	}
	serial := hex.EncodeToString(p.Leaf.SerialNumber.FillBytes(make([]byte, 20)))
	if who.JSON200.Serial != serial || who.JSON200.Thing == nil || *who.JSON200.Thing != answer.Thing {
		return Result{}, ErrCertificate.New("The service takes it for another.")
	}
	// 8. activate
	if err := a.cfg.step("activate"); err != nil {
		return Result{}, err
	}
	if err := a.h.activate(p.slot); err != nil {
		return Result{}, err
	}
	if err := a.cfg.step("export"); err != nil {
		return Result{}, err
	}
	if err := a.h.export(p.slot, answer.TrustBundle); err != nil {
		return Result{}, err
	}
	a.log.InfoContext(ctx, "device is registered", "thing", answer.Thing, "serial", serial, "slot", p.slot)
	return Result{Thing: answer.Thing, Serial: serial, Slot: p.slot, Status: who.JSON200.Status, NotAfter: p.Leaf.NotAfter.UTC(), Configuration: answer.Configuration, Policies: answer.Policies}, nil
}

// dial opens a connection as one of the device's certificates.
func (a *agent) dial(ctx context.Context, as *pair) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	host := a.url.Host
	if a.url.Port() == "" {
		host = net.JoinHostPort(a.url.Hostname(), "443")
	}
	dial := a.cfg.dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err := dial(ctx, "tcp", host)
	if err != nil {
		return nil, ErrServer.Wrap(err, "")
	}
	conn := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: a.cfg.Roots, ServerName: a.url.Hostname(), Certificates: []tls.Certificate{as.Certificate}, Time: a.now})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, ErrServer.Wrap(err, "")
	}
	return conn, nil
}

// client speaks over the one connection that it is given: the CSR is bound to
// it, so no other one may be opened behind our back.
func (a *agent) client(conn *tls.Conn) (*deviceapi.ClientWithResponses, error) {
	used := false
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			if used {
				return nil, errors.New("the connection was used already")
			}
			used = true
			return conn, nil
		},
	}
	client := &http.Client{Transport: transport, Timeout: a.cfg.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return deviceapi.NewClientWithResponses(strings.TrimSuffix(a.url.Scheme+"://"+a.url.Host, "/"), deviceapi.WithHTTPClient(client))
}

// refused turns a problem document into a fault that repeats its code and advice.
func refused(r *http.Response, body []byte) error {
	status, wait := r.StatusCode, time.Duration(0)
	if n, err := strconv.ParseUint(r.Header.Get("Retry-After"), 10, 24); err == nil {
		wait = time.Duration(n) * time.Second
	}
	d := ErrRefused
	if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		d = ErrLater // it may be different then
	}
	var p deviceapi.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Code == "" {
		return d.New("It answered with status %d.", status).With("status", status).After(wait)
	}
	detail := p.Title
	for _, more := range []*string{p.Detail, p.Next} {
		if more != nil && *more != "" {
			detail += " " + *more
		}
	}
	return d.New("%s", detail).With("code", p.Code).With("status", status).After(wait)
}

// dead tells whether the service refused a certificate, or its key, for good. A key is
// in use when the service bound it, the answer was lost, and the device has another
// owner since: the new one never gets a certificate for it.
func dead(err error) bool {
	switch code := refusal(err); code {
	case "identity-revoked", "key-in-use", "key-compromised":
		return true
	default:
		return strings.HasPrefix(code, "device-")
	}
}

// refusal is the service's code in an error, "" if it refused nothing.
func refusal(err error) string {
	if !errors.Is(err, ErrRefused) && !errors.Is(err, mqtt.ErrRejected) {
		return ""
	}
	code, _ := fault.From(err).Members["code"].(string)
	return code
}
