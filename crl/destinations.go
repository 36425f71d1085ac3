package crl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hallmark/internal/fault"
	"hallmark/internal/s3"
)

// Directory is a directory, which may be another machine's.
type Directory struct{ Dir string }

// Name implements [Destination].
func (d Directory) Name() string { return d.Dir }

// Put implements [Destination].
func (d Directory) Put(_ context.Context, f *File) error {
	name := filepath.Join(d.Dir, filepath.FromSlash(f.Path))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return writeFile(name, newParts(f.parts), 0o644)
}

// HTTPPushConfig makes an [HTTPPush].
type HTTPPushConfig struct {
	URL    string // the path of a file is put behind it
	Method string // PUT or POST; "" means PUT
	// TokenFile has a bearer token; it is read for every request, so that it can be
	// replaced. "" sends none.
	TokenFile string
	CAFile    string // PEM roots of the server; "" means the system's
}

// HTTPPush sends files to a web server.
type HTTPPush struct {
	cfg    HTTPPushConfig
	base   *url.URL
	client *http.Client
}

// NewHTTPPush makes an HTTPPush.
func NewHTTPPush(cfg HTTPPushConfig) (*HTTPPush, error) {
	u, err := target(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Method == "" {
		cfg.Method = http.MethodPut
	}
	if cfg.Method != http.MethodPut && cfg.Method != http.MethodPost {
		return nil, ErrDestination.New("The method is PUT or POST, not %.20q.", cfg.Method)
	}
	if cfg.TokenFile != "" && u.Scheme != "https" && !loopback(u) {
		return nil, ErrDestination.New("A bearer token is sent over https only, not to %s.", u.Redacted())
	}
	c, err := client(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	return &HTTPPush{cfg, u, c}, nil
}

func target(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, ErrDestination.New("%.200q is not http:// or https:// with a name.", text)
	}
	return u, nil
}

func loopback(u *url.URL) bool {
	h := u.Hostname()
	return h == "localhost" || h == "127.0.0.1" || h == "::1"
}

// client is an HTTP client that follows no redirect, since what is sent is for
// the place that was configured.
func client(caFile string) (*http.Client, error) {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	if caFile != "" {
		text, err := os.ReadFile(caFile)
		if err != nil {
			return nil, ErrDestination.Wrap(err, "Roots of the server.")
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, ErrDestination.New("%s has no certificate.", caFile)
		}
		tr.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: tr, Timeout: 2 * time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// Name implements [Destination].
func (d *HTTPPush) Name() string { return d.base.Redacted() }

// Put implements [Destination].
func (d *HTTPPush) Put(ctx context.Context, f *File) error {
	r, err := request(ctx, d.cfg.Method, d.base.JoinPath(f.Path), f)
	if err != nil {
		return err
	}
	if d.cfg.TokenFile != "" {
		token, err := secret(d.cfg.TokenFile)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return do(d.client, r)
}

func request(ctx context.Context, method string, u *url.URL, f *File) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, u.String(), io.NopCloser(f.Open()))
	if err != nil {
		return nil, err
	}
	r.ContentLength = f.Size()
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(f.Open()), nil }
	r.Header = f.header()
	return r, nil
}

// header is what is said of a file.
func (f *File) header() http.Header {
	return http.Header{"Content-Type": {f.Type}, "Cache-Control": {"public, no-transform, max-age=" + strconv.Itoa(int(f.Age/time.Second))}}
}

func do(c *http.Client, r *http.Request) error {
	a, err := c.Do(r)
	if err != nil {
		return err
	}
	io.Copy(io.Discard, io.LimitReader(a.Body, 64<<10))
	a.Body.Close()
	if a.StatusCode/100 != 2 {
		return errSend(a.Status)
	}
	return nil
}

// secret reads a one-line secret.
func secret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := string(bytes.TrimSpace(text))
	if s == "" || len(s) > 8192 || strings.ContainsAny(s, "\r\n") {
		return "", fmt.Errorf("%s is not one line", file)
	}
	return s, nil
}

// S3 sends files to a store that speaks the S3 protocol.
type S3 struct{ client *s3.Client }

// NewS3 makes an S3.
func NewS3(cfg s3.Config) (*S3, error) {
	c, err := s3.New(cfg)
	if err != nil {
		return nil, ErrDestination.Wrap(err, "%s", fault.From(err).Detail)
	}
	return &S3{c}, nil
}

// Name implements [Destination].
func (d *S3) Name() string { return d.client.Name() }

// Put implements [Destination].
func (d *S3) Put(ctx context.Context, f *File) error {
	h := sha256.New()
	if _, err := newParts(f.parts).WriteTo(h); err != nil {
		return err
	}
	return d.client.Put(ctx, &s3.Object{Key: f.Path, SHA256: hex.EncodeToString(h.Sum(nil)), Size: f.Size(), Header: f.header(),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(f.Open()), nil }})
}
