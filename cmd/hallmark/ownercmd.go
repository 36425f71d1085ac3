package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/fleet/ownership"
	"hallmark/internal/fault"
)

func init() { commands = append(commands, newOwnerCmd) }

func newOwnerCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "owner", Short: "Whose device it is: give it away, take it over, reset it, take it out of use",
		Long: `A device's birth certificate stays for its life; its owner may change. The owner
releases it, which revokes what it works with and empties its thing; the new owner
accepts it with the code of the release, and its next first boot lands there. See
docs/ownership.md.`,
		Example: `  hallmark owner release sale-7 --unit LMP-000123 --to acme
  hallmark owner accept ABCD-… --template lamps
  hallmark owner show LMP-000123
  hallmark owner decommission scrap-12 --units-file scrap.txt`,
	}
	c.AddCommand(newOwnerActCmd(g, ownership.Release), newOwnerAcceptCmd(g), newOwnerWithdrawCmd(g), newOwnerShowCmd(g), newOwnerHistoryCmd(g), newOwnerActsCmd(g),
		newOwnerActCmd(g, ownership.Reset), newOwnerActCmd(g, ownership.Decommission), newOwnerStatementCmd(g), newOwnerVerifyCmd(g))
	return c
}

// unitFlags name units: by name, from a file, by their things or by a search.
type unitFlags struct {
	units, things []string
	file, query   string
}

func (f *unitFlags) add(c *cobra.Command) {
	l := c.Flags()
	l.StringSliceVar(&f.units, "unit", nil, "a unit (again for more)")
	l.StringVar(&f.file, "units-file", "", "file with a unit on each line; - is standard input")
	l.StringSliceVar(&f.things, "thing", nil, "a thing, for its unit (again for more)")
	l.StringVar(&f.query, "query", "", "a search over things, for their units")
}

// resolve gives the units, each once.
func (f *unitFlags) resolve(ctx context.Context, g *globals, api *adminapi.ClientWithResponses) ([]string, error) {
	out, seen := []string{}, map[string]bool{}
	add := func(u string) {
		if k := strings.ToLower(u); u != "" && !seen[k] {
			seen[k] = true
			out = append(out, u)
		}
	}
	for _, u := range f.units {
		add(u)
	}
	if f.file != "" {
		r := g.In
		if f.file != "-" {
			file, err := os.Open(f.file)
			if err != nil {
				return nil, errUsage{fmt.Errorf("--units-file: %w", err)}
			}
			defer file.Close()
			r = file
		}
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			add(strings.TrimSpace(lines.Text()))
		}
		if err := lines.Err(); err != nil {
			return nil, errUsage{fmt.Errorf("--units-file: %w", err)}
		}
	}
	for _, name := range f.things {
		a, err := api.GetThingWithResponse(ctx, name)
		if err != nil {
			return nil, errAnswer.Wrap(err, "")
		}
		if a.JSON200 == nil {
			return nil, problem(a.StatusCode(), a.Body)
		}
		add(a.JSON200.Holder)
	}
	if f.query != "" {
		found, _, err := gather(0, func(cursor *string, n int) ([]adminapi.Thing, string, error) {
			a, err := api.ListThingsWithResponse(ctx, &adminapi.ListThingsParams{Query: &f.query, Cursor: cursor, Limit: &n})
			if err != nil {
				return nil, "", errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return nil, "", problem(a.StatusCode(), a.Body)
			}
			return a.JSON200.Items, a.JSON200.Next, nil
		})
		if err != nil {
			return nil, err
		}
		for i := range found {
			add(found[i].Holder)
		}
	}
	if len(out) == 0 {
		return nil, errUsage{errors.New("name units with --unit, --units-file, --thing or --query")}
	}
	return out, nil
}

// actWords are what the three acts say.
var actWords = map[ownership.Kind]struct{ short, long, example, done string }{
	ownership.Release: {"Give units away: revoke what they work with, and get the code for the new owner",
		`All units of a release go in one step, at most 500 in each; more become several
releases, NAME-1, NAME-2 and so on. The operational certificates are revoked at once,
connections end, shadows, groups and policies go into the history. The code is shown
once. Until the new owner accepts, the devices get in nowhere.`,
		`  hallmark owner release sale-7 --unit LMP-000123 --unit LMP-000124 --to acme
  hallmark owner release sale-8 --units-file sold.txt --valid 720h --note 'contract 4711'`, "Released"},
	ownership.Reset: {"Have units boot anew for the same owner",
		`What a device works with is revoked and its thing emptied, as with a release; the next
first boot makes a new thing by the template, with its policies and configuration. On
the device: hallmark device-agent reset.`,
		"  hallmark owner reset back-3 --thing LMP-000123 --note 'returned, refurbished'", "Reset"},
	ownership.Decommission: {"Take units out of use for ever, with proof",
		`Every certificate of the unit is revoked, the birth certificate too, and its name is
blocked for ever. hallmark owner statement gives the signed proof.`,
		"  hallmark owner decommission scrap-12 --units-file scrap.txt --note 'shredded, batch 12' --yes", "Decommissioned"},
}

func newOwnerActCmd(g *globals, kind ownership.Kind) *cobra.Command {
	var f unitFlags
	var r adminapi.OwnershipRequest
	var valid time.Duration
	var yes bool
	words := actWords[kind]
	c := &cobra.Command{
		Use: string(kind) + " NAME", Short: words.short, Long: words.long, Example: words.example, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			units, err := f.resolve(cmd.Context(), g, api)
			if err != nil {
				return err
			}
			if kind == ownership.Decommission && !yes {
				if g.JSON {
					return errUsage{errors.New("--json asks nothing: give --yes")}
				}
				fmt.Fprintf(g.Err, "This takes %d units out of use for ever. Type their number: ", len(units))
				if line, _ := bufio.NewReader(g.In).ReadString('\n'); strings.TrimSpace(line) != strconv.Itoa(len(units)) {
					return errNotConfirmed.New("")
				}
			}
			r.ValidSeconds = wholeSeconds(valid)
			var done []adminapi.OwnershipAct
			var waits error
			parts := slices.Collect(slices.Chunk(units, ownership.MaxUnits))
			for i, part := range parts {
				r.Name, r.Units = args[0], part
				if len(parts) > 1 {
					r.Name = fmt.Sprintf("%s-%d", args[0], i+1)
				}
				a, err := g.act(cmd.Context(), api, kind, r)
				if f := fault.From(err); err != nil && f.Code == errSecondPerson.Code {
					waits = err
					fmt.Fprintf(g.Err, "%s: %s\n", visible(r.Name), visible(f.Detail))
					continue
				}
				if err != nil {
					if len(done) > 0 { // what was done has codes that are shown once
						if perr := g.printActs(kind, done); perr != nil {
							return errors.Join(err, perr)
						}
					}
					return err
				}
				done = append(done, *a)
				if len(parts) > 1 {
					fmt.Fprintf(g.Err, "%d of %d units\n", min((i+1)*ownership.MaxUnits, len(units)), len(units))
				}
			}
			if len(done) > 0 {
				if err := g.printActs(kind, done); err != nil {
					return err
				}
			}
			return waits
		},
	}
	f.add(c)
	c.Flags().StringVar(&r.Note, "note", "", "why, for the record")
	switch kind {
	case ownership.Release:
		c.Flags().StringVar(&r.To, "to", "", "the only tenant that may accept; anybody with the code if not given")
		c.Flags().DurationVar(&valid, "valid", 0, "how long the code is valid; 168h if not given")
	case ownership.Decommission:
		c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	}
	return c
}

// act sends one of the three.
func (g *globals) act(ctx context.Context, api *adminapi.ClientWithResponses, kind ownership.Kind, r adminapi.OwnershipRequest) (*adminapi.OwnershipAct, error) {
	var out *adminapi.OwnershipAct
	var status int
	var raw []byte
	switch kind {
	case ownership.Release:
		a, err := api.ReleaseUnitsWithResponse(ctx, r)
		if err != nil {
			return nil, errAnswer.Wrap(err, "")
		}
		out, status, raw = a.JSON201, a.StatusCode(), a.Body
	case ownership.Reset:
		a, err := api.ResetUnitsWithResponse(ctx, r)
		if err != nil {
			return nil, errAnswer.Wrap(err, "")
		}
		out, status, raw = a.JSON201, a.StatusCode(), a.Body
	default:
		a, err := api.DecommissionUnitsWithResponse(ctx, r)
		if err != nil {
			return nil, errAnswer.Wrap(err, "")
		}
		out, status, raw = a.JSON201, a.StatusCode(), a.Body
	}
	return orProblem(out, status, raw)
}

func (g *globals) printActs(kind ownership.Kind, done []adminapi.OwnershipAct) error {
	return g.print(done, func(w io.Writer) {
		for i := range done {
			a := &done[i]
			fmt.Fprintf(w, "%s %d units: %s\n", actWords[kind].done, len(a.Units), visible(a.Name))
			switch {
			case a.Code != "":
				fmt.Fprintf(w, "  code         %s\n  valid until  %s\n", visible(a.Code), moment(a.ExpiresAt))
			case kind == ownership.Release:
				fmt.Fprintln(w, "  It was made before; its code is not shown again.")
			}
		}
		switch kind {
		case ownership.Release:
			fmt.Fprintln(w, "\nGive the code to the new owner, by a way of its own. It is not shown again.\nNext, there: hallmark owner accept CODE --template TEMPLATE")
		case ownership.Reset:
			fmt.Fprintln(w, "\nNext, on each device: hallmark device-agent reset DIRECTORY")
		default:
			fmt.Fprintln(w, "\nNext: hallmark owner statement UNIT --out FILE")
		}
	})
}

func newOwnerAcceptCmd(g *globals) *cobra.Command {
	var r adminapi.OwnershipAcceptance
	c := &cobra.Command{
		Use: "accept CODE", Short: "Take over what another tenant released", Args: cobra.ExactArgs(1),
		Long: `The code accepts all units of its release, once; - reads it from standard input. The
devices are registered by the template at their next first boot, which is soon: they
ask again by themselves.`,
		Example: `  hallmark owner accept ABCD-EFGH-… --template lamps --group from-acme
  hallmark owner accept - --template lamps < code.txt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Code = args[0]
			if r.Code == "-" {
				line, _ := bufio.NewReader(g.In).ReadString('\n')
				r.Code = strings.TrimSpace(line)
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.AcceptUnitsWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				fmt.Fprintf(w, "Accepted %d units.\n", len(a.JSON200.Items))
				for _, u := range a.JSON200.Items {
					fmt.Fprintf(w, "  %s\n", visible(u.Unit))
				}
			})
		},
	}
	c.Flags().StringVar(&r.Template, "template", "", "template of the kind first-boot that registers them")
	c.Flags().StringSliceVar(&r.Groups, "group", nil, "group of things for them, besides those of the template (again for more)")
	c.Flags().StringVar(&r.Note, "note", "", "for the record")
	return c
}

func newOwnerWithdrawCmd(g *globals) *cobra.Command {
	var note string
	c := &cobra.Command{
		Use: "withdraw NAME", Short: "Take back a release that nobody accepted", Args: cobra.ExactArgs(1),
		Long:    "The code is worth nothing any more. What was revoked stays so: the devices boot again, for you.",
		Example: "  hallmark owner withdraw sale-7 --note 'the sale fell through'",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.WithdrawReleaseWithResponse(cmd.Context(), args[0], adminapi.CampaignNote{Comment: note})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			v, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
			if err != nil {
				return err
			}
			return g.print(v, func(w io.Writer) { fmt.Fprintf(w, "Withdrew %s. Its devices boot again for you.\n", visible(v.Name)) })
		},
	}
	c.Flags().StringVar(&note, "note", "", "why, for the record")
	return c
}

func (g *globals) ownership(ctx context.Context, unit string) (*adminapi.OwnershipUnit, error) {
	api, err := g.admin(ctx)
	if err != nil {
		return nil, err
	}
	a, err := api.GetOwnershipWithResponse(ctx, unit)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	return orProblem(a.JSON200, a.StatusCode(), a.Body)
}

func newOwnerShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show UNIT", Short: "Show who owns a unit, and its birth certificate", Args: cobra.ExactArgs(1),
		Example: "  hallmark owner show LMP-000123",
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := g.ownership(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return g.print(u, func(w io.Writer) {
				facts(w, "unit", u.Unit, "state", u.State, "made by", u.Home, "since", moment(u.Since), "by", u.Act, "template", u.Template, "groups", strings.Join(u.Groups, ", "))
				if b := u.Birth; b.Serial != "" {
					facts(w, "birth certificate", b.Serial, "authority", b.Authority, "SHA-256", b.Sha256, "key", b.Origin, "until", moment(b.NotAfter))
				}
				showOwnerEvents(w, u)
			})
		},
	}
}

func showOwnerEvents(w io.Writer, u *adminapi.OwnershipUnit) {
	rows := [][]string{}
	for _, e := range u.History {
		rows = append(rows, []string{moment(e.At), e.What, e.By, dash(e.Act), strconv.Itoa(len(e.Revoked)), dash(e.Note)})
	}
	fmt.Fprintln(w)
	table(w, []string{"WHEN", "WHAT", "BY", "ACT", "REVOKED", "NOTE"}, rows, "Nothing happened to its ownership.")
}

func newOwnerHistoryCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "history UNIT", Short: "Show what happened to a unit, and what its owner had with it", Args: cobra.ExactArgs(1),
		Long:    "The history of a unit is that of the tenant which asks: no owner sees what another had.",
		Example: "  hallmark owner history LMP-000123\n  hallmark owner history LMP-000123 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := g.ownership(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return g.print(u.History, func(w io.Writer) {
				showOwnerEvents(w, u)
				for _, e := range u.History {
					for _, a := range e.Archive {
						fmt.Fprintf(w, "\nThing %s until it was %s:\n", visible(a.Thing), e.What)
						var attributes []string
						for k, v := range a.Attributes {
							attributes = append(attributes, k+"="+v)
						}
						slices.Sort(attributes)
						facts(w, "type", a.Type, "attributes", strings.Join(attributes, ", "), "groups", strings.Join(a.Groups, ", "), "policies", strings.Join(a.Policies, ", "))
						for _, c := range a.Certificates {
							facts(w, "certificate", c.Id, "serial number", c.Serial, "status", c.Status, "policies", strings.Join(c.Policies, ", "))
						}
						for name, document := range a.Shadows {
							facts(w, "shadow "+name, document)
						}
					}
				}
			})
		},
	}
}

func newOwnerActsCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "acts [NAME]", Short: "List releases, resets and decommissionings; or show one", Args: cobra.MaximumNArgs(1),
		Example: "  hallmark owner acts\n  hallmark owner acts sale-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				a, err := api.GetOwnershipActWithResponse(cmd.Context(), args[0])
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				v, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
				if err != nil {
					return err
				}
				return g.print(v, func(w io.Writer) {
					facts(w, "name", v.Name, "kind", v.Kind, "state", v.State, "by", v.By, "at", moment(v.At), "to", v.To, "code valid until", moment(v.ExpiresAt), "ended", moment(v.EndedAt), "note", v.Note, "units", strings.Join(v.Units, ", "))
				})
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.OwnershipAct, string, error) {
				a, err := api.ListOwnershipActsWithResponse(cmd.Context(), &adminapi.ListOwnershipActsParams{Cursor: cursor, Limit: &n})
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
				for _, a := range items {
					rows = append(rows, []string{a.Name, a.Kind, a.State, strconv.Itoa(len(a.Units)), dash(a.To), a.By, moment(a.At), moment(a.EndedAt)})
				}
				table(w, []string{"NAME", "KIND", "STATE", "UNITS", "TO", "BY", "AT", "ENDED"}, rows, "Nothing was released, reset or decommissioned.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most acts to list; 0 for all")
	return c
}
