package bootstrap_test

import (
	"testing"

	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/catest"
)

// TestA13_ANonceIsForTheCertificateThatAskedForIt: what was got with one
// certificate is worth nothing over another, though both are good.
func TestA13_ANonceIsForTheCertificateThatAskedForIt(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	a, aKey := d.IssueIDevID(t, "SN-A")
	b, bKey := d.IssueIDevID(t, "SN-B")
	connA, connB := d.Dial(t, a, aKey), d.Dial(t, b, bKey)
	n := connA.Do(t, nonce, []byte("{}")).Nonce.Nonce
	if got := connB.Do(t, register, request(t, catest.NewKey(t), n)); got.Status != 403 && got.Status != 400 || got.Code != "register-binding" {
		t.Errorf("SN-B with the nonce of SN-A: %d %s", got.Status, got.Code)
	}
	// Neither is a TLS channel binding of one connection good on another.
	if got := connB.Do(t, register, request(t, catest.NewKey(t), connA.Challenge(t))); got.Code != "register-binding" {
		t.Errorf("SN-B with the channel of SN-A: %d %s", got.Status, got.Code)
	}
	if got := d.Dial(t, a, aKey).Do(t, register, request(t, catest.NewKey(t), connA.Challenge(t))); got.Code != "register-binding" {
		t.Errorf("SN-A with the channel of an earlier connection: %d %s", got.Status, got.Code)
	}
	if got := connA.Do(t, register, request(t, catest.NewKey(t), n)); got.Status != 200 || got.Registration.Status != "ACTIVE" {
		t.Errorf("SN-A with its own: %d %s", got.Status, got.Body)
	}
}
