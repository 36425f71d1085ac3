package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/internal/fault"
)

var errPaused = fault.Define(fault.Conflict, "cli-revocation-stopped", "The stage stopped before its end.", "Look at it with hallmark revoke status, and go on with hallmark revoke resume.")

func init() { commands = append(commands, newRevokeCmd) }

func newRevokeCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "revoke", Short: "Revoke a whole blast radius: plan, approve, run in stages",
		Long: `A plan says which certificates an incident is about; making it revokes nothing. One
person can start its stage hold, which can be taken back; a second person approves
the stage revoke, which cannot. The service works through a stage by itself, at the
plan's rate, behind the production line, and goes on after a restart.

For one certificate there is hallmark cert revoke, for one device hallmark device
revoke, for a station itself hallmark stations revoke.`,
		Example: `  hallmark revoke plan --station st-7 --from 2027-03-01T06:00:00Z --to 2027-03-01T14:00:00Z --reason privilegeWithdrawn --note "laptop stolen"
  hallmark revoke run 20270301-151200-a1b2c3 --stage hold
  hallmark revoke approve 20270301-151200-a1b2c3
  hallmark revoke run 20270301-151200-a1b2c3 --stage revoke`,
	}
	c.AddCommand(newRevokePlanCmd(g), newRevokeListCmd(g), newRevokeShowCmd(g), newRevokeApproveCmd(g), newRevokeRunCmd(g), newRevokeStatusCmd(g),
		newRevokeMoveCmd(g, "pause", "Stop in the middle of a stage", func(ctx context.Context, api *adminapi.ClientWithResponses, id string) (*adminapi.RevocationPlan, error) {
			a, err := api.PauseRevocationPlanWithResponse(ctx, id)
			if err != nil {
				return nil, errAnswer.Wrap(err, "")
			}
			return orProblem(a.JSON200, a.StatusCode(), a.Body)
		}),
		newRevokeMoveCmd(g, "resume", "Go on where a plan was paused", func(ctx context.Context, api *adminapi.ClientWithResponses, id string) (*adminapi.RevocationPlan, error) {
			a, err := api.ResumeRevocationPlanWithResponse(ctx, id)
			if err != nil {
				return nil, errAnswer.Wrap(err, "")
			}
			return orProblem(a.JSON200, a.StatusCode(), a.Body)
		}),
		newRevokeMoveCmd(g, "abort", "Give a plan up; what is revoked stays, holds can be released", func(ctx context.Context, api *adminapi.ClientWithResponses, id string) (*adminapi.RevocationPlan, error) {
			a, err := api.AbortRevocationPlanWithResponse(ctx, id)
			if err != nil {
				return nil, errAnswer.Wrap(err, "")
			}
			return orProblem(a.JSON200, a.StatusCode(), a.Body)
		}))
	return c
}

func fetchRevocationPlan(ctx context.Context, api *adminapi.ClientWithResponses, id string) (*adminapi.RevocationPlan, error) {
	a, err := api.GetRevocationPlanWithResponse(ctx, id)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	return orProblem(a.JSON200, a.StatusCode(), a.Body)
}

func newRevokePlanCmd(g *globals) *cobra.Command {
	var r adminapi.RevocationPlanRequest
	var from, to string
	var timeout, soak time.Duration
	c := &cobra.Command{
		Use: "plan", Short: "Count what an incident covers and keep it as a plan; nothing is revoked", Args: cobra.NoArgs,
		Long: `Find the certificates that match every condition given, by the time at which they
were asked for. Operational certificates of the devices go with their birth
certificates. Times alone are refused, since they would be about everybody.`,
		Example: `  hallmark revoke plan --station st-7 --from 2027-03-01T06:00:00Z --to 2027-03-01T14:00:00Z --reason privilegeWithdrawn --dry-run
  hallmark revoke plan --order PO-7 --tool-version 2.1.0 --reason superseded --reenrol
  hallmark revoke plan --ca device-2 --reason cessationOfOperation --rotate --note "issuing key leaked"
  hallmark revoke plan --key 5f1c… --reason keyCompromise --note "private key found in an image"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if r.From, err = parseWhen(from); err != nil {
				return err
			}
			if r.To, err = parseWhen(to); err != nil {
				return err
			}
			if r.Rotate {
				r.RotateTimeoutSeconds, r.RotateSoakSeconds = int64(timeout.Seconds()), int64(soak.Seconds())
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.MakeRevocationPlanWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			p, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
			if err != nil {
				return err
			}
			return g.print(p, func(w io.Writer) {
				showRevocationPlan(w, p)
				if p.Id == "" {
					fmt.Fprintln(w, "\nNothing was kept. Without --dry-run this becomes a plan.")
					return
				}
				if p.Rotate {
					fmt.Fprintf(w, "\nNothing is revoked yet.\nNext: hallmark revoke run %[1]s --stage hold    (devices that are connected are left alone)\n      a second person: hallmark revoke approve %[1]s --stage rotate\n      hallmark revoke run %[1]s --stage rotate\n", p.Id)
					return
				}
				fmt.Fprintf(w, "\nNothing is revoked yet.\nNext: hallmark revoke run %s --stage hold\n      a second person: hallmark revoke approve %s\n", p.Id, p.Id)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&r.Station, "station", "", "certificates that this station asked for")
	f.StringVar(&r.Order, "order", "", "certificates of this order")
	f.StringVar(&r.Operator, "operator", "", "certificates that name this operator, with or without the asserted: that the record says")
	f.StringVar(&r.Authority, "ca", "", "certificates of this authority")
	f.StringVar(&r.Tool, "tool-version", "", "certificates that name this version of the station's software")
	f.StringVar(&r.Key, "key", "", "certificates of the public key with this SHA-256, hexadecimal")
	f.StringVar(&from, "from", "", "asked for at this time or later (2027-03-01 or 2027-03-01T06:00:00Z)")
	f.StringVar(&to, "to", "", "asked for before this time")
	f.StringVar(&r.Reason, "reason", "", "keyCompromise, cessationOfOperation, privilegeWithdrawn, affiliationChanged, superseded or unspecified")
	f.StringVar(&r.Note, "note", "", "why, for the record")
	f.BoolVar(&r.Reenrol, "reenrol", false, "the devices may get new certificates; else they are blocked")
	f.IntVar(&r.PerSecond, "per-second", 0, "most certificates a second (500 if not given)")
	f.BoolVar(&r.Rotate, "rotate", false, "devices that are connected get new certificates first, by the stage rotate")
	f.DurationVar(&timeout, "rotate-timeout", time.Hour, "that a device gets once it was told")
	f.DurationVar(&soak, "rotate-soak", time.Minute, "from the proof of a new certificate to the end of the old one")
	f.BoolVar(&r.DryRun, "dry-run", false, "count, and keep nothing")
	c.MarkFlagRequired("reason")
	return c
}

func newRevokeListCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List plans, newest first", Args: cobra.NoArgs,
		Example: "  hallmark revoke list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.RevocationPlan, string, error) {
				a, err := api.ListRevocationPlansWithResponse(cmd.Context(), &adminapi.ListRevocationPlansParams{Cursor: cursor, Limit: &n})
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
				for _, p := range items {
					rows = append(rows, []string{p.Id, strings.TrimSpace(p.State + " " + p.Stage), strconv.FormatInt(p.Counts.Certificates, 10), p.Reason, dash(about(&p)), p.CreatedBy})
				}
				table(w, []string{"PLAN", "STATE", "CERTIFICATES", "REASON", "ABOUT", "MADE BY"}, rows, "There is no plan. Make one with hallmark revoke plan.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most plans to list; 0 for all")
	return c
}

// about says a plan's conditions in one line.
func about(p *adminapi.RevocationPlan) string {
	var out []string
	for _, f := range [][2]string{{"station", p.Station}, {"order", p.Order}, {"operator", p.Operator}, {"authority", p.Authority}, {"tool", p.Tool}, {"key", p.Key}, {"from", moment(p.From)}, {"to", moment(p.To)}} {
		if f[1] != "" {
			out = append(out, f[0]+" "+f[1])
		}
	}
	return strings.Join(out, ", ")
}

func newRevokeShowCmd(g *globals) *cobra.Command {
	var certificates bool
	var limit int
	c := &cobra.Command{
		Use: "show PLAN", Short: "Show a plan, or its certificates as they are now", Args: cobra.ExactArgs(1),
		Example: `  hallmark revoke show 20270301-151200-a1b2c3
  hallmark revoke show 20270301-151200-a1b2c3 --certificates --limit 0 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if !certificates {
				p, err := fetchRevocationPlan(cmd.Context(), api, args[0])
				if err != nil {
					return err
				}
				return g.print(p, func(w io.Writer) { showRevocationPlan(w, p) })
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.PlannedCertificate, string, error) {
				a, err := api.ListPlannedCertificatesWithResponse(cmd.Context(), args[0], &adminapi.ListPlannedCertificatesParams{Cursor: cursor, Limit: &n})
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
				for _, x := range items {
					rows = append(rows, []string{x.Serial, x.Authority, x.Holder, x.Profile, x.Status, dash(x.Reason), dash(moment(x.RevokedAt))})
				}
				table(w, []string{"SERIAL", "AUTHORITY", "HOLDER", "PROFILE", "STATUS", "REASON", "SINCE"}, rows, "The plan is empty.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().BoolVar(&certificates, "certificates", false, "list the certificates of the plan")
	c.Flags().IntVar(&limit, "limit", 200, "most certificates to list; 0 for all")
	return c
}

func showRevocationPlan(w io.Writer, p *adminapi.RevocationPlan) {
	after := "blocked: they get no certificate any more"
	if p.Reenrol {
		after = "may get new certificates"
	}
	state := p.State
	if p.Stage != "" {
		state += ", stage " + p.Stage
	}
	if p.Id == "" {
		state = ""
	}
	rotation := ""
	if p.Rotate {
		rotation = fmt.Sprintf("before they are revoked, %s for each device, soak %s", time.Duration(p.RotateTimeoutSeconds)*time.Second, time.Duration(p.RotateSoakSeconds)*time.Second)
	}
	facts(w, "plan", p.Id, "state", state, "problem", p.Problem, "about", about(p), "reason", p.Reason, "note", p.Note, "devices after it", after, "new certificates", rotation, "rate", strconv.Itoa(p.PerSecond)+" a second",
		"made", moment(p.CreatedAt)+" by "+p.CreatedBy)
	n := &p.Counts
	number := func(v int64) string { return strconv.FormatInt(v, 10) }
	fmt.Fprintln(w)
	facts(w, "certificates", number(n.Certificates), "devices", number(n.Devices), "connected now", number(n.Live), "in stock", number(n.InStock), "with a spare slot", number(n.SpareSlot),
		"operational certificates", number(n.Inherited), "reserved, never issued", number(n.Unissued), "expired", number(n.Expired), "revoked already", number(n.Revoked), "on hold already", number(n.Held),
		"SHA-256 of them", p.Members)
	for _, a := range p.Approvals {
		fmt.Fprintf(w, "\nStage %s was approved by %s at %s.\n", a.Stage, visible(a.By), moment(a.At))
	}
	if len(p.Reports) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows := [][]string{}
	for _, r := range p.Reports {
		rows = append(rows, []string{r.Stage, fmt.Sprintf("%d/%d", r.Done, n.Certificates), number(r.Changed), number(r.Waiting), number(r.Rotated), number(r.Held), number(r.Already), number(r.Late), number(r.Blocked), number(r.Failed), r.StartedBy, moment(r.StartedAt), dash(moment(r.EndedAt))})
	}
	table(w, []string{"STAGE", "DONE", "CHANGED", "ROTATING", "ROTATED", "HELD", "ALREADY", "LATE", "BLOCKED", "FAILED", "STARTED BY", "STARTED", "ENDED"}, rows, "")
}

func newRevokeApproveCmd(g *globals) *cobra.Command {
	var stage string
	var yes bool
	c := &cobra.Command{
		Use: "approve PLAN", Short: "Agree to a stage of a plan that somebody else made", Args: cobra.ExactArgs(1),
		Example: `  hallmark revoke approve 20270301-151200-a1b2c3
  hallmark revoke approve 20270301-151200-a1b2c3 --stage release`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			p, err := fetchRevocationPlan(cmd.Context(), api, args[0])
			if err != nil {
				return err
			}
			hash := p.RevokeHash
			switch stage {
			case "revoke":
			case "rotate":
				hash = p.RotateHash
			case "release":
				hash = p.ReleaseHash
			default:
				return errUsage{fmt.Errorf("the stages rotate, revoke and release are approved, not %q", stage)}
			}
			showRevocationPlan(g.Err, p)
			fmt.Fprintf(g.Err, "\nYou approve the stage %s of exactly this (SHA-256 %s).\n", stage, visible(hash))
			if stage == "revoke" {
				fmt.Fprintln(g.Err, "A revocation is never taken back.")
			}
			if !yes {
				fmt.Fprint(g.Err, "Approve it? Type yes: ")
				line, _ := bufio.NewReader(g.In).ReadString('\n')
				if strings.TrimSpace(line) != "yes" {
					return errNotConfirmed.New("")
				}
			}
			a, err := api.ApproveRevocationPlanWithResponse(cmd.Context(), args[0], adminapi.RevocationPlanApprovalRequest{Stage: stage, Hash: hash})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if p, err = orProblem(a.JSON200, a.StatusCode(), a.Body); err != nil {
				return err
			}
			return g.print(p, func(w io.Writer) {
				fmt.Fprintf(w, "Approved.\nNext: hallmark revoke run %s --stage %s\n", p.Id, stage)
			})
		},
	}
	c.Flags().StringVar(&stage, "stage", "revoke", "rotate, revoke or release")
	c.Flags().BoolVar(&yes, "yes", false, "approve without asking")
	return c
}

func newRevokeRunCmd(g *globals) *cobra.Command {
	var stage string
	var detach bool
	c := &cobra.Command{
		Use: "run PLAN", Short: "Start a stage of a plan and watch it", Args: cobra.ExactArgs(1),
		Long: `Start a stage. The service works on it by itself: ending this command stops nothing.
Stages are hold, revoke, and release for a false alarm. A plan that was made with
--rotate has the stage rotate between them: devices that are connected get new
certificates, and prove them before the old ones are retired; the others are put on
hold. Its stage hold leaves the connected ones alone.`,
		Example: `  hallmark revoke run 20270301-151200-a1b2c3 --stage hold
  hallmark revoke run 20270301-151200-a1b2c3 --stage revoke --detach`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.RunRevocationPlanWithResponse(cmd.Context(), args[0], adminapi.RevocationPlanRun{Stage: stage})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			p, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
			if err != nil {
				return err
			}
			if !detach {
				if p, err = g.watchRevocation(cmd.Context(), api, p); err != nil {
					return err
				}
			}
			if err := g.print(p, func(w io.Writer) { showRevocationPlan(w, p) }); err != nil {
				return err
			}
			if p.State == "paused" || !detach && p.State == "aborted" && stage != "release" {
				return errPaused.New("%s", p.Problem)
			}
			return nil
		},
	}
	c.Flags().StringVar(&stage, "stage", "", "hold, rotate, revoke or release")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for its end")
	c.MarkFlagRequired("stage")
	return c
}

// watchRevocation shows progress until the plan does not run any more.
func (g *globals) watchRevocation(ctx context.Context, api *adminapi.ClientWithResponses, p *adminapi.RevocationPlan) (*adminapi.RevocationPlan, error) {
	for shown := ""; p.State == "running"; {
		if n := len(p.Reports); n > 0 {
			r := &p.Reports[n-1]
			line := fmt.Sprintf("%s: %d of %d certificates", visible(p.Stage), r.Done, p.Counts.Certificates)
			if r.Waiting > 0 || r.Rotated > 0 {
				line += fmt.Sprintf(", %d devices rotated, %d under way, %d certificates held", r.Rotated, r.Waiting, r.Held)
			}
			if p.Problem != "" {
				line += ". " + visible(p.Problem)
			}
			if line != shown {
				fmt.Fprintln(g.Err, line)
			}
			shown = line
		}
		if !every(ctx, time.Second) {
			return nil, ctx.Err()
		}
		next, err := fetchRevocationPlan(ctx, api, p.Id)
		if err != nil {
			return nil, err
		}
		p = next
	}
	return p, nil
}

func newRevokeStatusCmd(g *globals) *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use: "status PLAN", Short: "Tell how far a plan came", Args: cobra.ExactArgs(1),
		Example: "  hallmark revoke status 20270301-151200-a1b2c3 --watch",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			p, err := fetchRevocationPlan(cmd.Context(), api, args[0])
			if err == nil && watch {
				p, err = g.watchRevocation(cmd.Context(), api, p)
			}
			if err != nil {
				return err
			}
			return g.print(p, func(w io.Writer) { showRevocationPlan(w, p) })
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "wait until it does not run any more")
	return c
}

func newRevokeMoveCmd(g *globals, verb, short string, do func(ctx context.Context, api *adminapi.ClientWithResponses, id string) (*adminapi.RevocationPlan, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " PLAN", Short: short, Args: cobra.ExactArgs(1),
		Example: "  hallmark revoke " + verb + " 20270301-151200-a1b2c3",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			p, err := do(cmd.Context(), api, args[0])
			if err != nil {
				return err
			}
			return g.print(p, func(w io.Writer) { fmt.Fprintf(w, "Plan %s is %s.\n", p.Id, p.State) })
		},
	}
}
