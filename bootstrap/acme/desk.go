package acme

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	lib "github.com/smallstep/certificates/acme"
	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/provisioner"

	"hallmark/bootstrap"
	"hallmark/bootstrap/acme/state"
	"hallmark/ca/csr"
)

// desk lends the library one order, as it was read: it is the library's database,
// provisioner and certificate authority in one. What the library changes is
// changed in the order, which whoever has the desk stores. It serves one request.
type desk struct {
	lib.DB // nil: what the library asks of it is below
	order  *state.Order
	format string         // of the attestation
	roots  *x509.CertPool // for it
	// sign makes the certificate; failure is what it said.
	sign    func(ctx context.Context) (bootstrap.Enrolled, error)
	failure error
}

var (
	_ lib.DB                   = (*desk)(nil)
	_ lib.Provisioner          = (*desk)(nil)
	_ lib.CertificateAuthority = (*desk)(nil)
)

// authorizationID and challengeID are made of the order's, so that one row has all.
func authorizationID(order string, i int) string { return order + "." + strconv.Itoa(i) }

func challengeID(order string, i, j int) string {
	return authorizationID(order, i) + "." + strconv.Itoa(j)
}

// undecided is an expiry for the library, which has a clock of its own. Whether an
// order has expired is decided before, by ours.
func undecided() time.Time { return time.Now().Add(time.Hour) }

func libProblem(raw json.RawMessage) *lib.Error {
	if raw == nil {
		return nil
	}
	e := &lib.Error{}
	if json.Unmarshal(raw, e) != nil {
		return nil
	}
	return e
}

func (d *desk) libChallenge(i, j int) *lib.Challenge {
	az := &d.order.Authorizations[i]
	ch := &az.Challenges[j]
	return &lib.Challenge{ID: challengeID(d.order.ID, i, j), AccountID: d.order.Account, AuthorizationID: authorizationID(d.order.ID, i), Value: az.Value,
		Type: lib.ChallengeType(ch.Type), Status: lib.Status(ch.Status), Token: ch.Token, ValidatedAt: ch.ValidatedAt, Error: libProblem(ch.Problem)}
}

func (d *desk) libAuthorization(i int) *lib.Authorization {
	az := &d.order.Authorizations[i]
	out := &lib.Authorization{ID: authorizationID(d.order.ID, i), AccountID: d.order.Account, Fingerprint: az.Fingerprint, Status: lib.Status(az.Status),
		Identifier: lib.Identifier{Type: lib.IdentifierType(az.Type), Value: az.Value}, ExpiresAt: undecided()}
	for j := range az.Challenges {
		out.Challenges = append(out.Challenges, d.libChallenge(i, j))
	}
	return out
}

func (d *desk) libOrder() *lib.Order {
	out := &lib.Order{ID: d.order.ID, AccountID: d.order.Account, Status: lib.Status(d.order.Status), ExpiresAt: undecided()}
	for i := range d.order.Authorizations {
		az := &d.order.Authorizations[i]
		out.Identifiers = append(out.Identifiers, lib.Identifier{Type: lib.IdentifierType(az.Type), Value: az.Value})
		out.AuthorizationIDs = append(out.AuthorizationIDs, authorizationID(d.order.ID, i))
	}
	return out
}

// GetAuthorization implements [lib.DB].
func (d *desk) GetAuthorization(_ context.Context, id string) (*lib.Authorization, error) {
	for i := range d.order.Authorizations {
		if authorizationID(d.order.ID, i) == id {
			return d.libAuthorization(i), nil
		}
	}
	return nil, lib.ErrNotFound
}

// UpdateAuthorization implements [lib.DB].
func (d *desk) UpdateAuthorization(_ context.Context, az *lib.Authorization) error {
	for i := range d.order.Authorizations {
		if authorizationID(d.order.ID, i) == az.ID {
			d.order.Authorizations[i].Status, d.order.Authorizations[i].Fingerprint = string(az.Status), az.Fingerprint
			return nil
		}
	}
	return lib.ErrNotFound
}

// UpdateChallenge implements [lib.DB].
func (d *desk) UpdateChallenge(_ context.Context, ch *lib.Challenge) error {
	for i := range d.order.Authorizations {
		for j := range d.order.Authorizations[i].Challenges {
			if challengeID(d.order.ID, i, j) != ch.ID {
				continue
			}
			to := &d.order.Authorizations[i].Challenges[j]
			to.Status, to.ValidatedAt, to.Problem = string(ch.Status), ch.ValidatedAt, nil
			if ch.Error != nil {
				raw, err := json.Marshal(ch.Error)
				if err != nil {
					return err
				}
				to.Problem = raw
			}
			return nil
		}
	}
	return lib.ErrNotFound
}

// UpdateOrder implements [lib.DB].
func (d *desk) UpdateOrder(_ context.Context, o *lib.Order) error {
	d.order.Status = string(o.Status)
	if o.Error != nil {
		raw, err := json.Marshal(o.Error)
		if err != nil {
			return err
		}
		d.order.Problem = raw
	}
	return nil
}

// CreateCertificate implements [lib.DB]. The certificate is in the order already.
func (d *desk) CreateCertificate(_ context.Context, c *lib.Certificate) error {
	c.ID = d.order.ID
	return nil
}

// SignWithContext implements [lib.CertificateAuthority]: it is where the library
// ends and the [bootstrap.Enroller] begins. Of the library's options nothing is
// taken.
func (d *desk) SignWithContext(ctx context.Context, _ *x509.CertificateRequest, _ provisioner.SignOptions, _ ...provisioner.SignOption) ([]*x509.Certificate, error) {
	out, err := d.sign(ctx)
	if err != nil {
		d.failure = err
		return nil, err
	}
	var chain []*x509.Certificate
	for _, der := range append([][]byte{out.Certificate}, out.Chain...) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			d.failure = err
			return nil, err
		}
		chain = append(chain, c)
	}
	return chain, nil
}

// AreSANsAllowed implements [lib.CertificateAuthority].
func (d *desk) AreSANsAllowed(context.Context, []string) error { return nil }

// IsRevoked implements [lib.CertificateAuthority].
func (d *desk) IsRevoked(string) (bool, error) { return false, errUnused }

// Revoke implements [lib.CertificateAuthority].
func (d *desk) Revoke(context.Context, *authority.RevokeOptions) error { return errUnused }

// LoadProvisionerByName implements [lib.CertificateAuthority].
func (d *desk) LoadProvisionerByName(string) (provisioner.Interface, error) { return nil, errUnused }

// GetBackdate implements [lib.CertificateAuthority].
func (d *desk) GetBackdate() *time.Duration { return nil }

// errUnused is for what the library's own api package asks, which is not here.
var errUnused = errors.New("acme: not used")

// AuthorizeOrderIdentifier implements [lib.Provisioner]; see [Server.newOrder].
func (d *desk) AuthorizeOrderIdentifier(context.Context, provisioner.ACMEIdentifier) error {
	return nil
}

// AuthorizeSign implements [lib.Provisioner].
func (d *desk) AuthorizeSign(context.Context, string) ([]provisioner.SignOption, error) {
	return nil, nil
}

// AuthorizeRevoke implements [lib.Provisioner].
func (d *desk) AuthorizeRevoke(context.Context, string) error { return errUnused }

// IsChallengeEnabled implements [lib.Provisioner]: those of an order were when it
// was made.
func (d *desk) IsChallengeEnabled(context.Context, provisioner.ACMEChallenge) bool { return true }

// IsAttestationFormatEnabled implements [lib.Provisioner].
func (d *desk) IsAttestationFormatEnabled(_ context.Context, f provisioner.ACMEAttestationFormat) bool {
	return d.roots != nil && string(f) == d.format
}

// GetAttestationRoots implements [lib.Provisioner]. The roots are those of the one
// format: a maker of cards does not vouch for TPMs.
func (d *desk) GetAttestationRoots() (*x509.CertPool, bool) { return d.roots, d.roots != nil }

// GetID implements [lib.Provisioner].
func (d *desk) GetID() string { return "hallmark" }

// GetName implements [lib.Provisioner].
func (d *desk) GetName() string { return "hallmark" }

// DefaultTLSCertDuration implements [lib.Provisioner].
func (d *desk) DefaultTLSCertDuration() time.Duration { return 0 }

// GetOptions implements [lib.Provisioner].
func (d *desk) GetOptions() *provisioner.Options { return nil }

// finalize runs the library's checks of a CSR against the order, and has the
// certificate made.
func (d *desk) finalize(ctx context.Context, req *csr.Request) error {
	parsed, err := x509.ParseCertificateRequest(req.Raw)
	if err != nil {
		return ErrCSR.Wrap(err, "")
	}
	if err := d.libOrder().Finalize(ctx, d, parsed, d, d); err != nil {
		if d.failure != nil {
			return d.failure
		}
		return refused(err)
	}
	return nil
}
