package campaign

import (
	"context"
	"time"

	"hallmark/access"
	"hallmark/fleet"
)

// Store persists campaigns. Contract: Atomic runs fn in one transaction that every
// method joins, and may run it again; look-ups see one tenant but where it is said
// otherwise, and compare things by [fleet.ThingName.Fold]; what is not there is
// [ErrUnknown] or [ErrNoMember]. Rows are believed only as this program wrote them.
type Store interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error

	// AddCampaign gives [ErrExists] if the name is taken. PutCampaign changes all but
	// the counts if the version is still was, else it gives [ErrChanged].
	AddCampaign(ctx context.Context, c Campaign) error
	PutCampaign(ctx context.Context, c Campaign, was int64) error
	// CountMembers adds differences to the counts.
	CountMembers(ctx context.Context, s access.Scope, id string, by Counts) error
	// Campaign and the lists give campaigns with their counts.
	Campaign(ctx context.Context, s access.Scope, id string) (Campaign, error)
	// Campaigns lists by name after one; state "" means all.
	Campaigns(ctx context.Context, s access.Scope, state State, after string, limit int) ([]Campaign, error)
	// ActiveCampaigns lists the active ones of all tenants after one, for the loop.
	ActiveCampaigns(ctx context.Context, tenant, id string, limit int) ([]Campaign, error)

	// PutMember writes a member's next version, and the [Step] if log says so; the
	// loop looks at it at next, never if that is zero. A member of version 1 is new.
	// If the version before is not there (any more) it gives [ErrChanged].
	PutMember(ctx context.Context, m Member, next time.Time, log bool) error
	// LookAt says when the loop looks at a member next.
	LookAt(ctx context.Context, s access.Scope, campaign string, thing fleet.ThingName, next time.Time) error
	Member(ctx context.Context, s access.Scope, campaign string, thing fleet.ThingName) (Member, error)
	// CampaignMembers lists by thing, after one and up to a folded name ("" is the end).
	CampaignMembers(ctx context.Context, s access.Scope, campaign string, q MemberQuery) ([]Member, error)
	// DueMembers lists those of one state that are to be looked at, the longest due first.
	DueMembers(ctx context.Context, s access.Scope, campaign string, state MemberState, now time.Time, limit int) ([]Member, error)
	// Undrawn lists those that no stage has yet, in the order of their places, below one.
	Undrawn(ctx context.Context, s access.Scope, campaign string, below int64, limit int) ([]Member, error)
	// Failures counts members that went wrong, and the skipped, by state and code.
	Failures(ctx context.Context, s access.Scope, campaign string) ([]Failure, error)
	// Steps lists what became of a thing in all campaigns, oldest first, after a step.
	Steps(ctx context.Context, s access.Scope, thing fleet.ThingName, after Step, limit int) ([]Step, error)

	// CampaignTotals counts campaigns and members of all tenants, for the metrics.
	CampaignTotals(ctx context.Context) (Totals, error)
	// BrokenCampaigns lists what does not fit together; see [Service.Fsck].
	BrokenCampaigns(ctx context.Context, report func(check, object, detail string)) error
}

// MemberQuery selects members.
type MemberQuery struct {
	State MemberState // "" means all
	After string      // folded name
	UpTo  string      // folded name; "" is the end
	Limit int
}

// Failure is how many members came to one end, for one reason.
type Failure struct {
	State   MemberState
	Code    string
	Members int64
}

// Totals are for the metrics.
type Totals struct {
	Campaigns map[State]int64
	Members   map[MemberState]int64 // of campaigns that are active
	Failures  map[string]int64      // by code, of campaigns that are active
}
