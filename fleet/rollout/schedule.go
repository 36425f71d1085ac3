package rollout

import (
	"time"
)

// EndBehavior says what happens at a schedule's end to what is not done.
type EndBehavior string

// The behaviours. The first starts no more devices and leaves the others be.
const (
	StopRollout EndBehavior = "STOP_ROLLOUT"
	Cancel      EndBehavior = "CANCEL"
	ForceCancel EndBehavior = "FORCE_CANCEL"
)

// MaxMaintenance is the longest maintenance window, in minutes: ten minutes
// short of a day, so that a daily one has an end.
const MaxMaintenance = 1430

// Schedule says when devices may be started. The zero Schedule is always.
type Schedule struct {
	Start       time.Time     `json:"start,omitzero"` // zero: at once
	End         time.Time     `json:"end,omitzero"`   // zero: never
	EndBehavior EndBehavior   `json:"endBehavior,omitempty"`
	Windows     []Maintenance `json:"maintenanceWindows,omitempty"` // none: all the time
}

// Maintenance is a recurring time in which devices may be started.
type Maintenance struct {
	Start   Cron `json:"startTime"`
	Minutes int  `json:"durationInMinutes"`
}

// Phase is where in its schedule a campaign is.
type Phase uint8

// The phases.
const (
	Before Phase = iota // not begun
	Open                // devices may be started
	Paused              // begun, and outside of the maintenance windows
	After               // ended
)

// Check tells whether the schedule is possible.
func (s Schedule) Check() error {
	if !s.End.IsZero() && !s.Start.IsZero() && !s.Start.Before(s.End) {
		return ErrSchedule.New("It ends before it starts.")
	}
	switch s.EndBehavior {
	case "":
	case StopRollout, Cancel, ForceCancel:
		if s.End.IsZero() {
			return ErrSchedule.New("It has an end behaviour and no end.")
		}
	default:
		return ErrSchedule.New("The end behaviour is %q.", s.EndBehavior)
	}
	for _, w := range s.Windows {
		if w.Minutes < 1 || w.Minutes > MaxMaintenance {
			return ErrSchedule.New("A maintenance window has 1 to %d minutes.", MaxMaintenance)
		}
		if w.Start.IsZero() {
			return ErrCron.New("")
		}
	}
	return nil
}

// Phase tells where in the schedule a time is.
func (s Schedule) Phase(now time.Time) Phase {
	switch {
	case !s.End.IsZero() && !now.Before(s.End):
		return After
	case now.Before(s.Start):
		return Before
	case len(s.Windows) == 0:
		return Open
	}
	for _, w := range s.Windows {
		if w.open(now) {
			return Open
		}
	}
	return Paused
}

// open tells whether the window began less than its length ago.
func (w Maintenance) open(now time.Time) bool {
	at := now.UTC().Truncate(time.Minute)
	for range w.Minutes {
		if w.Start.matches(at) {
			return true
		}
		at = at.Add(-time.Minute)
	}
	return false
}

// NextOpen is when the next maintenance window begins, after now; the zero time
// if there is none or no more.
func (s Schedule) NextOpen(now time.Time) (next time.Time) {
	for _, w := range s.Windows {
		if at := w.Start.Next(now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}
