package ownership

import (
	"encoding/json"
	"time"

	"hallmark/fleet"
)

// State is where a unit stands.
type State string

// The states.
const (
	Owned          State = "owned"
	Released       State = "released"       // by its owner; waits to be accepted
	Decommissioned State = "decommissioned" // for ever
)

// Unit is whose device a unit is. There is a row as soon as something happened to its
// ownership; before that the home owns it.
type Unit struct {
	Home   string `json:"home"`
	Holder string `json:"holder"` // folded
	Shown  string `json:"shown"`
	Tenant string `json:"tenant"` // the owner; of a released unit the last one
	State  State  `json:"state"`
	Act    string `json:"act,omitempty"` // of Tenant, that brought it into this state

	// How the owner registers it, as it was accepted; "" is the way of its authority.
	Template string   `json:"template,omitempty"`
	Groups   []string `json:"groups,omitempty"`

	// The birth certificate when the row was made.
	Authority string    `json:"authority"`
	Serial    string    `json:"serial"`
	Since     time.Time `json:"since"`
	Version   int64     `json:"-"`
}

// Foreign tells whether the owner is not the home.
func (u *Unit) Foreign() bool { return u.Tenant != u.Home }

// What happened to a unit.
type What string

// The events. Each is of the tenant that it happened to: the one who accepted sees
// nothing of what the former owner has in its history, nor the reverse.
const (
	DidRelease      What = "released"
	DidHandOver     What = "handed-over" // somebody accepted what this tenant released
	DidWithdraw     What = "withdrawn"   // the release was taken back
	DidAccept       What = "accepted"
	DidReset        What = "reset"
	DidDecommission What = "decommissioned"
)

// Leaves tells whether the unit is no device of the tenant after this.
func (w What) Leaves() bool { return w == DidRelease || w == DidHandOver || w == DidDecommission }

// Event is one line of a unit's history. It is written once.
type Event struct {
	Tenant string    `json:"tenant"`
	Holder string    `json:"holder"` // folded
	Seq    int64     `json:"seq"`    // from 1, for this tenant and unit
	Shown  string    `json:"shown"`
	Home   string    `json:"home"`
	What   What      `json:"what"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Note   string    `json:"note,omitempty"`
	Act    string    `json:"act,omitempty"`
	// Revoked are the serial numbers of what was revoked with it.
	Revoked []string `json:"revoked,omitempty"`
	// Archive is what the owner had with the unit; nil where nothing ended.
	Archive []Archive `json:"archive,omitempty"`
}

// Archive is a thing as its owner had it. Its jobs are where jobs are.
type Archive struct {
	Thing         fleet.ThingName            `json:"thing"`
	Type          string                     `json:"type,omitempty"`
	Attributes    map[string]string          `json:"attributes,omitempty"`
	Groups        []string                   `json:"groups,omitempty"`
	BillingGroup  string                     `json:"billingGroup,omitempty"`
	Policies      []string                   `json:"policies,omitempty"`
	Configuration map[string]string          `json:"configuration,omitempty"`
	CreatedAt     time.Time                  `json:"createdAt"`
	Certificates  []ArchivedCertificate      `json:"certificates,omitempty"`
	Shadows       map[string]json.RawMessage `json:"shadows,omitempty"` // by name, "" is the classic one
}

// ArchivedCertificate is one that acted for the thing.
type ArchivedCertificate struct {
	ID        string   `json:"id"`
	Authority string   `json:"authority,omitempty"`
	Serial    string   `json:"serial,omitempty"`
	Status    string   `json:"status"` // before
	Policies  []string `json:"policies,omitempty"`
}

// Kind is what an act does.
type Kind string

// The kinds.
const (
	Release      Kind = "release"
	Reset        Kind = "reset"
	Decommission Kind = "decommission"
)

// ActState is where a release stands; the other kinds are done at once.
type ActState string

// The states of acts.
const (
	Open      ActState = "open"
	Accepted  ActState = "accepted"
	Withdrawn ActState = "withdrawn"
	Done      ActState = "done"
)

// Act is one thing that a tenant did to some of its units, all of them at once.
type Act struct {
	Tenant string    `json:"tenant"`
	Name   string    `json:"name"`
	Kind   Kind      `json:"kind"`
	Units  []string  `json:"units"`        // as somebody named them
	To     string    `json:"to,omitempty"` // the only tenant that may accept
	Note   string    `json:"note,omitempty"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`

	State   ActState  `json:"state"`
	Code    string    `json:"code,omitempty"` // hex of the SHA-256 of the code of a release
	Expires time.Time `json:"expires,omitzero"`
	EndedAt time.Time `json:"endedAt,omitzero"`  // accepted or withdrawn
	EndedIn string    `json:"endedIn,omitempty"` // the tenant that accepted, whom the former owner is not told
	// Left is what the units left behind that still has to end; see [Service.Step].
	Left    []Left `json:"left,omitempty"`
	Version int64  `json:"-"`
}

// Left is a unit that left a tenant, and the things it had there.
type Left struct {
	Tenant string            `json:"tenant"`
	Holder string            `json:"holder"`
	Things []fleet.ThingName `json:"things,omitempty"`
}
