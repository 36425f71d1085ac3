package campaign

import (
	"time"

	"hallmark/fleet/rollout"
)

const (
	maxSamples  = 120
	sampleEvery = 5 * time.Second
)

// Sample is how far a campaign was at a time, for who draws it.
type Sample struct {
	At   time.Time `json:"at"`
	Told int64     `json:"told"` // devices that were offered the change
	Well int64     `json:"well"` // proven
	Bad  int64     `json:"bad"`  // for whom it went wrong
}

// Sample is how far the campaign is.
func (c *Campaign) Sample(now time.Time) Sample {
	t := c.Counts.Tally()
	return Sample{At: now, Told: c.notified(), Well: t.Succeeded, Bad: t.Executed() - t.Succeeded}
}

// changed tells whether the samples say other than the counts, and the last one is
// not too new. What does not change takes no room: between two samples all was as in
// the first.
func (p *Progress) changed(s Sample) bool {
	if len(p.Samples) == 0 {
		return true
	}
	last := p.Samples[len(p.Samples)-1]
	if last.Told == s.Told && last.Well == s.Well && last.Bad == s.Bad {
		return false
	}
	return s.At.Sub(last.At) >= max(p.SampleEvery, sampleEvery) || s.At.Before(last.At)
}

// keep adds a sample. When there are too many, every second one goes and the time
// between two doubles, so that the row stays small however long a campaign takes.
func (p *Progress) keep(s Sample) {
	list := append([]Sample(nil), p.Samples...)
	if len(list) >= maxSamples {
		p.SampleEvery = 2 * max(p.SampleEvery, sampleEvery)
		n := 0
		for i := 0; i < len(list); i += 2 {
			list[n] = list[i]
			n++
		}
		list = list[:n]
	}
	p.Samples = append(list, s)
}

// Counted is what the thresholds look at: how it ended since a person last resumed
// the campaign. What was forgiven and has changed since, such as a failure that was
// undone, is not counted below nothing.
func (c *Campaign) Counted() rollout.Tally {
	return c.Counts.Tally().Minus(c.Forgiven)
}
