package station

import (
	"context"
	"errors"
	"time"

	"hallmark/internal/fault"
	"hallmark/station/adapter"
	"hallmark/station/spool"
	"hallmark/station/uplink"
)

// Outcomes of a unit, as events call them.
const (
	Passed  = "committed"
	Failure = "failed"
	Pending = "pending" // the journal keeps it; starting again finishes it
)

// Event is something that happened to a unit. State is a state of the journal,
// or [Pending], or "order" for what the service said about the order.
type Event struct {
	Time    time.Time `json:"time"`
	State   string    `json:"state"`
	Order   string    `json:"order,omitempty"`
	Unit    string    `json:"unit,omitempty"`
	Job     string    `json:"job,omitempty"` // while the unit has no name
	Nest    int       `json:"nest"`
	Serial  string    `json:"serial,omitempty"` // of the certificate
	MS      int64     `json:"ms"`               // since the unit was taken
	Resumed bool      `json:"resumed,omitempty"`
	Again   bool      `json:"again,omitempty"` // committed before; the device was only checked

	Code      string `json:"code,omitempty"`
	What      string `json:"what,omitempty"`
	Detail    string `json:"detail,omitempty"`
	Next      string `json:"next,omitempty"`
	RequestID string `json:"request_id,omitempty"`

	Used     *int64 `json:"used,omitempty"` // of the order
	Quantity *int64 `json:"quantity,omitempty"`
}

// Final tells whether the event is a unit's outcome in this run.
func (e Event) Final() bool { return e.State == Passed || e.State == Failure || e.State == Pending }

// verdict is what an error means for the unit and for the run.
type verdict struct {
	state string
	stop  bool // it is not about this unit: the next ones would fail the same way
	alone bool // an earlier run left the unit, and its reason says nothing of the next ones
	away  bool // an earlier run left the unit, and its device is not in the nest
}

// Refusals that are about the order or the station. The unit in the nest
// failed, and there is no use in trying another.
var ofTheOrder = map[string]bool{
	"quota-exhausted": true, "units-none-left": true, "account-closed": true,
	"order-unknown": true, "order-state": true, "order-window": true, "order-station": true, "order-signature": true,
}

// Refusals of the station itself. The units are well and wait for it.
var ofTheStation = map[string]bool{
	"requester-revoked": true, "door-role": true,
	uplink.ErrUntrusted.Code: true, uplink.ErrOldStation.Code: true, ErrExpired.Code: true, ErrClock.Code: true,
	spool.ErrFull.Code: true, spool.ErrWrite.Code: true,
}

// judge decides what becomes of a unit. What may have reached the service or is
// only late stays pending, because the journal knows how to go on; a refusal
// and a device that does wrong are failures, and the unit is scanned again.
// order is the one that the run is about.
func judge(err error, w *work, order string) verdict {
	f := fault.From(err)
	switch {
	case err == nil:
		return verdict{state: Passed}
	case errors.Is(err, context.Canceled):
		return verdict{state: Pending}
	case ofTheStation[f.Code]:
		return verdict{state: Pending, stop: true}
	case ofTheOrder[f.Code]:
		other := w.unit.Order != order // of which an earlier run left this unit
		return verdict{state: Failure, stop: !other, alone: other}
	case w.again && !ofTheDevice(err) && (f.Kind == fault.Unavailable || f.Kind == fault.Internal):
		return verdict{state: Pending} // nobody said whether its certificate is still good
	case errors.Is(err, ErrOrder): // who scans may have a unit yet that was begun
		return verdict{state: Failure, stop: w.device.Unit == ""}
	case w.again || w.refused:
		return verdict{state: Failure}
	case w.resumed && ofTheDevice(err):
		// After a restart the device may be anywhere but in the nest.
		return verdict{state: Pending, alone: w.left, away: w.left && errors.Is(err, adapter.ErrAbsent)}
	case ofTheDevice(err):
		return verdict{state: Failure}
	case f.Kind == fault.Unavailable || f.Kind == fault.Internal:
		return verdict{state: Pending}
	}
	return verdict{state: Failure}
}

func ofTheDevice(err error) bool {
	for _, d := range []*fault.Definition{adapter.ErrKeyFault, adapter.ErrDevice, adapter.ErrAbsent, adapter.ErrSlow, adapter.ErrProgram, adapter.ErrProtocol} {
		if errors.Is(err, d) {
			return true
		}
	}
	return false
}

// Summary is what a run came to.
type Summary struct {
	// Of each unit the last verdict counts.
	Committed int            `json:"committed"`       // units that may pass
	Again     int            `json:"again,omitempty"` // how often one was only looked at, because it was committed before
	Failed    int            `json:"failed"`
	Pending   int            `json:"pending"`
	Away      int            `json:"away,omitempty"` // of the pending ones: left by an earlier run, and not in the nest
	Resumed   int            `json:"resumed,omitempty"`
	Codes     map[string]int `json:"codes,omitempty"` // why, and how often
	Stopped   string         `json:"stopped,omitempty"`
	// Andon is the light: green, yellow (signatures take longer than the line's
	// budget, or what an earlier run left is not in the nests), red (a unit did
	// not pass, or the run stopped).
	Andon   string `json:"andon"`
	IssueMS struct {
		P50 int64 `json:"p50"`
		P99 int64 `json:"p99"`
		Max int64 `json:"max"`
	} `json:"issue_ms"`
	Seconds float64 `json:"seconds"`
}
