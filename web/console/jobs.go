package console

import (
	"cmp"
	"fmt"
	"slices"

	"hallmark/api/adminapi"
	"hallmark/web"
)

var (
	jobStates       = []string{"SCHEDULED", "IN_PROGRESS", "COMPLETED", "CANCELED", "DELETION_IN_PROGRESS"}
	executionStates = []string{"QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED"}
)

// stateOf is the state that a list is narrowed to.
func stateOf(v *view, states []string) (string, error) {
	s := v.r.URL.Query().Get("status")
	if s != "" && !slices.Contains(states, s) {
		return "", web.ErrInput.New("There is no such status.")
	}
	return s, nil
}

// piece is a stretch of a job's bar. Its word and number stand beside the bar:
// the colour is never the only sign.
type piece struct {
	Title, Status, Tone string // Status is empty for what is no execution yet
	N                   int64
	X, Width            string // of barWidth
}

const barWidth = 1000

// progressView is how far a job came.
type progressView struct {
	Done, All int64
	Bar       []piece // those that are not empty
	Counts    []piece
}

func progress(n *adminapi.JobCounts) (out progressView) {
	out.Counts = []piece{
		{Title: "Succeeded", Status: "SUCCEEDED", Tone: "good", N: n.Succeeded},
		{Title: "Failed", Status: "FAILED", Tone: "bad", N: n.Failed},
		{Title: "Rejected", Status: "REJECTED", Tone: "bad", N: n.Rejected},
		{Title: "Timed out", Status: "TIMED_OUT", Tone: "bad", N: n.TimedOut},
		{Title: "Canceled", Status: "CANCELED", Tone: "ended", N: n.Canceled},
		{Title: "Removed", Status: "REMOVED", Tone: "ended", N: n.Removed},
		{Title: "In progress", Status: "IN_PROGRESS", Tone: "works", N: n.InProgress},
		{Title: "Queued", Status: "QUEUED", Tone: "told", N: n.Queued},
		{Title: "Not told yet", Tone: "waits", N: n.Waiting},
	}
	out.Done = n.Succeeded + n.Failed + n.Rejected + n.TimedOut + n.Canceled + n.Removed
	out.All = out.Done + n.InProgress + n.Queued + n.Waiting
	var before int64
	for _, p := range out.Counts {
		if p.N > 0 {
			p.X, p.Width = share(before, out.All), share(p.N, out.All)
			out.Bar = append(out.Bar, p)
			before += p.N
		}
	}
	return out
}

func share(part, whole int64) string {
	return fmt.Sprintf("%.2f", float64(part)*barWidth/float64(whole))
}

// Words is the bar for who does not see it.
func (p progressView) Words() string {
	if p.All == 0 {
		return "no device yet"
	}
	text := fmt.Sprintf("%d of %d done", p.Done, p.All)
	for _, b := range p.Bar {
		text += fmt.Sprintf(", %d %s", b.N, b.Title)
	}
	return text
}

type jobRow struct {
	adminapi.Job
	Progress progressView
}

func jobRows(items []adminapi.Job) []jobRow {
	rows := make([]jobRow, len(items))
	for i := range items {
		rows[i] = jobRow{items[i], progress(&items[i].Counts)}
	}
	return rows
}

func (c *console) jobs(v *view) (string, error) {
	v.Title = "Jobs"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	state, err := stateOf(v, jobStates)
	if err != nil {
		return "", err
	}
	items, next, err := c.Backend.Jobs.Jobs(v.r.Context(), v.scope, state, p)
	v.Data = map[string]any{"Items": jobRows(items), "Next": c.nextLink(v, next), "State": state, "States": jobStates}
	return "jobs", err
}

func (c *console) job(v *view) (string, error) {
	j, err := c.Backend.Jobs.Job(v.r.Context(), v.scope, v.r.PathValue("job"))
	if err != nil {
		return "", err
	}
	v.Title = "Job " + j.Id
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	state, err := stateOf(v, executionStates)
	if err != nil {
		return "", err
	}
	executions, next, err := c.Backend.Jobs.JobExecutions(v.r.Context(), v.scope, j.Id, state, p)
	v.Data = map[string]any{"Job": j, "Progress": progress(&j.Counts), "Rate": rate(&j.Rollout), "Executions": executions, "Next": c.nextLink(v, next),
		"State": state, "States": executionStates, "See": v.sees()}
	return "job", err
}

// rate says how fast devices are told.
func rate(r *adminapi.JobRollout) string {
	text := fmt.Sprintf("at most %d devices a minute", cmp.Or(r.MaxPerMinute, 1000)) // the contract's default
	if r.BasePerMinute > 0 {
		what, each := "told", r.PerNotified
		if r.PerSucceeded > 0 {
			what, each = "succeeded", r.PerSucceeded
		}
		text += fmt.Sprintf("; begins with %d a minute, times %g for every %d that %s", r.BasePerMinute, r.Factor, each, what)
	}
	return text
}

// thingJobs lists what one thing was told to do.
func (c *console) thingJobs(v *view) (string, error) {
	name := v.r.PathValue("thing")
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	state, err := stateOf(v, executionStates)
	if err != nil {
		return "", err
	}
	items, next, err := c.Backend.Jobs.ThingJobs(v.r.Context(), v.scope, name, state, p)
	v.Title = "Jobs of " + name
	v.Data = map[string]any{"Thing": name, "Items": items, "Next": c.nextLink(v, next), "State": state, "States": executionStates, "See": v.sees()}
	return "thing-jobs", err
}
