package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Config makes a Client.
type Config struct {
	Endpoint string // such as https://s3.eu-central-1.amazonaws.com; buckets are named in the path
	Region   string // "" means us-east-1, as most servers of one's own expect
	Bucket   string
	Prefix   string // put before the name of an object, with its slash
	// KeyFile has the access key on its first line and the secret key on its
	// second; it is read for every request, so that it can be replaced.
	KeyFile string
	CAFile  string // PEM roots of the store; "" means the system's
	Now     func() time.Time
}

// Client is one bucket, or what is below a prefix in it. It is safe for concurrent use.
type Client struct {
	cfg    Config
	base   *url.URL
	client *http.Client
}

const (
	headersWithin = 30 * time.Second // of an answer that has to do nothing first
	slowest       = 64 << 10         // octets a second that an upload has to reach
)

// empty is the SHA-256 of nothing.
const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// New makes a Client; it asks the store nothing.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, ErrConfig.New("%.200q is not http:// or https:// with a name.", cfg.Endpoint)
	}
	if cfg.Bucket == "" || strings.ContainsAny(cfg.Bucket, "/?#%") || cfg.KeyFile == "" {
		return nil, ErrConfig.New("It needs a bucket and a file with its keys.")
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.DisableCompression = true // the octets are what was signed
	tr.ResponseHeaderTimeout = 2 * time.Minute
	if cfg.CAFile != "" {
		text, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, ErrConfig.Wrap(err, "Roots of the store.")
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, ErrConfig.New("%s has no certificate.", cfg.CAFile)
		}
		tr.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &Client{cfg, u, &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Name says which store, bucket and prefix it is.
func (c *Client) Name() string { return "s3 " + c.base.Host + "/" + c.cfg.Bucket + "/" + c.cfg.Prefix }

// Object is what is sent.
type Object struct {
	Key    string // below the prefix
	SHA256 string // of the body, in hexadecimal
	Size   int64
	Header http.Header // further headers, such as Content-Type
	// Open gives the body from its beginning: again, where a connection turned out to
	// be closed before anything was sent.
	Open func() (io.ReadCloser, error)
}

// Put sends an object. The store takes it whole, with the SHA-256 that it was to have,
// or not at all.
func (c *Client) Put(ctx context.Context, o *Object) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute+time.Duration(o.Size/slowest)*time.Second)
	defer cancel()
	body, err := o.Open()
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, c.address(o.Key), body)
	if err != nil {
		body.Close()
		return err
	}
	r.ContentLength, r.GetBody = o.Size, o.Open
	if o.Size == 0 { // a body of no known length would be sent in chunks
		r.Body = http.NoBody
	}
	for name, v := range o.Header {
		r.Header[name] = v
	}
	r.Header.Set(metaSHA256, o.SHA256)
	a, err := c.do(r, o.SHA256)
	if err != nil {
		return err
	}
	defer finish(a)
	if a.StatusCode/100 != 2 {
		return c.failed(a, o.Key)
	}
	return nil
}

// metaSHA256 is kept with an object: what an ETag is differs from store to store.
const metaSHA256 = "X-Amz-Meta-Sha256"

// Info is what the store says of an object.
type Info struct {
	Size   int64
	ETag   string
	SHA256 string // that [Client.Put] sent with it; "" if something else put it there
}

// Look asks for what the store says of an object.
func (c *Client) Look(ctx context.Context, key string) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, headersWithin)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, c.address(key), nil)
	if err != nil {
		return Info{}, err
	}
	a, err := c.do(r, empty)
	if err != nil {
		return Info{}, err
	}
	defer finish(a)
	if a.StatusCode != http.StatusOK {
		return Info{}, c.failed(a, key)
	}
	return Info{Size: a.ContentLength, ETag: a.Header.Get("ETag"), SHA256: a.Header.Get(metaSHA256)}, nil
}

// Get reads n octets of an object from an offset, which have to be there. With an etag
// the object is still the one that was looked at, else it gives [ErrChange]. The caller
// closes it.
func (c *Client) Get(ctx context.Context, key, etag string, from, n int64) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address(key), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-"+strconv.FormatInt(from+n-1, 10))
	if etag != "" {
		r.Header.Set("If-Match", etag)
	}
	a, err := c.do(r, empty)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusPartialContent || !strings.HasPrefix(a.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/", from, from+n-1)) {
		defer finish(a)
		if a.StatusCode/100 == 2 {
			return nil, ErrAnswer.New("It gave another part of %s than was asked for.", key)
		}
		return nil, c.failed(a, key)
	}
	if now := a.Header.Get("ETag"); etag != "" && now != etag {
		finish(a)
		return nil, ErrChange.New("%s.", key)
	}
	return a.Body, nil
}

func (c *Client) address(key string) string {
	return c.base.JoinPath(c.cfg.Bucket, c.cfg.Prefix+key).String()
}

// do signs a request and sends it. sum is the SHA-256 of its body.
func (c *Client) do(r *http.Request, sum string) (*http.Response, error) {
	text, err := os.ReadFile(c.cfg.KeyFile)
	if err != nil {
		return nil, ErrConfig.Wrap(err, "The file of the keys.")
	}
	lines := strings.Fields(string(text))
	if len(lines) != 2 {
		return nil, ErrConfig.New("The file of the keys has not one access key and one secret key.")
	}
	r.Header.Set("X-Amz-Content-Sha256", sum)
	// A signer remembers what it derived from a secret by the name of the key, so it
	// would not notice a corrected secret. The path is signed as it is sent, not
	// escaped twice, which is the rule for S3.
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err := signer.SignHTTP(r.Context(), aws.Credentials{AccessKeyID: lines[0], SecretAccessKey: lines[1]}, r, sum, "s3", c.cfg.Region, c.cfg.Now()); err != nil {
		return nil, ErrConfig.Wrap(err, "")
	}
	a, err := c.client.Do(r)
	if err != nil {
		return nil, ErrAnswer.Wrap(err, "%s.", c.Name())
	}
	return a, nil
}

// failed says what an answer that is not the wanted one means. Its body names the bucket
// and sometimes the signature: only its code is repeated.
func (c *Client) failed(a *http.Response, key string) error {
	body, _ := io.ReadAll(io.LimitReader(a.Body, 8<<10))
	_, code, _ := strings.Cut(string(body), "<Code>")
	code, _, _ = strings.Cut(code, "</Code>")
	switch {
	case a.StatusCode == http.StatusNotFound && code != "NoSuchBucket":
		return ErrObject.New("%s in %s.", key, c.Name())
	case a.StatusCode == http.StatusPreconditionFailed:
		return ErrChange.New("%s.", key)
	}
	return ErrAnswer.New("%s: %s %.64s", c.Name(), a.Status, code)
}

// finish lets the connection be used again.
func finish(a *http.Response) {
	io.Copy(io.Discard, io.LimitReader(a.Body, 64<<10))
	a.Body.Close()
}
