package campaign

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/rollout"
)

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// spread gives two numbers that follow from the campaign and the device alone: its
// place in the order in which stages draw, and in the jitter. Places of the canary
// are negative, so that they are the first.
func spread(tenant, id string, thing fleet.ThingName, canary bool) (place int64, jitter uint64) {
	sum := sha256.Sum256([]byte("hallmark campaign place\x00" + tenant + "\x00" + id + "\x00" + thing.Fold()))
	place = int64(binary.BigEndian.Uint64(sum[:8]) >> 1)
	if canary {
		place = -place - 1
	}
	return place, binary.BigEndian.Uint64(sum[8:16])
}

// jittered is when a device's turn comes in a stage.
func (s *Spec) jittered(start time.Time, jitter uint64) time.Time {
	if s.Jitter <= 0 {
		return start
	}
	return start.Add(time.Duration(jitter % uint64(s.Jitter))).Truncate(time.Millisecond)
}

// opening is the first time from t on at which the maintenance windows, read in a
// zone, are open; t itself if they are.
func opening(s *rollout.Schedule, zone *time.Location, t time.Time) time.Time {
	if len(s.Windows) == 0 {
		return t
	}
	// The windows are written for UTC: the device's clock on the wall is what they see.
	l := t.In(zone)
	wall := time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), l.Second(), l.Nanosecond(), time.UTC)
	windows := rollout.Schedule{Windows: s.Windows}
	if windows.Phase(wall) == rollout.Open {
		return t
	}
	next := windows.NextOpen(wall)
	if next.IsZero() {
		return t.AddDate(1, 0, 0) // never; somebody may change their mind
	}
	at := time.Date(next.Year(), next.Month(), next.Day(), next.Hour(), next.Minute(), 0, 0, zone)
	if !at.After(t) { // an hour that the change of clocks has twice
		at = t.Add(time.Minute)
	}
	return at.UTC()
}

// quota is how many of total are in stage i or before it.
func quota(plan []Stage, i int, total int64) int64 {
	if plan[i].Percent >= 100 {
		return total
	}
	n := int64(plan[i].Percent * float64(total) / 100)
	if float64(n)*100 < plan[i].Percent*float64(total) {
		n++ // one of a hundred is one of ten, too
	}
	return min(n, total)
}
