package rollout

import (
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Cron is a recurring minute in UTC: minute, hour, day of month, month, day of
// week (1 to 7 or SUN to SAT) and year, as in "cron(30 2 ? * SAT *)". Five
// fields are the classic form, without a year and with 0 or 7 for Sunday. A
// field has *, ?, lists, ranges and steps; the day of month has L for the last.
type Cron struct {
	text                              string
	minute, hour, day, month, week    uint64 // bit sets; Sunday is bit 0
	lastDay, anyDay, anyWeek, anyYear bool
	years                             map[int]bool
}

// IsZero tells whether there is no expression.
func (c Cron) IsZero() bool { return c.text == "" }

// String is the expression as it was written.
func (c Cron) String() string { return c.text }

// MarshalText writes the expression.
func (c Cron) MarshalText() ([]byte, error) { return []byte(c.text), nil }

// UnmarshalText reads an expression.
func (c *Cron) UnmarshalText(b []byte) (err error) {
	*c, err = ParseCron(string(b))
	return err
}

var (
	monthNames = []string{"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}
	dayNames   = []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}
)

const (
	firstYear = 1970
	lastYear  = 2199
	maxCron   = 256 // characters
)

// ParseCron reads an expression.
func ParseCron(s string) (Cron, error) {
	c := Cron{text: s}
	if len(s) > maxCron {
		return Cron{}, ErrCron.New("It is too long.")
	}
	body := s
	if inner, ok := strings.CutPrefix(s, "cron("); ok {
		if body, ok = strings.CutSuffix(inner, ")"); !ok {
			return Cron{}, ErrCron.New("The bracket does not close.")
		}
	}
	f := strings.Fields(strings.ToUpper(body))
	classic := len(f) == 5
	if classic {
		f = append(f, "*")
	}
	if len(f) != 6 {
		return Cron{}, ErrCron.New("It has %d fields.", len(f))
	}
	c.anyDay, c.anyWeek, c.anyYear = f[2] == "*" || f[2] == "?", f[4] == "*" || f[4] == "?", f[5] == "*"
	var ok [6]bool
	c.minute, ok[0] = set(f[0], 0, 59, nil)
	c.hour, ok[1] = set(f[1], 0, 23, nil)
	if c.lastDay = f[2] == "L"; c.lastDay {
		ok[2] = true
	} else {
		c.day, ok[2] = set(f[2], 1, 31, nil)
	}
	c.month, ok[3] = set(f[3], 1, 12, monthNames)
	if classic {
		c.week, ok[4] = set(f[4], 0, 7, dayNames)
		c.week |= c.week >> 7 & 1 // 7 is Sunday too
	} else {
		c.week, ok[4] = set(f[4], 1, 7, dayNames)
		c.week >>= 1 // 1 is Sunday
	}
	c.years, ok[5] = years(f[5])
	for i, good := range ok {
		if !good {
			return Cron{}, ErrCron.New("Field %d is not right.", i+1)
		}
	}
	return c, nil
}

// set reads one field as a set of bits.
func set(field string, low, high int, names []string) (out uint64, ok bool) {
	err := parts(field, low, high, names, func(n int) { out |= 1 << n })
	return out, err && out != 0
}

// years reads the last field, whose numbers are too many for bits.
func years(field string) (map[int]bool, bool) {
	if field == "*" {
		return nil, true
	}
	out := map[int]bool{}
	ok := parts(field, firstYear, lastYear, nil, func(n int) { out[n] = true })
	return out, ok && len(out) > 0
}

// parts calls add for every number that a field names.
func parts(field string, low, high int, names []string, add func(int)) bool {
	for part := range strings.SplitSeq(field, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			var err error
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
				return false
			}
		}
		from, to := low, high
		if span != "*" && span != "?" {
			a, b, isRange := strings.Cut(span, "-")
			var ok bool
			if from, ok = number(a, low, high, names); !ok {
				return false
			}
			switch {
			case isRange:
				if to, ok = number(b, low, high, names); !ok || to < from {
					return false
				}
			case !stepped:
				to = from
			}
		}
		for n := from; n <= to; n += step {
			add(n)
		}
	}
	return true
}

func number(s string, low, high int, names []string) (int, bool) {
	for i, name := range names {
		if s == name {
			if len(names) == 7 && low == 0 {
				return i, true // the classic Sunday is 0
			}
			return i + 1, true
		}
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= low && n <= high && s[0] != '+' && s[0] != '-'
}

// matches tells whether a minute is one of them.
func (c Cron) matches(t time.Time) bool {
	return c.minute>>t.Minute()&1 == 1 && c.hour>>t.Hour()&1 == 1 && c.matchesDay(t)
}

func (c Cron) matchesDay(t time.Time) bool {
	if c.month>>int(t.Month())&1 == 0 || !c.anyYear && !c.years[t.Year()] {
		return false
	}
	day := c.day>>t.Day()&1 == 1
	if c.lastDay {
		day = t.AddDate(0, 0, 1).Day() == 1
	}
	week := c.week>>int(t.Weekday())&1 == 1
	// Where both days are restricted, either will do, as cron has it ever since.
	if !c.anyDay && !c.anyWeek {
		return day || week
	}
	return day && week
}

// Next is the first such minute after a time, the zero time if there is none
// within the next ten years.
func (c Cron) Next(after time.Time) time.Time {
	if c.IsZero() {
		return time.Time{}
	}
	t := after.UTC().Truncate(time.Minute).Add(time.Minute)
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	for range 3653 {
		if c.matchesDay(day) {
			for h := c.hour; h != 0; h &= h - 1 {
				for m := c.minute; m != 0; m &= m - 1 {
					at := day.Add(time.Duration(bits.TrailingZeros64(h))*time.Hour + time.Duration(bits.TrailingZeros64(m))*time.Minute)
					if !at.Before(t) {
						return at
					}
				}
			}
		}
		day = day.AddDate(0, 0, 1)
	}
	return time.Time{}
}
