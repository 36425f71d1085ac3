package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newShadowCmd) }

func newShadowCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "shadow", Short: "Shadows: what a device should be, and what it said it is",
		Long: `A shadow is a JSON document that a device and whoever runs it share, whether it is
connected or not: desired is what it should be, reported what it said it is, delta
the difference. A thing has a classic shadow and named ones.`,
		Example: `  hallmark shadow update LMP-000123 --desired '{"lamp":"on"}'
  hallmark shadow show LMP-000123`,
	}
	c.AddCommand(newShadowShowCmd(g), newShadowUpdateCmd(g), newShadowDeleteCmd(g), newShadowListCmd(g))
	return c
}

func newShadowShowCmd(g *globals) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "show THING", Short: "Show a thing's shadow", Args: cobra.ExactArgs(1),
		Example: "  hallmark shadow show LMP-000123\n  hallmark shadow show LMP-000123 --name config",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetShadowWithResponse(cmd.Context(), args[0], &adminapi.GetShadowParams{Name: optional(name)})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { showShadow(w, a.JSON200) })
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the shadow; the classic one if not given")
	return c
}

func showShadow(w io.Writer, s *adminapi.Shadow) {
	facts(w, "thing", s.Thing, "shadow", s.Name, "version", fmt.Sprint(s.Version))
	var text bytes.Buffer
	if json.Indent(&text, s.State, "", "  ") != nil {
		text.Reset()
		text.Write(s.State)
	}
	for line := range bytes.Lines(text.Bytes()) {
		fmt.Fprintln(w, visible(string(bytes.TrimRight(line, "\n"))))
	}
}

func newShadowUpdateCmd(g *globals) *cobra.Command {
	var name, desired string
	var version int64
	c := &cobra.Command{
		Use: "update THING", Short: "Change what a thing should be", Args: cobra.ExactArgs(1),
		Long: `Change the desired section. Members are merged; a null removes one, and --desired null
removes the section.`,
		Example: `  hallmark shadow update LMP-000123 --desired '{"lamp":"on","colour":null}'
  hallmark shadow update LMP-000123 --name config --desired config.json --version 7`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := jsonOrFile(desired)
			if err != nil {
				return err
			}
			if !json.Valid([]byte(text)) {
				return errUsage{fmt.Errorf("--desired is not JSON")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.UpdateShadowWithResponse(cmd.Context(), args[0], &adminapi.UpdateShadowParams{Name: optional(name)}, adminapi.ShadowRequest{Desired: json.RawMessage(text), Version: version})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { showShadow(w, a.JSON200) })
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the shadow; the classic one if not given")
	c.Flags().StringVar(&desired, "desired", "", "what to change: a JSON object, or a file with one")
	c.Flags().Int64Var(&version, "version", 0, "only if this is still the shadow's version")
	c.MarkFlagRequired("desired")
	return c
}

func newShadowDeleteCmd(g *globals) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "delete THING", Short: "Remove a thing's shadow", Args: cobra.ExactArgs(1),
		Example: "  hallmark shadow delete LMP-000123 --name config",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DeleteShadowWithResponse(cmd.Context(), args[0], &adminapi.DeleteShadowParams{Name: optional(name)})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				fmt.Fprintf(w, "Version %d of the shadow is removed; the next one counts on.\n", a.JSON200.Version)
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the shadow; the classic one if not given")
	return c
}

func newShadowListCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list THING", Short: "List a thing's shadows", Args: cobra.ExactArgs(1),
		Example: "  hallmark shadow list LMP-000123",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			out := adminapi.ShadowPage{Items: []string{}}
			names, cut, err := gather(limit, func(cursor *string, n int) ([]string, string, error) {
				n = min(n, 100)
				a, err := api.ListShadowsWithResponse(cmd.Context(), args[0], &adminapi.ListShadowsParams{Cursor: cursor, Limit: &n})
				if err != nil {
					return nil, "", errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return nil, "", problem(a.StatusCode(), a.Body)
				}
				out.Classic = a.JSON200.Classic
				return a.JSON200.Items, a.JSON200.Next, nil
			})
			if err != nil {
				return err
			}
			out.Items = names
			return g.print(out, func(w io.Writer) {
				rows := [][]string{}
				if out.Classic {
					rows = append(rows, []string{"-", "classic"})
				}
				for _, n := range names {
					rows = append(rows, []string{n, "named"})
				}
				table(w, []string{"SHADOW", "KIND"}, rows, "The thing has no shadow. A device makes one when it reports, and you with hallmark shadow update.")
				more(w, cut, len(names))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most named shadows to list; 0 for all")
	return c
}
