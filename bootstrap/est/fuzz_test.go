package est_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/bootstrap/est"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
)

// FuzzBody: no body, however it is encoded, costs more than its refusal, and none but
// a request makes a certificate.
func FuzzBody(f *testing.F) {
	s := enroltest.New(f, bootstraptest.Options{}, 5)
	e := s.Enroller(bootstrap.Rules{Protocol: "est", PerMinute: 1_000_000})
	door := est.New(est.Config{Enroller: e, Tenant: "main"}).Handler(est.Passwords)
	_, secret := s.Password(f, e, "U-001", profile.LDevID) // which has no birth certificate
	csr := enroltest.CSR(f, catest.NewKey(f), "U-001", "")
	f.Add("simpleenroll", "base64", csr)
	f.Add("simplereenroll", "", []byte("MIIB\r\nAA=="))
	f.Add("serverkeygen", "base64", []byte{0x30, 0x80})
	f.Add("csrattrs", "", []byte(nil))
	f.Add("idevid/simpleenroll", "binary", bytes.Repeat([]byte("A"), 4096))
	f.Fuzz(func(t *testing.T, op, encoding string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body)).WithContext(context.Background())
		r.URL.Path = est.Prefix + op
		r.Header.Set("Content-Type", "application/pkcs10")
		r.Header.Set("Content-Transfer-Encoding", encoding)
		r.SetBasicAuth("U-001", secret)
		w := httptest.NewRecorder()
		door.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code == http.StatusOK && op != "cacerts" && op != "csrattrs" {
			t.Errorf("%q: %d %.200q", op, w.Code, w.Body)
		}
	})
}
