// Package lane carries the priority of a piece of work in its context (S41):
// the production line goes before renewals, those before claims, those before
// the service's own status work. The database queue and the signer read it.
package lane

import "context"

// Lane is a priority; a smaller number goes first.
type Lane uint8

// The lanes, first to last.
const (
	Line Lane = iota
	Renewal
	Claim
	Status
	Count = iota
)

type key struct{}

// With marks the work under ctx as belonging to l.
func With(ctx context.Context, l Lane) context.Context { return context.WithValue(ctx, key{}, l) }

// From is the lane of ctx; work that nobody marked is Renewal.
func From(ctx context.Context) Lane {
	if l, ok := ctx.Value(key{}).(Lane); ok {
		return l
	}
	return Renewal
}
