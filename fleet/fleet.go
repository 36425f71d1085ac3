package fleet

import "strings"

// MaxThingName is the longest name of a thing, in characters.
const MaxThingName = 128

// ThingName names a device after first boot. It has 1 to 128 of a-z A-Z 0-9 :
// _ and -, as on the wire. Two names that differ only in case are never both
// in use in a tenant (S22).
type ThingName string

// ParseThingName checks the rule.
func ParseThingName(s string) (ThingName, error) {
	ok := s != "" && len(s) <= MaxThingName
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == ':' || c == '_' || c == '-'
	}
	if !ok {
		return "", ErrThingName.New("")
	}
	return ThingName(s), nil
}

// Fold is the compared form.
func (n ThingName) Fold() string { return strings.ToLower(string(n)) }

// PrincipalStatus says whether a thing may use a certificate.
type PrincipalStatus string

// The statuses, as on the wire.
const (
	Active            PrincipalStatus = "ACTIVE"
	Inactive          PrincipalStatus = "INACTIVE"
	PendingActivation PrincipalStatus = "PENDING_ACTIVATION" // until the key was proven by a connection (S15); never set by hand
	Revoked           PrincipalStatus = "REVOKED"            // final
	PendingTransfer   PrincipalStatus = "PENDING_TRANSFER"   // on its way to another tenant; set by a transfer only
)

// ParsePrincipalStatus reads a status that a person may set.
func ParsePrincipalStatus(s string) (PrincipalStatus, error) {
	switch p := PrincipalStatus(strings.ToUpper(s)); p {
	case Active, Inactive, Revoked:
		return p, nil
	}
	return "", ErrStatus.New("")
}

// CanBecome tells whether a status may change to another. Into and out of
// PENDING_TRANSFER lead only the transfer itself and what ends it.
func (p PrincipalStatus) CanBecome(to PrincipalStatus) bool {
	switch p {
	case Active:
		return to == Inactive || to == Revoked
	case Inactive:
		return to == Active || to == Revoked || to == PendingTransfer
	case PendingActivation:
		return to == Active || to == Inactive || to == Revoked
	case PendingTransfer:
		return to == Active || to == Inactive
	}
	return false
}
