package blobs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"sync"

	"hallmark/fleet/ota"
	"hallmark/fleet/ota/manifest"
	"hallmark/internal/s3"
)

var _ ota.Blobs = Bucket{}

// Bucket keeps blobs in a store that speaks the S3 protocol. Any number of services may
// share it.
type Bucket struct{ Client *s3.Client }

// Put implements [ota.Blobs]. The store is told the SHA-256 before the octets, and takes
// no others.
func (b Bucket) Put(ctx context.Context, tenant, digest string, size int64, r io.Reader) error {
	key, err := place(tenant, digest)
	if err != nil {
		return err
	}
	if have, err := b.Client.Look(ctx, key); err == nil && have.Size == size && have.SHA256 == digest {
		_, err := check(io.Discard, digest, size, r) // whoever sends another file is told so
		return err
	} else if err != nil && !errors.Is(err, s3.ErrObject) {
		return err
	}
	// Where r cannot be read again, a connection that was closed in the meantime is an
	// error, and whoever sends tries again.
	opened := false
	body := &checked{r: r, digest: digest, size: size, sum: sha256.New()}
	err = b.Client.Put(ctx, &s3.Object{Key: key, SHA256: digest, Size: size, Open: func() (io.ReadCloser, error) {
		if opened {
			return nil, errors.New("the image was read in part already")
		}
		opened = true
		return io.NopCloser(body), nil
	}})
	if body.err != nil {
		return body.err
	}
	if err == nil && body.n != size {
		return manifest.ErrImage.New("It has not the %d octets that it should have.", size)
	}
	return err
}

// checked reads what has a digest and a size, and ends with an error before its last
// octet if it is something else: an object is taken whole or not at all.
type checked struct {
	r      io.Reader
	digest string
	size   int64
	sum    hash.Hash
	n      int64
	err    error
}

func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.size-c.n+1)])
	c.sum.Write(p[:n])
	c.n += int64(n)
	switch {
	case c.n > c.size, err == io.EOF && c.n < c.size:
		c.err = manifest.ErrImage.New("It has not the %d octets that it should have.", c.size)
	case c.n == c.size && hex.EncodeToString(c.sum.Sum(nil)) != c.digest:
		c.err = manifest.ErrImage.New("Its SHA-256 is another.")
	case err != nil && err != io.EOF:
		c.err = err
	}
	if c.err != nil {
		return 0, c.err
	}
	return n, err
}

// Open implements [ota.Blobs].
func (b Bucket) Open(ctx context.Context, tenant, digest string) (ota.Blob, error) {
	key, err := place(tenant, digest)
	if err != nil {
		return nil, err
	}
	have, err := b.Client.Look(ctx, key)
	if errors.Is(err, s3.ErrObject) {
		return nil, ota.ErrBlob.Wrap(err, "The image %.16s… is not there.", digest)
	}
	if err != nil {
		return nil, err
	}
	if have.SHA256 != digest {
		return nil, ota.ErrBlob.New("What is in the store under %.16s… was not put there by this service: its SHA-256 is %.64q.", digest, have.SHA256)
	}
	return &object{ctx: ctx, client: b.Client, key: key, info: have}, nil
}

const (
	firstWindow = 256 << 10 // as much as a request of a file stream, and twice
	mostWindow  = 16 << 20
)

// object reads a blob in windows, that grow for whoever reads on and on: a device that
// wants one block does not have the store send the rest.
type object struct {
	ctx    context.Context
	client *s3.Client
	key    string
	info   s3.Info

	mu     sync.Mutex
	body   io.ReadCloser // of the window that is read
	at     int64         // where it is
	left   int64         // of the window
	window int64
}

// Size implements [ota.Blob].
func (o *object) Size() int64 { return o.info.Size }

// ReadAt implements [ota.Blob].
func (o *object) ReadAt(p []byte, off int64) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if off < 0 || off >= o.info.Size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), o.info.Size-off)]
	for n < len(want) {
		if o.body == nil || o.at != off+int64(n) || o.left == 0 {
			if err := o.open(off+int64(n), int64(len(want)-n)); err != nil {
				return n, err
			}
		}
		k, err := io.ReadFull(o.body, want[n:min(len(want), n+int(o.left))])
		n, o.at, o.left = n+k, o.at+int64(k), o.left-int64(k)
		if err != nil {
			o.close()
			return n, s3.ErrAnswer.Wrap(err, "The store ended in the midst of %s.", o.key)
		}
	}
	if len(want) < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// open asks for the window at an offset.
func (o *object) open(off, least int64) error {
	if o.body != nil && o.left == 0 && o.at == off {
		o.window *= 4
	} else {
		o.window = firstWindow
	}
	o.close()
	o.window = min(o.window, mostWindow)
	n := min(max(o.window, least), o.info.Size-off)
	body, err := o.client.Get(o.ctx, o.key, o.info.ETag, off, n)
	if err != nil {
		return err
	}
	o.body, o.at, o.left = body, off, n
	return nil
}

func (o *object) close() (err error) {
	if o.body != nil {
		err = o.body.Close()
	}
	o.body = nil
	return err
}

// Close implements [ota.Blob].
func (o *object) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.close()
}
