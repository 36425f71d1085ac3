package crl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
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
	r.Header.Set("Content-Type", f.Type)
	r.Header.Set("Cache-Control", "public, no-transform, max-age="+strconv.Itoa(int(f.Age/time.Second)))
	return r, nil
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

// S3Config makes an [S3].
type S3Config struct {
	Endpoint string // such as https://s3.eu-central-1.amazonaws.com; buckets are named in the path
	Region   string // "" means us-east-1, as most servers of one's own expect
	Bucket   string
	Prefix   string // put before the path of a file, with its slash
	// KeyFile has the access key on its first line and the secret key on its
	// second; it is read for every request.
	KeyFile string
	CAFile  string
	Now     func() time.Time
}

// S3 sends files to a store that speaks the S3 protocol with signatures of
// version 4.
type S3 struct {
	cfg    S3Config
	base   *url.URL
	client *http.Client
}

// NewS3 makes an S3.
func NewS3(cfg S3Config) (*S3, error) {
	u, err := target(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if cfg.Bucket == "" || strings.ContainsAny(cfg.Bucket, "/?#%") || cfg.KeyFile == "" {
		return nil, ErrDestination.New("It needs a bucket and a file with its keys.")
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c, err := client(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	return &S3{cfg, u, c}, nil
}

// Name implements [Destination].
func (d *S3) Name() string { return "s3 " + d.base.Host + "/" + d.cfg.Bucket + "/" + d.cfg.Prefix }

// Put implements [Destination].
func (d *S3) Put(ctx context.Context, f *File) error {
	text, err := os.ReadFile(d.cfg.KeyFile)
	if err != nil {
		return err
	}
	lines := strings.Fields(string(text))
	if len(lines) != 2 {
		return errors.New("the file of the keys has not one access key and one secret key")
	}
	r, err := request(ctx, http.MethodPut, d.base.JoinPath(d.cfg.Bucket, d.cfg.Prefix+f.Path), f)
	if err != nil {
		return err
	}
	h := sha256.New()
	newParts(f.parts).WriteTo(h)
	sum := hex.EncodeToString(h.Sum(nil))
	r.Header.Set("X-Amz-Content-Sha256", sum)
	// A signer remembers what it derived from a secret by the name of the key, so it
	// would not notice a corrected secret. The path is signed as it is sent, not
	// escaped twice, which is the rule for S3.
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err := signer.SignHTTP(ctx, aws.Credentials{AccessKeyID: lines[0], SecretAccessKey: lines[1]}, r, sum, "s3", d.cfg.Region, d.cfg.Now()); err != nil {
		return err
	}
	return do(d.client, r)
}
