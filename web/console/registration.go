package console

import "hallmark/web"

var deviceCertificateStates = []string{"ACTIVE", "INACTIVE", "PENDING_ACTIVATION", "PENDING_TRANSFER", "REVOKED"}

func (c *console) registeredCAs(v *view) (string, error) {
	v.Title = "Registered CAs"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	items, next, err := c.Backend.Registration.RegisteredCAs(v.r.Context(), v.scope, p)
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next), "See": v.sees()}
	return "registered-cas", err
}

func (c *console) registeredCA(v *view) (string, error) {
	ca, err := c.Backend.Registration.RegisteredCA(v.r.Context(), v.scope, v.r.PathValue("ca"))
	if err != nil {
		return "", err
	}
	v.Title = "Registered CA"
	v.Data = map[string]any{"CA": ca, "Decoded": decode(ca.Certificate), "See": v.sees()}
	return "registered-ca", nil
}

func (c *console) registeredCAPEM(v *view) (string, error) {
	ca, err := c.Backend.Registration.RegisteredCA(v.r.Context(), v.scope, v.r.PathValue("ca"))
	if err != nil {
		return "", err
	}
	return "", offer(v, "ca-"+ca.Id, ca.Certificate)
}

// offer sends a certificate, if there is one.
func offer(v *view, name, text string) error {
	if text == "" {
		return web.ErrInput.New("It has no certificate.")
	}
	download(v, name+".pem", text)
	return nil
}

// deviceCertificates are the certificates that the fleet's runtime knows, ours
// and those that were brought along.
func (c *console) deviceCertificates(v *view) (string, error) {
	v.Title = "Device certificates"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	q := web.FleetCertificateQuery{CA: v.r.URL.Query().Get("ca")}
	if q.Status, err = stateOf(v, deviceCertificateStates); err != nil {
		return "", err
	}
	items, next, err := c.Backend.Registration.FleetCertificates(v.r.Context(), v.scope, q, p)
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next), "State": q.Status, "States": deviceCertificateStates, "CA": q.CA, "See": v.sees()}
	return "device-certificates", err
}

func (c *console) deviceCertificate(v *view) (string, error) {
	cert, err := c.Backend.Registration.FleetCertificate(v.r.Context(), v.scope, v.r.PathValue("certificate"))
	if err != nil {
		return "", err
	}
	v.Title = "Device certificate"
	v.Data = map[string]any{"Cert": cert, "Decoded": decode(cert.Certificate), "See": v.sees()}
	return "device-certificate", nil
}

func (c *console) deviceCertificatePEM(v *view) (string, error) {
	cert, err := c.Backend.Registration.FleetCertificate(v.r.Context(), v.scope, v.r.PathValue("certificate"))
	if err != nil {
		return "", err
	}
	return "", offer(v, "device-"+cert.Id, cert.Certificate)
}

func (c *console) claims(v *view) (string, error) {
	v.Title = "Claims"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	items, next, err := c.Backend.Registration.Claims(v.r.Context(), v.scope, p)
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next), "See": v.sees()}
	return "claims", err
}

func (c *console) claim(v *view) (string, error) {
	claim, err := c.Backend.Registration.Claim(v.r.Context(), v.scope, v.r.PathValue("certificate"))
	if err != nil {
		return "", err
	}
	v.Title = "Claim certificate of " + claim.Holder
	v.Data = map[string]any{"Claim": claim, "See": v.sees()}
	return "claim", nil
}
