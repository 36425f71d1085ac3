package ceremony_test

import (
	"context"
	"crypto"
	"errors"
	"strings"
	"testing"

	"hallmark/ca/ceremony"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/token"
)

// doctored is a real keyring whose answers a test changes.
type doctored struct {
	*hsm.Keyring
	attributes func(*hsm.Attributes)
	signature  func([]byte)
}

func (d doctored) Attributes(ctx context.Context, uri string) (hsm.Attributes, error) {
	a, err := d.Keyring.Attributes(ctx, uri)
	if err == nil && d.attributes != nil {
		d.attributes(&a)
	}
	return a, err
}

func (d doctored) Generate(ctx context.Context, uri string, spec hsm.Spec) (hsm.Signer, error) {
	s, err := d.Keyring.Generate(ctx, uri, spec)
	return faulty{s, d.signature}, err
}

type faulty struct {
	hsm.Signer
	change func([]byte)
}

func (f faulty) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := f.Signer.SignContext(ctx, digest, opts)
	if err == nil && f.change != nil {
		f.change(sig)
	}
	return sig, err
}

// A21, S7: an EC key on a card whose firmware leaks it is refused unless
// somebody says so, and then the transcript says so too.
func TestA21_S7_LeakingFirmwareNeedsAnOverrideInWriting(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	keys := doctored{Keyring: ring(t), attributes: func(a *hsm.Attributes) {
		a.Scheme, a.Token.Firmware, a.Token.Model = token.SchemePIV, "5.4.3", "YubiKey"
	}}
	req := ceremony.RootRequest{Name: "r", BaseURL: baseURL, KeyURI: tok.URI("r"), Generate: true, Subject: name("R")}
	_, err := start(t, ceremony.Config{Keys: keys}).CreateRoot(t.Context(), req)
	refused(t, err, hsm.ErrKeyUnsafe)
	req.Generate = false
	r := must(t)(start(t, ceremony.Config{Keys: keys, AcceptFirmware: true}).CreateRoot(t.Context(), req))
	if e := strings.Join(r.Transcript.Exceptions, " "); r.Transcript.Mode != "production" || !strings.Contains(e, "5.4.3") || r.Transcript.Key.Token.Firmware != "5.4.3" {
		t.Errorf("mode %s, exceptions %s", r.Transcript.Mode, e)
	}
	// The override is for the firmware alone.
	keys.attributes = func(a *hsm.Attributes) {
		a.Scheme, a.Token.Firmware, a.Local = token.SchemePIV, "5.4.3", hsm.No
	}
	_, err = start(t, ceremony.Config{Keys: keys, AcceptFirmware: true}).CreateRoot(t.Context(), req)
	refused(t, err, hsm.ErrKeyUnsafe)
	// An RSA key does not leak.
	keys.attributes = func(a *hsm.Attributes) { a.Scheme, a.Token.Firmware = token.SchemePIV, "5.4.3" }
	req.KeyURI, req.Generate, req.Algorithm = tok.URI("rsa"), true, hsm.RSA2048
	must(t)(start(t, ceremony.Config{Keys: keys}).CreateRoot(t.Context(), req))
}

// A25: a token that flips a bit gets nothing out of the room.
func TestA25_AWrongSignatureIsDestroyed(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	keys := doctored{Keyring: ring(t), signature: func(sig []byte) { sig[len(sig)-1] ^= 1 }}
	r, err := start(t, ceremony.Config{Keys: keys}).CreateRoot(t.Context(), ceremony.RootRequest{Name: "r", BaseURL: baseURL, KeyURI: tok.URI("r"), Generate: true, Subject: name("R")})
	if r != nil || !errors.Is(err, ceremony.ErrSignature) {
		t.Fatalf("%v %v", r, err)
	}
}

// A token that reports the attributes of another key than the one that signs.
func TestCreateRoot_RefusesAttributesOfAnotherKey(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	keys := doctored{Keyring: ring(t), attributes: func(a *hsm.Attributes) { a.SPKI = []byte("other") }}
	_, err := start(t, ceremony.Config{Keys: keys}).CreateRoot(t.Context(), ceremony.RootRequest{Name: "r", BaseURL: baseURL, KeyURI: tok.URI("r"), Generate: true, Subject: name("R")})
	refused(t, err, ceremony.ErrKey)
}
