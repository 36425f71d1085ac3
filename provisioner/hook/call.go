package hook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

const (
	maxTimeout   = 5 * time.Second // the wire's limit
	maxAnswer    = 64 << 10        // bytes of a reply's body
	maxHeader    = 16 << 10        // bytes of a reply's header
	maxOverrides = 128             // what a template takes
)

// Config describes one hook.
type Config struct {
	Name           string         // for logs
	URL            string         // https; http only to loopback
	Secrets        []Secret       // one, or two while rotating; the first signs
	AllowAddresses []netip.Prefix // where it may be; empty = nowhere
	Timeout        time.Duration  // for the whole call; 0 = 5 s, which is also the most
	RootCAs        *x509.CertPool // nil = the system's
	Resolver       *net.Resolver  // nil = the system's
	Now            func() time.Time
	Log            *slog.Logger // nil = none
}

// Request is what the hook is asked, in the words of the wire (payload
// version 2020-04-01).
type Request struct {
	ClaimCertificateID string            `json:"claimCertificateId"`
	CertificateID      string            `json:"certificateId"`
	CertificatePEM     string            `json:"certificatePem"`
	TemplateARN        string            `json:"templateArn"`
	ClientID           string            `json:"clientId"`
	Parameters         map[string]string `json:"parameters"`
}

// Decision is the hook's answer. A decision that came without an error allows.
type Decision struct {
	Allow     bool
	Overrides map[string]string // for the Overrides of a template's Input; may be nil
}

// Caller calls one hook. It is safe for concurrent use.
type Caller struct {
	cfg     Config
	url     *url.URL
	allowed allowList
	client  *http.Client
	breaker breaker
	log     *slog.Logger
}

// New checks the configuration of a hook. It does not call it.
func New(cfg Config) (*Caller, error) {
	u, err := checkURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	allowed, err := newAllowList(cfg.AllowAddresses)
	if err != nil {
		return nil, err
	}
	// An address that is refused for certain is told now; a name has to wait
	// for its resolution.
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil && !allowed.allows(addr) {
		return nil, ErrAddress.New("The address %s is not in the allow-list.", addr)
	}
	if n := len(cfg.Secrets); n < 1 || n > 2 {
		return nil, ErrConfig.New("There are %d secrets; want one, or two while rotating.", n)
	}
	for i, s := range cfg.Secrets {
		if err := s.check(); err != nil {
			return nil, err
		}
		if i > 0 && s.KeyID == cfg.Secrets[0].KeyID {
			return nil, ErrConfig.New("Both secrets are named %s.", s.KeyID)
		}
	}
	switch {
	case cfg.Timeout == 0:
		cfg.Timeout = maxTimeout
	case cfg.Timeout < 0 || cfg.Timeout > maxTimeout:
		return nil, ErrConfig.New("The time-out must be at most %s.", maxTimeout)
	}
	cfg.Secrets = slices.Clone(cfg.Secrets)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Caller{cfg: cfg, url: u, allowed: allowed, log: cfg.Log.With("hook", cfg.Name)}
	dialer := &net.Dialer{Timeout: cfg.Timeout, Resolver: cfg.Resolver, ControlContext: c.control}
	c.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  nil, // a proxy would resolve and dial for us, unchecked
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
			DisableCompression:     true, // so that 64 KiB stay 64 KiB
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
		},
	}
	return c, nil
}

// Close ends idle connections. Calls under way are not disturbed.
func (c *Caller) Close() { c.client.CloseIdleConnections() }

// control runs after resolution and before connect, with the very address
// that connect gets, so no second look-up can change it (A58).
func (c *Caller) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !strings.HasPrefix(network, "tcp") || !c.allowed.allows(ap.Addr()) {
		return ErrAddress.New("The name leads to %s, which is not in the allow-list.", ap.Addr())
	}
	if c.url.Scheme == "http" && !ap.Addr().Unmap().IsLoopback() {
		return ErrAddress.New("Without TLS only loopback addresses may be called.")
	}
	return nil
}

// Call asks the hook. The error is nil only if the hook allows the device.
func (c *Caller) Call(ctx context.Context, r Request) (Decision, error) {
	// 1. The body, which does not depend on the hook.
	if r.Parameters == nil {
		r.Parameters = map[string]string{}
	}
	body, err := json.Marshal(r)
	if err != nil {
		return Decision{}, ErrFailed.Wrap(err, "The request cannot be written.")
	}

	// 2. The breaker, before anything is dialled.
	ok, wait := c.breaker.enter(c.cfg.Now())
	if !ok {
		return Decision{}, ErrFailed.New("It failed too often and is left alone for a while.").After(wait)
	}
	o := undecided // also if what follows panics: the trial must end
	defer func() {
		if c.breaker.leave(c.cfg.Now(), o) {
			c.log.WarnContext(ctx, "hook is left alone after repeated failures", "for", breakFor)
		}
	}()

	// 3. Ask and listen, under one time-out.
	var random [16]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	header, answer, err := c.exchange(limited, id, body)
	if err != nil {
		o = c.judge(ctx, err)
		return Decision{}, err
	}

	// 4. Trust, then read: nothing unsigned reaches the parser.
	d, err := c.read(header, id, answer)
	o = answered
	if errors.Is(err, ErrAnswerInvalid) {
		o = failed
	}
	return d, err
}

// judge says what a failed exchange tells about the hook. When the device
// went away, or our own allow-list refused, it tells nothing.
func (c *Caller) judge(ctx context.Context, err error) outcome {
	if ctx.Err() != nil || errors.Is(err, ErrAddress) {
		return undecided
	}
	return failed
}

func (c *Caller) exchange(ctx context.Context, id string, body []byte) (http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return nil, nil, ErrFailed.Wrap(err, "The request cannot be made.")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "hallmark")
	c.cfg.Secrets[0].sign(req.Header, id, c.cfg.URL, body, c.cfg.Now())
	res, err := c.client.Do(req)
	if err != nil {
		var refused *fault.Fault
		if errors.As(err, &refused) && errors.Is(refused, ErrAddress) {
			return nil, nil, refused
		}
		if ctx.Err() != nil {
			return nil, nil, ErrFailed.Wrap(err, "It took too long.")
		}
		return nil, nil, ErrFailed.Wrap(err, "It cannot be reached.")
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode/100 == 3:
		return nil, nil, ErrAnswerInvalid.New("It redirects, which is not followed.")
	case res.StatusCode != http.StatusOK:
		return nil, nil, ErrFailed.New("It answered with status %d.", res.StatusCode)
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case len(answer) > maxAnswer:
		return nil, nil, ErrAnswerInvalid.New("It is longer than %d bytes.", maxAnswer)
	case ctx.Err() != nil: // also when the end of the answer arrived just after
		return nil, nil, ErrFailed.Wrap(err, "It took too long.")
	case err != nil:
		return nil, nil, ErrFailed.Wrap(err, "The answer broke off.")
	}
	return res.Header, answer, nil
}

// read checks the signature and makes the decision.
func (c *Caller) read(header http.Header, id string, answer []byte) (Decision, error) {
	if len(header.Values(HeaderReplySignature)) != 1 {
		return Decision{}, ErrAnswerInvalid.New("The header %s must stand there once.", HeaderReplySignature)
	}
	signed := false
	for _, s := range c.cfg.Secrets {
		if hmac.Equal([]byte(s.replyMAC(id, answer)), []byte(header.Get(HeaderReplySignature))) {
			signed = true
		}
	}
	if !signed {
		return Decision{}, ErrAnswerInvalid.New("Its signature is not over this request and this answer.")
	}
	// Pointers, because encoding/json takes null for anything.
	var reply struct {
		Allow     *bool              `json:"allowProvisioning"`
		Overrides map[string]*string `json:"parameterOverrides"`
	}
	if err := strictjson.Decode(answer, &reply, strictjson.WithLimits(strictjson.Limits{Size: maxAnswer, Depth: 2})); err != nil {
		return Decision{}, ErrAnswerInvalid.Wrap(err, "%s", fault.From(err).Detail)
	}
	if reply.Allow == nil {
		return Decision{}, ErrAnswerInvalid.New("It does not say allowProvisioning.")
	}
	if !*reply.Allow {
		return Decision{}, ErrRefused.New("")
	}
	if len(reply.Overrides) > maxOverrides {
		return Decision{}, ErrAnswerInvalid.New("It overrides more than %d parameters.", maxOverrides)
	}
	d := Decision{Allow: true}
	for name, value := range reply.Overrides {
		// S21: what the service knows of the certificate, a hook does not change.
		if len(name) >= 5 && strings.EqualFold(name[:5], "AWS::") {
			return Decision{}, ErrAnswerInvalid.New("It overrides %s, which is the service's.", strictjson.Quote(name)).With("parameter", name)
		}
		if value == nil {
			return Decision{}, ErrAnswerInvalid.New("It overrides %s with null.", strictjson.Quote(name))
		}
		if d.Overrides == nil {
			d.Overrides = map[string]string{}
		}
		d.Overrides[name] = *value
	}
	return d, nil
}
