package simulate

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Each power of two of microseconds has so many buckets: a figure is exact to
// about three per cent, in a few kilobytes, without a lock.
const (
	subBits    = 5
	subBuckets = 1 << subBits
	allBuckets = (40 - subBits + 1) * subBuckets // up to 2^40 µs, twelve days
)

// latency counts durations.
type latency struct {
	buckets [allBuckets]atomic.Uint64
	count   atomic.Uint64
	max     atomic.Int64
}

func bucketOf(us uint64) int {
	if us < subBuckets {
		return int(us)
	}
	shift := bits.Len64(us) - 1 - subBits
	return min((shift+1)<<subBits+int(us>>shift)-subBuckets, allBuckets-1)
}

// upper is the largest duration of a bucket.
func upper(bucket int) time.Duration {
	if bucket < subBuckets {
		return time.Duration(bucket) * time.Microsecond
	}
	shift := bucket>>subBits - 1
	return time.Duration((uint64(bucket&(subBuckets-1)|subBuckets)+1)<<shift-1) * time.Microsecond
}

func (l *latency) add(d time.Duration) {
	l.buckets[bucketOf(uint64(max(d, 0).Microseconds()))].Add(1)
	l.count.Add(1)
	for {
		old := l.max.Load()
		if int64(d) <= old || l.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// quantile is the smallest duration that so much of all did not exceed.
func (l *latency) quantile(q float64) time.Duration {
	total := l.count.Load()
	if total == 0 {
		return 0
	}
	want := uint64(float64(total)*q + 0.5)
	var seen uint64
	for i := range l.buckets {
		if seen += l.buckets[i].Load(); seen >= max(want, 1) {
			return min(upper(i), time.Duration(l.max.Load()))
		}
	}
	return time.Duration(l.max.Load())
}

// Quantiles is a latency's figures, in milliseconds.
type Quantiles struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

func (l *latency) figures() Quantiles {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return Quantiles{l.count.Load(), ms(l.quantile(0.5)), ms(l.quantile(0.99)), ms(time.Duration(l.max.Load()))}
}
