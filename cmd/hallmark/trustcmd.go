package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/fleet/trust"
)

func init() { commands = append(commands, newTrustCmd) }

func newTrustCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "trust", Short: "Whom devices trust, and replacing a root over the air",
		Long: `Roots are added to and removed from devices by campaigns of the kind update-trust. A root
rollover is two of them with gates between: no gate is passed before its threshold is
reached, and none by itself. See docs/trust.md.`,
		Example: `  hallmark trust show
  hallmark trust rollover plan roots-2031 --from root-1 --to root-2 --group all
  hallmark campaign create move --kind update-trust --group eu --parameters '{"endpoint":{"mqtt":"broker2.example:8883"}}'`,
	}
	c.AddCommand(newTrustShowCmd(g), newTrustRolloverCmd(g))
	return c
}

func newTrustShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show [THING]", Short: "Show the roots and by which of them the service is accepted; or what a thing trusts", Args: cobra.MaximumNArgs(1),
		Example: "  hallmark trust show\n  hallmark trust show LMP-000123",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				a, err := api.GetThingTrustWithResponse(cmd.Context(), args[0])
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return problem(a.StatusCode(), a.Body)
				}
				return g.print(a.JSON200, func(w io.Writer) {
					b := a.JSON200
					facts(w, "thing", b.Thing, "bundle", b.Bundle, "roots", strings.Join(b.Roots, ", "), "endpoint", b.Endpoint, "campaign", b.Campaign, "seen", moment(b.SeenAt), "confirmed", moment(b.ConfirmedAt))
				})
			}
			a, err := api.GetTrustWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				rows := [][]string{}
				for _, r := range a.JSON200.Roots {
					rows = append(rows, []string{r.Name, yesNo(r.Active), day(r.NotAfter), r.Id})
				}
				table(w, []string{"ROOT", "ACTIVE", "ENDS", "SHA-256"}, rows, "There is no root.")
				rows = nil
				for _, v := range a.JSON200.Shown {
					rows = append(rows, []string{v.What, dash(strings.Join(v.Roots, ", "))})
				}
				fmt.Fprintln(w)
				table(w, []string{"WHAT DEVICES HAVE TO ACCEPT", "LEADS TO"}, rows, "The service shows nothing yet.")
			})
		},
	}
}

func newTrustRolloverCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "rollover", Short: "Replace a root over the air, through gates",
		Long: `A rollover goes through these phases, with a gate after each:

  adding     devices get the new root beside the old one; the gate asks for a percentage
             of the fleet and of named groups that confirmed it
  switching  you have the service issue and show what leads to the new root, with
             hallmark ca rollover and a cross certificate; the gate looks whether it does
  waiting    a time, and a higher percentage
  removing   devices lose the old root; the gate asks for a percentage that confirmed it
  sleepers   devices that return late still get both changes
  done

Start takes two people, and so does lowering a gate, with a reason.`,
		Example: `  hallmark trust rollover plan roots-2031 --from root-1 --to root-2 --group all
  hallmark trust rollover start roots-2031 --from root-1 --to root-2 --group all --added 97 --gate-group critical
  hallmark trust rollover status roots-2031
  hallmark trust rollover advance roots-2031`,
	}
	c.AddCommand(newTrustPlanCmd(g), newTrustStartCmd(g), newTrustStatusCmd(g), newTrustGatesCmd(g),
		newTrustMoveCmd(g, "advance", "Pass the gate to the next phase, if its threshold is reached now"),
		newTrustMoveCmd(g, "again", "Another campaign for the devices that failed in this phase"),
		newTrustMoveCmd(g, "cancel", "End a rollover; what devices trust stays as it is"))
	return c
}

// rolloverFlags are what a root rollover is made of.
type rolloverFlags struct {
	spec                               rootRolloverSpec
	to                                 targetFlags
	wait, keep, soak, timeout, canaryW time.Duration
	jitter                             time.Duration
}

func (f *rolloverFlags) add(c *cobra.Command) {
	f.to.add(c)
	l := c.Flags()
	l.StringVar(&f.spec.From, "from", "", "the root that is to go")
	l.StringVar(&f.spec.To, "to", "", "the root that is to come")
	l.StringVar(&f.spec.Query, "query", "", "a search over things; what it finds is a target too")
	l.BoolVar(&f.spec.Alone, "leave-sleepers-outside", false, "switch although who trusts only the old root finds no way to what the service shows")
	l.StringVar(&f.spec.Canary, "canary", "", "group of which those targets that are in it go first")
	l.DurationVar(&f.canaryW, "canary-watch", 0, "time after the canary's last device ended")
	l.IntVar(&f.spec.PerMinute, "per-minute", 0, "most devices told a minute; 1000 if not given")
	l.DurationVar(&f.jitter, "jitter", 0, "spread devices over this time")
	l.DurationVar(&f.timeout, "timeout", 0, "for a device to be proven once it began; 24h if not given")
	l.DurationVar(&f.soak, "soak", 0, "time from proven to confirmed; 1h if not given")
	l.Float64Var(&f.spec.AbortPercent, "abort-percent", 0, "failures, of the devices that ended, at which a campaign stops itself; 5 if not given")
	l.Int64Var(&f.spec.AbortMinimum, "abort-after", 0, "devices that have to have ended first; 20 if not given")
	addGates(c, &f.spec.Gates, &f.wait, &f.keep)
	c.MarkFlagRequired("from")
	c.MarkFlagRequired("to")
}

func addGates(c *cobra.Command, g *trust.Gates, wait, keep *time.Duration) {
	l := c.Flags()
	l.Float64Var(&g.Added, "added", 0, "percent of the fleet that trust the new root before the switch; 95 if not given")
	l.Float64Var(&g.Left, "left", 0, "percent that trust it before the old one is removed; 98 if not given")
	l.Float64Var(&g.Removed, "removed", 0, "percent that trust the old one no more before only sleepers are waited for; 95 if not given")
	l.StringArrayVar(&g.Groups, "gate-group", nil, "group that has to confirm too (again for more)")
	l.Float64Var(&g.InGroups, "in-groups", 0, "percent of each such group; 100 if not given")
	l.DurationVar(wait, "wait", 0, "least time between switch and removal; 168h if not given")
	l.DurationVar(keep, "keep", 0, "time that sleepers are waited for; 8760h if not given")
}

func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func (f *rolloverFlags) done() (rootRolloverSpec, error) {
	s := &f.spec
	if s.Targets = f.to.targets(); len(s.Targets) == 0 && s.Query == "" {
		return *s, errUsage{errors.New("name targets with --thing, --group or --query")}
	}
	s.Gates.WaitSeconds, s.Gates.KeepSeconds = wholeSeconds(f.wait), wholeSeconds(f.keep)
	s.CanaryWatchSeconds, s.JitterSeconds, s.TimeoutSeconds, s.SoakSeconds = wholeSeconds(f.canaryW), wholeSeconds(f.jitter), wholeSeconds(f.timeout), wholeSeconds(f.soak)
	return *s, nil
}

func newTrustPlanCmd(g *globals) *cobra.Command {
	var f rolloverFlags
	c := &cobra.Command{
		Use: "plan NAME", Short: "Check every precondition of a rollover", Args: cobra.ExactArgs(1),
		Long:    "Plan changes nothing. Its exit code is 3 while something speaks against the start.",
		Example: "  hallmark trust rollover plan roots-2031 --from root-1 --to root-2 --group all",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := f.done()
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.PlanTrustRolloverWithResponse(cmd.Context(), adminapi.TrustRolloverRequest{Name: args[0], From: s.From, To: s.To, Targets: s.Targets, Query: s.Query, Gates: gatesView(&s.Gates)})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			p := a.JSON200
			if err := g.print(p, func(w io.Writer) {
				rows := [][]string{}
				for _, c := range p.Checks {
					rows = append(rows, []string{c.Name, c.State, c.Detail})
				}
				table(w, []string{"CHECK", "STATE", "DETAIL"}, rows, "")
				for _, c := range p.Checks {
					if c.Next != "" {
						fmt.Fprintf(w, "%s: %s\n", visible(c.Name), visible(c.Next))
					}
				}
				if p.Ready {
					fmt.Fprintf(w, "\n%d things, %d without a certificate, %d trust %s already.\n", p.Things, p.Without, p.Confirmed, visible(s.To))
				}
			}); err != nil {
				return err
			}
			if !p.Ready {
				return errExit(exitChanges)
			}
			return nil
		},
	}
	f.add(c)
	return c
}

func newTrustStartCmd(g *globals) *cobra.Command {
	var f rolloverFlags
	var yes bool
	c := &cobra.Command{
		Use: "start NAME", Short: "Ask for a rollover to begin; a second person approves", Args: cobra.ExactArgs(1),
		Example: "  hallmark trust rollover start roots-2031 --from root-1 --to root-2 --group all --added 97 --gate-group critical",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := f.done()
			if err != nil {
				return err
			}
			return g.ask(cmd, "RootRollover", args[0], s, yes)
		},
	}
	f.add(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (g *globals) rootRollover(ctx context.Context, name string) (*adminapi.TrustRollover, error) {
	api, err := g.admin(ctx)
	if err != nil {
		return nil, err
	}
	a, err := api.GetTrustRolloverWithResponse(ctx, name)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	if a.JSON200 == nil {
		return nil, problem(a.StatusCode(), a.Body)
	}
	return a.JSON200, nil
}

func newTrustStatusCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "status [NAME]", Short: "List rollovers; or show one, and the gate that it stands at", Args: cobra.MaximumNArgs(1),
		Example: "  hallmark trust rollover status\n  hallmark trust rollover status roots-2031",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				r, err := g.rootRollover(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return g.print(r, func(w io.Writer) { showRootRollover(w, r) })
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListTrustRolloversWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				rows := [][]string{}
				for i := range a.JSON200.Items {
					r := &a.JSON200.Items[i]
					rows = append(rows, []string{r.Name, r.From, r.To, r.Phase, moment(r.Since), strings.Join(r.Campaigns, ", ")})
				}
				table(w, []string{"ROLLOVER", "FROM", "TO", "PHASE", "SINCE", "CAMPAIGNS"}, rows, "There is no rollover.")
			})
		},
	}
}

func newTrustGatesCmd(g *globals) *cobra.Command {
	var gates trust.Gates
	var wait, keep time.Duration
	var reason string
	var yes bool
	c := &cobra.Command{
		Use: "gates NAME", Short: "Change the thresholds; a lower one takes two people and a reason", Args: cobra.ExactArgs(1),
		Example: "  hallmark trust rollover gates roots-2031 --added 90 --reason 'the rest was scrapped, see ticket 4711'",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := g.rootRollover(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			// Everything but the gates has to be as it is.
			s := rootRolloverSpec{From: r.From, To: r.To, Targets: r.Targets, Query: r.Query, Alone: r.Alone, Reason: reason}
			was := r.Gates
			s.Gates = trust.Gates{Added: was.Added, Left: was.Left, Removed: was.Removed, Groups: was.Groups, InGroups: was.InGroups, WaitSeconds: was.WaitSeconds, KeepSeconds: was.KeepSeconds}
			set := cmd.Flags().Changed
			for name, f := range map[string]func(){
				"added": func() { s.Gates.Added = gates.Added }, "left": func() { s.Gates.Left = gates.Left }, "removed": func() { s.Gates.Removed = gates.Removed },
				"gate-group": func() { s.Gates.Groups = gates.Groups }, "in-groups": func() { s.Gates.InGroups = gates.InGroups },
				"wait": func() { s.Gates.WaitSeconds = wholeSeconds(wait) }, "keep": func() { s.Gates.KeepSeconds = wholeSeconds(keep) },
			} {
				if set(name) {
					f()
				}
			}
			return g.ask(cmd, "RootRollover", args[0], s, yes)
		},
	}
	addGates(c, &gates, &wait, &keep)
	c.Flags().StringVar(&reason, "reason", "", "why a gate may be lower")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newTrustMoveCmd(g *globals, move, short string) *cobra.Command {
	var comment string
	c := &cobra.Command{
		Use: move + " NAME", Short: short, Args: cobra.ExactArgs(1),
		Example: "  hallmark trust rollover " + move + " roots-2031",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			var out *adminapi.TrustRollover
			var status int
			var raw []byte
			n := adminapi.CampaignNote{Comment: comment}
			switch move {
			case "advance":
				a, err := api.AdvanceTrustRolloverWithResponse(cmd.Context(), args[0], n)
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				out, status, raw = a.JSON200, a.StatusCode(), a.Body
			case "again":
				a, err := api.RetryTrustRolloverWithResponse(cmd.Context(), args[0], n)
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				out, status, raw = a.JSON200, a.StatusCode(), a.Body
			default:
				a, err := api.CancelTrustRolloverWithResponse(cmd.Context(), args[0], n)
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				out, status, raw = a.JSON200, a.StatusCode(), a.Body
			}
			if out == nil {
				return problem(status, raw)
			}
			return g.print(out, func(w io.Writer) { showRootRollover(w, out) })
		},
	}
	if move == "cancel" {
		c.Flags().StringVar(&comment, "comment", "", "why")
	}
	return c
}

func showRootRollover(w io.Writer, r *adminapi.TrustRollover) {
	facts(w, "rollover", r.Name, "from", r.From, "to", r.To, "targets", strings.TrimSpace(strings.Join(append(append([]string(nil), r.Targets...), r.Query), " ")), "phase", r.Phase, "since", moment(r.Since), "campaigns", strings.Join(r.Campaigns, ", "))
	rows := [][]string{}
	for _, s := range r.Steps {
		rows = append(rows, []string{moment(s.At), s.What, s.By, s.Words})
	}
	fmt.Fprintln(w)
	table(w, []string{"WHEN", "WHAT", "BY", "WORDS"}, rows, "")
	if r.Next == "" {
		return
	}
	rows = nil
	for _, n := range r.Needs { // none once nobody sleeps
		rows = append(rows, []string{n.What, n.Have, yesNo(n.Ok)})
	}
	fmt.Fprintf(w, "\nThe gate to %s is %s.\n", visible(r.Next), map[bool]string{true: "open", false: "closed"}[r.Open])
	table(w, []string{"IT NEEDS", "THERE IS", "REACHED"}, rows, "It needs nothing more.")
	switch {
	case r.Open:
		fmt.Fprintf(w, "\nNext: hallmark trust rollover advance %s\n", shellWord(r.Name))
	case r.Phase == string(trust.Switching):
		fmt.Fprintf(w, "\nNext: hallmark ca rollover start and finish, for each issuing authority under %s; and a cross certificate of %s by %s: hallmark ca cross\n", visible(r.From), visible(r.To), visible(r.From))
	default:
		fmt.Fprintf(w, "\nNext: wait; see who is missing with hallmark campaign members %s\n", shellWord(r.Campaigns[len(r.Campaigns)-1]))
	}
}
