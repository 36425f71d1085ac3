package rollout

import (
	"cmp"
	"math"
	"time"
)

// The limits of rates.
const (
	DefaultPerMinute = 1000
	MaxPerMinute     = 1000
	MaxFactor        = 5
)

// Rate is how many devices a minute may be started.
type Rate struct {
	MaximumPerMinute int          `json:"maximumPerMinute,omitempty"` // 0 means DefaultPerMinute
	Exponential      *Exponential `json:"exponentialRate,omitempty"`
}

// Exponential is a rate that grows with success: times the factor each time
// another multiple of the criterion is reached.
type Exponential struct {
	BasePerMinute   int      `json:"baseRatePerMinute"`
	IncrementFactor float64  `json:"incrementFactor"`
	Increase        Increase `json:"rateIncreaseCriteria"`
}

// Increase is what makes the rate grow; one of both is set.
type Increase struct {
	NotifiedThings  int64 `json:"numberOfNotifiedThings,omitempty"`
	SucceededThings int64 `json:"numberOfSucceededThings,omitempty"`
}

// Check tells whether the rate is possible.
func (r Rate) Check() error {
	if r.MaximumPerMinute < 0 || r.MaximumPerMinute > MaxPerMinute {
		return ErrRate.New("The maximum is %d.", r.MaximumPerMinute)
	}
	e := r.Exponential
	if e == nil {
		return nil
	}
	tenths := math.Round(e.IncrementFactor * 10)
	switch {
	case e.BasePerMinute < 1 || e.BasePerMinute > r.maximum():
		return ErrRate.New("The base rate is %d.", e.BasePerMinute)
	case !(e.IncrementFactor > 1 && e.IncrementFactor <= MaxFactor) || math.Abs(tenths-e.IncrementFactor*10) > 1e-9:
		return ErrRate.New("The increment factor is %g.", e.IncrementFactor)
	case e.Increase.NotifiedThings < 0 || e.Increase.SucceededThings < 0 || (e.Increase.NotifiedThings > 0) == (e.Increase.SucceededThings > 0):
		return ErrRate.New("Exactly one criterion makes the rate grow.")
	}
	return nil
}

func (r Rate) maximum() int { return cmp.Or(r.MaximumPerMinute, DefaultPerMinute) }

// PerMinute is the rate after so many devices were told and so many succeeded.
func (r Rate) PerMinute(notified, succeeded int64) int {
	highest := r.maximum()
	e := r.Exponential
	if e == nil {
		return highest
	}
	steps := int64(0)
	if n := e.Increase.NotifiedThings; n > 0 {
		steps = notified / n
	} else if n := e.Increase.SucceededThings; n > 0 {
		steps = succeeded / n
	}
	// In millionths and with the factor in tenths: a float's error would take
	// away a device at some products.
	const unit = 1_000_000
	v, factor := int64(e.BasePerMinute)*unit, int64(math.Round(e.IncrementFactor*10))
	for range steps {
		if v >= int64(highest)*unit || factor <= 10 {
			break
		}
		v = v * factor / 10
	}
	return int(min(v/unit, int64(highest)))
}

// Window remembers how many devices were started in the last minute.
type Window struct {
	Batches []Batch `json:"batches,omitempty"` // oldest first, one a second
}

// Batch is the devices started in one second. It counts from the second's end,
// so that it is forgotten too late rather than too early.
type Batch struct {
	Second int64 `json:"second"` // its end, since the epoch
	Count  int   `json:"count"`
}

// Allow tells how many more may be started now.
func (w *Window) Allow(now time.Time, perMinute int) int {
	w.forget(now)
	n := perMinute
	for _, b := range w.Batches {
		n -= b.Count
	}
	return max(n, 0)
}

// Add remembers devices that are started now.
func (w *Window) Add(now time.Time, count int) {
	w.forget(now)
	if count <= 0 {
		return
	}
	second := endOfSecond(now)
	if n := len(w.Batches); n > 0 && w.Batches[n-1].Second == second {
		w.Batches[n-1].Count += count
		return
	}
	w.Batches = append(w.Batches, Batch{second, count})
}

func endOfSecond(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }

// forget drops what is a minute old. A clock that was set back makes batches of
// the future: they count as of now, so that they hold nothing up for longer.
func (w *Window) forget(now time.Time) {
	kept := w.Batches[:0:0]
	for _, b := range w.Batches {
		b.Second = min(b.Second, endOfSecond(now))
		if now.Before(time.Unix(b.Second+60, 0)) {
			kept = append(kept, b)
		}
	}
	w.Batches = kept
}
