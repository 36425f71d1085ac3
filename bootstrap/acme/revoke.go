package acme

import (
	"bytes"
	"crypto/x509"
	"net/http"

	"hallmark/bootstrap/acme/state"
	"hallmark/ca"
	"hallmark/crl"
)

func parseCertificate(raw []byte) (*x509.Certificate, error) { return x509.ParseCertificate(raw) }

// revoke is RFC 8555, Section 7.6: the account that ordered a certificate may, and
// whoever has the certificate's key.
func (s *Server) revoke(c *call) error {
	ctx := c.r.Context()
	var r struct {
		Certificate string `json:"certificate"`
		Reason      *int   `json:"reason"`
	}
	if err := c.body(&r); err != nil {
		return err
	}
	raw, err := decode(r.Certificate)
	if err != nil {
		return ErrMessage.Wrap(err, "The certificate is not base64url.")
	}
	cert, err := parseCertificate(raw)
	if err != nil {
		return ErrMessage.Wrap(err, "The certificate cannot be read.")
	}
	why := crl.Unspecified
	if r.Reason != nil {
		if why = crl.Reason(*r.Reason); *r.Reason < 0 || *r.Reason > 10 || !why.Valid() || why == crl.CertificateHold {
			return ErrReason.New("%d.", *r.Reason)
		}
	}
	serial, ok := ca.SerialFromInt(cert.SerialNumber)
	if !ok {
		return state.ErrNoOrder.New("")
	}
	var account string
	if c.account != nil {
		account = c.account.ID
	}
	o, err := s.cfg.Store.OrderBySerial(ctx, s.cfg.Tenant, account, serial)
	if err != nil {
		return err
	}
	if !bytes.Equal(o.Leaf, raw) {
		return state.ErrNoOrder.New("")
	}
	note := "asked for with the certificate's key (acme)"
	if c.account != nil {
		if o.Account != c.account.ID {
			return ErrNotYours.New("")
		}
		note = "asked for by the acme account " + c.account.ID
	} else if printOf(cert.PublicKey) != c.print {
		return ErrNotYours.New("")
	}
	if err := s.cfg.Enroller.Take(); err != nil {
		return err
	}
	changed, err := s.cfg.Enroller.Withdraw(ctx, s.cfg.Tenant, serial, why, note)
	if err != nil {
		return err
	}
	if !changed {
		return ErrRevoked.New("")
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}
