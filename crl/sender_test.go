package crl_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/internal/s3"
	"hallmark/internal/s3/s3test"
)

// shelf is a web server that keeps what is put there, with a check before.
type shelf struct {
	mu    sync.Mutex
	files map[string][]byte
	down  bool
	allow func(r *http.Request, body []byte) bool
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !s.allow(r, body):
		w.WriteHeader(http.StatusForbidden)
	default:
		s.files[r.Method+" "+r.URL.Path] = body
	}
}

func (s *shelf) get(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[name]
}

const accessKey, secretKey = "AKHALLMARK", "a_secret_of_the_store"

// Lists reach a directory, a web server and an S3 store on their own, are there
// again after an outage, and never fall back to an older number.
func TestSender_CarriesListsEverywhere(t *testing.T) {
	b := newBench(t)
	web := &shelf{files: map[string][]byte{}, allow: func(r *http.Request, _ []byte) bool { return r.Header.Get("Authorization") == "Bearer the-token" }}
	store := &shelf{files: map[string][]byte{}, allow: func(r *http.Request, body []byte) bool {
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return s3test.Signed(r, body, "eu-test-1", accessKey, secretKey)
	}}
	webServer, s3Server := httptest.NewServer(web), httptest.NewServer(store)
	defer webServer.Close()
	defer s3Server.Close()
	dir, mirror := t.TempDir(), t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	token, keys := file("token", "the-token\n"), file("keys", accessKey+"\nwrong\n")
	push, err := crl.NewHTTPPush(crl.HTTPPushConfig{URL: webServer.URL + "/pki", Method: "POST", TokenFile: token})
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := crl.NewS3(s3.Config{Endpoint: s3Server.URL, Region: "eu-test-1", Bucket: "lists", Prefix: "brand/", KeyFile: keys})
	if err != nil {
		t.Fatal(err)
	}
	sender := crl.NewSender(crl.SenderConfig{Destinations: []crl.Destination{crl.Directory{Dir: mirror}, push, bucket}, Retry: 10 * time.Millisecond})
	b.pub = crl.NewPublisher(crl.PublisherConfig{Store: b.DB, CA: b.CA, Set: b.set, Dir: b.dir, Now: b.clock.now, Deltas: true, Send: sender})
	if err := b.pub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { sender.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	path := "crl/" + catest.Device + "/0.crl"
	arrives := func(what string, want []byte, places ...func() []byte) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			n := 0
			for _, p := range places {
				if bytes.Equal(p(), want) {
					n++
				}
			}
			if n == len(places) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: in %d of %d places: %+v", what, n, len(places), sender.States())
			}
		}
	}
	inDir := func() []byte { out, _ := os.ReadFile(filepath.Join(mirror, path)); return out }
	inWeb := func() []byte { return web.get("POST /pki/" + path) }
	inS3 := func() []byte { return store.get("PUT /lists/brand/" + path) }
	arrives("the first list", b.read(path), inDir, inWeb)
	if inS3() != nil {
		t.Fatal("a request without a good key was taken")
	}
	for _, s := range sender.States() {
		if strings.Contains(s.Name+s.Fault, "secret") || strings.Contains(s.Name+s.Fault, "the-token") {
			t.Errorf("a secret is in %+v", s)
		}
	}
	file("keys", accessKey+"\n"+secretKey)
	arrives("the first list", b.read(path), inS3)
	web.mu.Lock()
	web.down = true
	web.mu.Unlock()
	_, serial := b.device("S-1")
	b.revoke(serial, crl.KeyCompromise)
	b.clock.move(2 * time.Second)
	b.settle()
	arrives("the second list", b.read(path), inDir, inS3)
	web.mu.Lock()
	web.down = false
	web.mu.Unlock()
	arrives("the second list after the outage", b.read(path), inWeb)
	delta := strings.TrimSuffix(path, ".crl") + "-delta.crl"
	arrives("the delta list", b.read(delta), func() []byte { return web.get("POST /pki/" + delta) }, func() []byte { return store.get("PUT /lists/brand/" + delta) })
	for _, s := range sender.States() {
		if s.Sent == 0 || s.Last.IsZero() {
			t.Errorf("%+v", s)
		}
	}
}

func TestHTTPPush_SendsNoTokenInClear(t *testing.T) {
	_, err := crl.NewHTTPPush(crl.HTTPPushConfig{URL: "http://pki.example.com/", TokenFile: "token"})
	want(t, err, crl.ErrDestination)
	_, err = crl.NewS3(s3.Config{Endpoint: "ftp://x", Bucket: "b", KeyFile: "k"})
	want(t, err, crl.ErrDestination)
}
