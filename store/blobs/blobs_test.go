package blobs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"hallmark/fleet/ota"
	"hallmark/fleet/ota/manifest"
	"hallmark/internal/s3"
	"hallmark/internal/s3/s3test"
	"hallmark/store/blobs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bucket(t testing.TB, endpoint string, s *s3test.Server) blobs.Bucket {
	t.Helper()
	c, err := s3.New(s3.Config{Endpoint: endpoint, Bucket: s3test.Bucket, Prefix: "firmware/", KeyFile: s.KeyFile})
	must(t, err)
	return blobs.Bucket{Client: c}
}

func image(n int) (octets []byte, digest string) {
	octets = make([]byte, n)
	rand.Read(octets)
	sum := sha256.Sum256(octets)
	return octets, hex.EncodeToString(sum[:])
}

// TestBlobs_KeepWhatTheyWereTold: a directory and an S3 store keep the same promises.
func TestBlobs_KeepWhatTheyWereTold(t *testing.T) {
	store := s3test.Run(t)
	for name, b := range map[string]ota.Blobs{"directory": blobs.Directory{Dir: t.TempDir()}, "s3": bucket(t, store.Endpoint, store)} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			octets, digest := image(3<<20 + 17)
			// A reader that is nothing but that: no length, no seeking.
			plain := func(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b)) }
			if _, err := b.Open(ctx, "main", digest); !errors.Is(err, ota.ErrBlob) {
				t.Errorf("what is not there: %v", err)
			}
			other, _ := image(len(octets))
			for what, wrong := range map[string][]byte{"other octets": other, "too few": octets[:len(octets)-1], "too many": append(octets[:len(octets):len(octets)], 0), "none": nil} {
				if err := b.Put(ctx, "main", digest, int64(len(octets)), plain(wrong)); !errors.Is(err, manifest.ErrImage) {
					t.Errorf("%s: %v", what, err)
				}
				if _, err := b.Open(ctx, "main", digest); !errors.Is(err, ota.ErrBlob) {
					t.Fatalf("%s: it is there: %v", what, err)
				}
			}
			// Twice, and at once, is once.
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if err := b.Put(ctx, "main", digest, int64(len(octets)), plain(octets)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if err := b.Put(ctx, "main", digest, int64(len(octets)), plain(other)); !errors.Is(err, manifest.ErrImage) {
				t.Errorf("other octets under a name that is there: %v", err)
			}
			if _, err := b.Open(ctx, "other", digest); !errors.Is(err, ota.ErrBlob) {
				t.Errorf("another tenant: %v", err)
			}
			for _, tenant := range []string{"", "..", "a/b", ".x"} {
				if err := b.Put(ctx, tenant, digest, int64(len(octets)), plain(octets)); !errors.Is(err, ota.ErrBlob) {
					t.Errorf("tenant %q: %v", tenant, err)
				}
			}
			f, err := b.Open(ctx, "main", digest)
			must(t, err)
			defer f.Close()
			if f.Size() != int64(len(octets)) {
				t.Errorf("%d octets", f.Size())
			}
			got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
			if err != nil || !bytes.Equal(got, octets) {
				t.Errorf("%v, %d octets", err, len(got))
			}
			for _, at := range []struct{ from, n int }{{0, 1}, {len(octets) - 1, 1}, {1 << 20, 700_000}, {5, 300_000}, {300_005, 10}} {
				part := make([]byte, at.n)
				if n, err := f.ReadAt(part, int64(at.from)); n != at.n || err != nil && err != io.EOF || !bytes.Equal(part, octets[at.from:at.from+at.n]) {
					t.Errorf("%v: %d %v", at, n, err)
				}
			}
			if n, err := f.ReadAt(make([]byte, 10), f.Size()-4); n != 4 || err != io.EOF {
				t.Errorf("beyond the end: %d %v", n, err)
			}
			if n, err := f.ReadAt(make([]byte, 10), f.Size()+4); n != 0 || err != io.EOF {
				t.Errorf("behind the end: %d %v", n, err)
			}
		})
	}
}

// TestBucket_AsksForWindows: one block does not cost the rest of an image, and who reads
// on does not ask for each block.
func TestBucket_AsksForWindows(t *testing.T) {
	store := s3test.Run(t)
	to, err := url.Parse(store.Endpoint)
	must(t, err)
	var gets, sent atomic.Int64
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }}
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet {
			gets.Add(1)
			sent.Add(r.ContentLength)
		}
		return nil
	}
	between := httptest.NewServer(proxy)
	defer between.Close()
	b := bucket(t, between.URL, store)
	octets, digest := image(8 << 20)
	must(t, b.Put(t.Context(), "main", digest, int64(len(octets)), bytes.NewReader(octets)))
	f, err := b.Open(t.Context(), "main", digest)
	must(t, err)
	_, err = f.ReadAt(make([]byte, 4096), 1<<20)
	must(t, err)
	must(t, f.Close())
	if gets.Load() != 1 || sent.Load() > 1<<20 {
		t.Errorf("one block: %d requests, %d octets", gets.Load(), sent.Load())
	}
	gets.Store(0)
	f, err = b.Open(t.Context(), "main", digest)
	must(t, err)
	defer f.Close()
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil || !bytes.Equal(got, octets) || gets.Load() > 6 {
		t.Errorf("%v, %d octets, %d requests", err, len(got), gets.Load())
	}
}

// TestBucket_BelievesNoStoreBlindly: what something else put there, keys that are wrong,
// and a store that is away. The keys of the store are in no error.
func TestBucket_BelievesNoStoreBlindly(t *testing.T) {
	store := s3test.Run(t)
	b := bucket(t, store.Endpoint, store)
	octets, digest := image(1000)
	ctx := context.WithoutCancel(t.Context())
	must(t, b.Client.Put(ctx, &s3.Object{Key: "main/" + digest[:2] + "/" + digest, SHA256: sha(nil), Size: 0, Open: func() (io.ReadCloser, error) { return http.NoBody, nil }}))
	if _, err := b.Open(ctx, "main", digest); !errors.Is(err, ota.ErrBlob) {
		t.Errorf("something else of that name: %v", err)
	}
	must(t, b.Put(ctx, "main", digest, 1000, bytes.NewReader(octets))) // it is replaced by what has the digest
	f, err := b.Open(ctx, "main", digest)
	must(t, err)
	// It becomes another object while it is read.
	must(t, b.Client.Put(ctx, &s3.Object{Key: "main/" + digest[:2] + "/" + digest, SHA256: sha(make([]byte, 1000)), Size: 1000, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(make([]byte, 1000))), nil }}))
	if _, err := f.ReadAt(make([]byte, 10), 0); !errors.Is(err, s3.ErrChange) {
		t.Errorf("it changed: %v", err)
	}
	// A body that is not what was signed is refused by the store itself.
	if err := b.Client.Put(ctx, &s3.Object{Key: "x", SHA256: sha([]byte("a")), Size: 1, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("b")), nil }}); !errors.Is(err, s3.ErrAnswer) {
		t.Errorf("another body: %v", err)
	}
	must(t, os.WriteFile(store.KeyFile, []byte("S3RVER\nof-somebody-else"), 0o600))
	for _, err := range []error{second(b.Open(ctx, "main", digest)), b.Put(ctx, "main", digest, 1000, bytes.NewReader(octets))} {
		if !errors.Is(err, s3.ErrAnswer) || strings.Contains(err.Error(), "of-somebody-else") {
			t.Errorf("wrong keys: %v", err)
		}
	}
	must(t, os.WriteFile(store.KeyFile, []byte("only-one"), 0o600))
	if _, err := b.Open(ctx, "main", digest); !errors.Is(err, s3.ErrConfig) {
		t.Errorf("no keys: %v", err)
	}
	away, err := s3.New(s3.Config{Endpoint: "http://127.0.0.1:1", Bucket: "b", KeyFile: filepath.Join(t.TempDir(), "none")})
	must(t, err)
	if _, err := (blobs.Bucket{Client: away}).Open(ctx, "main", digest); !errors.Is(err, s3.ErrConfig) {
		t.Errorf("no file of keys: %v", err)
	}
	for _, c := range []s3.Config{{Endpoint: "ftp://x", Bucket: "b", KeyFile: "k"}, {Endpoint: "https://x", Bucket: "b/c", KeyFile: "k"}, {Endpoint: "https://x", Bucket: "b"}, {Endpoint: "https://u:p@x", Bucket: "b", KeyFile: "k"}} {
		if _, err := s3.New(c); !errors.Is(err, s3.ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func second(_ ota.Blob, err error) error { return err }

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
