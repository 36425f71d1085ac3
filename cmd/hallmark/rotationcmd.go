package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newRotationCmd) }

func newRotationCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "rotation", Short: "Certificates of devices that end soon, and what was done with them",
		Long:    "Certificates are replaced by campaigns: hallmark campaign create NAME --kind rotate-certificate. See docs/rotation.md.",
		Example: "  hallmark rotation due --within 1440h\n  hallmark rotation using --algorithm RSA --smaller 3072\n  hallmark rotation history LMP-000123",
	}
	c.AddCommand(newRotationDueCmd(g), newRotationUsingCmd(g), newRotationHistoryCmd(g))
	return c
}

func newRotationDueCmd(g *globals) *cobra.Command {
	var within time.Duration
	var limit int
	c := &cobra.Command{
		Use: "due", Short: "List certificates that end soon and have no successor in use", Args: cobra.NoArgs,
		Example: "  hallmark rotation due\n  hallmark rotation due --within 1440h --limit 0 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if within < 0 {
				return errUsage{errors.New("--within is not negative")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.RotationDue, string, error) {
				p := &adminapi.ListRotationDueParams{Cursor: cursor, Limit: &n}
				if within > 0 {
					n := max(1, int64(within.Seconds()))
					p.WindowSeconds = &n
				}
				a, err := api.ListRotationDueWithResponse(cmd.Context(), p)
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
					d := &items[i]
					rows = append(rows, []string{d.Thing, moment(d.NotAfter), dash(d.Authority), dash(d.Group), d.Certificate})
				}
				table(w, []string{"THING", "ENDS", "AUTHORITY", "GROUP", "CERTIFICATE"}, rows, "Nothing ends soon.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().DurationVar(&within, "within", 0, "instead of the configured windows")
	c.Flags().IntVar(&limit, "limit", 200, "most certificates to list; 0 for all")
	return c
}

func newRotationHistoryCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "history THING", Short: "List what was done with a thing's certificates, and why", Args: cobra.ExactArgs(1),
		Example: "  hallmark rotation history LMP-000123",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListThingRotationsWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				rows := [][]string{}
				for i := range a.JSON200.Items {
					e := &a.JSON200.Items[i]
					rows = append(rows, []string{moment(e.At), e.What, e.Reason, dash(e.Campaign), dash(e.Before), dash(e.Certificate), e.Detail})
				}
				table(w, []string{"WHEN", "WHAT", "REASON", "CAMPAIGN", "BEFORE", "CERTIFICATE", "DETAIL"}, rows, fmt.Sprintf("Nothing was done with certificates of %s.", args[0]))
			})
		},
	}
}
