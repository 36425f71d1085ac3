package lint

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"

	"hallmark/ca/profile"
)

// kind is what a kind of certificate may be.
type kind struct {
	ca      bool
	pathLen int
	usage   x509.KeyUsage
	purpose []x509.ExtKeyUsage
	role    int  // last arc of the policy OID (S18)
	noCheck bool // RFC 6960, Section 4.2.2.2.1
}

// kinds says it a second time, from the documents (S1, S18) and not from the
// profiles: a mistake in a profile, which every certificate of that kind would
// repeat, is then a refusal before the first signature. Who changes what a
// profile means changes it here too, and means it.
var kinds = map[profile.Name]kind{
	profile.Root:          {ca: true, pathLen: 2, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign},
	profile.DeviceCA:      {ca: true, pathLen: 0, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign},
	profile.InfraCA:       {ca: true, pathLen: 0, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign},
	profile.CrossRoot:     {ca: true, pathLen: 1, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign},
	profile.IDevID:        {role: 4, usage: x509.KeyUsageDigitalSignature, purpose: client},
	profile.LDevID:        {role: 5, usage: x509.KeyUsageDigitalSignature, purpose: client},
	profile.Station:       {role: 6, usage: x509.KeyUsageDigitalSignature, purpose: client},
	profile.Operator:      {role: 7, usage: x509.KeyUsageDigitalSignature, purpose: client},
	profile.Server:        {role: 8, usage: x509.KeyUsageDigitalSignature, purpose: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	profile.OCSPResponder: {role: 9, usage: x509.KeyUsageDigitalSignature, purpose: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, noCheck: true},
	profile.SCEPRA:        {role: 12, usage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, purpose: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}},
	profile.Site:          {role: 13, usage: x509.KeyUsageDigitalSignature, purpose: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	profile.Claim:         {role: 10, usage: x509.KeyUsageDigitalSignature, purpose: client},
}

var client = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}

const noCheckOID = "1.3.6.1.5.5.7.48.1.5"

// ofItsKind holds a certificate to the row of its kind.
func ofItsKind(c *x509.Certificate, name profile.Name, bad func(string, string, ...any)) {
	k, ok := kinds[name]
	if !ok {
		bad("kind", "no rule says what a certificate of the profile %s may be", name)
		return
	}
	if c.IsCA != k.ca || k.ca && c.MaxPathLen > k.pathLen { // a ceremony may narrow it
		bad("kind", "CA is %t with path length %d", c.IsCA, c.MaxPathLen)
	}
	if c.KeyUsage != k.usage {
		bad("kind", "key usage %b", c.KeyUsage)
	}
	if !k.ca && !slices.Equal(c.ExtKeyUsage, k.purpose) || len(c.UnknownExtKeyUsage) > 0 {
		bad("kind", "purposes %v", c.ExtKeyUsage)
	}
	noCheck := slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.String() == noCheckOID })
	if noCheck != k.noCheck {
		bad("kind", "ocsp-nocheck is %t", noCheck)
	}
	if k.ca {
		return
	}
	role := 0
	if len(c.PolicyIdentifiers) > 0 {
		if id := c.PolicyIdentifiers[0]; len(id) > 2 && id[len(id)-2] == 1 {
			role = id[len(id)-1]
		}
	}
	if role != k.role {
		bad("kind", "its policies name role %d", role)
	}
}
