package access

import "context"

// Scope is the part of the data that a caller can see: one tenant.
type Scope struct{ Tenant string }

// DefaultTenant is the tenant of an installation that has only one.
const DefaultTenant = "main"

// Actor is who asks. Exactly one kind of name applies: a principal (a person or
// a script with a token), a station, or a device.
type Actor struct {
	Tenant string
	Kind   ActorKind
	Name   string // principal name, station id, or device (holder) name
	Role   Role   // principals only
	// Authority and Serial name the certificate that proved a station or device.
	Authority string
	Serial    []byte
}

// ActorKind says what an [Actor] is.
type ActorKind string

// The kinds.
const (
	KindPrincipal ActorKind = "principal"
	KindStation   ActorKind = "station"
	KindDevice    ActorKind = "device"
	KindService   ActorKind = "service" // the service acting for itself, for example to renew its TLS certificate
)

// Scope is the tenant the actor may see.
func (a Actor) Scope() Scope { return Scope{Tenant: a.Tenant} }

// String is the form kept in records: "principal:ann", "station:st-1".
func (a Actor) String() string { return string(a.Kind) + ":" + a.Name }

type actorKey struct{}

// WithActor puts the actor into ctx.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorFrom is the actor of ctx; the zero Actor, who may do nothing, if none is set.
func ActorFrom(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
