package est_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/bootstrap/est"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// site is an EST server at both doors.
type site struct {
	*enroltest.Site
	enroller *bootstrap.Enroller
	plain    string // HOST:PORT of the door without certificates
}

func newSite(t *testing.T, rules bootstrap.Rules, o bootstraptest.Options) *site {
	t.Helper()
	rules.Protocol = "est"
	s := &site{Site: enroltest.New(t, o, 5)}
	s.enroller = s.Enroller(rules)
	server := est.New(est.Config{Enroller: s.enroller, Tenant: "main"})
	s.Serve(server.Handler(est.Certificates))
	s.plain = s.PlainTLS(t, server.Handler(est.Passwords))
	return s
}

// ask is one request of a device.
type ask struct {
	method, path   string
	body           io.Reader
	length         int64 // -1: chunked
	user, password string
	media          string
}

// conn is a connection that stays the same.
type conn struct {
	s    *site
	host string
	tls  *tls.Conn
	http *http.Client
}

// dial connects to one of the doors, with a certificate at the one that asks.
func (s *site) dial(t testing.TB, c *x509.Certificate, key crypto.Signer, version uint16) *conn {
	t.Helper()
	host := s.plain
	cfg := &tls.Config{RootCAs: s.Pool(), ServerName: "localhost", MaxVersion: version}
	if c != nil {
		host, cfg.Certificates = s.Addr, []tls.Certificate{s.Client(c, key)}
	}
	raw, err := tls.Dial("tcp", host, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	return &conn{s, host, raw, &http.Client{Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return raw, nil }}}}
}

func (c *conn) do(t testing.TB, a ask) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequest(a.method, "https://"+c.host+a.path, a.body)
	if err != nil {
		t.Fatal(err)
	}
	if a.length != 0 {
		req.ContentLength = a.length
	}
	if a.media == "" {
		a.media = "application/pkcs10"
	}
	if a.method == "POST" {
		req.Header.Set("Content-Type", a.media)
	}
	if a.user != "" {
		req.SetBasicAuth(a.user, a.password)
	}
	res, err := c.http.Do(req)
	if err != nil {
		t.Error(err)
		return 0, nil, nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, res.Header, body
}

func (c *conn) enrol(t testing.TB, path string, der []byte, user, password string) (int, []byte) {
	t.Helper()
	status, _, body := c.do(t, ask{method: "POST", path: path, body: strings.NewReader(base64.StdEncoding.EncodeToString(der)), user: user, password: password})
	return status, body
}

// exporter is the binding of a connection of TLS 1.3, unique that of TLS 1.2.
func (c *conn) exporter(t testing.TB) string {
	cs := c.tls.ConnectionState()
	b, err := bootstrap.Exporter(cs.ExportKeyingMaterial).Challenge()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *conn) unique() string {
	return base64.StdEncoding.EncodeToString(c.tls.ConnectionState().TLSUnique)
}

func decode(t testing.TB, body []byte) []byte {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(strings.ReplaceAll(string(body), "\r", ""), "\n", ""))
	if err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return der
}

// certificates reads certs-only with somebody else's tool.
func certificates(t testing.TB, body []byte) []*x509.Certificate {
	t.Helper()
	out := tool(t, decode(t, body), "openssl", "pkcs7", "-inform", "DER", "-print_certs")
	var certs []*x509.Certificate
	for rest := out; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return certs
		}
		certs = append(certs, enroltest.Certificate(t, b.Bytes))
	}
}

const (
	enrolPath   = est.Prefix + "simpleenroll"
	reenrolPath = est.Prefix + "simplereenroll"
	keygenPath  = est.Prefix + "serverkeygen"
	attrsPath   = est.Prefix + "csrattrs"
	cacertsPath = est.Prefix + "cacerts"
)

// TestEST_ADeviceEnrolsAndRenewsWithItsCertificates: birth certificate, then two
// renewals; the operational certificate is the first boot's.
func TestEST_ADeviceEnrolsAndRenewsWithItsCertificates(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	birth, key := s.IssueIDevID(t, "U-001")
	c := s.dial(t, birth, key, tls.VersionTLS13)
	fresh := catest.NewKey(t)
	status, body := c.enrol(t, enrolPath, enroltest.CSR(t, fresh, "thing-of-somebody-else", c.exporter(t)), "", "")
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	got := certificates(t, body)
	if len(got) != 1 || got[0].Subject.CommonName != "thing-U-001" || !fresh.PublicKey.Equal(got[0].PublicKey) {
		t.Fatalf("%d certificates, %v", len(got), got[0].Subject)
	}
	recs := s.Records(t, "U-001", profile.LDevID)
	if len(recs) != 1 || recs[0].Tool != "est" || recs[0].Requester != "device:U-001" {
		t.Errorf("%+v", recs)
	}

	// A13: subject and names are those of the certificate, or there is no renewal.
	now := s.dial(t, got[0], fresh, tls.VersionTLS12)
	next := catest.NewKey(t)
	for name, subject := range map[string]pkix.Name{"another name": {CommonName: "thing-U-002"}, "none": {}} {
		if status, body := now.enrol(t, reenrolPath, request(t, next, subject, nil, ""), "", ""); status != 403 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, body := now.enrol(t, reenrolPath, request(t, next, got[0].Subject, []string{"victim.example.com"}, ""), "", ""); status != 403 {
		t.Errorf("another alternative name: %d %s", status, body)
	}
	if status, body := now.enrol(t, reenrolPath, request(t, fresh, got[0].Subject, nil, ""), "", ""); status != 400 || !strings.Contains(string(body), "register-key-reused") {
		t.Errorf("the same key: %d %s", status, body)
	}
	if status, body := c.enrol(t, reenrolPath, request(t, next, birth.Subject, nil, ""), "", ""); status != 403 {
		t.Errorf("renewal of a birth certificate: %d %s", status, body)
	}
	status, body = now.enrol(t, reenrolPath, request(t, next, got[0].Subject, nil, now.unique()), "", "")
	if status != 200 {
		t.Fatalf("renewal: %d %s", status, body)
	}
	second := certificates(t, body)[0]
	if second.Subject.String() != got[0].Subject.String() || !next.PublicKey.Equal(second.PublicKey) {
		t.Errorf("renewed %v", second.Subject)
	}
	// Asked again: the same certificate.
	again, body := now.enrol(t, reenrolPath, request(t, next, got[0].Subject, nil, now.unique()), "", "")
	if again != 200 || !certificates(t, body)[0].Equal(second) {
		t.Errorf("again: %d", again)
	}
	s.Revoke(t, second, 4)
	gone := s.dial(t, second, next, tls.VersionTLS13)
	if status, body := gone.enrol(t, reenrolPath, request(t, catest.NewKey(t), second.Subject, nil, ""), "", ""); status != 403 || !strings.Contains(string(body), "device-revoked") {
		t.Errorf("a revoked certificate: %d %s", status, body)
	}
}

// A45: the tie to the connection, the two ways to send a body, base64 in lines and
// in one, the label.
func TestA45_BindingsBodiesAndLabels(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	birth, key := s.IssueIDevID(t, "U-001")
	other := s.dial(t, birth, key, tls.VersionTLS12)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := s.dial(t, birth, key, version)
		for _, wrong := range []string{other.unique(), other.exporter(t), "secret"} {
			if status, body := c.enrol(t, enrolPath, enroltest.CSR(t, catest.NewKey(t), "", wrong), "", ""); status != 400 || !strings.Contains(string(body), "enrol-proof-mismatch") {
				t.Errorf("the binding %q of another connection: %d %s", wrong, status, body)
			}
		}
	}
	c := s.dial(t, birth, key, tls.VersionTLS13)
	der := enroltest.CSR(t, catest.NewKey(t), "", c.exporter(t))
	one := base64.StdEncoding.EncodeToString(der)
	var lines strings.Builder
	for rest := one; rest != ""; {
		n := min(len(rest), 64)
		lines.WriteString(rest[:n] + "\r\n")
		rest = rest[n:]
	}
	var first []byte
	for name, text := range map[string]string{"one line": one, "lines": lines.String(), "lines of newlines": strings.ReplaceAll(lines.String(), "\r", "") + "\n"} {
		for _, length := range []int64{int64(len(text)), -1} {
			status, h, body := c.do(t, ask{method: "POST", path: enrolPath, body: io.MultiReader(strings.NewReader(text)), length: length})
			if status != 200 || !strings.HasPrefix(h.Get("Content-Type"), "application/pkcs7-mime") {
				t.Fatalf("%s, length %d: %d %s", name, length, status, body)
			}
			if first == nil {
				first = body
			}
			if !bytes.Equal(first, body) {
				t.Errorf("%s, length %d: another answer", name, length)
			}
		}
	}
	for path, want := range map[string]int{
		est.Prefix + "ldevid/simpleenroll": 200, est.Prefix + "idevid/simpleenroll": 403, est.Prefix + "lamp/simpleenroll": 404, est.Prefix + "lamp/cacerts": 404,
		est.Prefix + "fullcmc": 404, est.Prefix + "ldevid/x/simpleenroll": 404, est.Prefix: 404,
	} {
		if status, body := c.enrol(t, path, der, "", ""); status != want {
			t.Errorf("%s: %d, want %d: %s", path, status, want, body)
		}
	}
	for name, a := range map[string]ask{
		"DER":             {method: "POST", path: enrolPath, body: bytes.NewReader(der)},
		"nothing":         {method: "POST", path: enrolPath, body: strings.NewReader("")},
		"JSON":            {method: "POST", path: enrolPath, body: strings.NewReader(one), media: "application/json"},
		"too long":        {method: "POST", path: enrolPath, body: strings.NewReader(strings.Repeat("A", 1<<20))},
		"a flipped octet": {method: "POST", path: enrolPath, body: strings.NewReader("B" + one[1:])},
	} {
		status, h, body := s.dial(t, birth, key, tls.VersionTLS13).do(t, a) // the server ends a connection that sends too much
		if status != 400 || !strings.HasPrefix(h.Get("Content-Type"), "text/plain") || !strings.Contains(string(body), "Code: ") {
			t.Errorf("%s: %d %s %s", name, status, h.Get("Content-Type"), body)
		}
	}
	if status, h, _ := c.do(t, ask{method: "GET", path: enrolPath}); status != 405 || h.Get("Allow") != "POST" {
		t.Errorf("GET: %d", status)
	}
}

// A45: what csrattrs asks for is insisted on.
func TestA45_AttributesAreInsistedOn(t *testing.T) {
	s := newSite(t, bootstrap.Rules{RequireProof: true}, bootstraptest.Options{})
	birth, key := s.IssueIDevID(t, "U-001")
	c := s.dial(t, birth, key, tls.VersionTLS13)
	status, h, body := c.do(t, ask{method: "GET", path: attrsPath})
	if status != 200 || h.Get("Content-Type") != "application/csrattrs" {
		t.Fatalf("%d %v", status, h)
	}
	if text := tool(t, decode(t, body), "openssl", "asn1parse", "-inform", "DER"); !strings.Contains(string(text), "challengePassword") {
		t.Errorf("%s", text)
	}
	fresh := catest.NewKey(t)
	if status, body := c.enrol(t, enrolPath, enroltest.CSR(t, fresh, "", ""), "", ""); status != 400 || !strings.Contains(string(body), "enrol-attributes-missing") {
		t.Errorf("%d %s", status, body)
	}
	status, body = c.enrol(t, enrolPath, enroltest.CSR(t, fresh, "", c.exporter(t)), "", "")
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	// An operational certificate is told its names (RFC 9908).
	own := certificates(t, body)[0]
	now := s.dial(t, own, fresh, tls.VersionTLS13)
	_, _, body = now.do(t, ask{method: "GET", path: attrsPath})
	text := tool(t, decode(t, body), "openssl", "asn1parse", "-inform", "DER")
	if !bytes.Contains(decode(t, body), own.RawSubject) || !strings.Contains(string(text), "commonName") {
		t.Errorf("%s", text)
	}
	loose := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	if status, _, _ := loose.dial(t, nil, nil, 0).do(t, ask{method: "GET", path: attrsPath}); status != 204 {
		t.Errorf("nothing to ask for: %d", status)
	}
}

// A37: a one-time password is for its unit and its profile, once; its hash alone
// is stored.
func TestA37_APasswordIsForItsUnitItsProfileAndOneKey(t *testing.T) {
	clock := bootstraptest.NewClock()
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{Clock: clock})
	p, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	_, foreign := s.Password(t, s.enroller, "U-002", profile.IDevID)
	c := s.dial(t, nil, nil, 0)
	key := catest.NewKey(t)
	der := enroltest.CSR(t, key, "U-001", "")
	for name, a := range map[string]struct {
		path, user, password string
		der                  []byte
		want                 int
	}{
		"no password":                 {enrolPath, "", "", der, 401},
		"a wrong one":                 {enrolPath, "U-001", "X" + secret[1:], der, 401},
		"that of another unit":        {enrolPath, "U-001", foreign, der, 401},
		"for the subject of another":  {enrolPath, "U-001", secret, enroltest.CSR(t, key, "U-002", ""), 403},
		"for another profile":         {est.Prefix + "ldevid/simpleenroll", "U-001", secret, der, 403},
		"for a renewal":               {reenrolPath, "U-001", secret, der, 403},
		"at the door of certificates": {keygenPath, "U-001", secret, der, 403},
	} {
		if status, body := c.enrol(t, a.path, a.der, a.user, a.password); status != a.want {
			t.Errorf("%s: %d, want %d: %s", name, status, a.want, body)
		}
	}
	if status, h, _ := c.do(t, ask{method: "POST", path: enrolPath, body: strings.NewReader("x")}); status != 401 || !strings.HasPrefix(h.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("%d %v", status, h)
	}
	status, body := c.enrol(t, enrolPath, der, "U-001", secret)
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	got := certificates(t, body)[0]
	if got.Subject.CommonName != "U-001" || s.Records(t, "U-001", profile.IDevID)[0].Account != enroltest.Order {
		t.Errorf("%v", got.Subject)
	}
	// The same key may finish (A40), another may not.
	if status, body := c.enrol(t, enrolPath, der, "U-001", secret); status != 200 || !certificates(t, body)[0].Equal(got) {
		t.Errorf("again: %d", status)
	}
	if status, _ := c.enrol(t, enrolPath, enroltest.CSR(t, catest.NewKey(t), "U-001", ""), "U-001", secret); status != 401 {
		t.Errorf("another key: %d", status)
	}
	// The operational certificate of the same unit, by the next password.
	_, second := s.Password(t, s.enroller, "U-001", profile.LDevID)
	if status, body := c.enrol(t, enrolPath, enroltest.CSR(t, key, "", ""), "U-001", second); status != 400 {
		t.Errorf("the key of the birth certificate: %d %s", status, body)
	}
	if status, body := c.enrol(t, enrolPath, enroltest.CSR(t, catest.NewKey(t), "", c.exporter(t)), "U-001", second); status != 200 || certificates(t, body)[0].Subject.CommonName != "thing-U-001" {
		t.Errorf("%d %s", status, body)
	}
	clock.Add(bootstrap.PasswordLife)
	if status, _ := c.enrol(t, enrolPath, enroltest.CSR(t, key, "U-002", ""), "U-002", foreign); status != 401 {
		t.Errorf("an hour later: %d", status)
	}
	stored, err := s.DB.PasswordByID(t.Context(), p.ID)
	if err != nil || stored.Hash != sha256.Sum256([]byte(secret)) || strings.Contains(fmt.Sprint(bootstrap.Secret(secret)), secret) {
		t.Errorf("%+v %v", stored, err)
	}
	s.grep(t, secret, second, foreign)
}

// grep looks for texts in every file of the database.
func (s *site) grep(t *testing.T, texts ...string) {
	t.Helper()
	if err := s.DB.Close(); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(s.dir(t), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		for _, text := range texts {
			if bytes.Contains(b, []byte(text)) {
				t.Errorf("%s has a secret", filepath.Base(path))
			}
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, %v", files, err)
	}
}

// dir is where the test keeps its files; every TempDir of it has the same parent.
func (s *site) dir(t *testing.T) string { return filepath.Dir(t.TempDir()) }

// TestA37_APasswordCountsItsAttempts: five wrong uses end it.
func TestA37_APasswordCountsItsAttempts(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	c := s.dial(t, nil, nil, 0)
	for range bootstrap.MaxPasswordAttempts {
		if status, _ := c.enrol(t, enrolPath, enroltest.CSR(t, catest.NewKey(t), "U-002", ""), "U-001", secret); status != 403 {
			t.Fatalf("%d", status)
		}
	}
	if status, _ := c.enrol(t, enrolPath, enroltest.CSR(t, catest.NewKey(t), "U-001", ""), "U-001", secret); status != 401 {
		t.Errorf("%d", status)
	}
}

// TestEST_ManyWithOnePasswordAreOne: a password makes one certificate, and a
// password takes no more than its order has (A40, A42).
func TestEST_ManyWithOnePasswordAreOne(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	var got, refused atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		c, der := s.dial(t, nil, nil, 0), enroltest.CSR(t, catest.NewKey(t), "U-001", "")
		wg.Go(func() {
			switch status, body := c.enrol(t, enrolPath, der, "U-001", secret); status {
			case 200:
				got.Add(1)
			case 401, 429:
				refused.Add(1)
			default:
				t.Errorf("%d %s", status, body)
			}
		})
	}
	wg.Wait()
	if got.Load() != 1 || refused.Load() != 19 {
		t.Errorf("%d got one, %d were refused", got.Load(), refused.Load())
	}
	for i := 2; i <= 6; i++ {
		unit := fmt.Sprintf("U-%03d", i)
		_, secret := s.Password(t, s.enroller, unit, profile.IDevID)
		want := 200
		if i == 6 {
			want = 429 // the order has five units
		}
		s.restart(t)
		if status, body := s.dial(t, nil, nil, 0).enrol(t, enrolPath, enroltest.CSR(t, catest.NewKey(t), unit, ""), unit, secret); status != want {
			t.Errorf("unit %d: %d %s", i, status, body)
		}
	}
}

// restart gives the doors a new enroller, which remembers no address.
func (s *site) restart(t *testing.T) {
	s.enroller = s.Enroller(bootstrap.Rules{Protocol: "est"})
	server := est.New(est.Config{Enroller: s.enroller, Tenant: "main"})
	s.Serve(server.Handler(est.Certificates))
	s.plain = s.PlainTLS(t, server.Handler(est.Passwords))
}

// TestEST_RatesAreLimited: enrolments a minute, and refused ones of one address.
func TestEST_RatesAreLimited(t *testing.T) {
	clock := bootstraptest.NewClock()
	s := newSite(t, bootstrap.Rules{PerMinute: 2}, bootstraptest.Options{Clock: clock})
	birth, key := s.IssueIDevID(t, "U-001")
	c := s.dial(t, birth, key, tls.VersionTLS13)
	der := enroltest.CSR(t, catest.NewKey(t), "", "")
	for i, want := range []int{200, 200, 429} {
		status, h, body := c.do(t, ask{method: "POST", path: enrolPath, body: strings.NewReader(base64.StdEncoding.EncodeToString(der))})
		if status != want || want == 429 && h.Get("Retry-After") == "" {
			t.Errorf("%d: %d %s", i, status, body)
		}
	}
	clock.Add(61e9)
	if status, body := c.enrol(t, enrolPath, der, "", ""); status != 200 {
		t.Errorf("a minute later: %d %s", status, body)
	}
	p := s.dial(t, nil, nil, 0)
	last := 0
	for range 25 {
		last, _ = p.enrol(t, enrolPath, der, "U-001", "wrong")
	}
	if last != 429 {
		t.Errorf("wrong passwords: %d", last)
	}
}

// A46: the key is in the answer to its request, once, and nowhere else.
func TestA46_AServerMadeKeyIsDeliveredOnceAndKeptNowhere(t *testing.T) {
	s := newSite(t, bootstrap.Rules{ServerKeys: true}, bootstraptest.Options{})
	s.IssueIDevID(t, "U-001")
	_, secret := s.Password(t, s.enroller, "U-001", profile.LDevID)
	c := s.dial(t, nil, nil, tls.VersionTLS13)
	elsewhere := base64.StdEncoding.EncodeToString(enroltest.CSR(t, catest.NewKey(t), "", s.dial(t, nil, nil, tls.VersionTLS13).exporter(t)))
	if status, _, body := c.do(t, ask{method: "POST", path: keygenPath, body: strings.NewReader(elsewhere), user: "U-001", password: secret}); status != 400 || !strings.Contains(string(body), "enrol-proof-mismatch") || strings.Contains(string(body), "pkcs8") {
		t.Errorf("a request of another session: %d %s", status, body)
	}
	text := base64.StdEncoding.EncodeToString(enroltest.CSR(t, catest.NewKey(t), "", c.exporter(t)))
	status, h, body := c.do(t, ask{method: "POST", path: keygenPath, body: strings.NewReader(text), user: "U-001", password: secret})
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	_, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	var der []byte
	var cert *x509.Certificate
	for r := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		part, err := r.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		switch media := part.Header.Get("Content-Type"); {
		case media == "application/pkcs8":
			der = decode(t, content)
		case strings.HasPrefix(media, "application/pkcs7-mime"):
			cert = certificates(t, content)[0]
		default:
			t.Errorf("a part of type %s", media)
		}
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(*ecdsa.PrivateKey)
	if cert == nil || !key.PublicKey.Equal(cert.PublicKey) {
		t.Fatal("key and certificate do not fit")
	}
	if r := s.Records(t, "U-001", profile.LDevID); len(r) != 1 || r[0].Origin != string(profile.OriginServerMade) {
		t.Errorf("%+v", r)
	}
	for _, again := range []*conn{c, s.dial(t, nil, nil, tls.VersionTLS13)} {
		text := base64.StdEncoding.EncodeToString(enroltest.CSR(t, catest.NewKey(t), "", again.exporter(t)))
		if status, _, body := again.do(t, ask{method: "POST", path: keygenPath, body: strings.NewReader(text), user: "U-001", password: secret}); status != 401 {
			t.Errorf("again: %d %s", status, body)
		}
	}
	scalar, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	s.grep(t, string(scalar), string(der), base64.StdEncoding.EncodeToString(scalar), base64.StdEncoding.EncodeToString(der), fmt.Sprintf("%x", scalar))
}

func TestEST_ServerMadeKeysAreOffAndNeverABirthCertificates(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	birth, key := s.IssueIDevID(t, "U-001")
	if status, body := s.dial(t, birth, key, 0).enrol(t, keygenPath, enroltest.CSR(t, catest.NewKey(t), "", ""), "", ""); status != 403 || !strings.Contains(string(body), "enrol-server-keys-off") {
		t.Errorf("%d %s", status, body)
	}
	on := newSite(t, bootstrap.Rules{ServerKeys: true}, bootstraptest.Options{})
	_, secret := on.Password(t, on.enroller, "U-001", profile.IDevID)
	if status, body := on.dial(t, nil, nil, 0).enrol(t, keygenPath, enroltest.CSR(t, catest.NewKey(t), "U-001", ""), "U-001", secret); status != 403 {
		t.Errorf("%d %s", status, body)
	}
}

// TestEST_EveryOtherCertificateIsRefused: stations, servers and claims have no
// role here (S18), and the other door's credential is none at this one.
func TestEST_EveryOtherCertificateIsRefused(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	for _, p := range []profile.Name{profile.Station, profile.Server, profile.Claim, profile.Operator} {
		c, key := s.Issue(t, p, "x-"+string(p), "", profile.Names{DNS: []string{"x.example.com"}})
		if status, body := s.dial(t, c, key, 0).enrol(t, enrolPath, enroltest.CSR(t, catest.NewKey(t), "", ""), "", ""); status != 403 {
			t.Errorf("%s: %d %s", p, status, body)
		}
	}
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	raw := s.dial(t, nil, nil, 0)
	raw.host = s.Addr
	conn, err := tls.Dial("tcp", s.Addr, &tls.Config{RootCAs: s.Pool(), ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw.http = &http.Client{Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	if status, body := raw.enrol(t, enrolPath, enroltest.CSR(t, catest.NewKey(t), "U-001", ""), "U-001", secret); status != 403 {
		t.Errorf("a password at the door of certificates: %d %s", status, body)
	}
}

// request makes a CSR with OpenSSL, with what [enroltest.CSR] does not write: any
// subject, alternative names, a challenge password beside them.
func request(t testing.TB, key *ecdsa.PrivateKey, subject pkix.Name, dns []string, challenge string) []byte {
	t.Helper()
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := "[req]\nprompt=no\nutf8=yes\nstring_mask=utf8only\ndistinguished_name=dn\nattributes=a\nreq_extensions=x\n[a]\n"
	if challenge != "" {
		config += "challengePassword=" + challenge + "\n"
	}
	config += "[x]\n"
	if len(dns) > 0 {
		config += "subjectAltName=DNS:" + dns[0] + "\n"
	}
	config += "[dn]\n"
	for _, part := range [][2]string{{"CN", subject.CommonName}, {"serialNumber", subject.SerialNumber}} { // a name is a sequence
		if part[1] != "" {
			config += part[0] + "=" + part[1] + "\n"
		}
	}
	files := map[string][]byte{"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "req.cnf": []byte(config)}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if subject.CommonName == "" {
		return enroltest.CSR(t, key, "", challenge)
	}
	return tool(t, nil, "openssl", "req", "-new", "-sha256", "-outform", "DER", "-key", filepath.Join(dir, "key.pem"), "-config", filepath.Join(dir, "req.cnf"))
}

// tool runs somebody else's program.
func tool(t testing.TB, in []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(in)
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, trouble.Bytes())
	}
	return out
}
