package ceremony

import (
	"context"

	"hallmark/hsm"
)

// DestroyRequest asks for the end of a key.
type DestroyRequest struct {
	Name     string // of the authority whose key it is
	KeyURI   string
	RootCert []byte // DER or PEM, if the key is a root's; else nil
	RootName string
}

// LastWords opens a key for the last time and has it sign the transcript of its
// own destruction. The key is there afterwards: who calls this destroys it and
// then shows that it is gone.
func (c *Ceremony) LastWords(ctx context.Context, r DestroyRequest, shown, confirmed string) (*Result, error) {
	if confirmed == "" {
		return nil, ErrNotConfirmed.New("")
	}
	var key hsm.Signer
	var t Transcript
	var err error
	if r.RootCert != nil {
		root, err := parseRoot(r.RootCert)
		if err != nil {
			return nil, err
		}
		if key, t, err = c.beginRoot(ctx, KindDestroy, r.Name, r.KeyURI, root); err != nil {
			return nil, err
		}
		t.Script.Root = r.RootName
		t.Objects = append(t.Objects, object(RoleRoot, false, root.Raw))
	} else if key, t, err = c.begin(ctx, KindDestroy, r.Name, r.KeyURI, false, ""); err != nil {
		return nil, err
	}
	t.Confirmed, t.Shown = confirmed, shown
	return c.finish(ctx, key, &t, nil)
}

func (v *verifier) contentDestroy() error {
	if v.t.Object(RoleRoot) == nil {
		v.say("destroy", "the key %s signed its end", short(v.t.Key.SHA256))
		return nil
	}
	root, err := v.root()
	if err != nil {
		return err
	}
	v.say("destroy", "the key of %s signed its end", graphic(root.Subject.String()))
	return v.signedBy(root.PublicKey, "root")
}
