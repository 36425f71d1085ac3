package device

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/smallstep/pkcs7"

	"hallmark/internal/fault"
)

const estPath = "/.well-known/est/"

// reenrol is the simple re-enrolment of EST (RFC 7030, Section 4.2.2): a renewal
// at any server that speaks it, with the names of the certificate in use. The
// answer has the certificate alone; the chain is the one of the certificate before, or
// of the server's CA certificates where another authority issued it.
func (a *agent) reenrol(ctx context.Context, used *pair, slot string, key crypto.Signer) (*pair, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		RawSubject: used.Leaf.RawSubject, DNSNames: used.Leaf.DNSNames, URIs: used.Leaf.URIs, IPAddresses: used.Leaf.IPAddresses, EmailAddresses: used.Leaf.EmailAddresses,
	}, key)
	if err != nil {
		return nil, ErrToken.Wrap(err, "The key does not sign.")
	}
	if err := a.cfg.step("connect"); err != nil {
		return nil, err
	}
	conn, err := a.dial(ctx, used)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := a.cfg.step("ask"); err != nil {
		return nil, err
	}
	raw, err := a.est(ctx, conn, http.MethodPost, "simplereenroll", strings.NewReader(base64.StdEncoding.EncodeToString(der)))
	if err != nil {
		return nil, err
	}
	if err := a.cfg.step("answered"); err != nil {
		return nil, err
	}
	chain, err := readCertsOnly(raw)
	if err != nil {
		return nil, ErrCertificate.Wrap(err, "The answer is not PKCS #7.")
	}
	if len(chain) == 1 {
		if chain, err = a.chain(ctx, used, chain[0]); err != nil {
			return nil, err
		}
	}
	return a.keep(used, slot, key, chain, nil)
}

// est is one request of the protocol.
func (a *agent) est(ctx context.Context, conn net.Conn, method, operation string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+a.url.Host+estPath+operation, body)
	if err != nil {
		return nil, ErrServer.Wrap(err, "")
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/pkcs10")
		req.Header.Set("Content-Transfer-Encoding", "base64")
	}
	client := &http.Client{Timeout: a.cfg.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableKeepAlives: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	res, err := client.Do(req)
	if err != nil {
		return nil, ErrServer.Wrap(err, "")
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 256<<10))
	if err != nil {
		return nil, ErrServer.Wrap(err, "")
	}
	if res.StatusCode != http.StatusOK {
		return nil, estRefused(res, raw)
	}
	return raw, nil
}

// estRefused is refused for an answer that is a text, as the protocol has it; the
// code of our own server's is in a line of its own.
func estRefused(res *http.Response, text []byte) error {
	err := refused(res, text)
	for line := range strings.Lines(string(text)) {
		if code, ok := strings.CutPrefix(strings.TrimSpace(line), "Code: "); ok && refusal(err) == "" {
			return fault.From(err).With("code", short(code))
		}
	}
	return err
}

// chain leads from a new certificate to a root: by what the device has, where the same
// authority issued it, else by what the server says (RFC 7030, Section 4.1). That it
// leads to the device's own roots is checked with the certificate.
func (a *agent) chain(ctx context.Context, used *pair, leaf []byte) ([][]byte, error) {
	c, err := x509.ParseCertificate(leaf)
	if err != nil {
		return nil, ErrCertificate.Wrap(err, "It does not parse.")
	}
	known := used.Certificate.Certificate[1:]
	for _, der := range known {
		if i, err := x509.ParseCertificate(der); err == nil && c.CheckSignatureFrom(i) == nil {
			return append([][]byte{leaf}, known...), nil
		}
	}
	conn, err := a.dial(ctx, used)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	raw, err := a.est(ctx, conn, http.MethodGet, "cacerts", nil)
	if err != nil {
		return nil, err
	}
	all, err := readCertsOnly(raw)
	if err != nil {
		return nil, ErrCertificate.Wrap(err, "The server's CA certificates are not PKCS #7.")
	}
	out := [][]byte{leaf}
	for _, der := range all { // those of roots are the device's own
		if i, err := x509.ParseCertificate(der); err == nil && !bytes.Equal(i.RawSubject, i.RawIssuer) {
			out = append(out, der)
		}
	}
	return out, nil
}

// readCertsOnly reads base64 of a PKCS #7 without a signature.
func readCertsOnly(raw []byte) (out [][]byte, err error) {
	der, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(raw), nil)))
	if err != nil {
		return nil, err
	}
	p, err := pkcs7.Parse(der)
	if err != nil {
		return nil, err
	}
	for _, c := range p.Certificates {
		out = append(out, c.Raw)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}
