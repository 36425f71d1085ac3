package campaign

import (
	"context"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
)

// Action is what one kind of campaign does to a device. The engine calls it
// outside of transactions, possibly on several nodes at once, and again after a
// crash: every method must bear that. An error is one of the service: it is
// logged, counted, and the call is made again later; what is wrong with a device
// is a [Verdict].
type Action interface {
	// Check refuses parameters that cannot be followed, before anything is stored.
	// It may fill in what was left out of s.
	Check(ctx context.Context, tenant string, s *Spec) error
	// Wants tells whether a device needs the change now. It is asked when the
	// device becomes a target, again right before the offer, and by the dry run.
	Wants(ctx context.Context, c *Campaign, thing fleet.ThingName) (Want, error)
	// Document is the job document, the same for all devices; undo is the one that
	// takes the change back. "" means that the device has nothing to do.
	Document(ctx context.Context, c *Campaign, undo bool) (string, error)
	// Judge tells what to think of a device that says it is done (state proving), and
	// of one whose change is proven and not finished (soaking). Wait is asked again
	// until the Timeout, or for a soaking one, for ever: a device is finished only
	// when the soak is over and Judge says Proven.
	Judge(ctx context.Context, c *Campaign, m *Member, r Report) (Verdict, error)
	// Finish does what cannot be taken back, after the soak. Idempotent.
	Finish(ctx context.Context, c *Campaign, m *Member) error
	// Undo is the service's side of rolling back, after the device did its own.
	// Idempotent. m may never have been proven (m.After is empty then).
	Undo(ctx context.Context, c *Campaign, m *Member) error
}

// Loser is an Action that has something to clean up where a device did not make
// it: state is failed, rejected, timed-out or silent, and is not written yet; m is
// the member before. Idempotent. It must not take from the device what it may
// still be using.
type Loser interface {
	Lost(ctx context.Context, c *Campaign, m *Member, state MemberState) error
}

// Leaver is an Action that knows when a device that is under way cannot come back for
// the change any more: it ends as skipped, at once, and so counts for no threshold. code
// "" is a device that can; words are for people. It is asked at every look.
type Leaver interface {
	Left(ctx context.Context, c *Campaign, thing fleet.ThingName) (code, words string, err error)
}

// Reverser is an Action whose finished members can be rolled back too. Without it
// what is done stays done; and so does each of which Reversible says no.
type Reverser interface {
	Reversible(ctx context.Context, c *Campaign, m *Member) (bool, error)
}

// Grave is an Action of which no campaign is so small that one person may decide
// about it alone (S36).
type Grave interface {
	AlwaysTwo() bool
}

// Want says whether a device needs a change.
type Want struct {
	Skip   string // a code such as "already-new"; "" means that it wants it
	Words  string // why it is skipped
	Before string // what the change replaces: certificate id, version
}

// Report is what the service knows of a device and its job execution.
type Report struct {
	Status  jobs.Status       // of the attempt; "" if the device was not told anything
	Details map[string]string // the device's own words
	Updated time.Time         // when it last said something about the job

	Connected bool
	LastSeen  time.Time // the latest time it was connected; now if it is; zero: never
}

// Verdict is what an Action thinks of a report. Its zero value is Wait.
type Verdict struct {
	verdict     verdict
	after       string
	code, words string
}

type verdict uint8

const (
	wait verdict = iota
	proven
	failed
)

// Proven says that the service has seen the change working; after is what the
// device has now.
func Proven(after string) Verdict { return Verdict{verdict: proven, after: after} }

// Wait says that it cannot be told yet.
func Wait() Verdict { return Verdict{} }

// Fail says that it went wrong: a stable code in kebab-case, and words for people.
func Fail(code, words string) Verdict { return Verdict{verdict: failed, code: code, words: words} }
