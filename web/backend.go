package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Page asks for a part of a list: at most Limit items after a position, which
// the list gave out before; "" starts at its beginning.
type Page struct {
	After string
	Limit int
}

// CertificateQuery selects certificates; empty fields do not filter.
type CertificateQuery struct {
	Holder    string // start of its name
	Serial    string
	Status    string
	Authority string
	Order     string
	Profile   string
}

// Backend is what the API and the console show and change, in the words of the
// contract. Every method sees the tenant of its scope or actor and nothing
// else; what belongs to another tenant is NotFound. Lists return the position
// of the next page, "" on the last.
type Backend struct {
	Orders       Orders
	Stations     Stations
	Enrolment    Enrolment
	Certificates Certificates
	Trust        Trust
	Authorities  Authorities
	Registry     Registry
	Things       Things
	ThingTypes   ThingTypes
	Groups       Groups
	Policies     Policies
	Registration Registration
	Jobs         Jobs
	Campaigns    Campaigns
	Rotation     Rotation
	Firmware     Firmware
	Bundles      Bundles
	Ownership    Ownership
	Shadows      Shadows
	Plans        Plans
	Revocations  Revocations
	Log          Log
	Backup       Backup
	Trail        Trail
	Health       Health
}

// Orders is production orders and their units.
type Orders interface {
	CreateOrder(ctx context.Context, by access.Actor, r adminapi.OrderRequest) (adminapi.Order, error)
	Order(ctx context.Context, s access.Scope, id string) (adminapi.Order, error)
	Orders(ctx context.Context, s access.Scope, state string, p Page) (items []adminapi.Order, next string, err error)
	ApproveOrder(ctx context.Context, by access.Actor, id string, e adminapi.Envelope) (adminapi.Order, error)
	OpenOrder(ctx context.Context, by access.Actor, id string) (adminapi.Order, error)
	CloseOrder(ctx context.Context, by access.Actor, id string) (adminapi.Order, error)
	Units(ctx context.Context, s access.Scope, order string, p Page) (items []adminapi.Unit, next string, err error)
}

// Stations is the enrolled stations and their codes.
type Stations interface {
	CreateStationCode(ctx context.Context, by access.Actor, r adminapi.StationCodeRequest) (adminapi.StationCode, error)
	Stations(ctx context.Context, s access.Scope) ([]adminapi.Station, error)
	RevokeStation(ctx context.Context, by access.Actor, id string, r adminapi.StationRevokeRequest) (adminapi.Station, error)
}

// Enrolment is the one-time passwords and the external account keys of ACME with
// which units enrol by themselves.
type Enrolment interface {
	CreateEnrolPassword(ctx context.Context, by access.Actor, r adminapi.EnrolPasswordRequest) (adminapi.EnrolPassword, error)
	AcmeKeys(ctx context.Context, s access.Scope) ([]adminapi.AcmeKey, error)
	CreateAcmeKey(ctx context.Context, by access.Actor, r adminapi.AcmeKeyRequest) (adminapi.AcmeKey, error)
	RevokeAcmeKey(ctx context.Context, by access.Actor, id string) (adminapi.AcmeKey, error)
}

// Certificates is the record of what was issued. A page of a search may be
// shorter than its limit and still have a next one.
type Certificates interface {
	Certificates(ctx context.Context, s access.Scope, q CertificateQuery, p Page) (items []adminapi.CertificateSummary, next string, err error)
	Certificate(ctx context.Context, s access.Scope, serial string) (adminapi.Certificate, error)
	Device(ctx context.Context, s access.Scope, holder string) (adminapi.Device, error)
}

// Trust takes trust away and says how the lists stand.
type Trust interface {
	RevokeCertificate(ctx context.Context, by access.Actor, serial string, r adminapi.RevokeRequest) (adminapi.Revocation, error)
	RevokeDevice(ctx context.Context, by access.Actor, holder string, r adminapi.DeviceRevokeRequest) (adminapi.DeviceRevocation, error)
	Lists(ctx context.Context, s access.Scope) ([]adminapi.List, error)
	PutRootList(ctx context.Context, by access.Actor, authority string, r adminapi.RootListRequest) (adminapi.List, error)
	PublishLists(ctx context.Context, by access.Actor, authority string) ([]adminapi.List, error)
	// Destinations and imports are the service's, and every tenant's lists go there.
	ListDestinations(ctx context.Context) ([]adminapi.ListDestination, error)
	ListImports(ctx context.Context) ([]adminapi.ListImport, error)
}

// Authorities is the certification authorities.
type Authorities interface {
	Authorities(ctx context.Context, s access.Scope) ([]adminapi.Authority, error)
	Authority(ctx context.Context, s access.Scope, name string) (adminapi.Authority, error)
	CreateAuthority(ctx context.Context, by access.Actor, r adminapi.AuthorityRequest) (adminapi.Authority, error)
	InstallAuthority(ctx context.Context, by access.Actor, name string, r adminapi.InstallRequest) (adminapi.Authority, error)
	CreateRoot(ctx context.Context, by access.Actor, r adminapi.RootRequest) (adminapi.Authority, error)
	// AddCross stores a certificate in which one root certifies another.
	AddCross(ctx context.Context, by access.Actor, r adminapi.CrossRequest) (adminapi.Cross, error)
	Crosses(ctx context.Context, s access.Scope) ([]adminapi.Cross, error)
	// AuthorityRollover is how an authority leaves; without a successor the one that
	// was decided, if any.
	AuthorityRollover(ctx context.Context, s access.Scope, authority, successor string) (adminapi.Rollover, error)
	Servings(ctx context.Context, s access.Scope) ([]adminapi.Serving, error)
}

// Registry is life after first boot: things, and how they are registered.
type Registry interface {
	Things(ctx context.Context, s access.Scope, attribute, value string, p Page) (items []adminapi.Thing, next string, err error)
	Thing(ctx context.Context, s access.Scope, name string) (adminapi.Thing, error)
	Templates(ctx context.Context, s access.Scope) ([]adminapi.Template, error)
	Template(ctx context.Context, s access.Scope, name string) (adminapi.Template, error)
	PutTemplate(ctx context.Context, by access.Actor, name string, r adminapi.TemplateRequest) (adminapi.Template, error)
	Hooks(ctx context.Context, s access.Scope) ([]adminapi.Hook, error)
	PutHook(ctx context.Context, by access.Actor, name string, r adminapi.HookRequest) (adminapi.Hook, error)
	Registrations(ctx context.Context, s access.Scope) ([]adminapi.RegistrationRule, error)
	PutRegistration(ctx context.Context, by access.Actor, authority string, r adminapi.RegistrationRequest) (adminapi.RegistrationRule, error)
}

// Backup makes backups of the whole service, whatever tenant asks.
type Backup interface {
	BackupState(ctx context.Context) (adminapi.BackupState, error)
	MakeBackup(ctx context.Context, by access.Actor) (adminapi.BackupState, error)
}

// Log is the transparency log.
type Log interface {
	LogState(ctx context.Context, s access.Scope) (adminapi.LogState, error)
	Proof(ctx context.Context, s access.Scope, serial string) (adminapi.LogProof, error)
	// Leaves gives those of the indexes from ≤ index < from+limit that there are.
	Leaves(ctx context.Context, s access.Scope, from int64, limit int) ([]adminapi.LogLeaf, error)
	OrderLeaves(ctx context.Context, s access.Scope, order string, p Page) (items []adminapi.LogLeaf, next string, err error)
	OrderReport(ctx context.Context, s access.Scope, order string) (adminapi.Envelope, error)
	// Receipt proves against the tree of a size; 0 = the newest checkpoint's.
	Receipt(ctx context.Context, s access.Scope, serial string, size int64) (adminapi.LogReceipt, error)
}

// Health sums up.
type Health interface {
	Summary(ctx context.Context, s access.Scope) (adminapi.Summary, error)
}
