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

func init() { commands = append(commands, newThingTypeCmd) }

func newThingTypeCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "thing-type", Short: "Thing types: what things have in common",
		Long: `A thing with a type has up to 50 attributes, one without has 3. A type is deprecated
before it is deleted: it keeps its things and takes no new ones.`,
		Example: `  hallmark thing-type create lamp --searchable model,color
  hallmark thing-type deprecate lamp`,
	}
	c.AddCommand(newThingTypeCreateCmd(g), newThingTypeListCmd(g), newThingTypeShowCmd(g), newThingTypeDeprecateCmd(g), newThingTypeDeleteCmd(g))
	return c
}

func newThingTypeCreateCmd(g *globals) *cobra.Command {
	var r adminapi.ThingTypeRequest
	var tags []string
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a thing type", Args: cobra.ExactArgs(1),
		Example: "  hallmark thing-type create lamp --description 'Lamps of the E series' --searchable model,color --tag team=light",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.Name = args[0]
			if r.Tags, err = pairsOf("tag", tags); err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateThingTypeWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON201, a.StatusCode(), a.Body, showThingType)
		},
	}
	f := c.Flags()
	f.StringVar(&r.Description, "description", "", "what it is")
	f.StringSliceVar(&r.Attributes, "searchable", nil, "attributes that its things are searched by, at most 3")
	f.StringArrayVar(&tags, "tag", nil, "tag NAME=VALUE (again for more)")
	return c
}

func newThingTypeListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List thing types", Args: cobra.NoArgs,
		Example: "  hallmark thing-type list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, _, err := gather(0, func(cursor *string, n int) ([]adminapi.ThingType, string, error) {
				a, err := api.ListThingTypesWithResponse(cmd.Context(), &adminapi.ListThingTypesParams{Cursor: cursor, Limit: &n})
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
					rows = append(rows, []string{t.Name, dash(strings.Join(t.Attributes, ",")), dash(day(t.DeprecatedAt)), day(t.CreatedAt), dash(t.Description)})
				}
				table(w, []string{"TYPE", "SEARCHED BY", "DEPRECATED", "SINCE", "DESCRIPTION"}, rows, "There is no thing type. Make one with hallmark thing-type create.")
			})
		},
	}
}

func newThingTypeShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show one thing type", Args: cobra.ExactArgs(1),
		Example: "  hallmark thing-type show lamp",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetThingTypeWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON200, a.StatusCode(), a.Body, showThingType)
		},
	}
}

func newThingTypeDeprecateCmd(g *globals) *cobra.Command {
	var r adminapi.DeprecateRequest
	c := &cobra.Command{
		Use: "deprecate NAME", Short: "Keep new things from a type", Args: cobra.ExactArgs(1),
		Example: "  hallmark thing-type deprecate lamp\n  hallmark thing-type deprecate lamp --undo",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DeprecateThingTypeWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON200, a.StatusCode(), a.Body, showThingType)
		},
	}
	c.Flags().BoolVar(&r.Undo, "undo", false, "let new things to it again")
	return c
}

func newThingTypeDeleteCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Remove a deprecated type that no thing has", Args: cobra.ExactArgs(1),
		Example: "  hallmark thing-type delete lamp",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DeleteThingTypeWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON200, a.StatusCode(), a.Body, func(w io.Writer, t *adminapi.ThingType) { fmt.Fprintf(w, "The type %s is deleted.\n", visible(t.Name)) })
		},
	}
}

func showThingType(w io.Writer, t *adminapi.ThingType) {
	pairs := []string{"type", t.Name, "description", t.Description, "searched by", strings.Join(t.Attributes, ", "), "deprecated", moment(t.DeprecatedAt), "since", moment(t.CreatedAt), "changed", moment(t.UpdatedAt), "version", fmt.Sprint(t.Version)}
	facts(w, append(pairs, factsOf("tag", t.Tags)...)...)
}

// factsOf lists a map for [facts].
func factsOf(what string, m map[string]string) (pairs []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, what, k+" = "+m[k])
	}
	return pairs
}
