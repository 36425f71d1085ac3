package ota_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"hallmark/bootstrap/bootstraptest"
	"hallmark/fleet/ota"
)

// slow is a store that takes its time with each read after the first.
type slow struct {
	ota.Blobs
	each time.Duration
}

func (s slow) Open(ctx context.Context, tenant, digest string) (ota.Blob, error) {
	b, err := s.Blobs.Open(ctx, tenant, digest)
	return slowBlob{b, ctx, s.each}, err
}

type slowBlob struct {
	ota.Blob
	ctx  context.Context
	each time.Duration
}

func (b slowBlob) ReadAt(p []byte, at int64) (int, error) {
	if at > 0 {
		select {
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		case <-time.After(b.each):
		}
	}
	return b.Blob.ReadAt(p, at)
}

// TestURL_AnImageMayTakeLongerThanOtherAnswers: neither the server's limit on
// the time of an answer nor that of the request's work cuts it off.
func TestURL_AnImageMayTakeLongerThanOtherAnswers(t *testing.T) {
	s := newSite(t)
	image := s.released("1.1", "good", nil)
	const limit = 300 * time.Millisecond
	server := httptest.NewUnstartedServer(nil)
	address := "http://" + server.Listener.Addr().String()
	service := ota.New(ota.Config{Store: s.DB, Blobs: slow{s.blobs, 2 * limit}, Trust: s.trust, Key: func(domain string, _ ...[]byte) []byte { return []byte(domain) }, HTTPS: func() string { return address }})
	mux, images := http.NewServeMux(), service.Handler(bootstraptest.Problem)
	mux.HandleFunc(ota.Pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		images.ServeHTTP(w, r.WithContext(ctx))
	})
	server.Config.Handler, server.Config.WriteTimeout = mux, limit
	server.Start()
	defer server.Close()
	a, err := service.Get(t.Context(), scope, "lamp", "1.1")
	must(t, err)
	u, err := service.Sign(t.Context(), scope.Tenant, "thing-1", service.URL(&a), time.Now().Add(time.Hour))
	must(t, err)
	res, err := http.Get(u)
	must(t, err)
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, image) {
		t.Errorf("%d, %d of %d octets: %v", res.StatusCode, len(got), len(image), err)
	}
}
