package crl_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/crl"
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

// signedV4 verifies a request as an S3 server does, from the protocol's
// description and without the code that signs.
func signedV4(r *http.Request, body []byte) bool {
	fields := map[string]string{}
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return false
	}
	for _, f := range strings.Split(auth, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(f), "=")
		fields[k] = v
	}
	scope := strings.SplitN(fields["Credential"], "/", 2)
	parts := strings.Split(scope[1], "/")
	sum := sha256.Sum256(body)
	if scope[0] != accessKey || len(parts) != 4 || parts[1] != "eu-test-1" || parts[2] != "s3" || r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
		return false
	}
	names := strings.Split(fields["SignedHeaders"], ";")
	if !sort.StringsAreSorted(names) {
		return false
	}
	var headers strings.Builder
	for _, n := range names {
		v := r.Header.Get(n)
		switch n {
		case "host":
			v = r.Host
		case "content-length":
			v = r.Header.Get("Content-Length")
		}
		headers.WriteString(n + ":" + strings.TrimSpace(v) + "\n")
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, headers.String(), fields["SignedHeaders"], hex.EncodeToString(sum[:])}, "\n")
	digest := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), scope[1], hex.EncodeToString(digest[:])}, "\n")
	key := []byte("AWS4" + secretKey)
	for _, p := range append(parts, text) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(p))
		key = h.Sum(nil)
	}
	return hex.EncodeToString(key) == fields["Signature"]
}

// Lists reach a directory, a web server and an S3 store on their own, are there
// again after an outage, and never fall back to an older number.
func TestSender_CarriesListsEverywhere(t *testing.T) {
	b := newBench(t)
	web := &shelf{files: map[string][]byte{}, allow: func(r *http.Request, _ []byte) bool { return r.Header.Get("Authorization") == "Bearer the-token" }}
	s3 := &shelf{files: map[string][]byte{}, allow: func(r *http.Request, body []byte) bool {
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return signedV4(r, body)
	}}
	webServer, s3Server := httptest.NewServer(web), httptest.NewServer(s3)
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
	bucket, err := crl.NewS3(crl.S3Config{Endpoint: s3Server.URL, Region: "eu-test-1", Bucket: "lists", Prefix: "brand/", KeyFile: keys})
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
	inS3 := func() []byte { return s3.get("PUT /lists/brand/" + path) }
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
	arrives("the delta list", b.read(delta), func() []byte { return web.get("POST /pki/" + delta) }, func() []byte { return s3.get("PUT /lists/brand/" + delta) })
	for _, s := range sender.States() {
		if s.Sent == 0 || s.Last.IsZero() {
			t.Errorf("%+v", s)
		}
	}
}

func TestHTTPPush_SendsNoTokenInClear(t *testing.T) {
	_, err := crl.NewHTTPPush(crl.HTTPPushConfig{URL: "http://pki.example.com/", TokenFile: "token"})
	want(t, err, crl.ErrDestination)
	_, err = crl.NewS3(crl.S3Config{Endpoint: "ftp://x", Bucket: "b", KeyFile: "k"})
	want(t, err, crl.ErrDestination)
}
