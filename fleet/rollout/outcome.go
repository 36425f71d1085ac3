package rollout

// Failure is a way in which a device does not do what it was told.
type Failure string

// The failures, and all of them together.
const (
	Failed   Failure = "FAILED"
	Rejected Failure = "REJECTED"
	TimedOut Failure = "TIMED_OUT"
	Silent   Failure = "SILENT" // of campaigns alone: it began and was never seen again
	All      Failure = "ALL"
)

// Tally counts devices by how it ended for them.
type Tally struct {
	Succeeded, Failed, Rejected, TimedOut int64
	Silent                                int64 `json:",omitempty"`
}

// Executed is the number of devices that are done, well or not.
func (t Tally) Executed() int64 { return t.Succeeded + t.Failed + t.Rejected + t.TimedOut + t.Silent }

// Minus leaves others out, and goes below nothing nowhere.
func (t Tally) Minus(o Tally) Tally {
	return Tally{Succeeded: max(0, t.Succeeded-o.Succeeded), Failed: max(0, t.Failed-o.Failed), Rejected: max(0, t.Rejected-o.Rejected), TimedOut: max(0, t.TimedOut-o.TimedOut), Silent: max(0, t.Silent-o.Silent)}
}

// Of is how many failed in a way.
func (t Tally) Of(f Failure) int64 {
	switch f {
	case Failed:
		return t.Failed
	case Rejected:
		return t.Rejected
	case TimedOut:
		return t.TimedOut
	case Silent:
		return t.Silent
	case All:
		return t.Failed + t.Rejected + t.TimedOut + t.Silent
	}
	return 0
}

// Abort ends a campaign that goes wrong. Its criteria are looked at in their order.
type Abort struct {
	Criteria []AbortCriterion `json:"criteriaList"`
}

// AbortCriterion is fulfilled when enough devices are done and at least the
// threshold of them failed in its way.
type AbortCriterion struct {
	FailureType Failure `json:"failureType"`
	Action      string  `json:"action"` // CANCEL
	Percentage  float64 `json:"thresholdPercentage"`
	MinExecuted int64   `json:"minNumberOfExecutedThings"`
}

// Check tells whether the criteria are possible.
func (a Abort) Check() error {
	for _, c := range a.Criteria {
		switch c.FailureType {
		case Failed, Rejected, TimedOut, Silent, All:
		default:
			return ErrAbort.New("The failure type is %q.", c.FailureType)
		}
		if c.Action != "CANCEL" || !(c.Percentage > 0 && c.Percentage <= 100) || c.MinExecuted < 1 {
			return ErrAbort.New("")
		}
	}
	return nil
}

// Decide gives the index of the first criterion that is fulfilled, -1 if none is.
func (a Abort) Decide(t Tally) int {
	done := t.Executed()
	for i, c := range a.Criteria {
		if done >= c.MinExecuted && done > 0 && float64(t.Of(c.FailureType))*100 >= c.Percentage*float64(done) {
			return i
		}
	}
	return -1
}

// MaxRetries is the most that all criteria of [Retry] may add up to.
const MaxRetries = 10

// Retry starts a device again that failed.
type Retry struct {
	Criteria []RetryCriterion `json:"criteriaList"`
}

// RetryCriterion allows so many further attempts after one kind of failure.
type RetryCriterion struct {
	FailureType Failure `json:"failureType"` // FAILED, TIMED_OUT or ALL
	Retries     int     `json:"numberOfRetries"`
}

// Check tells whether the criteria are possible. timeout says whether anything
// can time out at all.
func (r Retry) Check(timeout bool) error {
	sum := 0
	seen := map[Failure]bool{}
	for _, c := range r.Criteria {
		known := c.FailureType == Failed || c.FailureType == TimedOut || c.FailureType == All
		if !known || seen[c.FailureType] || c.Retries < 0 || c.Retries > MaxRetries {
			return ErrRetry.New("")
		}
		if !timeout && c.FailureType == TimedOut {
			return ErrRetry.New("There is no timeout.")
		}
		seen[c.FailureType] = true
		sum += c.Retries
	}
	if sum > MaxRetries || seen[All] && len(seen) > 1 {
		return ErrRetry.New("")
	}
	return nil
}

// Again tells whether a device that has just failed gets another attempt, after
// the attempts before that failed and timed out. A rejection is final.
func (r Retry) Again(now Failure, failedBefore, timedOutBefore int) bool {
	if now != Failed && now != TimedOut {
		return false
	}
	for _, c := range r.Criteria {
		switch c.FailureType {
		case All:
			return failedBefore+timedOutBefore < c.Retries
		case now:
			if now == Failed {
				return failedBefore < c.Retries
			}
			return timedOutBefore < c.Retries
		}
	}
	return false
}
