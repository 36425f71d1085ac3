package rollout

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"hallmark/internal/fault"
)

func exponential(base int, factor float64, by Increase) Rate {
	return Rate{MaximumPerMinute: 1000, Exponential: &Exponential{base, factor, by}}
}

func TestRate_PerMinute(t *testing.T) {
	for name, c := range map[string]struct {
		rate                Rate
		notified, succeeded int64
		want                int
	}{
		"nothing said":             {Rate{}, 0, 0, 1000},
		"constant":                 {Rate{MaximumPerMinute: 7}, 1e9, 1e9, 7},
		"before the first step":    {exponential(50, 2, Increase{NotifiedThings: 100}), 99, 0, 50},
		"at the first step":        {exponential(50, 2, Increase{NotifiedThings: 100}), 100, 0, 100},
		"third multiple":           {exponential(50, 2, Increase{NotifiedThings: 100}), 399, 0, 400},
		"maximum":                  {exponential(50, 2, Increase{NotifiedThings: 100}), 1e15, 0, 1000},
		"success counts":           {exponential(10, 1.5, Increase{SucceededThings: 10}), 1000, 20, 22},
		"notified does not":        {exponential(10, 1.5, Increase{SucceededThings: 10}), 1000, 9, 10},
		"a product that is whole":  {exponential(10, 1.1, Increase{NotifiedThings: 1}), 1, 0, 11},
		"exact after many tenths":  {exponential(100, 1.1, Increase{NotifiedThings: 1}), 3, 0, 133},
		"three times one decimal":  {exponential(30, 1.1, Increase{NotifiedThings: 1}), 1, 0, 33},
		"smaller maximum than 2^k": {Rate{150, &Exponential{50, 2, Increase{NotifiedThings: 1}}}, 2, 0, 150},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.rate.Check(); err != nil {
				t.Fatal(err)
			}
			if got := c.rate.PerMinute(c.notified, c.succeeded); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestCheck_RefusesWhatCannotBe(t *testing.T) {
	both := Increase{1, 1}
	abort := func(f Failure, action string, p float64, n int64) error {
		return Abort{[]AbortCriterion{{f, action, p, n}}}.Check()
	}
	now := time.Now()
	cron, err := ParseCron("cron(0 2 * * ? *)")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err  error
		want *fault.Definition
	}{
		"maximum of 1001":        {Rate{MaximumPerMinute: 1001}.Check(), ErrRate},
		"negative maximum":       {Rate{MaximumPerMinute: -1}.Check(), ErrRate},
		"factor 1":               {exponential(1, 1, Increase{NotifiedThings: 1}).Check(), ErrRate},
		"factor 5.1":             {exponential(1, 5.1, Increase{NotifiedThings: 1}).Check(), ErrRate},
		"factor 1.25":            {exponential(1, 1.25, Increase{NotifiedThings: 1}).Check(), ErrRate},
		"base 0":                 {exponential(0, 2, Increase{NotifiedThings: 1}).Check(), ErrRate},
		"base above the maximum": {Rate{5, &Exponential{6, 2, Increase{NotifiedThings: 1}}}.Check(), ErrRate},
		"no criterion":           {exponential(1, 2, Increase{}).Check(), ErrRate},
		"two criteria":           {exponential(1, 2, both).Check(), ErrRate},
		"unknown failure":        {abort("LATE", "CANCEL", 1, 1), ErrAbort},
		"unknown action":         {abort(Failed, "STOP", 1, 1), ErrAbort},
		"0 %":                    {abort(Failed, "CANCEL", 0, 1), ErrAbort},
		"101 %":                  {abort(Failed, "CANCEL", 101, 1), ErrAbort},
		"after no device":        {abort(Failed, "CANCEL", 1, 0), ErrAbort},
		"11 retries":             {Retry{[]RetryCriterion{{Failed, 6}, {TimedOut, 5}}}.Check(true), ErrRetry},
		"retry of a rejection":   {Retry{[]RetryCriterion{{Rejected, 1}}}.Check(true), ErrRetry},
		"nothing times out":      {Retry{[]RetryCriterion{{TimedOut, 1}}}.Check(false), ErrRetry},
		"one failure twice":      {Retry{[]RetryCriterion{{Failed, 1}, {Failed, 1}}}.Check(true), ErrRetry},
		"all and one":            {Retry{[]RetryCriterion{{All, 1}, {Failed, 1}}}.Check(true), ErrRetry},
		"end before start":       {Schedule{Start: now, End: now}.Check(), ErrSchedule},
		"behaviour without end":  {Schedule{EndBehavior: Cancel}.Check(), ErrSchedule},
		"unknown behaviour":      {Schedule{End: now, EndBehavior: "WAIT"}.Check(), ErrSchedule},
		"a day's maintenance":    {Schedule{Windows: []Maintenance{{cron, 1440}}}.Check(), ErrSchedule},
		"maintenance at no time": {Schedule{Windows: []Maintenance{{Cron{}, 10}}}.Check(), ErrCron},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v", name, c.err)
		}
	}
	for _, err := range []error{Rate{}.Check(), Abort{}.Check(), Retry{}.Check(false), Schedule{}.Check(), abort(All, "CANCEL", 100, 1), Retry{[]RetryCriterion{{All, 10}}}.Check(true),
		Schedule{Start: now, End: now.Add(1), EndBehavior: ForceCancel, Windows: []Maintenance{{cron, MaxMaintenance}}}.Check()} {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestWindow_NeverMoreThanTheRate starts as many as it may at random times and
// looks at every window of a minute.
func TestWindow_NeverMoreThanTheRate(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for game := range 40 {
		type start struct {
			at   time.Time
			n    int
			rate int
		}
		var w Window
		var all []start
		rate := 1 + r.IntN(50)
		now := time.Unix(1000, int64(r.IntN(1e9)))
		for range 300 {
			now = now.Add(time.Duration(r.Int64N(int64(20 * time.Second))))
			if r.IntN(20) == 0 {
				rate += r.IntN(20) // it may rise
			}
			n := w.Allow(now, rate)
			if r.IntN(3) == 0 && n > 0 {
				n = r.IntN(n) + 1
			}
			w.Add(now, n)
			if n > 0 {
				all = append(all, start{now, n, rate})
			}
			// It is stored between the steps.
			b, err := json.Marshal(w)
			w = Window{}
			if err != nil || json.Unmarshal(b, &w) != nil {
				t.Fatal(err)
			}
			if len(w.Batches) > 61 {
				t.Fatalf("%d batches are kept", len(w.Batches))
			}
		}
		for i, last := range all {
			sum := 0
			for _, s := range all[:i+1] {
				if last.at.Sub(s.at) < time.Minute {
					sum += s.n
				}
			}
			if sum > last.rate {
				t.Fatalf("game %d: %d within a minute, the rate is %d", game, sum, last.rate)
			}
		}
		if len(all) < 20 {
			t.Fatalf("game %d: started only %d times", game, len(all))
		}
	}
}

func TestWindow_GoesOnAtOnceAfterAMinuteAndAfterAClockSetBack(t *testing.T) {
	var w Window
	now := time.Unix(1000, 0)
	w.Add(now, 10)
	if got := w.Allow(now.Add(59999*time.Millisecond), 10); got != 0 {
		t.Errorf("too early: %d", got)
	}
	if got := w.Allow(now.Add(time.Minute), 10); got != 10 {
		t.Errorf("after a minute: %d", got)
	}
	w.Add(now.Add(time.Hour), 10)
	if got := w.Allow(now, 10); got != 0 {
		t.Errorf("an hour back: %d", got)
	}
	if got := w.Allow(now.Add(61*time.Second), 10); got != 10 {
		t.Errorf("an hour back and a minute on: %d", got)
	}
	// Many small steps within one second do not put the end off.
	for i := range 100 {
		at := now.Add(2 * time.Hour).Add(time.Duration(i) * 900 * time.Millisecond)
		w.Add(at, w.Allow(at, 5))
	}
	if got := w.Allow(now.Add(2*time.Hour).Add(2*time.Minute+20*time.Second), 5); got != 5 {
		t.Errorf("it starves: %d", got)
	}
}

func TestAbort_Decide(t *testing.T) {
	a := Abort{[]AbortCriterion{{Failed, "CANCEL", 50, 10}, {All, "CANCEL", 20, 4}, {TimedOut, "CANCEL", 33.3, 3}}}
	for name, c := range map[string]struct {
		tally Tally
		want  int
	}{
		"nothing":                   {Tally{}, -1},
		"too few devices":           {Tally{Failed: 2}, -1},
		"second, for enough":        {Tally{Failed: 4}, 1},
		"the first comes first":     {Tally{Failed: 5, Succeeded: 5}, 0},
		"just below the threshold":  {Tally{Failed: 1, Rejected: 1, Succeeded: 9}, -1},
		"exactly the threshold":     {Tally{Failed: 1, Rejected: 1, Succeeded: 8}, 1},
		"time-outs alone":           {Tally{TimedOut: 1, Succeeded: 2}, 2},
		"success does not count":    {Tally{Succeeded: 1000}, -1},
		"fractions of a percent":    {Tally{TimedOut: 333, Succeeded: 668}, 1},
		"rejection is not a failed": {Tally{Rejected: 1, Succeeded: 1}, -1},
	} {
		if got := a.Decide(c.tally); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

func TestRetry_Again(t *testing.T) {
	two := Retry{[]RetryCriterion{{Failed, 2}, {TimedOut, 1}}}
	all := Retry{[]RetryCriterion{{All, 2}}}
	for name, c := range map[string]struct {
		retry            Retry
		now              Failure
		failed, timedOut int
		want             bool
	}{
		"none allowed":           {Retry{}, Failed, 0, 0, false},
		"first failure":          {two, Failed, 0, 0, true},
		"last failure":           {two, Failed, 2, 0, false},
		"other kind is separate": {two, Failed, 1, 5, true},
		"time-out":               {two, TimedOut, 2, 0, true},
		"second time-out":        {two, TimedOut, 0, 1, false},
		"all together":           {all, Failed, 1, 0, true},
		"all used up":            {all, TimedOut, 1, 1, false},
		"a rejection is final":   {all, Rejected, 0, 0, false},
	} {
		if got := c.retry.Again(c.now, c.failed, c.timedOut); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	out, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSchedule_Phase(t *testing.T) {
	cron, err := ParseCron("cron(30 23 ? * SAT *)") // 2026-01-03 is a Saturday
	if err != nil {
		t.Fatal(err)
	}
	s := Schedule{Start: at(t, "2026-01-02 00:00"), End: at(t, "2026-02-01 00:00"), EndBehavior: Cancel, Windows: []Maintenance{{cron, 60}}}
	for when, want := range map[string]Phase{"2026-01-01 23:59": Before, "2026-01-02 00:00": Paused, "2026-01-03 23:29": Paused, "2026-01-03 23:30": Open, "2026-01-04 00:29": Open, "2026-01-04 00:30": Paused, "2026-01-10 23:45": Open, "2026-02-01 00:00": After} {
		if got := s.Phase(at(t, when)); got != want {
			t.Errorf("%s: got %d, want %d", when, got, want)
		}
	}
	if got := s.NextOpen(at(t, "2026-01-03 23:30")); got != at(t, "2026-01-10 23:30") {
		t.Errorf("next %v", got)
	}
	if got := (Schedule{}).Phase(time.Now()); got != Open {
		t.Errorf("no schedule: %d", got)
	}
	b, err := json.Marshal(s)
	var back Schedule
	if err != nil || json.Unmarshal(b, &back) != nil || back.Phase(at(t, "2026-01-03 23:30")) != Open || back.Phase(at(t, "2026-01-03 23:29")) != Paused {
		t.Errorf("stored as %s: %v", b, err)
	}
}

func TestCron_Next(t *testing.T) {
	for _, c := range []struct{ expr, after, want string }{
		{"cron(0 10 * * ? *)", "2026-01-01 10:00", "2026-01-02 10:00"},
		{"cron(15 12 * * ? *)", "2026-01-01 10:00", "2026-01-01 12:15"},
		{"cron(0 18 ? * MON-FRI *)", "2026-01-02 18:00", "2026-01-05 18:00"},
		{"cron(0 18 ? * 2-6 *)", "2026-01-02 18:00", "2026-01-05 18:00"},
		{"cron(0/15 * * * ? *)", "2026-01-01 10:16", "2026-01-01 10:30"},
		{"cron(0 8 1 * ? *)", "2026-01-01 08:00", "2026-02-01 08:00"},
		{"cron(0 0 L * ? *)", "2026-02-01 00:00", "2026-02-28 00:00"},
		{"cron(0 0 29 FEB ? *)", "2026-02-01 00:00", "2028-02-29 00:00"},
		{"cron(0 0 1 1 ? 2030,2032)", "2030-01-01 00:00", "2032-01-01 00:00"},
		{"cron(5,55 3,4 ? JAN/6 SUN *)", "2026-01-01 00:00", "2026-01-04 03:05"},
		{"0 2 * * 0", "2026-01-02 00:00", "2026-01-04 02:00"},
		{"0 2 * * 7", "2026-01-02 00:00", "2026-01-04 02:00"},
		{"0 2 * * sun", "2026-01-02 00:00", "2026-01-04 02:00"},
		{"0 2 13 * 5", "2026-01-03 00:00", "2026-01-09 02:00"}, // either day will do
		{"cron(0 0 30 FEB ? *)", "2026-01-01 00:00", ""},
		{"cron(0 0 * * ? 2020)", "2026-01-01 00:00", ""},
	} {
		cron, err := ParseCron(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		want := time.Time{}
		if c.want != "" {
			want = at(t, c.want)
		}
		if got := cron.Next(at(t, c.after)); !got.Equal(want) {
			t.Errorf("%s after %s: %v, want %s", c.expr, c.after, got, c.want)
		}
	}
	for _, bad := range []string{"", "cron()", "* * * *", "cron(0 0 * * ? *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "cron(0 0 ? * 0 *)", "1-0 * * * *", "*/0 * * * *", "a * * * *", ", * * * *", "+1 * * * *", "0 0 * * ? 1969", "0 0 * * ? 2026 1", "99999999999999999999 * * * *"} {
		if _, err := ParseCron(bad); !errors.Is(err, ErrCron) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzCron: nothing panics, and the minute that Next names is one of those that match.
func FuzzCron(f *testing.F) {
	for _, s := range []string{"cron(0 10 * * ? *)", "0/7 1-5,9 L JAN-MAR/2 SUN 2026-2030", "*/5 * * * *", "cron(", "0 0 31 2 ?"} {
		f.Add(s, int64(1767225600))
	}
	f.Fuzz(func(t *testing.T, s string, after int64) {
		c, err := ParseCron(s)
		if err != nil {
			return
		}
		from := time.Unix(after%(1<<33), 0).UTC()
		next := c.Next(from)
		if next.IsZero() {
			return
		}
		if !c.matches(next) || !next.After(from) {
			t.Fatalf("%q after %v gives %v", s, from, next)
		}
		var back Cron
		if b, _ := c.MarshalText(); back.UnmarshalText(b) != nil || back.Next(from) != next {
			t.Fatalf("%q does not come back", s)
		}
	})
}
