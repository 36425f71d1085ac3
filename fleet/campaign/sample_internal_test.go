package campaign

import (
	"testing"
	"time"
)

// However long a campaign takes, how it went stays small, in order, and from its begin
// to what is so.
func TestProgress_KeepsAFewSamplesOfALongTime(t *testing.T) {
	start := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	var p Progress
	for i := range 5000 {
		if s := (Sample{At: start.Add(time.Duration(i) * 5 * time.Second), Told: int64(i), Well: int64(i / 2)}); p.changed(s) {
			p.keep(s)
		}
	}
	if n := len(p.Samples); n < maxSamples/2 || n > maxSamples {
		t.Errorf("%d samples", n)
	}
	if p.Samples[0].Told != 0 || p.Samples[0].At != start || p.Samples[len(p.Samples)-1].Told < 4800 {
		t.Errorf("from %+v to %+v", p.Samples[0], p.Samples[len(p.Samples)-1])
	}
	for i, s := range p.Samples[1:] {
		if was := p.Samples[i]; !s.At.After(was.At) || s.Told <= was.Told {
			t.Fatalf("%+v after %+v", s, was)
		}
	}
	last := p.Samples[len(p.Samples)-1]
	if last.At = last.At.Add(100 * time.Hour); p.changed(last) {
		t.Error("what does not change is kept again")
	}
}
