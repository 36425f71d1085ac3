package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/ca/catest"
)

// verdict3 is what OpenSSL, GnuTLS and NSS say of one certificate: "" for good,
// "revoked", or why else it is refused. NSS may have no way to ask; see nss.
type verdict3 struct{ openssl, gnutls, nss string }

// verifyWithThree has OpenSSL, GnuTLS and NSS judge every certificate in a
// directory, and wants all three to accept what is good and to refuse what is
// revoked, because it is. The directory holds
//
//	leaf-*.pem   the certificates
//	chain.pem    the issuing authorities and the roots
//	*.crl        the published lists, PEM or DER: full, of a shard, or delta
//	revoked.txt  the file names of the revoked ones, a line each; may be absent
//
// NSS imports no list with a critical issuingDistributionPoint: with one at the
// address in the certificate it takes everybody for revoked. What it does check is
// OCSP, so the responder that the certificates name must answer meanwhile.
func verifyWithThree(t *testing.T, dir string) {
	t.Helper()
	revoked := map[string]bool{}
	if b, err := os.ReadFile(filepath.Join(dir, "revoked.txt")); err == nil {
		for _, name := range strings.Fields(string(b)) {
			revoked[strings.TrimSuffix(name, ".pem")] = true
		}
	}
	start := time.Now()
	all := threeVerdicts(t, dir)
	bad, refused := 0, 0
	for name, v := range all {
		want := ""
		if revoked[name] {
			want = "revoked"
			refused++
		}
		delete(revoked, name)
		if v != (verdict3{want, want, want}) {
			if bad++; bad <= 10 {
				t.Errorf("%s should be %q: OpenSSL %q, GnuTLS %q, NSS %q", name, want, v.openssl, v.gnutls, v.nss)
			}
		}
	}
	if len(revoked) > 0 {
		t.Errorf("revoked.txt names what is not there: %v", revoked)
	}
	t.Logf("%d certificates, %d of them revoked, %d disagreements, %s", len(all), refused, bad, time.Since(start).Round(time.Millisecond))
}

// threeVerdicts asks the three.
func threeVerdicts(t *testing.T, dir string) map[string]verdict3 {
	t.Helper()
	for _, name := range []string{"openssl", "certtool", "certutil", "vfychain"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	leaves, err := filepath.Glob(filepath.Join(dir, "leaf-*.pem"))
	if err != nil || len(leaves) == 0 {
		t.Fatalf("no leaf-*.pem in %s: %v", dir, err)
	}
	w := newWorkbench(t, dir, leaves, filepath.Join(dir, "chain.pem"))
	var mu sync.Mutex
	out := map[string]verdict3{}
	for file, verdict := range w.openssl(leaves) {
		out[nameOf(file)] = verdict3{openssl: verdict}
	}
	if len(out) != len(leaves) {
		t.Fatalf("OpenSSL judged %d of %d certificates", len(out), len(leaves))
	}
	db := w.nssDatabase()
	next := make(chan string)
	var wg sync.WaitGroup
	for range max(2, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for file := range next {
				g, n := w.gnutls(file), w.nss(db, file)
				mu.Lock()
				v := out[nameOf(file)]
				v.gnutls, v.nss = g, n
				out[nameOf(file)] = v
				mu.Unlock()
			}
		})
	}
	for _, file := range leaves {
		next <- file
	}
	close(next)
	wg.Wait()
	return out
}

func nameOf(file string) string { return strings.TrimSuffix(filepath.Base(file), ".pem") }

// workbench is the directory in the forms that the three want.
type workbench struct {
	t                   *testing.T
	dir                 string
	roots, issuers      []*x509.Certificate
	root, inter, issuer string // files: the roots; the others; all
	lists               string // file: all
	deltas              bool
	scopes              map[string]string // file of the newest full list and the roots' lists, by distribution point
	point               map[string]string // distribution point, by leaf
	usage               map[string]string // of NSS, by leaf
	responder           string
}

func newWorkbench(t *testing.T, dir string, leaves []string, chain string) *workbench {
	t.Helper()
	w := &workbench{t: t, dir: t.TempDir(), scopes: map[string]string{}, point: map[string]string{}, usage: map[string]string{}}
	for _, c := range readCerts(t, chain) {
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			w.roots = append(w.roots, c)
		} else {
			w.issuers = append(w.issuers, c)
		}
	}
	w.root, w.inter, w.issuer = w.write("root.pem", catest.PEM(w.roots...)), w.write("inter.pem", catest.PEM(w.issuers...)), w.write("all.pem", catest.PEM(append(w.issuers, w.roots...)...))
	files, err := filepath.Glob(filepath.Join(dir, "*.crl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no *.crl in %s: %v", dir, err)
	}
	var text, roots []byte
	newest := map[string]*x509.RevocationList{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if p, _ := pem.Decode(b); p != nil {
			b = p.Bytes
		}
		l, err := x509.ParseRevocationList(b)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: b})
		text = append(text, block...)
		if slices.ContainsFunc(w.roots, func(r *x509.Certificate) bool { return bytes.Equal(r.RawSubject, l.RawIssuer) }) {
			roots = append(roots, block...)
			continue
		}
		point, delta := "", false
		for _, e := range l.Extensions {
			delta = delta || e.Id.String() == "2.5.29.27"
			if e.Id.String() == "2.5.29.28" {
				_, point, _ = strings.Cut(string(e.Value), "http")
			}
		}
		w.deltas = w.deltas || delta
		if have := newest[point]; !delta && (have == nil || have.Number.Cmp(l.Number) < 0) {
			newest[point] = l
		}
	}
	w.lists = w.write("lists.pem", text)
	for point, l := range newest {
		w.scopes[point] = w.write(fmt.Sprintf("scope-%d.pem", len(w.scopes)), append(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.Raw}), roots...))
	}
	for _, f := range leaves {
		c := readCerts(t, f)[0]
		if len(c.CRLDistributionPoints) == 1 {
			w.point[f] = strings.TrimPrefix(c.CRLDistributionPoints[0], "http")
		}
		switch {
		case len(c.OCSPServer) == 0: // an OCSP responder: nothing to ask about it
			w.usage[f] = ""
		case slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && c.PublicKeyAlgorithm == x509.RSA:
			w.usage[f] = "12" // as a TLS server NSS wants it to decrypt, which TLS 1.3 does not
		case slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth):
			w.usage[f] = "1"
		default:
			w.usage[f] = "0"
		}
		if len(c.OCSPServer) > 0 {
			w.responder = c.OCSPServer[0]
		}
	}
	return w
}

func readCerts(t *testing.T, file string) (out []*x509.Certificate) {
	t.Helper()
	b, err := os.ReadFile(file)
	for err == nil {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil {
			break
		}
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(p.Bytes); err == nil {
			out = append(out, c)
		}
	}
	if err != nil || len(out) == 0 {
		t.Fatalf("%s: %d certificates, %v", file, len(out), err)
	}
	return out
}

func (w *workbench) write(name string, b []byte) string {
	w.t.Helper()
	file := filepath.Join(w.dir, name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// openssl judges all of them in one process.
func (w *workbench) openssl(leaves []string) map[string]string {
	args := []string{"verify", "-x509_strict", "-crl_check_all", "-extended_crl", "-CAfile", w.root, "-CRLfile", w.lists}
	if len(w.issuers) > 0 {
		args = append(args, "-untrusted", w.inter)
	}
	if w.deltas {
		args = append(args, "-use_deltas")
	}
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(w.t.Context(), "openssl", append(args, leaves...)...)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			w.t.Fatal(err)
		}
	}
	out := map[string]string{}
	for _, line := range strings.Split(stdout.String(), "\n") {
		if file, ok := strings.CutSuffix(line, ": OK"); ok {
			out[file] = ""
		}
	}
	why := ""
	for _, line := range strings.Split(stderr.String(), "\n") {
		switch file, failed := strings.CutSuffix(line, ": verification failed"); {
		case failed:
			out[strings.TrimPrefix(file, "error ")] = why
			why = ""
		case strings.Contains(line, "certificate revoked") && why == "":
			why = "revoked"
		case strings.HasPrefix(line, "error "):
			why += line
		}
	}
	return out
}

// gnutls is given the one list that the certificate names: of an issuer's lists it
// keeps the newest alone, whatever shard that is, and it knows no deltas.
func (w *workbench) gnutls(file string) string {
	list := w.scopes[w.point[file]]
	if list == "" {
		return "refused: there is no list for " + w.point[file]
	}
	out, err := exec.CommandContext(w.t.Context(), "certtool", "--verify", "--load-ca-certificate", w.issuer, "--load-crl", list, "--verify-profile", "medium", "--infile", file).CombinedOutput()
	text := string(out)
	switch {
	case err == nil && strings.Contains(text, "Chain verification output: Verified."):
		return ""
	case err != nil && strings.Contains(text, "chain is revoked"):
		return "revoked"
	}
	return "refused: " + text
}

// nssDatabase holds the authorities and no list.
func (w *workbench) nssDatabase() string {
	w.t.Helper()
	if w.responder != "" { // without it every answer is no
		r, err := http.Get(w.responder)
		if err != nil {
			w.t.Fatalf("NSS has nobody to ask: %v", err)
		}
		r.Body.Close()
	}
	db := "sql:" + w.dir
	do := func(args ...string) {
		w.t.Helper()
		if out, err := exec.CommandContext(w.t.Context(), "certutil", append(args, "-d", db)...).CombinedOutput(); err != nil {
			w.t.Fatalf("certutil %v: %v\n%s", args, err, out)
		}
	}
	do("-N", "--empty-password")
	for i, c := range append(slices.Clone(w.roots), w.issuers...) {
		trust := ",,"
		if i < len(w.roots) {
			trust = "CT,C,C"
		}
		n := "ca-" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		do("-A", "-n", n, "-t", trust, "-a", "-i", w.write(n+".pem", catest.PEM(c)))
	}
	return db
}

func (w *workbench) nss(db, file string) string {
	args := []string{"-d", db, "-pp", "-u", "10", "-a", file}
	if u := w.usage[file]; u != "" {
		args = []string{"-d", db, "-pp", "-u", u, "-g", "leaf", "-h", "requireFreshInfo", "-m", "ocsp", "-s", "requireInfo", "-s", "failIfNoInfo", "-a", file}
	}
	out, err := exec.CommandContext(w.t.Context(), "vfychain", args...).CombinedOutput()
	text := string(out)
	switch {
	case err == nil && strings.Contains(text, "Chain is good!"):
		return ""
	case err != nil && strings.Contains(text, "ERROR -8180"): // SEC_ERROR_REVOKED_CERTIFICATE
		return "revoked"
	}
	return "refused: " + text
}
