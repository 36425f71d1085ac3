package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/internal/fault"
)

var errNotSent = fault.Define(fault.Unavailable, "cli-list-not-sent", "The lists are published here, and not every other place has them.", "Look at hallmark crl destinations; the service goes on trying.")

func init() { commands = append(commands, newCRLCmd) }

func newCRLCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "crl", Short: "Revocation lists: what is published, where it goes, and publishing now",
		Long: `The service publishes lists by itself: after every revocation, and before they get
old. These commands show how that goes and ask for it out of turn.`,
		Example: `  hallmark crl list
  hallmark crl publish --ca device-1 --wait
  hallmark crl destinations`,
	}
	c.AddCommand(newCRLListCmd(g), newCRLShowCmd(g), newCRLPublishCmd(g), newCRLDestinationsCmd(g), newCRLImportsCmd(g))
	return c
}

func fetchLists(ctx context.Context, api *adminapi.ClientWithResponses) ([]adminapi.List, error) {
	a, err := api.ListListsWithResponse(ctx)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	p, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
	if err != nil {
		return nil, err
	}
	return p.Items, nil
}

func showLists(w io.Writer, items []adminapi.List) {
	rows := [][]string{}
	for _, l := range items {
		rows = append(rows, []string{l.Authority, strconv.Itoa(l.Shard), strconv.FormatInt(l.Number, 10), strconv.FormatInt(l.Entries, 10), strconv.FormatInt(l.Size, 10), moment(l.ThisUpdate), moment(l.NextUpdate)})
	}
	table(w, []string{"AUTHORITY", "SHARD", "NUMBER", "ENTRIES", "OCTETS", "MADE", "UNTIL"}, rows, "There is no list yet.")
}

func newCRLListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List what is published", Args: cobra.NoArgs,
		Example: "  hallmark crl list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, err := fetchLists(cmd.Context(), api)
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) { showLists(w, items) })
		},
	}
}

func newCRLShowCmd(g *globals) *cobra.Command {
	var shard int
	c := &cobra.Command{
		Use: "show CA", Short: "Show a list of an authority", Args: cobra.ExactArgs(1),
		Example: "  hallmark crl show device-1\n  hallmark crl show device-1 --shard 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, err := fetchLists(cmd.Context(), api)
			if err != nil {
				return err
			}
			for _, l := range items {
				if l.Authority != args[0] || l.Shard != shard {
					continue
				}
				return g.print(l, func(w io.Writer) {
					left := "over"
					if d := l.NextUpdate.Sub(g.Now()); d > 0 {
						left = d.Round(time.Minute).String()
					}
					facts(w, "authority", l.Authority, "shard", strconv.Itoa(l.Shard), "number", strconv.FormatInt(l.Number, 10), "entries", strconv.FormatInt(l.Entries, 10),
						"octets", strconv.FormatInt(l.Size, 10), "made", moment(l.ThisUpdate), "until", moment(l.NextUpdate), "left", left, "covers log up to", strconv.FormatInt(l.Covers, 10), "URL", l.Url)
				})
			}
			return errNoList.New("%s, shard %d.", args[0], shard)
		},
	}
	c.Flags().IntVar(&shard, "shard", 0, "which of several lists")
	return c
}

var errNoList = fault.Define(fault.NotFound, "cli-list-unknown", "There is no such list.", "See which there are with hallmark crl list.")

func newCRLPublishCmd(g *globals) *cobra.Command {
	var authority string
	var wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "publish", Short: "Make lists anew now, whether something changed or not", Args: cobra.NoArgs,
		Long: `Make the lists of an authority, or of all that sign their own, with a new number and
a new end. A root's list is not made here: its key is offline (hallmark ceremony).
With --wait the command ends when every other place has them too.`,
		Example: `  hallmark crl publish
  hallmark crl publish --ca device-1 --wait`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			api, err := g.admin(ctx)
			if err != nil {
				return err
			}
			names := []string{authority}
			if authority == "" {
				if names, err = signingAuthorities(ctx, api); err != nil {
					return err
				}
			}
			made := []adminapi.List{}
			for _, n := range names {
				a, err := api.PublishListsWithResponse(ctx, n)
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				p, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
				if err != nil {
					return err
				}
				made = append(made, p.Items...)
			}
			var late error
			if wait {
				if late = g.waitSent(ctx, api, timeout); late != nil && ctx.Err() != nil {
					return late
				}
			}
			if err := g.print(made, func(w io.Writer) { showLists(w, made) }); err != nil {
				return err
			}
			return late
		},
	}
	f := c.Flags()
	f.StringVar(&authority, "ca", "", "only this authority's")
	f.BoolVar(&wait, "wait", false, "wait until every destination has them")
	f.DurationVar(&timeout, "timeout", 2*time.Minute, "longest wait")
	return c
}

// signingAuthorities are those that have lists and are no root.
func signingAuthorities(ctx context.Context, api *adminapi.ClientWithResponses) (out []string, err error) {
	a, err := api.ListAuthoritiesWithResponse(ctx)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	p, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
	if err != nil {
		return nil, err
	}
	lists, err := fetchLists(ctx, api)
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, l := range lists {
		has[l.Authority] = true
	}
	for _, x := range p.Items {
		if x.Duty != "root" && has[x.Name] {
			out = append(out, x.Name)
		}
	}
	return out, nil
}

// waitSent waits until no place misses a file.
func (g *globals) waitSent(ctx context.Context, api *adminapi.ClientWithResponses, timeout time.Duration) error {
	end, shown := time.Now().Add(timeout), -1
	for {
		places, err := fetchDestinations(ctx, api)
		if err != nil {
			return err
		}
		pending, why := 0, ""
		for _, p := range places {
			pending += p.Pending
			if p.Pending > 0 && p.Fault != "" {
				why = visible(p.Name) + ": " + visible(p.Fault)
			}
		}
		if pending == 0 {
			return nil
		}
		if time.Now().After(end) {
			return errNotSent.New("%d files are missing. %s", pending, why)
		}
		if pending != shown {
			shown = pending
			fmt.Fprintf(g.Err, "%d files are on their way.\n", pending)
		}
		if !every(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func fetchDestinations(ctx context.Context, api *adminapi.ClientWithResponses) ([]adminapi.ListDestination, error) {
	a, err := api.ListListDestinationsWithResponse(ctx)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	p, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
	if err != nil {
		return nil, err
	}
	return p.Items, nil
}

func newCRLDestinationsCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "destinations", Short: "Show how far the places are that lists are sent to", Args: cobra.NoArgs,
		Example: "  hallmark crl destinations",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, err := fetchDestinations(cmd.Context(), api)
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for _, d := range items {
					rows = append(rows, []string{d.Name, strconv.Itoa(d.Pending), strconv.FormatInt(d.Sent, 10), strconv.FormatInt(d.Failed, 10), dash(moment(d.LastSuccess)), dash(d.Fault)})
				}
				table(w, []string{"DESTINATION", "PENDING", "SENT", "FAILED", "LAST SUCCESS", "FAULT"}, rows, "Lists are sent nowhere; set lists.destinations in the configuration.")
			})
		},
	}
}

func newCRLImportsCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "imports", Short: "Show the lists of other CAs", Args: cobra.NoArgs,
		Example: "  hallmark crl imports",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListListImportsWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			p, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
			if err != nil {
				return err
			}
			return g.print(p.Items, func(w io.Writer) {
				rows := [][]string{}
				for _, i := range p.Items {
					rows = append(rows, []string{i.Name, dash(i.Number), strconv.Itoa(i.Entries), yesNo(i.Current), dash(moment(i.NextUpdate)), dash(moment(i.FetchedAt)), dash(i.Fault)})
				}
				table(w, []string{"SOURCE", "NUMBER", "ENTRIES", "CURRENT", "UNTIL", "FETCHED", "FAULT"}, rows, "No list is imported; set lists.import in the configuration.")
			})
		},
	}
}
