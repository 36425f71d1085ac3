package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/internal/fault"
	"hallmark/web"
)

var (
	campaignStates = []string{"awaiting-approval", "scheduled", "running", "paused", "stopped", "rolling-back", "canceled", "completed"}
	memberStates   = []string{"waiting", "offered", "asleep", "working", "proving", "soaking", "done", "failed", "rejected", "timed-out", "silent", "skipped", "returning", "undoing", "undone"}
)

// memberTones are the colours of a stage's bar, in the order of a device's way.
var memberTones = []struct {
	tone, title string
	states      []string
}{
	{"good", "Done", []string{"done"}},
	{"soaks", "Soaking", []string{"soaking"}},
	{"proves", "Proving", []string{"proving"}},
	{"works", "Working", []string{"working"}},
	{"told", "Offered", []string{"offered"}},
	{"sleeps", "Asleep", []string{"asleep"}},
	{"bad", "Failed", []string{"failed", "rejected", "timed-out", "silent"}},
	{"undone", "Going back", []string{"returning", "undoing"}},
	{"ended", "Rolled back", []string{"undone"}},
	{"passed", "Skipped", []string{"skipped"}},
	{"waits", "Waiting", []string{"waiting"}},
}

// campaignBar is the devices of some stages of a campaign.
func campaignBar(c *adminapi.Campaign, stage func(int) bool) (out progressView) {
	for _, t := range memberTones {
		p := piece{Title: t.title, Tone: t.tone}
		for _, n := range c.Members {
			if stage(n.Stage) && slices.Contains(t.states, n.State) {
				p.N += n.Members
			}
		}
		if len(t.states) == 1 {
			p.Status = t.states[0]
		}
		out.All += p.N
		switch t.tone {
		case "good", "soaks", "bad", "ended", "passed":
			out.Done += p.N
		}
		out.Counts = append(out.Counts, p)
	}
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

// campaignRow is a campaign in a list.
type campaignRow struct {
	adminapi.Campaign
	Progress progressView
	Runs     string // that runs
	Brings   string // class and version, of firmware
	Failed   int64
}

func campaignRowOf(c adminapi.Campaign) campaignRow {
	r := campaignRow{Campaign: c, Progress: campaignBar(&c, func(int) bool { return true })}
	if n := len(c.Plan); n > 0 {
		r.Runs = c.Plan[max(0, min(c.Stage, n-1))].Name
	}
	for _, p := range r.Progress.Counts {
		if p.Tone == "bad" {
			r.Failed = p.N
		}
	}
	return r
}

func (c *console) campaigns(v *view) (string, error) {
	v.Title = "Campaigns"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	state := v.r.URL.Query().Get("state")
	if state != "" && !slices.Contains(campaignStates, state) {
		return "", web.ErrInput.New("There is no such state.")
	}
	items, next, err := c.Backend.Campaigns.Campaigns(v.r.Context(), v.scope, state, p)
	rows, live := make([]campaignRow, len(items)), false
	for i := range items {
		rows[i] = campaignRowOf(items[i])
		live = live || items[i].Active
	}
	v.Data = map[string]any{"Items": rows, "Next": c.nextLink(v, next), "State": state, "States": campaignStates, "Live": live}
	return "campaigns", err
}

// stageView is a stage of the chart.
type stageView struct {
	adminapi.CampaignStage
	State    string // ended, watched, runs, stands, to come, not reached
	Until    time.Time
	Progress progressView
}

func stageViews(c *adminapi.Campaign) (out []stageView) {
	for i, g := range c.Plan {
		s := stageView{CampaignStage: g, State: "to come", Progress: campaignBar(c, func(n int) bool { return n == i })}
		over := c.State == "completed" || c.State == "canceled"
		switch {
		case i < c.Stage, i == c.Stage && c.State == "completed":
			s.State = "ended"
		case i > c.Stage, c.StageStarted.IsZero():
			if over {
				s.State = "not reached"
			}
		case over:
			s.State = "ended"
		case c.State != "running":
			s.State = "stands"
		case !c.StageEnded.IsZero():
			s.State, s.Until = "watched", c.StageEnded.Add(time.Duration(g.WatchSeconds)*time.Second)
		default:
			s.State = "runs"
		}
		out = append(out, s)
	}
	return out
}

// gauge is where a campaign stands with a threshold; the threshold is in the middle.
type gauge struct {
	adminapi.CampaignThreshold
	Share, Width string
	Words        string
}

func gauges(c *adminapi.Campaign) (out []gauge) {
	for _, t := range c.Thresholds {
		g := gauge{CampaignThreshold: t, Share: "0 %", Width: "0", Words: failureWords(t.Failure)}
		if t.Ended > 0 {
			share := 100 * float64(t.Failed) / float64(t.Ended)
			g.Share = fmt.Sprintf("%.3g %%", share)
			g.Width = fmt.Sprintf("%.1f", min(barWidth, barWidth/2*share/t.Percent))
		}
		out = append(out, g)
	}
	return out
}

// control is what somebody can do about a campaign now.
type control struct {
	Verb, Title, Help string
	Harm              bool // it is asked for twice, and may have a comment
}

func controls(v *view, c *adminapi.Campaign) (out []control) {
	add := func(verb, title, help string, harm bool) {
		out = append(out, control{verb, title, help, harm})
	}
	if v.can(access.CreateCampaign) && c.State == "awaiting-approval" {
		add("ask", "Ask again", "Makes a new request if there is none that is open.", false)
	}
	if !v.can(access.ControlCampaign) {
		return out
	}
	rollback := func() {
		if !c.RolledBack {
			add("rollback", "Roll back", "Each device that began is told to take the change back. What is finished goes back only where the change can: a retired certificate does not come back.", true)
		}
	}
	cancel := func() {
		add("cancel", "Cancel", "Nobody begins any more; devices that began still end. A cancelled campaign does not go on.", true)
	}
	switch c.State {
	case "awaiting-approval":
		cancel()
	case "scheduled":
		add("pause", "Pause", "Nobody begins any more; devices that began go on.", false)
		cancel()
	case "running":
		add("pause", "Pause", "Nobody begins any more; devices that began go on.", false)
		rollback()
		cancel()
	case "paused", "stopped":
		help := "It goes on where it was."
		if c.State == "stopped" {
			help = "It goes on. What went wrong until now is forgiven: thresholds count anew."
		}
		add("resume", "Resume", help, false)
		rollback()
		cancel()
	case "rolling-back":
		cancel()
	case "completed", "canceled":
		rollback()
	}
	return out
}

// second is what is known of the second person that something waits for.
type second struct {
	Request *adminapi.ApprovalRequest // nil: there is none that can be seen
	Asked   bool                      // there is one
	Own     bool                      // the reader asked for it
	May     bool                      // the reader may approve it
	Open    bool
	Roles   string // who may
	Problem string
	Until   string // what does not happen before
	Then    string // what happens then
	At      string // the page that forms go to
	Form    string
	See     sees
}

// second looks at a request for something that takes a right besides that of deciding.
func (c *console) second(v *view, request string, right access.Action) (*second, error) {
	s := &second{Asked: request != "", At: v.r.URL.EscapedPath(), Form: v.Form, See: v.sees()}
	var roles []string
	for _, r := range access.Roles() {
		a := access.Actor{Tenant: v.Who.Tenant, Kind: access.KindPrincipal, Name: "anybody", Role: r}
		if access.Can(a, access.DecideApproval) && access.Can(a, right) {
			roles = append(roles, string(r))
		}
	}
	s.Roles = strings.Join(roles, ", ")
	if request == "" || !v.can(access.ReadApprovals) {
		return s, nil
	}
	r, err := c.Backend.Plans.ApprovalRequest(v.r.Context(), v.Who.Actor(), request)
	if k := fault.KindOf(err); err != nil && (k == fault.NotFound || k == fault.Forbidden) {
		s.Problem = fault.From(err).What
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	s.Request, s.Own, s.Open = &r, r.AskedBy == v.Who.Name, r.State == "open"
	s.May = s.Open && !s.Own && len(r.Refused) == 0 && r.Plan.Hash != "" && v.can(access.DecideApproval) && v.can(right)
	return s, nil
}

func (c *console) campaign(v *view) (string, error) {
	ctx := v.r.Context()
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	item, err := c.Backend.Campaigns.Campaign(ctx, v.scope, v.r.PathValue("campaign"))
	if err != nil {
		return "", err
	}
	v.Title = "Campaign " + item.Id
	state := v.r.URL.Query().Get("state")
	if state != "" && !slices.Contains(memberStates, state) {
		return "", web.ErrInput.New("There is no such state.")
	}
	members, next, err := c.Backend.Campaigns.CampaignMembers(ctx, v.scope, item.Id, state, p)
	if err != nil {
		return "", err
	}
	var two *second
	if item.State == "awaiting-approval" {
		if two, err = c.second(v, item.Request, access.CreateCampaign); err != nil {
			return "", err
		}
		two.Until, two.Then = "Nothing is offered to any device", "It begins at once."
	}
	now := c.Now()
	began := len(item.History) > 0 && !item.StageStarted.IsZero()
	var plots []any
	if began {
		plots = []any{titled{"Devices", devicesPlot(&item, now)}, titled{"Rate", ratePlot(&item, now)}, titled{"Failures", failuresPlot(&item, now)}}
	}
	none := campaignBar(&item, func(n int) bool { return n < 0 })
	v.Data = map[string]any{"Campaign": campaignRowOf(item), "Stages": stageViews(&item), "None": none, "Plots": plots, "Gauges": gauges(&item), "Controls": controls(v, &item), "Second": two,
		"Rate": rate(&item.Rollout), "Members": members, "Next": c.nextLink(v, next), "State": state, "States": memberStates, "See": v.sees(), "Names": item.Plan}
	return "campaign", nil
}

type titled struct {
	Title string
	Plot  plot
}

// windowChoice is a choice of the list of what ends soon.
type windowChoice struct {
	Value, Title string
	length       time.Duration
}

var windowChoices = []windowChoice{
	{"7d", "7 days", 7 * 24 * time.Hour}, {"30d", "30 days", 30 * 24 * time.Hour}, {"90d", "90 days", 90 * 24 * time.Hour}, {"1y", "a year", 365 * 24 * time.Hour},
}

// expiring lists the certificates of devices that end soon and have no successor.
func (c *console) expiring(v *view) (string, error) {
	v.Title = "Expiring"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	w := windowChoice{} // the configured windows
	if value := v.r.URL.Query().Get("within"); value != "" {
		i := slices.IndexFunc(windowChoices, func(w windowChoice) bool { return w.Value == value })
		if i < 0 {
			return "", web.ErrInput.New("There is no such choice of a time.")
		}
		w = windowChoices[i]
	}
	items, next, err := c.Backend.Rotation.RotationDue(v.r.Context(), v.scope, w.length, p)
	seconds := int64(cmp.Or(w.length, 30*24*time.Hour).Seconds())
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next), "Within": w.Value, "Words": w.Title, "Windows": windowChoices, "Seconds": seconds, "Acts": v.can(access.CreateCampaign), "See": v.sees()}
	return "expiring", err
}
