// Package s3test runs a store that speaks the S3 protocol, for tests: the npm package
// s3rver, behind a gate that verifies signatures of version 4, which s3rver does not.
package s3test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallmark/internal/freeport"
)

// The one bucket of a store, where it is, and the keys that may use it.
const (
	Bucket    = "images"
	Region    = "us-east-1"
	AccessKey = "S3RVER"
	SecretKey = "a_secret_of_the_store"
)

// Server is a store that runs.
type Server struct {
	Endpoint string
	KeyFile  string
	Dir      string // its files
}

// Run starts a store, which ends with the test. Without npm's packages the test is left
// out; in CI it fails.
func Run(t testing.TB) *Server {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	program := filepath.Join(filepath.Dir(here), "testdata", "node_modules", "s3rver", "bin", "s3rver.js")
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no S3 store for the tests: %v; run make setup", err)
		}
		t.Skipf("no S3 store for the tests: %v; run make setup", err)
	}
	s := &Server{Dir: t.TempDir(), KeyFile: filepath.Join(t.TempDir(), "keys")}
	if err := os.WriteFile(s.KeyFile, []byte(AccessKey+"\n"+SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(free)
	address := net.JoinHostPort("127.0.0.1", port)
	cmd := exec.Command(node, program, "-d", s.Dir, "-a", "127.0.0.1", "-p", port, "-s", "--no-vhost-buckets", "--configure-bucket", Bucket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// The death of the thread that started it would be taken for that of the parent.
	started, end := make(chan error), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		<-end
		cmd.Process.Kill()
		cmd.Wait()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(end); <-ended })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return s.guard(t, address)
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(out.Name())
			t.Fatalf("the S3 store does not start: %v\n%s", err, said)
		}
	}
}

// guard lets only what is signed reach the store.
func (s *Server) guard(t testing.TB, address string) *Server {
	store := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})
	store.ErrorLog = log.New(io.Discard, "", 0) // who goes away in the midst of an answer is no error
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if r.ContentLength > 0 {
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		}
		if !Signed(r, body, Region, AccessKey, SecretKey) {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, "<Error><Code>SignatureDoesNotMatch</Code></Error>")
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(gate.Close)
	s.Endpoint = gate.URL
	return s
}

// Signed verifies a request as an S3 server does, from the protocol's description and
// without the code that signs.
func Signed(r *http.Request, body []byte, region, access, secret string) bool {
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
	if len(scope) != 2 {
		return false
	}
	parts := strings.Split(scope[1], "/")
	sum := sha256.Sum256(body)
	if scope[0] != access || len(parts) != 4 || parts[1] != region || parts[2] != "s3" || r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
		return false
	}
	names := strings.Split(fields["SignedHeaders"], ";")
	if !sort.StringsAreSorted(names) {
		return false
	}
	var headers strings.Builder
	for _, n := range names {
		v := r.Header.Get(n)
		if n == "host" {
			v = r.Host
		}
		headers.WriteString(n + ":" + strings.TrimSpace(v) + "\n")
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, headers.String(), fields["SignedHeaders"], hex.EncodeToString(sum[:])}, "\n")
	digest := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), scope[1], hex.EncodeToString(digest[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, p := range append(parts, text) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(p))
		key = h.Sum(nil)
	}
	return hex.EncodeToString(key) == fields["Signature"]
}
