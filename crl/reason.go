package crl

import "strconv"

// Reason is why a certificate is revoked (RFC 5280, Section 5.3.1).
type Reason uint8

// The reasons that can be given here. cACompromise (2) and aACompromise (10) are
// about certificates we do not issue, removeFromCRL (8) is for delta lists, 7 is
// not used by the standard.
const (
	Unspecified          Reason = 0
	KeyCompromise        Reason = 1
	AffiliationChanged   Reason = 3
	Superseded           Reason = 4
	CessationOfOperation Reason = 5
	CertificateHold      Reason = 6
	PrivilegeWithdrawn   Reason = 9
)

// removeFromCRL takes an entry off the base list; it is in delta lists only.
const removeFromCRL Reason = 8

var reasonNames = map[Reason]string{
	Unspecified: "unspecified", KeyCompromise: "keyCompromise", AffiliationChanged: "affiliationChanged", Superseded: "superseded",
	CessationOfOperation: "cessationOfOperation", CertificateHold: "certificateHold", PrivilegeWithdrawn: "privilegeWithdrawn",
}

// Valid tells whether a certificate can be revoked for this reason.
func (r Reason) Valid() bool { return r <= PrivilegeWithdrawn && 0b10_0111_1011>>r&1 == 1 }

// String is the name in RFC 5280.
func (r Reason) String() string {
	if n := reasonNames[r]; n != "" {
		return n
	}
	return "reason " + strconv.Itoa(int(r))
}

// ParseReason reads the name or the number.
func ParseReason(text string) (Reason, error) {
	for r, n := range reasonNames {
		if text == n || text == strconv.Itoa(int(r)) {
			return r, nil
		}
	}
	return 0, ErrReason.New("%.40q.", text)
}

// change says what a wish does to what is there.
type change uint8

const (
	changeNothing change = iota
	changeInsert         // first revocation, or a new one after a release
	changeReason         // a hold becomes permanent, or a reason becomes keyCompromise
)

// decide is the rule of A33. have is nil when the serial number is not revoked.
func decide(have *Revocation, want Reason) (change, error) {
	switch {
	case !want.Valid():
		return 0, ErrReason.New("Reason %d.", want)
	case have == nil || !have.ReleasedAt.IsZero():
		return changeInsert, nil
	case have.Reason == want:
		return changeNothing, nil
	case have.Reason == KeyCompromise:
		return 0, ErrWeaken.New("It was revoked at %s.", have.At.Format(timeForm))
	case want == KeyCompromise, have.Reason == CertificateHold:
		return changeReason, nil
	}
	return 0, ErrRevoked.New("It is revoked for %s since %s.", have.Reason, have.At.Format(timeForm))
}
