package bootstrap

import (
	"io"
	"mime"
	"net/http"
	"net/netip"

	"hallmark/fleet/registry"
)

// caller is the claim certificate behind an HTTPS request. The gate of the door
// does not know claim certificates, so everything is asked here: it is one of
// ours, registered, good, and has a budget ([Claims.claim]); the handshake proved
// its key. A forwarded header proves nothing (A62).
func (c *Claims) caller(d *Door, r *http.Request) (Caller, error) {
	a, err := d.Admit(r.Context(), r.TLS)
	if err != nil {
		return Caller{}, err
	}
	if !a.Claim || a.How != registry.HowClaimCert {
		return Caller{}, ErrClaim.New("")
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return Caller{Tenant: a.Tenant, Certificate: a.CertificateID, Address: from.Addr()}, nil
}

// Handler serves fleet provisioning over HTTPS for devices without MQTT, on a
// door that asks for client certificates:
//
//	POST /provisioning/v1/certificates           a key and its certificate
//	POST /provisioning/v1/certificates/from-csr  a certificate for a CSR
//	POST /provisioning/v1/templates/{template}   a thing
//
// Bodies are those of the topics, as application/json or application/cbor;
// problem answers with an error's problem document.
func (c *Claims) Handler(d *Door, problem func(w http.ResponseWriter, r *http.Request, err error)) *http.ServeMux {
	mux := http.NewServeMux()
	route := func(pattern string, do func(r *http.Request, who Caller, in fields) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := c.serve(d, w, r, do); err != nil {
				problem(w, r, err)
			}
		})
	}
	route("POST /provisioning/v1/certificates", func(r *http.Request, who Caller, _ fields) (any, error) {
		n, err := c.CreateKeys(r.Context(), who)
		return n.wire(), err
	})
	route("POST /provisioning/v1/certificates/from-csr", func(r *http.Request, who Caller, in fields) (any, error) {
		return c.createFromCSR(r.Context(), who, in)
	})
	route("POST /provisioning/v1/templates/{template}", func(r *http.Request, who Caller, in fields) (any, error) {
		return c.registerThing(r.Context(), who, in, r.PathValue("template"))
	})
	return mux
}

func (c *Claims) serve(d *Door, w http.ResponseWriter, r *http.Request, do func(r *http.Request, who Caller, in fields) (any, error)) error {
	// Who asks, before a body is read for nobody.
	who, err := c.caller(d, r)
	if err != nil {
		return err
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	f := JSON
	switch {
	case err == nil && media == "application/cbor":
		f = CBOR
	case err != nil || media != "application/json":
		return ErrRequest.New("Its content type is neither application/json nor application/cbor.")
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	if err != nil {
		return ErrRequest.Wrap(err, "It is too long, or broke off.")
	}
	in, err := f.decode(raw)
	if err != nil {
		return err
	}
	out, err := do(r, who, in)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/"+string(f))
	w.Header().Set("Cache-Control", "no-store")
	if _, err := w.Write(f.encode(out)); err != nil {
		return nil // the device is gone; the same request gets the same answer
	}
	return nil
}
