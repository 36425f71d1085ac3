package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/ca"
)

func newCARolloverCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "rollover", Short: "Replace an issuing authority without a moment without issuer or list",
		Long: `Plan says what happens when and what speaks against it. Start has the successor issue,
with its lists and its OCSP responder published before its first certificate; the former
authority steps in if the successor's key does not answer. Finish closes the former one:
it signs lists, the last ones after its last certificate ended. Start and finish take two
people. docs/rollover.md walks through it.`,
		Example: `  hallmark ca rollover plan device-1 device-2
  hallmark ca rollover start device-1 device-2
  hallmark ca rollover status device-1
  hallmark ca rollover finish device-1`,
	}
	c.AddCommand(newCARolloverPlanCmd(g), newCARolloverStartCmd(g), newCARolloverStatusCmd(g), newCARolloverFinishCmd(g))
	return c
}

func (g *globals) rollover(ctx context.Context, from, to string) (*adminapi.Rollover, error) {
	api, err := g.admin(ctx)
	if err != nil {
		return nil, err
	}
	a, err := api.GetRolloverWithResponse(ctx, from, &adminapi.GetRolloverParams{Successor: to})
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	if a.JSON200 == nil {
		return nil, problem(a.StatusCode(), a.Body)
	}
	return a.JSON200, nil
}

func newCARolloverPlanCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "plan FROM TO", Short: "Say what happens when, and check every precondition", Args: cobra.ExactArgs(2),
		Long:    "Plan changes nothing. Its exit code is 3 while something speaks against the start.",
		Example: "  hallmark ca rollover plan device-1 device-2\n  hallmark ca rollover plan device-1 device-2 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := g.rollover(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			if err := g.print(r, func(w io.Writer) { showRollover(w, r) }); err != nil {
				return err
			}
			if !r.Ready {
				return errExit(exitChanges)
			}
			return nil
		},
	}
}

func newCARolloverStatusCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "status FROM", Short: "Say how far a rollover, retirement or revocation is, and what is left to do", Args: cobra.ExactArgs(1),
		Example: "  hallmark ca rollover status device-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := g.rollover(cmd.Context(), args[0], "")
			if err != nil {
				return err
			}
			return g.print(r, func(w io.Writer) { showRollover(w, r) })
		},
	}
}

func newCARolloverStartCmd(g *globals) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "start FROM TO", Short: "Ask for the successor to issue", Args: cobra.ExactArgs(2),
		Example: "  hallmark ca rollover start device-1 device-2",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, "AuthorityEnd", args[0], endSpec{Stage: string(ca.EndOverlap), Successor: args[1]}, yes)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newCARolloverFinishCmd(g *globals) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "finish FROM", Short: "Ask for the former authority to be closed: it only signs lists", Args: cobra.ExactArgs(1),
		Example: "  hallmark ca rollover finish device-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := g.rollover(cmd.Context(), args[0], "")
			if err != nil {
				return err
			}
			if r.Stage == "" {
				return ca.ErrRollover.New("The rollover of %s was not started.", args[0])
			}
			return g.ask(cmd, "AuthorityEnd", args[0], endSpec{Stage: string(ca.EndClosed), Successor: r.Successor}, yes)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// showRollover is the plan in words.
func showRollover(w io.Writer, r *adminapi.Rollover) {
	facts(w, "authority", r.Authority, "state", r.State, "successor", r.Successor, "decided", r.Stage, "certificates", fmt.Sprint(r.Certificates), "the last ends", day(r.LastEnds))
	for i, s := range r.Steps {
		fmt.Fprintf(w, "\n%d. %s", i+1, visible(s.What))
		switch {
		case !s.DoneAt.IsZero() && s.DoneBy != "":
			fmt.Fprintf(w, "\n   done: %s, by %s\n", moment(s.DoneAt), visible(s.DoneBy))
		case !s.DoneAt.IsZero():
			fmt.Fprintf(w, "\n   done\n")
		default:
			fmt.Fprintf(w, "\n   when: %s\n", visible(s.When))
			if s.Command != "" {
				fmt.Fprintf(w, "   with: %s\n", visible(s.Command))
			}
		}
	}
	if len(r.Checks) > 0 {
		rows := [][]string{}
		for _, c := range r.Checks {
			rows = append(rows, []string{c.Name, c.State, c.Detail})
		}
		fmt.Fprintln(w)
		table(w, []string{"CHECK", "STATE", "DETAIL"}, rows, "")
		for _, c := range r.Checks {
			if c.Next != "" {
				fmt.Fprintf(w, "%s: %s\n", visible(c.Name), visible(c.Next))
			}
		}
	}
	for _, a := range r.Alone {
		fmt.Fprintf(w, "It serves alone: %s\n", visible(a))
	}
	if r.Waits != "" {
		fmt.Fprintf(w, "\nIt waits for %s.\n", visible(r.Waits))
	}
}
