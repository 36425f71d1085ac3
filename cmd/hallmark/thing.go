package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newThingCmd) }

func newThingCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "thing", Short: "Things: devices after their first boot",
		Example: "  hallmark thing list --attribute model --value LMP",
	}
	c.AddCommand(newThingListCmd(g), newThingShowCmd(g))
	return c
}

func newThingListCmd(g *globals) *cobra.Command {
	var attribute, value string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List things, all or by the start of an attribute's value", Args: cobra.NoArgs,
		Example: `  hallmark thing list
  hallmark thing list --attribute model --value LMP`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if value != "" && attribute == "" {
				return errUsage{fmt.Errorf("--value needs --attribute")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.Thing, string, error) {
				a, err := api.ListThingsWithResponse(cmd.Context(), &adminapi.ListThingsParams{Attribute: optional(attribute), Value: optional(value), Cursor: cursor, Limit: &n})
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
				for _, t := range items {
					rows = append(rows, []string{t.Name, dash(t.Type), t.Holder, dash(strings.Join(t.Groups, ",")), moment(t.CreatedAt)})
				}
				table(w, []string{"THING", "TYPE", "DEVICE", "GROUPS", "SINCE"}, rows, "No thing fits. A device becomes a thing at its first boot.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&attribute, "attribute", "", "name of an attribute")
	c.Flags().StringVar(&value, "value", "", "start of its value")
	c.Flags().IntVar(&limit, "limit", 200, "most things to list; 0 for all")
	return c
}

func newThingShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show one thing", Args: cobra.ExactArgs(1),
		Example: "  hallmark thing show LMP-000123",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetThingWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { showThing(w, a.JSON200) })
		},
	}
}

func showThing(w io.Writer, t *adminapi.Thing) {
	pairs := []string{"thing", t.Name, "type", t.Type, "device", t.Holder, "groups", strings.Join(t.Groups, ", "), "billing group", t.BillingGroup,
		"policies", strings.Join(t.Policies, ", "), "registered by", t.RegisteredBy, "since", moment(t.CreatedAt), "changed", moment(t.UpdatedAt), "version", fmt.Sprint(t.Version)}
	for _, k := range slices.Sorted(maps.Keys(t.Attributes)) {
		pairs = append(pairs, "attribute", k+" = "+t.Attributes[k])
	}
	for _, k := range slices.Sorted(maps.Keys(t.Configuration)) {
		pairs = append(pairs, "configuration", k+" = "+t.Configuration[k])
	}
	for _, p := range t.Principals {
		pairs = append(pairs, "certificate", p.Serial+" "+p.Status)
	}
	facts(w, pairs...)
}
