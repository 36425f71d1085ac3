package uplink

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"hallmark/api/factoryapi"
)

// Config makes a [Client].
type Config struct {
	// Server is the address of the factory listener, https://host:9444.
	Server string
	// Roots are the pinned trust anchors; at least one.
	Roots []*x509.Certificate
	// Certificate is the station's certificate with its key and chain. It can
	// be changed later, see [Client.SetCertificate].
	Certificate tls.Certificate
	// Timeout bounds one attempt; 0 means 10 s.
	Timeout time.Duration
	// Patience is how long a request is repeated while the service is away;
	// 0 means 30 s, negative means one attempt.
	Patience time.Duration
	// Connections kept open; 0 means 8.
	Connections int
	Log         *slog.Logger
	Now         func() time.Time
}

// Client speaks the station protocol over mutual TLS. It is safe for concurrent
// use and keeps its connections.
type Client struct {
	api   *factoryapi.Client
	http  *http.Transport
	retry retry

	mu    sync.Mutex
	cert  *tls.Certificate
	skew  time.Duration
	timed bool // an answer told the time
}

// maxAnswer bounds an answer: a chain of ten certificates in base64.
const maxAnswer = 1 << 20

// NewClient makes a client; it connects with the first request.
func NewClient(cfg Config) (*Client, error) {
	if _, err := serverName(cfg.Server); err != nil {
		return nil, err
	}
	if len(cfg.Roots) == 0 {
		return nil, ErrConfig.New("There is no root to trust.")
	}
	if len(cfg.Certificate.Certificate) == 0 || cfg.Certificate.PrivateKey == nil {
		return nil, ErrConfig.New("There is no station certificate or no key.")
	}
	c := &Client{cert: &cfg.Certificate, retry: newRetry(cfg.Patience, cfg.Log)}
	c.retry.answered = c.compareClocks
	if cfg.Now != nil {
		c.retry.wall = cfg.Now
	}
	roots := x509.NewCertPool()
	for _, r := range cfg.Roots {
		roots.AddCert(r)
	}
	c.http = transport(&tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		Time:       cfg.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.cert, nil
		},
	}, cfg.Connections)
	var err error
	if c.api, err = factoryapi.NewClient(cfg.Server, factoryapi.WithHTTPClient(httpClient(c.http, cfg.Timeout))); err != nil {
		return nil, ErrConfig.Wrap(err, "")
	}
	return c, nil
}

// serverName is the host of an https address.
func serverName(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", ErrConfig.New("The server's address must look like https://host:port.")
	}
	return u.Hostname(), nil
}

func transport(cfg *tls.Config, connections int) *http.Transport {
	if connections <= 0 {
		connections = 8
	}
	return &http.Transport{
		TLSClientConfig:     cfg,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     5 * time.Minute,
		ForceAttemptHTTP2:   true,
		// A cable that is pulled leaves a connection that looks alive.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}
}

func httpClient(t *http.Transport, timeout time.Duration) *http.Client {
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	return &http.Client{Transport: t, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// SetCertificate makes new connections use another certificate.
func (c *Client) SetCertificate(cert tls.Certificate) {
	c.mu.Lock()
	c.cert = &cert
	c.mu.Unlock()
	c.http.CloseIdleConnections()
}

// Close closes the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// compareClocks reads the Date of an answer (RFC 9110, Section 6.6.1). It was
// written between sent and now, and leaves out what a second has after its point.
func (c *Client) compareClocks(date string, sent time.Time) {
	at, err := http.ParseTime(date)
	if err != nil {
		return
	}
	now := c.retry.wall()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timed = true
	// A slow answer is no wrong clock: of all that is possible the least.
	c.skew = max(at.Sub(now), 0) + min(at.Add(time.Second).Sub(sent), 0)
}

// Skew is how far the service's clock is ahead of the station's, by the last
// answer; negative if the station's is ahead. known is false before the first.
func (c *Client) Skew() (skew time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skew, c.timed
}

// Order asks what the station may know of an order.
func (c *Client) Order(ctx context.Context, id string) (o factoryapi.FactoryOrder, err error) {
	err = c.retry.do(ctx, "order", &o, func(ctx context.Context) (*http.Response, error) {
		return c.api.GetFactoryOrder(ctx, id)
	})
	return o, err
}

// Issue asks for a unit's certificate, or for the same again. The answer is for
// the order and unit that were asked for; nothing else about it is checked here.
func (c *Client) Issue(ctx context.Context, r factoryapi.IssueRequest) (a factoryapi.IssueAnswer, err error) {
	err = c.retry.do(ctx, "issue", &a, func(ctx context.Context) (*http.Response, error) {
		return c.api.IssueUnit(ctx, r)
	})
	switch {
	case err != nil:
		return a, err
	case a.Order != r.Order || r.Unit != nil && *r.Unit != "" && a.Unit != *r.Unit:
		return a, ErrCertified.New("It is for unit %q of order %q.", a.Unit, a.Order)
	case len(a.Certificate) == 0 || a.Unit == "" || a.Serial == "" || len(a.Nonce) == 0:
		return a, ErrAnswer.New("Certificate, unit, serial number or nonce is missing.")
	}
	return a, nil
}

// Commit tells that a unit's certificate is installed and verified. Only a nil
// error says that the service knows it.
func (c *Client) Commit(ctx context.Context, r factoryapi.CommitRequest) (a factoryapi.CommitAnswer, err error) {
	err = c.retry.do(ctx, "commit", &a, func(ctx context.Context) (*http.Response, error) {
		return c.api.CommitUnit(ctx, r)
	})
	if err == nil && a.Unit != r.Unit {
		err = ErrAnswer.New("It confirms unit %q.", a.Unit)
	}
	return a, err
}

// Receipts asks for the transparency log's receipts of certificates that this
// station asked for; those without a checkpoint are left out of the answer.
func (c *Client) Receipts(ctx context.Context, serials []string) (a factoryapi.ReceiptAnswer, err error) {
	err = c.retry.do(ctx, "receipts", &a, func(ctx context.Context) (*http.Response, error) {
		return c.api.FetchReceipts(ctx, factoryapi.ReceiptRequest{Serials: serials})
	})
	return a, err
}

// Renew asks for a certificate for the station's next key.
func (c *Client) Renew(ctx context.Context, csr []byte) (s factoryapi.StationCertificate, err error) {
	err = c.retry.do(ctx, "renew", &s, func(ctx context.Context) (*http.Response, error) {
		return c.api.RenewStation(ctx, factoryapi.RenewRequest{Csr: csr})
	})
	return s, err
}

// Enrolment is what a station says to enrol.
type Enrolment struct {
	Server  string // of the enrolment listener, https://host:9445
	Text    string // the enrolment string
	Station string
	CSR     []byte // DER, by the station's own key

	Timeout  time.Duration // of one attempt; 0 means 10 s
	Patience time.Duration // 0 means 30 s, negative means one attempt
	Log      *slog.Logger
	Now      func() time.Time
}

// Enrol redeems an enrolment string. The code leaves only after the server's
// chain, which must contain the root, was found to end in the root that the
// string names. Repeating it with the same key is safe.
func Enrol(ctx context.Context, e Enrolment) (s factoryapi.StationCertificate, err error) {
	code, rootHash, err := ParseCode(e.Text)
	if err != nil {
		return s, err
	}
	name, err := serverName(e.Server)
	if err != nil {
		return s, err
	}
	t := transport(&tls.Config{
		MinVersion: tls.VersionTLS12,
		// The root is not known yet, only its hash: VerifyConnection does all
		// that is skipped here.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyNamedRoot(cs.PeerCertificates, rootHash, name, e.Now)
		},
	}, 1)
	defer t.CloseIdleConnections()
	api, err := factoryapi.NewClient(e.Server, factoryapi.WithHTTPClient(httpClient(t, e.Timeout)))
	if err != nil {
		return s, ErrConfig.Wrap(err, "")
	}
	r := newRetry(e.Patience, e.Log)
	body := factoryapi.EnrolRequest{Station: e.Station, Code: formatCode(code, rootHash), Csr: e.CSR}
	err = r.do(ctx, "enrol", &s, func(ctx context.Context) (*http.Response, error) { return api.EnrolStation(ctx, body) })
	if err != nil {
		return s, err
	}
	for _, der := range s.Roots {
		if root, err := x509.ParseCertificate(der); err == nil && sha256.Sum256(root.RawSubjectPublicKeyInfo) == rootHash {
			return s, nil
		}
	}
	return s, ErrUntrusted.New("The roots it gave do not contain the one of the enrolment string.")
}

// verifyNamedRoot is the trust decision of enrolment: one certificate of the
// chain is a self-signed CA whose key has the hash, and the first one verifies
// to exactly that root for the name that was dialled.
func verifyNamedRoot(chain []*x509.Certificate, rootHash [32]byte, name string, now func() time.Time) error {
	if len(chain) == 0 {
		return ErrUntrusted.New("It showed no certificate.")
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		if sha256.Sum256(c.RawSubjectPublicKeyInfo) == rootHash && c.IsCA && c.CheckSignatureFrom(c) == nil {
			roots.AddCert(c)
			found = true
		} else {
			others.AddCert(c)
		}
	}
	if !found {
		return ErrUntrusted.New("Its chain does not contain the root that the enrolment string names.")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: others, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if now != nil {
		opts.CurrentTime = now()
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return ErrUntrusted.Wrap(err, "%s.", trustReason(err))
	}
	return nil
}

// decode reads an answer's JSON.
func decode(b []byte, into any) error {
	if err := json.Unmarshal(b, into); err != nil {
		return ErrAnswer.Wrap(err, "")
	}
	return nil
}
