package console

import (
	"fmt"
	"math"
	"strings"
	"time"

	"hallmark/api/adminapi"
)

// A plot is drawn here and not in the browser: it needs no script, and what it shows
// stands in words and numbers beside it. Its texts are not part of the drawing, so
// that they keep their size on every screen and their times get the reader's zone.

const (
	plotWidth  = 1000 // of the drawing's own units, whatever its size on the screen
	plotHeight = 300
)

// plot is a drawing over time.
type plot struct {
	Words    string // for who does not see it
	From, To time.Time
	Top      string // the value at the top; zero is at the bottom
	Half     string
	Lines    []plotLine
	Bars     []plotBar
	Marks    []plotMark
	Legend   []plotKey
}

type plotLine struct{ Path, Tone string }

type plotBar struct {
	X, Y, Width, Height string
	Title               string
}

// plotMark is a limit: a line from left to right.
type plotMark struct{ Y, Title string }

// plotKey says what a line is, and what its last value is.
type plotKey struct{ Tone, Title, Value string }

func unit(v float64) string { return fmt.Sprintf("%.1f", v) }

// niceTop is a round number that is not less, so that the half of it is readable too.
func niceTop(v float64) float64 {
	if v <= 2 {
		return 2
	}
	base := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 4, 6, 8, 10} {
		if m*base >= v {
			return m * base
		}
	}
	return 10 * base
}

// axis places values of a plot.
type axis struct {
	from time.Time
	span time.Duration
	top  float64
}

func (a axis) x(t time.Time) float64 {
	f := float64(t.Sub(a.from)) / float64(a.span)
	return plotWidth * min(1, max(0, f))
}

func (a axis) y(v float64) float64 { return plotHeight * (1 - min(1, max(0, v/a.top))) }

// steps is a line that stays until its next value.
func (a axis) steps(samples []adminapi.CampaignSample, value func(*adminapi.CampaignSample) float64) string {
	var b strings.Builder
	for i := range samples {
		x, y := unit(a.x(samples[i].At)), unit(a.y(value(&samples[i])))
		if i == 0 {
			fmt.Fprintf(&b, "M%s %s", x, y)
			continue
		}
		fmt.Fprintf(&b, "H%sV%s", x, y)
	}
	fmt.Fprintf(&b, "H%d", plotWidth)
	return b.String()
}

// history is a campaign's samples up to now or its end, and the time they are about.
func history(c *adminapi.Campaign, now time.Time) (samples []adminapi.CampaignSample, a axis) {
	to := now
	if !c.FinishedAt.IsZero() {
		to = c.FinishedAt
	}
	samples = append(samples, c.History...)
	last := adminapi.CampaignSample{At: to}
	for _, n := range c.Members {
		switch n.State {
		case "waiting", "skipped":
			continue
		case "soaking", "done":
			last.Well += n.Members
		case "failed", "rejected", "timed-out", "silent":
			last.Bad += n.Members
		}
		last.Told += n.Members
	}
	if len(samples) == 0 || !last.At.Before(samples[len(samples)-1].At) {
		samples = append(samples, last)
	}
	a.from = samples[0].At
	if a.span = to.Sub(a.from); a.span < time.Minute {
		a.span = time.Minute
	}
	return samples, a
}

func (a axis) plot() plot {
	p := plot{From: a.from, To: a.from.Add(a.span), Top: axisNumber(a.top), Half: axisNumber(a.top / 2)}
	return p
}

func axisNumber(v float64) string {
	if v == math.Trunc(v) {
		return number(int64(v))
	}
	return fmt.Sprintf("%g", v)
}

// devicesPlot is how many devices were told, are well and failed.
func devicesPlot(c *adminapi.Campaign, now time.Time) plot {
	samples, a := history(c, now)
	var most int64
	for i := range samples {
		most = max(most, samples[i].Told)
	}
	a.top = niceTop(float64(most))
	p, last := a.plot(), samples[len(samples)-1]
	p.Lines = []plotLine{
		{a.steps(samples, func(s *adminapi.CampaignSample) float64 { return float64(s.Told) }), "told"},
		{a.steps(samples, func(s *adminapi.CampaignSample) float64 { return float64(s.Well) }), "good"},
		{a.steps(samples, func(s *adminapi.CampaignSample) float64 { return float64(s.Bad) }), "bad"},
	}
	p.Legend = []plotKey{{"told", "Told", number(last.Told)}, {"good", "Proven", number(last.Well)}, {"bad", "Failed", number(last.Bad)}}
	p.Words = fmt.Sprintf("Devices over time: %d told, %d proven, %d failed by now", last.Told, last.Well, last.Bad)
	return p
}

// ratePlot is how many devices were told in each stretch of time, as a minute's worth.
func ratePlot(c *adminapi.Campaign, now time.Time) plot {
	samples, a := history(c, now)
	const most = 40
	width := max(time.Minute, a.span/most)
	told := func(t time.Time) (n int64) {
		for i := range samples {
			if !samples[i].At.After(t) {
				n = samples[i].Told
			}
		}
		return n
	}
	type stretch struct {
		from, to time.Time
		rate     float64
	}
	var list []stretch
	var peak float64
	for from := a.from; from.Before(a.from.Add(a.span)); from = from.Add(width) {
		before := told(from)
		if from.Equal(a.from) {
			before = 0 // what the first sample has was told in it
		}
		s := stretch{from, from.Add(width), float64(told(from.Add(width))-before) / width.Minutes()}
		if s.rate < 0 { // a roll back
			s.rate = 0
		}
		peak = max(peak, s.rate)
		list = append(list, s)
	}
	limit := float64(c.Rollout.MaxPerMinute)
	a.top = niceTop(peak)
	if limit > 0 && limit <= 2*a.top {
		a.top = niceTop(max(peak, limit))
	}
	p := a.plot()
	for _, s := range list {
		if s.rate <= 0 {
			continue
		}
		x, y := a.x(s.from), a.y(s.rate)
		p.Bars = append(p.Bars, plotBar{X: unit(x + 1), Y: unit(y), Width: unit(max(2, a.x(s.to)-x-2)), Height: unit(plotHeight - y), Title: fmt.Sprintf("%.3g a minute", s.rate)})
	}
	p.Legend = []plotKey{{"works", "Told a minute; now", number(c.OfferedLastMinute)}}
	p.Words = fmt.Sprintf("Devices told a minute over time: at most %.3g, %d in the last minute", peak, c.OfferedLastMinute)
	if limit > 0 {
		title := fmt.Sprintf("At most %s a minute", number(int64(limit)))
		p.Legend = append(p.Legend, plotKey{"limit", title, ""})
		p.Words += fmt.Sprintf("; the limit is %g", limit)
		if limit <= a.top {
			p.Marks = append(p.Marks, plotMark{unit(a.y(limit)), title})
		}
	}
	return p
}

// failuresPlot is how many of a hundred devices that ended failed, with the thresholds.
func failuresPlot(c *adminapi.Campaign, now time.Time) plot {
	samples, a := history(c, now)
	share := func(s *adminapi.CampaignSample) float64 {
		if s.Well+s.Bad == 0 {
			return 0
		}
		return 100 * float64(s.Bad) / float64(s.Well+s.Bad)
	}
	var peak float64
	for i := range samples {
		peak = max(peak, share(&samples[i]))
	}
	limit := 0.0
	for _, t := range c.Thresholds {
		limit = max(limit, t.Percent)
	}
	a.top = min(100, niceTop(max(peak, 1.25*limit, 4)))
	p, last := a.plot(), share(&samples[len(samples)-1])
	p.Top += " %"
	p.Half += " %"
	p.Lines = []plotLine{{a.steps(samples, share), "bad"}}
	p.Legend = []plotKey{{"bad", "Failed in any way; now", fmt.Sprintf("%.3g %%", last)}}
	p.Words = fmt.Sprintf("Failures over time: %.3g percent of the devices that ended by now, at most %.3g", last, peak)
	for _, t := range c.Thresholds {
		title := fmt.Sprintf("Stops at %g %% %s", t.Percent, failureWords(t.Failure))
		p.Marks = append(p.Marks, plotMark{unit(a.y(t.Percent)), title})
		p.Legend = append(p.Legend, plotKey{"limit", title, ""})
		p.Words += fmt.Sprintf("; it stops at %g percent %s", t.Percent, failureWords(t.Failure))
	}
	return p
}

func failureWords(f string) string {
	switch f {
	case "ALL":
		return "failed in any way"
	case "TIMED_OUT":
		return "timed out"
	}
	return strings.ToLower(f)
}
