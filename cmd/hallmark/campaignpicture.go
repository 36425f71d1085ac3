package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"hallmark/api/adminapi"
)

// campaignWatch shows a campaign again and again.
type campaignWatch struct {
	g     *globals
	live  bool // on a terminal: the picture stays where it is
	shown bool
	lines int    // of the picture on the terminal
	last  string // line that was written
}

// show writes how the campaign is now, if that is another than before.
func (w *campaignWatch) show(c *adminapi.Campaign) error {
	w.shown = true
	line := campaignLine(c)
	switch {
	case w.live:
		width, height := 80, 24
		if f, ok := w.g.Out.(*os.File); ok {
			if x, y, err := term.GetSize(int(f.Fd())); err == nil && x > 0 && y > 0 {
				width, height = x, y
			}
		}
		w.draw(campaignPicture(c, time.Now(), width-1, height-1, os.Getenv("NO_COLOR") == ""))
		return nil
	case line == w.last:
		return nil
	case w.g.JSON:
		w.last = line
		return json.NewEncoder(w.g.Out).Encode(c)
	}
	w.last = line
	_, err := fmt.Fprintln(w.g.Out, moment(time.Now()), line)
	return err
}

// draw puts the picture where the last one was. No line is as wide as the terminal and
// there are fewer of them than it has, so that going up leads to where it began.
func (w *campaignWatch) draw(picture []string) {
	var b strings.Builder
	if w.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", w.lines)
	}
	for _, l := range picture {
		b.WriteString(l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	w.lines = len(picture)
	fmt.Fprint(w.g.Out, b.String())
}

// lost tells that the service does not answer.
func (w *campaignWatch) lost() {
	const text = "the service does not answer; it is asked again"
	switch {
	case w.live:
		fmt.Fprintf(w.g.Out, "%s\x1b[K\r", text)
	case !w.g.JSON && w.last != text:
		w.last = text
		fmt.Fprintln(w.g.Out, moment(time.Now()), text)
	}
}

const (
	inGreen = "\x1b[32m"
	inRed   = "\x1b[31m"
	inBold  = "\x1b[1m"
	inFaint = "\x1b[2m"
)

// canvas is a picture of lines that are not wider than a terminal.
type canvas struct {
	width  int
	colour bool
	lines  []string
}

// span is a piece of a line in one colour.
type span struct{ text, colour string }

// put adds a line; what is too wide is cut.
func (p *canvas) put(spans ...span) {
	var b strings.Builder
	room := p.width
	for _, s := range spans {
		r := []rune(visible(s.text))
		if len(r) > room {
			r = r[:room]
		}
		room -= len(r)
		if s.colour != "" && p.colour && len(r) > 0 {
			b.WriteString(s.colour + string(r) + "\x1b[0m")
			continue
		}
		b.WriteString(string(r))
	}
	p.lines = append(p.lines, strings.TrimRight(b.String(), " "))
}

// text adds a paragraph, with its lines after the first one below its label.
func (p *canvas) text(label, text string, colour string) {
	if text == "" {
		return
	}
	const indent = 10
	room := max(10, p.width-indent)
	line := ""
	flush := func() {
		p.put(span{fmt.Sprintf("%-*s", indent, label), inFaint}, span{line, colour})
		label, line = "", ""
	}
	for _, word := range strings.Fields(visible(text)) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > room {
			flush()
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	flush()
}

// campaignPicture is a campaign for a terminal of a size.
func campaignPicture(c *adminapi.Campaign, now time.Time, width, height int, colour bool) []string {
	p := &canvas{width: max(width, 20), colour: colour}
	tone := map[string]string{"running": inGreen, "completed": inGreen, "stopped": inRed, "canceled": inRed}[c.State]
	p.put(span{c.Id, inBold}, span{"  ", ""}, span{c.State, tone}, span{"  " + c.Kind + ", " + c.Reason, inFaint})
	why := strings.TrimSpace(c.Code + ": " + c.Detail)
	if c.Code == "" {
		why = c.Detail
	}
	p.text("why", strings.TrimSuffix(why, ":"), tone)
	rate := fmt.Sprintf("%d told in the last minute", c.OfferedLastMinute)
	if c.Rollout.MaxPerMinute > 0 {
		rate += fmt.Sprintf(", at most %d", c.Rollout.MaxPerMinute)
	}
	p.text("rate", rate, "")
	if !c.StageEnded.IsZero() && c.Stage < len(c.Plan)-1 && c.State == "running" {
		left := c.StageEnded.Add(time.Duration(c.Plan[c.Stage].WatchSeconds) * time.Second).Sub(now).Round(time.Second)
		p.text("watched", fmt.Sprintf("%s for another %s", c.Plan[c.Stage].Name, max(left, 0)), "")
	}
	p.put()
	p.stages(c)
	p.put()
	for _, t := range c.Thresholds {
		share := 0.0
		if t.Ended > 0 {
			share = 100 * float64(t.Failed) / float64(t.Ended)
		}
		tone := ""
		if t.Reached {
			tone = inRed
		}
		p.text("stops at", fmt.Sprintf("%s %g %% of %d or more; now %.3g %% (%d of %d)", t.Failure, t.Percent, t.MinExecuted, share, t.Failed, t.Ended), tone)
	}
	for _, f := range c.Failures {
		tone := inRed
		if f.State == "skipped" {
			tone = ""
		}
		p.text(f.State, fmt.Sprintf("%d %s", f.Members, f.Code), tone)
	}
	next := campaignNext(c)
	if strings.Contains(next, "campaign watch") { // this is it
		next = ""
	}
	p.text("next", next, "")
	if len(p.lines) > height && height > 3 {
		p.lines = append(p.lines[:height-1:height-1], fmt.Sprintf("... %d more lines; make the terminal taller", len(p.lines)-height+1))
		if r := []rune(p.lines[height-1]); len(r) > p.width {
			p.lines[height-1] = string(r[:p.width])
		}
	}
	return p.lines
}

// stages adds a line for each stage, and two on a narrow terminal: numbers below names.
func (p *canvas) stages(c *adminapi.Campaign) {
	names := 6
	for _, g := range c.Plan {
		names = max(names, min(24, len([]rune(visible(g.Name)))))
	}
	type number struct {
		title string
		of    func(n campaignSum) int64
		bad   bool
	}
	numbers := []number{{"devices", func(n campaignSum) int64 { return n.all }, false}, {"waiting", func(n campaignSum) int64 { return n.waiting }, false}, {"under way", func(n campaignSum) int64 { return n.told }, false},
		{"well", func(n campaignSum) int64 { return n.well }, false}, {"failed", func(n campaignSum) int64 { return n.bad }, true}, {"skipped", func(n campaignSum) int64 { return n.skipped }, false}, {"undone", func(n campaignSum) int64 { return n.undone }, false}}
	const gauge, wide = 20, 70
	narrow := p.width < names+gauge+5+wide-2
	head := fmt.Sprintf("  %-*s  %-*s", names, "STAGE", gauge, "")
	if !narrow {
		for _, n := range numbers {
			head += fmt.Sprintf("  %*s", max(7, len(n.title)), strings.ToUpper(n.title))
		}
		p.put(span{head, inFaint})
	}
	row := func(mark, name string, n campaignSum) {
		r := []rune(visible(name))
		if len(r) > names {
			r = append(r[:names-1], '~')
		}
		spans := []span{{fmt.Sprintf("%s %-*s  ", mark, names, string(r)), ""}}
		spans = append(spans, gaugeSpans(n)...)
		if narrow {
			short := fmt.Sprintf("  %d of %d", n.well+n.bad+n.skipped+n.undone, n.all)
			spans = append(spans, span{short, ""})
			p.put(spans...)
			detail := []span{{"   ", ""}}
			for _, k := range numbers[1:] {
				if v := k.of(n); v > 0 {
					tone := inFaint
					if k.bad {
						tone = inRed
					}
					detail = append(detail, span{fmt.Sprintf(" %d %s", v, k.title), tone})
				}
			}
			if len(detail) > 1 {
				p.put(detail...)
			}
			return
		}
		for _, k := range numbers {
			tone, v := "", k.of(n)
			if k.bad && v > 0 {
				tone = inRed
			}
			spans = append(spans, span{fmt.Sprintf("  %*d", max(7, len(k.title)), v), tone})
		}
		p.put(spans...)
	}
	for i, g := range c.Plan {
		row(stageMark(c, i), g.Name, sumCampaign(c, func(s int) bool { return s == i }))
	}
	if rest := sumCampaign(c, func(s int) bool { return s < 0 }); rest.all > 0 {
		row(" ", "(none)", rest)
	}
}

// gaugeSpans is the bar of a stage in its colours.
func gaugeSpans(n campaignSum) (out []span) {
	bar := gaugeOf(n)
	for len(bar) > 0 {
		end := 1
		for end < len(bar) && bar[end] == bar[0] {
			end++
		}
		tone := map[byte]string{'#': inGreen, '!': inRed, '.': inFaint}[bar[0]]
		out = append(out, span{bar[:end], tone})
		bar = bar[end:]
	}
	return out
}
