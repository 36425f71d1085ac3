package ca

import (
	"context"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/ca/profile"
)

// EndStage is how far an authority shall leave. It only rises.
type EndStage string

// The stages.
const (
	// EndOverlap: the successor issues, the authority steps in if it cannot. Both
	// sign lists.
	EndOverlap EndStage = "overlap"
	// EndClosed: it issues nothing more and signs lists (S2), its last ones once its
	// last certificate ended.
	EndClosed EndStage = "closed"
	// EndRevoked: it issues nothing more, and nobody takes what it issued.
	EndRevoked EndStage = "revoked"
)

// EndStages are in their order.
var EndStages = []EndStage{EndOverlap, EndClosed, EndRevoked}

// EndStep is something that was done.
type EndStep struct {
	Step string    `json:"step"`
	At   time.Time `json:"at"`
	By   string    `json:"by"`
}

// The steps.
const (
	StepSwitched = "switched" // the successor comes first in every declaration
	StepClosed   = "closed"
	StepRevoked  = "revoked"   // by the service
	StepListed   = "listed"    // on its root's list
	StepLast     = "last-list" // its last lists are being signed
	StepEnded    = "ended"     // they are published
)

// End is the state machine of an authority that leaves: rolled over to a
// successor, retired or revoked. Each step is one transaction, which is done or
// not, so that whatever stops in between goes on where it was.
type End struct {
	Tenant    string    `json:"tenant"`
	Authority string    `json:"authority"`
	Successor string    `json:"successor,omitempty"`
	Stage     EndStage  `json:"stage"`
	Reason    int       `json:"reason,omitempty"` // RFC 5280, Section 5.3.1, if revoked
	Note      string    `json:"note,omitempty"`
	Steps     []EndStep `json:"steps"`
	Version   int64     `json:"version"`
}

// Did gives a step, if it was done.
func (e *End) Did(step string) (EndStep, bool) {
	i := slices.IndexFunc(e.Steps, func(s EndStep) bool { return s.Step == step })
	if i < 0 {
		return EndStep{}, false
	}
	return e.Steps[i], true
}

func (e *End) done(step, by string, at time.Time) {
	if _, did := e.Did(step); !did {
		e.Steps = append(e.Steps, EndStep{step, at.UTC().Truncate(time.Second), by})
	}
}

// LastEnd is how the certificates of an authority end.
type LastEnd struct {
	Certificates int64
	Unsigned     int64     // reserved, without a certificate and not void
	At           time.Time // when the last of them ends; zero without any
}

// Ends persists what leaves. The contract is that of [Servings].
type Ends interface {
	Ends(ctx context.Context, s access.Scope) ([]End, error)
	PutEnd(ctx context.Context, e End, was int64) error
	// LastEnd looks at every reservation of an authority.
	LastEnd(ctx context.Context, authority string) (LastEnd, error)
}

// EndStore is what the steps read and write.
type EndStore interface {
	Authorities
	Ends
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error
}

// Leave moves an authority to a stage. What is decided is done in the transaction
// of the context: declarations and states change together with the record of it.
// Whether it is wise was judged before, see [Judge].
func Leave(ctx context.Context, store EndStore, by access.Actor, want End, now time.Time) (out End, err error) {
	err = store.Atomic(ctx, func(ctx context.Context) error {
		ends, err := store.Ends(ctx, by.Scope())
		if err != nil {
			return err
		}
		out = want
		out.Tenant, out.Steps, out.Version = by.Tenant, nil, 0
		if i := slices.IndexFunc(ends, func(e End) bool { return e.Authority == want.Authority }); i >= 0 {
			have := ends[i]
			out.Steps, out.Version = have.Steps, have.Version
			if out.Successor == "" {
				out.Successor = have.Successor
			}
			if slices.Index(EndStages, want.Stage) < slices.Index(EndStages, have.Stage) {
				return ErrEndBack.New("%s is %s.", want.Authority, have.Stage)
			}
		}
		switch want.Stage {
		case EndOverlap:
			err = redeclare(ctx, store, out.Tenant, func(list []string) []string {
				at := slices.Index(list, out.Authority)
				if at < 0 {
					return list
				}
				list = slices.DeleteFunc(slices.Clone(list), func(n string) bool { return n == out.Successor })
				return slices.Insert(list, slices.Index(list, out.Authority), out.Successor)
			})
			out.done(StepSwitched, by.String(), now)
		case EndClosed, EndRevoked:
			err = redeclare(ctx, store, out.Tenant, func(list []string) []string {
				return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return n == out.Authority })
			})
			state, step := StateClosed, StepClosed
			if want.Stage == EndRevoked {
				state, step = StateRevoked, StepRevoked
			}
			if err == nil {
				err = store.SetAuthorityState(ctx, out.Authority, state)
			}
			out.done(step, by.String(), now)
		default:
			err = ErrInvalidRequest.New("The stage %.20q is none of %v.", want.Stage, EndStages)
		}
		if err != nil {
			return err
		}
		was := out.Version
		if err := store.PutEnd(ctx, out, was); err != nil {
			return err
		}
		out.Version = was + 1
		return nil
	})
	return out, err
}

// redeclare changes the authorities of every declaration of a tenant.
func redeclare(ctx context.Context, store Servings, tenant string, change func([]string) []string) error {
	all, err := store.Servings(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Tenant != tenant {
			continue
		}
		to := change(s.Authorities)
		if slices.Equal(to, s.Authorities) {
			continue
		}
		s.Authorities = to
		if err := store.PutServing(ctx, s, s.Version); err != nil {
			return err
		}
	}
	return nil
}

// Orphans are the declarations of a tenant that nobody open is left to serve when
// an authority goes.
func Orphans(servings []Serving, all []Info, tenant, goes string, now time.Time) (out []Serving) {
	for _, s := range servings {
		if s.Tenant != tenant || !slices.Contains(s.Authorities, goes) {
			continue
		}
		left := slices.ContainsFunc(all, func(a Info) bool {
			l := authority{Authority: a.Authority, cert: a.Cert}
			return a.Name != goes && slices.Contains(s.Authorities, a.Name) && l.open(profile.Profile{}, now) == nil
		})
		if !left {
			out = append(out, s)
		}
	}
	return out
}

// Advance does what an authority that leaves waits for and what needs no decision:
// it notes that the root's list has it, signs its last lists once its last
// certificate ended, and notes that they are out. It may be called at any time, by
// any node; it returns what the next step waits for.
func Advance(ctx context.Context, store EndStore, e End, at Facts, now time.Time) (changed bool, waits string, err error) {
	step, state := "", State("")
	_, listed := e.Did(StepListed)
	_, last := e.Did(StepLast)
	_, ended := e.Did(StepEnded)
	switch {
	case ended:
		return false, "", nil
	case e.Stage == EndOverlap:
		return false, "a decision to finish: its certificates are still renewed by it if the successor cannot", nil
	case e.Stage == EndRevoked && !listed && !at.Listed:
		return false, "its root's list, which does not have it yet: whoever does not ask this service still trusts it", nil
	case e.Stage == EndRevoked && !listed:
		step = StepListed
	case last && !at.LastListsOut:
		return false, "its last lists, which are being published", nil
	case last:
		step = StepEnded
	default:
		end, err := store.LastEnd(ctx, e.Authority)
		if err != nil {
			return false, "", err
		}
		switch {
		case end.Unsigned > 0:
			return false, "reservations without a certificate, which are given up after a day", nil
		case end.At.After(now.Add(-lastListAfter)) && !at.Ends.After(end.At): // it lives no longer than its certificates: its last list is like any other
			return false, "the end of its certificate, which is not after that of its last one", nil
		case end.At.After(now.Add(-lastListAfter)):
			return false, "the end of its last certificate, " + end.At.UTC().Format(time.RFC3339), nil
		}
		step, state = StepLast, StateEnded
	}
	err = store.Atomic(ctx, func(ctx context.Context) error {
		if state != "" {
			if err := store.SetAuthorityState(ctx, e.Authority, state); err != nil {
				return err
			}
		}
		n := e
		n.Steps = slices.Clone(e.Steps)
		n.done(step, "service:", now)
		return store.PutEnd(ctx, n, e.Version)
	})
	return err == nil, "", err
}

// lastListAfter is how long after the end of the last certificate the last lists
// are signed: every one of them was on a list after its end by then (RFC 5280,
// Section 3.3).
const lastListAfter = 24 * time.Hour

// Facts is what [Advance] needs to know and cannot read in the store.
type Facts struct {
	Listed       bool      // its root's list has it
	LastListsOut bool      // every list of it holds to its end
	Ends         time.Time // its certificate's
}
