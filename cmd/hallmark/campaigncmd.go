package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newCampaignCmd) }

func newCampaignCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "campaign", Short: "Campaigns: change many devices in stages, and stop when it goes wrong",
		Long: `A campaign gives many devices a change: a new certificate, other trusted roots, other
firmware. It begins with a canary group, goes on in stages, and stops itself when too many
devices fail. See docs/campaigns.md.`,
		Example: `  hallmark campaign plan march --kind rotate-certificate --group eu --canary lab
  hallmark campaign create march --kind rotate-certificate --group eu --canary lab --canary-watch 1h --stage ten:10:1h --abort ALL:2:50
  hallmark campaign watch march`,
	}
	c.AddCommand(newCampaignCreateCmd(g), newCampaignPlanCmd(g), newCampaignListCmd(g), newCampaignShowCmd(g), newCampaignMembersCmd(g), newCampaignTimelineCmd(g), newCampaignWatchCmd(g),
		newCampaignMoveCmd(g, "pause", "Have nobody begin any more; who began goes on"), newCampaignMoveCmd(g, "resume", "Go on with a campaign that was paused or stopped itself"),
		newCampaignMoveCmd(g, "cancel", "End a campaign; who began still ends"), newCampaignMoveCmd(g, "rollback", "Undo what a campaign changed"), newCampaignMoveCmd(g, "ask", "Ask a second person again to approve a campaign"))
	return c
}

// campaignFlags are what a campaign is made of.
type campaignFlags struct {
	r                                     adminapi.CampaignRequest
	to                                    targetFlags
	from, until, parameters               string
	stages, aborts, windows               []string
	watch, jitter, timeout, silence, soak time.Duration
}

func (f *campaignFlags) add(c *cobra.Command) {
	f.to.add(c)
	l := c.Flags()
	l.StringVar(&f.r.Kind, "kind", "", "rotate-certificate, update-trust or update-firmware")
	l.StringVar(&f.r.Reason, "reason", "", "expiry, rollover, compromise, algorithm, ownership, request or firmware; request if not given")
	l.StringVar(&f.r.Description, "description", "", "what it is for")
	l.StringVar(&f.r.Query, "query", "", "a search over things; what it finds is a target too")
	l.StringVar(&f.r.Canary, "canary", "", "group of which those targets that are in it go first")
	l.DurationVar(&f.watch, "canary-watch", 0, "time after the canary's last device ended, before the next stage")
	l.StringArrayVar(&f.stages, "stage", nil, "NAME:PERCENT[:WATCH]: so many percent of all, with the stages before, and the time to watch afterwards (again for more; all at last)")
	l.IntVar(&f.r.Rollout.MaxPerMinute, "per-minute", 0, "most devices told a minute; 1000 if not given")
	l.IntVar(&f.r.Rollout.BasePerMinute, "base-per-minute", 0, "where a growing rate begins; with --factor and --per-succeeded or --per-notified")
	l.Float64Var(&f.r.Rollout.Factor, "factor", 0, "by what a growing rate is multiplied, 1.1 to 5")
	l.Int64Var(&f.r.Rollout.PerSucceeded, "per-succeeded", 0, "the rate grows each time so many more devices succeeded")
	l.Int64Var(&f.r.Rollout.PerNotified, "per-notified", 0, "the rate grows each time so many more devices were told")
	l.StringVar(&f.from, "from", "", "when it begins (2027-01-31 or 2027-01-31T08:00:00Z)")
	l.StringVar(&f.until, "until", "", "when it is cancelled if it is not over")
	l.StringArrayVar(&f.windows, "window", nil, "CRON:MINUTES: tell devices in these times only, each in its own zone (again for more)")
	l.StringVar(&f.r.ZoneAttribute, "zone-attribute", "", "the things' attribute with the zone, such as Europe/Berlin; UTC if not given")
	l.DurationVar(&f.jitter, "jitter", 0, "spread a stage's devices over this time")
	l.StringArrayVar(&f.aborts, "abort", nil, "FAILURE:PERCENT:DEVICES: stop when so many percent of at least so many devices fail; FAILURE is FAILED, REJECTED, TIMED_OUT, SILENT or ALL (again for more)")
	l.DurationVar(&f.timeout, "timeout", 0, "for a device to be proven once it began; 24h if not given")
	l.DurationVar(&f.silence, "silence", 0, "a device that began and is away for so long is lost; as --timeout if not given")
	l.DurationVar(&f.soak, "soak", 0, "time from proven to finished")
	l.BoolVar(&f.r.Continuous, "continuous", false, "goes on with devices that become targets later")
	l.StringVar(&f.parameters, "parameters", "", "of the kind: JSON, or a file with it")
	c.MarkFlagRequired("kind")
}

// request puts the flags together.
func (f *campaignFlags) request(id string) (r adminapi.CampaignRequest, err error) {
	f.r.Id, f.r.Targets = id, f.to.targets()
	whole := func(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
	f.r.CanaryWatchSeconds, f.r.JitterSeconds, f.r.TimeoutSeconds, f.r.SilenceSeconds, f.r.SoakSeconds = whole(f.watch), whole(f.jitter), whole(f.timeout), whole(f.silence), whole(f.soak)
	if f.r.Schedule.Start, err = parseWhen(f.from); err != nil {
		return r, err
	}
	if f.r.Schedule.End, err = parseWhen(f.until); err != nil {
		return r, err
	}
	var as adminapi.JobRequest
	if err := jobCriteria(&as, f.aborts, nil, f.windows); err != nil {
		return r, err
	}
	f.r.Schedule.Windows = as.Schedule.Windows
	for _, a := range as.Abort {
		f.r.Abort = append(f.r.Abort, adminapi.CampaignAbort(a))
	}
	for _, text := range f.stages {
		parts := strings.Split(text, ":")
		if len(parts) < 2 || len(parts) > 3 {
			return r, errUsage{fmt.Errorf("--stage %q is not like ten:10:1h", text)}
		}
		g := adminapi.CampaignStage{Name: parts[0]}
		g.Percent, err = strconv.ParseFloat(parts[1], 64)
		if err == nil && len(parts) == 3 {
			var d time.Duration
			d, err = time.ParseDuration(parts[2])
			g.WatchSeconds = whole(d)
		}
		if err != nil {
			return r, errUsage{fmt.Errorf("--stage %q is not like ten:10:1h", text)}
		}
		f.r.Stages = append(f.r.Stages, g)
	}
	if f.parameters != "" {
		if f.r.Parameters, err = jsonOrFile(f.parameters); err != nil {
			return r, err
		}
	}
	return f.r, nil
}

func newCampaignCreateCmd(g *globals) *cobra.Command {
	var f campaignFlags
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a campaign; over a configured size a second person approves it", Args: cobra.ExactArgs(1),
		Example: `  hallmark campaign create march --kind rotate-certificate --reason expiry --group eu --canary lab --canary-watch 1h --stage ten:10:1h --stage half:50:2h --abort ALL:2:50 --soak 24h
  hallmark campaign create night --kind update-firmware --group eu --window 'cron(0 2 ? * * *):120' --zone-attribute zone --parameters '{"class":"lamp","version":"1.4.0"}'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request(args[0])
			if err != nil {
				return err
			}
			return g.createCampaign(cmd, r)
		},
	}
	f.add(c)
	return c
}

// campaignNext is what somebody does next.
func campaignNext(c *adminapi.Campaign) string {
	switch c.State {
	case "awaiting-approval":
		if c.Request == "" {
			return "ask a second person with hallmark campaign ask " + c.Id
		}
		return "somebody else looks at it with hallmark approval show " + c.Request + ", and approves it with hallmark approval approve " + c.Request
	case "stopped":
		return "look at who failed with hallmark campaign members " + c.Id + " --state failed; then hallmark campaign resume, rollback or cancel " + c.Id
	case "paused":
		return "hallmark campaign resume, rollback or cancel " + c.Id
	}
	return "see how it goes with hallmark campaign watch " + c.Id
}

func newCampaignPlanCmd(g *globals) *cobra.Command {
	var f campaignFlags
	var named int
	c := &cobra.Command{
		Use: "plan NAME", Short: "Dry run: who would get it, in which stage, when at the earliest, and who not", Args: cobra.ExactArgs(1),
		Example: `  hallmark campaign plan march --kind rotate-certificate --group eu --canary lab --stage ten:10:1h --named 20`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request(args[0])
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.PlanCampaignWithResponse(cmd.Context(), adminapi.CampaignPlanRequest{Campaign: r, Named: named})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			warnCanary(g.Err, r.Canary, a.JSON200)
			return g.print(a.JSON200, func(w io.Writer) { showCampaignPlan(w, a.JSON200) })
		},
	}
	f.add(c)
	c.Flags().IntVar(&named, "named", 10, "how many devices to name, the first ones; at most 10000")
	return c
}

// warnCanary says that a campaign would stop before its first device: the dry run goes
// on to the stages after.
func warnCanary(w io.Writer, group string, p *adminapi.CampaignPlan) {
	if group != "" && p.Wanting > 0 && len(p.Stages) > 0 && p.Stages[0].Things == 0 {
		fmt.Fprintf(w, "Warning: no device of the group %s would get it; the campaign stops with canary-empty before its first stage.\n", visible(group))
	}
}

func showCampaignPlan(w io.Writer, p *adminapi.CampaignPlan) {
	facts(w, "targets", fmt.Sprint(p.Things), "would get it", fmt.Sprint(p.Wanting), "two people", yesNo(p.TwoPeople))
	rows := [][]string{}
	for _, s := range p.Stages {
		rows = append(rows, []string{s.Name, fmt.Sprint(s.Things), moment(s.Earliest), moment(s.Latest), (time.Duration(s.WatchSeconds) * time.Second).String()})
	}
	fmt.Fprintln(w)
	table(w, []string{"STAGE", "DEVICES", "FIRST", "LAST", "WATCH"}, rows, "")
	if rows = nil; len(p.Skipped) > 0 {
		for _, k := range p.Skipped {
			rows = append(rows, []string{k.Code, fmt.Sprint(k.Things), k.Example, k.Words})
		}
		fmt.Fprintln(w)
		table(w, []string{"SKIPPED", "DEVICES", "SUCH AS", "WHY"}, rows, "")
	}
	if rows = nil; len(p.Named) > 0 {
		for _, t := range p.Named {
			rows = append(rows, []string{t.Thing, p.Stages[t.Stage].Name, moment(t.Earliest), dash(t.Before)})
		}
		fmt.Fprintln(w)
		table(w, []string{"DEVICE", "STAGE", "EARLIEST", "HAS NOW"}, rows, "")
	}
	if p.More {
		fmt.Fprintln(w, "\nThere are more; see --named.")
	}
}

// createCampaign asks for a campaign and says what is next.
func (g *globals) createCampaign(cmd *cobra.Command, r adminapi.CampaignRequest) error {
	api, err := g.admin(cmd.Context())
	if err != nil {
		return err
	}
	a, err := api.CreateCampaignWithResponse(cmd.Context(), r)
	if err != nil {
		return errAnswer.Wrap(err, "")
	}
	if a.JSON201 == nil {
		return problem(a.StatusCode(), a.Body)
	}
	return g.print(a.JSON201, func(w io.Writer) {
		showCampaign(w, a.JSON201)
		fmt.Fprintf(w, "\nNext: %s\n", campaignNext(a.JSON201))
	})
}

func newCampaignListCmd(g *globals) *cobra.Command {
	var state string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List campaigns", Args: cobra.NoArgs,
		Example: "  hallmark campaign list --state running",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.Campaign, string, error) {
				a, err := api.ListCampaignsWithResponse(cmd.Context(), &adminapi.ListCampaignsParams{State: optional(state), Cursor: cursor, Limit: &n})
				if err != nil {
					return nil, "", errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return nil, "", problem(a.StatusCode(), a.Body)
				}
				return a.JSON200.Items, a.JSON200.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for i := range items {
					c := &items[i]
					n := campaignCounts(c)
					rows = append(rows, []string{c.Id, c.Kind, c.State, c.Plan[min(c.Stage, len(c.Plan)-1)].Name, fmt.Sprintf("%d/%d", n.well, n.all), fmt.Sprint(n.bad), moment(c.CreatedAt)})
				}
				table(w, []string{"CAMPAIGN", "KIND", "STATE", "STAGE", "WELL", "FAILED", "SINCE"}, rows, "There is no such campaign. Make one with hallmark campaign create.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&state, "state", "", "only those that are awaiting-approval, scheduled, running, paused, stopped, rolling-back, canceled or completed")
	c.Flags().IntVar(&limit, "limit", 200, "most campaigns to list; 0 for all")
	return c
}

func newCampaignShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show CAMPAIGN", Short: "Show one campaign and how far it came", Args: cobra.ExactArgs(1),
		Example: "  hallmark campaign show march",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.campaign(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return g.print(c, func(w io.Writer) { showCampaign(w, c) })
		},
	}
}

func showCampaign(w io.Writer, c *adminapi.Campaign) {
	span := func(n int64) string {
		if n == 0 {
			return ""
		}
		return (time.Duration(n) * time.Second).String()
	}
	reason := c.Code
	if c.Detail != "" {
		reason = strings.TrimPrefix(reason+": "+c.Detail, ": ")
	}
	pairs := []string{"campaign", c.Id, "kind", c.Kind, "reason", c.Reason, "description", c.Description, "state", c.State, "why", reason, "by", c.By,
		"targets", strings.Join(c.Targets, ", "), "query", c.Query, "canary", c.Canary, "from", moment(c.Schedule.Start), "until", moment(c.Schedule.End)}
	for _, m := range c.Schedule.Windows {
		pairs = append(pairs, "window", fmt.Sprintf("%s for %d minutes", m.Start, m.Minutes))
	}
	pairs = append(pairs, "zone attribute", c.ZoneAttribute, "jitter", span(c.JitterSeconds), "timeout", span(c.TimeoutSeconds), "silence", span(c.SilenceSeconds), "soak", span(c.SoakSeconds))
	if r := c.Rollout; r.MaxPerMinute > 0 {
		pairs = append(pairs, "rate", fmt.Sprintf("at most %d a minute", r.MaxPerMinute))
	}
	if r := c.Rollout; r.BasePerMinute > 0 {
		pairs = append(pairs, "growing rate", fmt.Sprintf("from %d a minute, times %g", r.BasePerMinute, r.Factor))
	}
	for _, a := range c.Abort {
		pairs = append(pairs, "stops at", fmt.Sprintf("%s of %g %% or more, after %d", a.Failure, a.Percent, a.MinExecuted))
	}
	if c.Continuous {
		pairs = append(pairs, "continuous", "yes")
	}
	pairs = append(pairs, "parameters", c.Parameters, "request", c.Request, "approved by", c.ApprovedBy, "made by", c.CreatedBy, "since", moment(c.CreatedAt), "over", moment(c.FinishedAt), "hash", c.Hash)
	facts(w, pairs...)
	fmt.Fprintln(w)
	campaignStages(w, c)
	if len(c.Failures) > 0 {
		rows := [][]string{}
		for _, f := range c.Failures {
			rows = append(rows, []string{f.State, dash(f.Code), fmt.Sprint(f.Members)})
		}
		fmt.Fprintln(w)
		table(w, []string{"ENDED AS", "CODE", "DEVICES"}, rows, "")
	}
}

func newCampaignMembersCmd(g *globals) *cobra.Command {
	var state string
	var limit int
	c := &cobra.Command{
		Use: "members CAMPAIGN", Short: "List the devices of a campaign", Args: cobra.ExactArgs(1),
		Example: "  hallmark campaign members march --state failed",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.CampaignMember, string, error) {
				a, err := api.ListCampaignMembersWithResponse(cmd.Context(), args[0], &adminapi.ListCampaignMembersParams{State: optional(state), Cursor: cursor, Limit: &n})
				if err != nil {
					return nil, "", errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return nil, "", problem(a.StatusCode(), a.Body)
				}
				return a.JSON200.Items, a.JSON200.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for i := range items {
					m := &items[i]
					rows = append(rows, []string{m.Thing, fmt.Sprint(m.Stage), m.State, moment(m.Since), fmt.Sprint(m.Attempt), dash(m.Before), dash(m.After), dash(m.Code), m.Detail})
				}
				table(w, []string{"DEVICE", "STAGE", "STATE", "SINCE", "ATTEMPT", "BEFORE", "AFTER", "CODE", "DETAIL"}, rows, "There is no such device in it.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&state, "state", "", "only those in a state, such as failed, silent or asleep")
	c.Flags().IntVar(&limit, "limit", 200, "most devices to list; 0 for all")
	return c
}

func newCampaignTimelineCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "timeline THING", Short: "List what became of a thing in all campaigns", Args: cobra.ExactArgs(1),
		Example: "  hallmark campaign timeline LMP-000123",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.CampaignStep, string, error) {
				a, err := api.ListThingCampaignsWithResponse(cmd.Context(), args[0], &adminapi.ListThingCampaignsParams{Cursor: cursor, Limit: &n})
				if err != nil {
					return nil, "", errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return nil, "", problem(a.StatusCode(), a.Body)
				}
				return a.JSON200.Items, a.JSON200.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for i := range items {
					s := &items[i]
					rows = append(rows, []string{moment(s.At), s.Campaign, s.State, fmt.Sprint(s.Attempt), dash(s.Before), dash(s.After), dash(s.Code), s.Detail})
				}
				table(w, []string{"WHEN", "CAMPAIGN", "STATE", "ATTEMPT", "BEFORE", "AFTER", "CODE", "DETAIL"}, rows, "It was in no campaign.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 500, "most steps to list; 0 for all")
	return c
}
