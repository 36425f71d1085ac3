package scep_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
	library "github.com/smallstep/scep"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/bootstrap/scep"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/provisioner/hook"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) {
	// What the library's client has as package variables.
	pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmAES256CBC
	pkcs7.SetDefaultDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	storetest.Main(m)
}

// site is a SCEP server on a plain door.
type site struct {
	*enroltest.Site
	enroller *bootstrap.Enroller
	server   *scep.Server
	ra       *x509.Certificate // that messages are encrypted for
	ras      []*scep.RA
	url      string
	dir      string
}

// vouch is a hook in the process.
type vouch func(hook.Request) (hook.Decision, error)

func (v vouch) Call(_ context.Context, r hook.Request) (hook.Decision, error) { return v(r) }

func newSite(t testing.TB, o bootstraptest.Options, v vouch) *site {
	t.Helper()
	s := &site{Site: enroltest.New(t, o, 5), dir: t.TempDir()}
	s.enroller = s.Enroller(bootstrap.Rules{Protocol: "scep", PerMinute: 10_000})
	key := rsaKey(t, 0)
	s.ra = s.IssueFor(t, profile.SCEPRA, "service:scep", "A", profile.Names{}, key.Public())
	s.ras = []*scep.RA{{Signer: key, Decrypter: key, Chain: []*x509.Certificate{s.ra, s.Infra, s.Root}}}
	cfg := scep.Config{Enroller: s.enroller, Tenant: access.DefaultTenant, Now: s.Now,
		RA: func(context.Context) ([]*scep.RA, error) { return s.ras, nil },
		List: func(_ context.Context, issuer []byte, serial ca.Serial) ([]byte, error) {
			if !bytes.Equal(issuer, s.Device.RawSubject) {
				return nil, scep.ErrList.New("")
			}
			return s.list(t), nil
		}}
	if v != nil {
		cfg.Hook = v
	}
	s.server = scep.New(cfg)
	mux := http.NewServeMux()
	mux.Handle(scep.Prefix, s.server)
	mux.Handle(scep.Prefix+"/", s.server)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	s.url = srv.URL + scep.Prefix
	return s
}

// list is a revocation list of nobody's authority; what GetCRL carries is not its
// business.
func (s *site) list(t testing.TB) []byte {
	t.Helper()
	raw, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)},
		&x509.Certificate{Subject: pkix.Name{CommonName: "list"}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}, rsaKey(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

var keys struct {
	sync.Mutex
	made []*rsa.PrivateKey
}

// rsaKey gives the n-th key of the tests; making one takes long.
func rsaKey(t testing.TB, n int) *rsa.PrivateKey {
	t.Helper()
	keys.Lock()
	defer keys.Unlock()
	for len(keys.made) <= n {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		keys.made = append(keys.made, k)
	}
	return keys.made[n]
}

// selfMade is the certificate that a client makes of its own key.
func selfMade(t testing.TB, key crypto.Signer, subject pkix.Name, change ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}
	for _, f := range change {
		f(c)
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return enroltest.Certificate(t, raw)
}

// draft is a message to be; what is zero is what an honest client sends.
type draft struct {
	kind     []any // values of messageType; nil is PKCSReq
	csr      []byte
	envelope []byte // in place of csr, encrypted or not
	signer   *x509.Certificate
	key      crypto.Signer
	id       string
	nonce    []byte
	digest   asn1.ObjectIdentifier
}

var (
	oidType        = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 2}
	oidNonce       = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 5}
	oidTransaction = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 7}
	oidInfo        = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 4}
)

func (s *site) encode(t testing.TB, d draft) []byte {
	t.Helper()
	if d.kind == nil {
		d.kind = []any{"19"}
	}
	if d.id == "" {
		d.id = base64.StdEncoding.EncodeToString(random(18))
	}
	if d.nonce == nil {
		d.nonce = random(16)
	}
	if d.digest == nil {
		d.digest = pkcs7.OIDDigestAlgorithmSHA256
	}
	if d.envelope == nil {
		d.envelope = s.seal(t, d.csr)
	}
	sd, err := pkcs7.NewSignedData(d.envelope)
	if err != nil {
		t.Fatal(err)
	}
	sd.SetDigestAlgorithm(d.digest)
	attributes := []pkcs7.Attribute{{Type: oidTransaction, Value: d.id}, {Type: oidNonce, Value: d.nonce}}
	for _, k := range d.kind {
		attributes = append(attributes, pkcs7.Attribute{Type: oidType, Value: k})
	}
	if err := sd.AddSigner(d.signer, d.key, pkcs7.SignerInfoConfig{ExtraSignedAttributes: attributes}); err != nil {
		t.Fatal(err)
	}
	raw, err := sd.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (s *site) seal(t testing.TB, content []byte) []byte {
	t.Helper()
	out, err := pkcs7.Encrypt(slices.Clone(content), []*x509.Certificate{s.ra})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// outcome is what a message got.
type outcome struct {
	status      int
	pki, info   string
	certificate *x509.Certificate
	raw         []byte
}

// send posts a message and reads the answer with the library.
func (s *site) send(t testing.TB, raw []byte, signer *x509.Certificate, key crypto.Signer) outcome {
	t.Helper()
	return s.sendTo(t, scep.Prefix, raw, signer, key)
}

func (s *site) sendTo(t testing.TB, path string, raw []byte, signer *x509.Certificate, key crypto.Signer) outcome {
	t.Helper()
	o := s.post(t, path, raw)
	return s.read(t, o.status, o.raw, signer, key)
}

// sendRaw posts a message and reads nothing.
func (s *site) sendRaw(t testing.TB, raw []byte) outcome {
	t.Helper()
	return s.post(t, scep.Prefix, raw)
}

func (s *site) post(t testing.TB, path string, raw []byte) outcome {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path+"?operation=PKIOperation", bytes.NewReader(raw))
	// Every message comes from an address of its own: what refusals cost one is
	// tested elsewhere.
	n := random(3)
	r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n[0], n[1], n[2])
	w := httptest.NewRecorder()
	s.server.ServeHTTP(w, r)
	return outcome{status: w.Code, raw: w.Body.Bytes()}
}

func (s *site) read(t testing.TB, status int, body []byte, signer *x509.Certificate, key crypto.Signer) outcome {
	t.Helper()
	o := outcome{status: status, raw: body}
	if status != http.StatusOK {
		return o
	}
	a, err := library.ParsePKIMessage(body, library.WithCACerts([]*x509.Certificate{s.ra}))
	if err != nil || a.MessageType != library.CertRep {
		t.Fatalf("the answer: %v", err)
	}
	o.pki, o.info = string(a.PKIStatus), string(a.FailInfo)
	if o.pki == "0" {
		if err := a.DecryptPKIEnvelope(signer, key); err != nil {
			t.Fatalf("the answer: %v", err)
		}
		o.certificate = a.CertRepMessage.Certificate
	}
	return o
}

// get asks for what is not a message.
func (s *site) get(t testing.TB, query url.Values) (int, string, []byte) {
	t.Helper()
	res, err := http.Get(s.url + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Content-Type"), body
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(s.file(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) writeKey(t testing.TB, name string, k *rsa.PrivateKey) {
	t.Helper()
	s.write(t, name, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
}

// request is a CSR with the subject and names of a certificate.
func request(t testing.TB, key crypto.Signer, like *x509.Certificate) []byte {
	t.Helper()
	tmpl := &x509.CertificateRequest{RawSubject: like.RawSubject}
	for _, x := range like.Extensions {
		if x.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, x)
		}
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func serialOf(c *x509.Certificate) ca.Serial {
	n, _ := ca.SerialFromInt(c.SerialNumber)
	return n
}
