package profile

import (
	"slices"
	"time"

	"hallmark/internal/der"
)

// Name names a profile; it is part of the public contract.
type Name string

// The profiles.
const (
	Root              Name = "root"
	DeviceCA          Name = "device-ca"
	InfraCA           Name = "infrastructure-ca"
	IDevID            Name = "idevid"
	LDevID            Name = "ldevid"
	Station           Name = "station"
	Operator          Name = "operator"
	Server            Name = "server"
	OCSPResponder     Name = "ocsp-responder"
	Claim             Name = "claim"
	CrossRoot         Name = "cross-root"  // another root's name and key, certified by this root
	SCEPRA            Name = "scep-ra"     // the service's own, for SCEP messages (RFC 8894)
	Site              Name = "site-server" // a server at a site that proved its names (ACME)
	numberOfRoles          = 13
	NoExpiryYear           = 9999
	defaultArcText         = "2.25.1822749157"
	validityYear           = 365 * 24 * time.Hour
	defaultBackdate        = 10 * time.Minute
	serialBits             = 160
	maxCommonName          = 64 // ub-common-name, RFC 5280, Appendix A.1
	maxSerialNumber        = 64 // ub-serial-number
	maxOrganization        = 64
	maxURL                 = 512
	MaxHardwareSerial      = 64 // octets of a hardware serial number
)

// NoExpiry is 99991231235959Z, for certificates without a well-defined end (RFC
// 5280, Section 4.1.2.5).
var NoExpiry = time.Date(NoExpiryYear, 12, 31, 23, 59, 59, 0, time.UTC)

// Duty is what an authority is for. Duties are never mixed (S1).
type Duty string

// The duties.
const (
	DutyRoot           Duty = "root"
	DutyDevice         Duty = "device"
	DutyInfrastructure Duty = "infrastructure"
)

// Usage bits of the keyUsage extension (RFC 5280, Section 4.2.1.3).
const (
	digitalSignature = 1 << 0
	keyEncipherment  = 1 << 2
	keyCertSign      = 1 << 5
	cRLSign          = 1 << 6
)

// Object identifiers of extensions and purposes.
var (
	oidKeyUsage         = der.MustOID("2.5.29.15")
	oidSubjectKeyID     = der.MustOID("2.5.29.14")
	oidAuthorityKeyID   = der.MustOID("2.5.29.35")
	oidBasicConstraints = der.MustOID("2.5.29.19")
	oidExtKeyUsage      = der.MustOID("2.5.29.37")
	oidSubjectAltName   = der.MustOID("2.5.29.17")
	oidCRLDP            = der.MustOID("2.5.29.31")
	oidAIA              = der.MustOID("1.3.6.1.5.5.7.1.1")
	oidPolicies         = der.MustOID("2.5.29.32")
	oidOCSPNoCheck      = der.MustOID("1.3.6.1.5.5.7.48.1.5")
	oidADOCSP           = der.MustOID("1.3.6.1.5.5.7.48.1")
	oidADCAIssuers      = der.MustOID("1.3.6.1.5.5.7.48.2")
	oidHardwareModule   = der.MustOID("1.3.6.1.5.5.7.8.4") // id-on-hardwareModuleName, RFC 4108, Section 5

	PurposeServerAuth  = der.MustOID("1.3.6.1.5.5.7.3.1")
	PurposeClientAuth  = der.MustOID("1.3.6.1.5.5.7.3.2")
	PurposeOCSPSigning = der.MustOID("1.3.6.1.5.5.7.3.9")
	PurposeEmail       = der.MustOID("1.3.6.1.5.5.7.3.4")
)

// Profile is the fixed part of a kind of certificate.
type Profile struct {
	Name    Name
	Version int // rises with any change of what it renders; pinned in the reservation (A1)
	Role    int // last arc of its policy OID, ARC.1.Role (S18); never reused
	Issuer  Duty
	CA      bool
	PathLen int // only with CA
	// Lifetime is the longest and the default life.
	Lifetime time.Duration
	// NoExpiry makes 9999-12-31 the default end, where the issuer lives as long (S2).
	NoExpiry bool
	Usage    uint32
	Purposes []der.OID
	// NoCheck adds id-pkix-ocsp-nocheck (RFC 6960, Section 4.2.2.2.1).
	NoCheck bool
	// Slots is how many certificates of one holder may overlap; 1 means one.
	Slots int
	names []byte // of [Profile.Constrained]: the value of its name constraints
}

var profiles = []Profile{
	{Name: Root, Version: 1, Role: 1, Issuer: DutyRoot, CA: true, PathLen: 2, Lifetime: 30 * validityYear, NoExpiry: true, Usage: keyCertSign | cRLSign},
	{Name: DeviceCA, Version: 1, Role: 2, Issuer: DutyRoot, CA: true, PathLen: 0, Lifetime: 30 * validityYear, NoExpiry: true, Usage: keyCertSign | cRLSign},
	{Name: InfraCA, Version: 1, Role: 3, Issuer: DutyRoot, CA: true, PathLen: 0, Lifetime: 10 * validityYear, Usage: keyCertSign | cRLSign},
	// 802.1AR asks for digitalSignature; clientAuth narrows the birth
	// certificate to what the doors use it for.
	{Name: IDevID, Version: 1, Role: 4, Issuer: DutyDevice, NoExpiry: true, Lifetime: 30 * validityYear, Usage: digitalSignature, Purposes: []der.OID{PurposeClientAuth}, Slots: 1},
	{Name: LDevID, Version: 1, Role: 5, Issuer: DutyDevice, Lifetime: 2 * validityYear, Usage: digitalSignature, Purposes: []der.OID{PurposeClientAuth}, Slots: 2},
	{Name: Station, Version: 1, Role: 6, Issuer: DutyInfrastructure, Lifetime: 90 * 24 * time.Hour, Usage: digitalSignature, Purposes: []der.OID{PurposeClientAuth}, Slots: 2},
	{Name: Operator, Version: 1, Role: 7, Issuer: DutyInfrastructure, Lifetime: validityYear, Usage: digitalSignature, Purposes: []der.OID{PurposeClientAuth}, Slots: 1},
	{Name: Server, Version: 1, Role: 8, Issuer: DutyInfrastructure, Lifetime: 90 * 24 * time.Hour, Usage: digitalSignature, Purposes: []der.OID{PurposeServerAuth}, Slots: 2},
	// 14 days at most (S31), of which backdating is a part.
	{Name: OCSPResponder, Version: 1, Role: 9, Issuer: "", Lifetime: 14*24*time.Hour - time.Hour, Usage: digitalSignature, Purposes: []der.OID{PurposeOCSPSigning}, NoCheck: true, Slots: 2},
	{Name: Claim, Version: 1, Role: 10, Issuer: DutyInfrastructure, Lifetime: validityYear, Usage: digitalSignature, Purposes: []der.OID{PurposeClientAuth}, Slots: 1},
	// Below a cross certificate are the issuing authorities of the other root,
	// and a line CA with its stations.
	{Name: CrossRoot, Version: 1, Role: 11, Issuer: DutyRoot, CA: true, PathLen: 1, Lifetime: 30 * validityYear, NoExpiry: true, Usage: keyCertSign | cRLSign},
	// What is signed and opened are CMS messages, for which emailProtection is the
	// one registered purpose (RFC 5280, Section 4.2.1.12): with it the key is no
	// TLS server's or client's, and OpenSSL's verification of such messages takes it.
	{Name: SCEPRA, Version: 1, Role: 12, Issuer: DutyInfrastructure, Lifetime: validityYear, Usage: digitalSignature | keyEncipherment, Purposes: []der.OID{PurposeEmail}, Slots: 2},
	// Apart from Server, which is the service itself: what a site proves is a name
	// there, and its certificate is nothing at our doors.
	{Name: Site, Version: 1, Role: 13, Issuer: DutyInfrastructure, Lifetime: 90 * 24 * time.Hour, Usage: digitalSignature, Purposes: []der.OID{PurposeServerAuth}, Slots: 2},
}

// Get finds a profile; false if there is none of that name.
func Get(n Name) (Profile, bool) {
	i := slices.IndexFunc(profiles, func(p Profile) bool { return p.Name == n })
	if i < 0 {
		return Profile{}, false
	}
	return profiles[i], true
}

// All lists the profiles.
func All() []Profile { return slices.Clone(profiles) }

// Origin says where a device's key comes from (S5).
type Origin string

// The origins; "" on certificates that are not a device's.
const (
	OriginAttested    Origin = "attested"
	OriginManifest    Origin = "manifest"
	OriginClaimed     Origin = "claimed"
	OriginStationMade Origin = "station-made"
	OriginServerMade  Origin = "server-made" // fleet provisioning only, where it is switched on (S17)
)

// Arc is the last arc of the origin's policy OID, ARC.2.n; 0 for none.
func (o Origin) Arc() int {
	return 1 + slices.Index([]Origin{OriginAttested, OriginManifest, OriginClaimed, OriginStationMade, OriginServerMade}, o)
}

// Valid tells whether o is a known origin.
func (o Origin) Valid() bool { return o.Arc() > 0 }

// DefaultArc is the arc of the policy OIDs where none is configured; why it is
// not a full UUID is in docs/decisions/0003-policy-arc.md.
const DefaultArc = defaultArcText
