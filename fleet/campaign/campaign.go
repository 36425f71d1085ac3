package campaign

import (
	"encoding/json"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/rollout"
)

// Kind says which [Action] a campaign is.
type Kind string

// The kinds.
const (
	Rotate   Kind = "rotate-certificate"
	Trust    Kind = "update-trust"
	Firmware Kind = "update-firmware"
)

// Reason is why a campaign is made; it is kept for the audit.
type Reason string

// The reasons.
const (
	Expiry     Reason = "expiry"
	Rollover   Reason = "rollover"
	Compromise Reason = "compromise"
	Algorithm  Reason = "algorithm"
	Ownership  Reason = "ownership"
	OnRequest  Reason = "request"
	NewBuild   Reason = "firmware"
)

// State is the state of a campaign.
type State string

// The states.
const (
	AwaitingApproval State = "awaiting-approval" // of a second person; nothing is offered
	Scheduled        State = "scheduled"         // its schedule has not begun
	Running          State = "running"
	Paused           State = "paused"       // by a person
	Stopped          State = "stopped"      // by itself, see Progress.Code
	RollingBack      State = "rolling-back" // what was changed is being undone
	Canceled         State = "canceled"     // by a person, or rolled back; what had begun still ends
	Completed        State = "completed"
)

// Ended tells whether nobody new begins any more, ever.
func (s State) Ended() bool { return s == Canceled || s == Completed }

// Spec is what somebody wants to be done.
type Spec struct {
	Kind        Kind   `json:"kind"`
	Reason      Reason `json:"reason"`
	Description string `json:"description,omitempty"`
	// Targets are "thing/NAME" and "thinggroup/NAME", dynamic groups too. Query is a
	// search over things. A campaign is for all of them together; a continuous one
	// may have none and be fed, see [Service.Feed].
	Targets []string `json:"targets,omitempty"`
	Query   string   `json:"query,omitempty"`
	// Canary is a thing group: those of the campaign's devices that are in it are
	// the first stage. CanaryWatch is that stage's [Stage.Watch].
	Canary      string        `json:"canary,omitempty"`
	CanaryWatch time.Duration `json:"canaryWatch,omitempty"`
	// Stages follow it. None is one stage of all; a last one below 100 % is
	// followed by one of all.
	Stages []Stage `json:"stages,omitempty"`
	// Rate is how many devices a minute are offered the change.
	Rate rollout.Rate `json:"rate,omitzero"`
	// Schedule says when devices may be offered the change. Its maintenance
	// windows are read in each device's own zone, which is the thing's attribute
	// ZoneAttribute (an IANA name); a device without one, or with one that nobody
	// knows, is in UTC.
	Schedule      rollout.Schedule `json:"schedule,omitzero"`
	ZoneAttribute string           `json:"zoneAttribute,omitempty"`
	// Jitter spreads a stage's devices over this time, each at its own place that
	// follows from its name and the campaign's.
	Jitter time.Duration `json:"jitter,omitempty"`
	// Abort stops the campaign. A criterion's Action is CANCEL, or left out.
	Abort rollout.Abort `json:"abort,omitzero"`
	// Timeout is how long after it began, or after it was offered while it is
	// connected, a device may take to be proven; 0 means a day. A device that was not
	// seen since the offer sleeps: it does not fail, and does not hold up the stage.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Silence is how long a device that has begun may be away before it counts as
	// lost; 0 means the Timeout.
	Silence time.Duration `json:"silence,omitempty"`
	// Soak is the time from proven to [Action.Finish]. A soaking device has ended as
	// far as the stage goes.
	Soak time.Duration `json:"soak,omitempty"`
	// Continuous goes on for ever with devices that become targets later.
	Continuous bool `json:"continuous,omitempty"`
	// Parameters belong to the kind.
	Parameters json.RawMessage `json:"parameters,omitempty"`
}

// Stage is a step of a campaign.
type Stage struct {
	Name string `json:"name"`
	// Percent of all devices of the campaign that are in this stage or one before.
	// The canary counts.
	Percent float64 `json:"percent"`
	// Watch is the time after the last device of the stage has ended, before the
	// next stage begins.
	Watch time.Duration `json:"watch,omitempty"`
}

// Progress is how far a campaign came.
type Progress struct {
	Approved   bool   `json:"approved,omitempty"` // nobody has to approve it, or somebody did
	ApprovedBy string `json:"approvedBy,omitempty"`
	Request    string `json:"request,omitempty"` // the approval request

	Cursor     string    `json:"cursor,omitempty"` // folded name of the last thing that was looked at
	Enumerated bool      `json:"enumerated,omitempty"`
	SweptAt    time.Time `json:"sweptAt,omitzero"` // continuous: when the last look ended

	Stage        int            `json:"stage"` // that runs
	StageStarted time.Time      `json:"stageStarted,omitzero"`
	StageEnded   time.Time      `json:"stageEnded,omitzero"` // its last device has ended; the watch runs
	Drawn        bool           `json:"drawn,omitempty"`     // the stage has its devices
	Window       rollout.Window `json:"window,omitzero"`
	Forgiven     rollout.Tally  `json:"forgiven,omitzero"` // what a person saw and resumed in spite of
	Waived       int            `json:"waived,omitempty"`  // of so many stages nobody has to be proven

	// Retimed is when its times became shorter: they count from then for those who were
	// under way.
	Retimed time.Time `json:"retimed,omitzero"`

	Samples     []Sample      `json:"samples,omitempty"` // how it went, oldest first
	SampleEvery time.Duration `json:"sampleEvery,omitempty"`

	Code   string `json:"code,omitempty"` // why it is in its state
	Detail string `json:"detail,omitempty"`
	By     string `json:"by,omitempty"` // whoever changed the state last; empty: itself

	Turned     bool      `json:"turned,omitempty"` // rolling back: every member was looked at
	RolledBack bool      `json:"rolledBack,omitempty"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`

	Node  string    `json:"node,omitempty"` // that works at it, until Lease
	Lease time.Time `json:"lease,omitzero"`
}

// Campaign is a campaign.
type Campaign struct {
	Tenant string
	ID     string
	State  State
	Active bool // the loop has something to do for it
	Spec
	Progress
	CreatedBy string
	CreatedAt time.Time
	UpdatedAt time.Time
	Version   int64  // rises with every change but that of the counts
	Counts    Counts // read with it
}

func (c *Campaign) scope() access.Scope { return access.Scope{Tenant: c.Tenant} }

// Job is the job by which devices are told: of the change, or of its undoing.
func (c *Campaign) Job(undo bool) string {
	if undo {
		return jobPrefix + c.ID + undoSuffix
	}
	return jobPrefix + c.ID
}

// OwnsJob tells whether a job is one of a campaign, by its name.
func OwnsJob(id string) bool { return strings.HasPrefix(id, jobPrefix) }

const (
	jobPrefix  = "campaign-"
	undoSuffix = "-undo"
)

// Plan is the stages as they are run: with the canary, and up to all.
func (s *Spec) Plan() (out []Stage) {
	if s.Canary != "" {
		out = append(out, Stage{Name: "canary", Watch: s.CanaryWatch})
	}
	out = append(out, s.Stages...)
	if n := len(s.Stages); n == 0 || s.Stages[n-1].Percent < 100 {
		out = append(out, Stage{Name: "all", Percent: 100})
	}
	return out
}

// MemberState is the state of a device in a campaign.
type MemberState string

// The states of members.
const (
	Waiting   MemberState = "waiting"   // for its stage, its time, its window, the rate
	Offered   MemberState = "offered"   // told; it has not begun
	Asleep    MemberState = "asleep"    // offered, and not seen since for the whole Timeout; it may begin at any time
	Working   MemberState = "working"   // it has begun
	Proving   MemberState = "proving"   // it said that it is done; the service has not seen it yet
	Soaking   MemberState = "soaking"   // proven; not finished
	Done      MemberState = "done"      // finished
	Failed    MemberState = "failed"    // it said so, or the Action did
	Rejected  MemberState = "rejected"  // it did not want to
	TimedOut  MemberState = "timed-out" // not proven within the Timeout
	Silent    MemberState = "silent"    // began, and was away for longer than Silence
	Skipped   MemberState = "skipped"   // it does not need the change, or may not have it
	Returning MemberState = "returning" // to be undone; it was not told yet
	Undoing   MemberState = "undoing"   // told to undo
	Undone    MemberState = "undone"
)

// MemberStates lists the states in the order of a device's way.
var MemberStates = []MemberState{Waiting, Offered, Asleep, Working, Proving, Soaking, Done, Failed, Rejected, TimedOut, Silent, Skipped, Returning, Undoing, Undone}

// Ended tells whether the engine has nothing more to do for the member.
func (s MemberState) Ended() bool {
	switch s {
	case Done, Failed, Rejected, TimedOut, Silent, Skipped, Undone:
		return true
	}
	return false
}

// Bad tells whether the change went wrong for the member.
func (s MemberState) Bad() bool {
	return s == Failed || s == Rejected || s == TimedOut || s == Silent
}

// Member is a device in a campaign.
type Member struct {
	Tenant    string
	Campaign  string
	Thing     fleet.ThingName
	Stage     int // index into [Spec.Plan]; -1: not drawn yet
	Place     int64
	State     MemberState
	Since     time.Time // in this state
	NotBefore time.Time // while waiting: its own time, by jitter and window
	Offered   time.Time // the last offer
	Began     time.Time // when the device began, or when its undoing was offered
	Attempt   int64     // offers so far; it is the number of the job's execution
	Before    string    // certificate id or version that the change replaces
	After     string    // and the new one, as proven
	Code      string    // why it is in its state
	Detail    string
	Steps     int64 // that were kept
	Version   int64 // of the row; 1 at first
}

// Step is one change of a member's state, kept for ever.
type Step struct {
	Tenant   string
	Campaign string
	Thing    fleet.ThingName
	Number   int64 // from 1
	At       time.Time
	Stage    int
	State    MemberState
	Attempt  int64
	Before   string
	After    string
	Code     string
	Detail   string
}

// Count is the number of members of one stage in one state.
type Count struct {
	Stage   int
	State   MemberState
	Members int64
}

// Counts are a campaign's members.
type Counts []Count

// Of is how many are in any of some states; none means all.
func (c Counts) Of(states ...MemberState) int64 { return c.sum(func(int) bool { return true }, states) }

// In is the same for one stage.
func (c Counts) In(stage int, states ...MemberState) int64 {
	return c.sum(func(s int) bool { return s == stage }, states)
}

func (c Counts) sum(stage func(int) bool, states []MemberState) (n int64) {
	for _, e := range c {
		if !stage(e.Stage) {
			continue
		}
		match := len(states) == 0
		for _, s := range states {
			match = match || s == e.State
		}
		if match {
			n += e.Members
		}
	}
	return n
}

// Tally is what the thresholds look at.
func (c Counts) Tally() rollout.Tally {
	return rollout.Tally{Succeeded: c.Of(Soaking, Done), Failed: c.Of(Failed), Rejected: c.Of(Rejected), TimedOut: c.Of(TimedOut), Silent: c.Of(Silent)}
}
