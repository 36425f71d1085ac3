package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() {
	commands = append(commands, func(g *globals) *cobra.Command { return newGroupCmd(g, &thingGroups) }, func(g *globals) *cobra.Command { return newGroupCmd(g, &billingGroups) })
}

// answerOf is an answer of the service about T, or the problem it gave instead.
type answerOf[T any] struct {
	v      *T
	status int
	body   []byte
}

// groupKind is the commands for one kind of group: the same, at two places.
type groupKind struct {
	use, short, long, example string
	dynamic                   bool // parents and queries exist

	list   func(ctx context.Context, c *adminapi.ClientWithResponses, parent, prefix, cursor *string, limit *int) (answerOf[adminapi.ThingGroupPage], error)
	create func(ctx context.Context, c *adminapi.ClientWithResponses, r adminapi.ThingGroupRequest) (answerOf[adminapi.ThingGroup], error)
	show   func(ctx context.Context, c *adminapi.ClientWithResponses, name string) (answerOf[adminapi.ThingGroup], error)
	update func(ctx context.Context, c *adminapi.ClientWithResponses, name string, r adminapi.ThingGroupChange) (answerOf[adminapi.ThingGroup], error)
	drop   func(ctx context.Context, c *adminapi.ClientWithResponses, name string, version *int64) (answerOf[adminapi.ThingGroup], error)
	things func(ctx context.Context, c *adminapi.ClientWithResponses, name string, nested *bool, cursor *string, limit *int) (answerOf[adminapi.ThingNamePage], error)
	add    func(ctx context.Context, c *adminapi.ClientWithResponses, name, thing string) (answerOf[adminapi.Thing], error)
	remove func(ctx context.Context, c *adminapi.ClientWithResponses, name, thing string) (answerOf[adminapi.Thing], error)
}

var thingGroups = groupKind{
	use: "thing-group", short: "Thing groups, static and dynamic", dynamic: true,
	long: `A static group has the things that were put into it, may be below another, seven deep,
and may carry policies. A dynamic group has the things that its query finds.`,
	example: `  hallmark thing-group create berlin --parent europe
  hallmark thing-group add berlin LMP-000123 LMP-000124
  hallmark thing-group create red-ones --query 'attributes.color:red'`,
	list: func(ctx context.Context, c *adminapi.ClientWithResponses, parent, prefix, cursor *string, limit *int) (r answerOf[adminapi.ThingGroupPage], err error) {
		a, err := c.ListThingGroupsWithResponse(ctx, &adminapi.ListThingGroupsParams{Parent: parent, Prefix: prefix, Cursor: cursor, Limit: limit})
		if err == nil {
			r = answerOf[adminapi.ThingGroupPage]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	create: func(ctx context.Context, c *adminapi.ClientWithResponses, in adminapi.ThingGroupRequest) (r answerOf[adminapi.ThingGroup], err error) {
		a, err := c.CreateThingGroupWithResponse(ctx, in)
		if err == nil {
			r = answerOf[adminapi.ThingGroup]{a.JSON201, a.StatusCode(), a.Body}
		}
		return r, err
	},
	show: func(ctx context.Context, c *adminapi.ClientWithResponses, name string) (r answerOf[adminapi.ThingGroup], err error) {
		a, err := c.GetThingGroupWithResponse(ctx, name)
		if err == nil {
			r = answerOf[adminapi.ThingGroup]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	update: func(ctx context.Context, c *adminapi.ClientWithResponses, name string, in adminapi.ThingGroupChange) (r answerOf[adminapi.ThingGroup], err error) {
		a, err := c.UpdateThingGroupWithResponse(ctx, name, in)
		if err == nil {
			r = answerOf[adminapi.ThingGroup]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	drop: func(ctx context.Context, c *adminapi.ClientWithResponses, name string, version *int64) (r answerOf[adminapi.ThingGroup], err error) {
		a, err := c.DeleteThingGroupWithResponse(ctx, name, &adminapi.DeleteThingGroupParams{Version: version})
		if err == nil {
			r = answerOf[adminapi.ThingGroup]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	things: func(ctx context.Context, c *adminapi.ClientWithResponses, name string, nested *bool, cursor *string, limit *int) (r answerOf[adminapi.ThingNamePage], err error) {
		a, err := c.ListThingGroupThingsWithResponse(ctx, name, &adminapi.ListThingGroupThingsParams{Nested: nested, Cursor: cursor, Limit: limit})
		if err == nil {
			r = answerOf[adminapi.ThingNamePage]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	add: func(ctx context.Context, c *adminapi.ClientWithResponses, name, thing string) (r answerOf[adminapi.Thing], err error) {
		a, err := c.AddThingToThingGroupWithResponse(ctx, name, thing)
		if err == nil {
			r = answerOf[adminapi.Thing]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	remove: func(ctx context.Context, c *adminapi.ClientWithResponses, name, thing string) (r answerOf[adminapi.Thing], err error) {
		a, err := c.RemoveThingFromThingGroupWithResponse(ctx, name, thing)
		if err == nil {
			r = answerOf[adminapi.Thing]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
}

var billingGroups = groupKind{
	use: "billing-group", short: "Billing groups: who pays for a thing",
	long: `A thing is in one billing group at most. Putting it into another takes it out of the
first.`,
	example: `  hallmark billing-group create berlin-office --tag cost-centre=4711
  hallmark billing-group add berlin-office LMP-000123`,
	list: func(ctx context.Context, c *adminapi.ClientWithResponses, _, prefix, cursor *string, limit *int) (r answerOf[adminapi.ThingGroupPage], err error) {
		a, err := c.ListBillingGroupsWithResponse(ctx, &adminapi.ListBillingGroupsParams{Prefix: prefix, Cursor: cursor, Limit: limit})
		if err == nil {
			r = answerOf[adminapi.ThingGroupPage]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	create: func(ctx context.Context, c *adminapi.ClientWithResponses, in adminapi.ThingGroupRequest) (r answerOf[adminapi.ThingGroup], err error) {
		a, err := c.CreateBillingGroupWithResponse(ctx, adminapi.BillingGroupRequest{Name: in.Name, Description: in.Description, Tags: in.Tags})
		if err == nil {
			r = answerOf[adminapi.ThingGroup]{a.JSON201, a.StatusCode(), a.Body}
		}
		return r, err
	},
	show: func(ctx context.Context, c *adminapi.ClientWithResponses, name string) (r answerOf[adminapi.ThingGroup], err error) {
		a, err := c.GetBillingGroupWithResponse(ctx, name)
		if err == nil {
			r = answerOf[adminapi.ThingGroup]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	update: func(ctx context.Context, c *adminapi.ClientWithResponses, name string, in adminapi.ThingGroupChange) (r answerOf[adminapi.ThingGroup], err error) {
		a, err := c.UpdateBillingGroupWithResponse(ctx, name, adminapi.BillingGroupChange{Description: in.Description, Tags: in.Tags, ExpectedVersion: in.ExpectedVersion})
		if err == nil {
			r = answerOf[adminapi.ThingGroup]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	drop: func(ctx context.Context, c *adminapi.ClientWithResponses, name string, version *int64) (r answerOf[adminapi.ThingGroup], err error) {
		a, err := c.DeleteBillingGroupWithResponse(ctx, name, &adminapi.DeleteBillingGroupParams{Version: version})
		if err == nil {
			r = answerOf[adminapi.ThingGroup]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	things: func(ctx context.Context, c *adminapi.ClientWithResponses, name string, _ *bool, cursor *string, limit *int) (r answerOf[adminapi.ThingNamePage], err error) {
		a, err := c.ListBillingGroupThingsWithResponse(ctx, name, &adminapi.ListBillingGroupThingsParams{Cursor: cursor, Limit: limit})
		if err == nil {
			r = answerOf[adminapi.ThingNamePage]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	add: func(ctx context.Context, c *adminapi.ClientWithResponses, name, thing string) (r answerOf[adminapi.Thing], err error) {
		a, err := c.AddThingToBillingGroupWithResponse(ctx, name, thing)
		if err == nil {
			r = answerOf[adminapi.Thing]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
	remove: func(ctx context.Context, c *adminapi.ClientWithResponses, name, thing string) (r answerOf[adminapi.Thing], err error) {
		a, err := c.RemoveThingFromBillingGroupWithResponse(ctx, name, thing)
		if err == nil {
			r = answerOf[adminapi.Thing]{a.JSON200, a.StatusCode(), a.Body}
		}
		return r, err
	},
}

func newGroupCmd(g *globals, k *groupKind) *cobra.Command {
	c := &cobra.Command{Use: k.use, Aliases: []string{k.use + "s"}, Short: k.short, Long: k.long, Example: k.example}
	c.AddCommand(newGroupCreateCmd(g, k), newGroupListCmd(g, k), newGroupShowCmd(g, k), newGroupUpdateCmd(g, k), newGroupDeleteCmd(g, k), newGroupThingsCmd(g, k),
		newGroupMemberCmd(g, k, "add", "Put things into a group", "in", k.add), newGroupMemberCmd(g, k, "remove", "Take things out of a group", "not in", k.remove))
	return c
}

// askFor makes the client and one request, and gives what it answered.
func askFor[T any](cmd *cobra.Command, g *globals, do func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[T], error)) (*T, error) {
	api, err := g.admin(cmd.Context())
	if err != nil {
		return nil, err
	}
	return asked(cmd.Context(), api, do)
}

func asked[T any](ctx context.Context, api *adminapi.ClientWithResponses, do func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[T], error)) (*T, error) {
	r, err := do(ctx, api)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	if r.v == nil {
		return nil, problem(r.status, r.body)
	}
	return r.v, nil
}

func showGroup(w io.Writer, v *adminapi.ThingGroup) {
	pairs := []string{"group", v.Name, "parent", v.Parent, "query", v.Query, "status", v.Status, "description", v.Description, "since", moment(v.CreatedAt), "changed", moment(v.UpdatedAt), "version", strconv.FormatInt(v.Version, 10)}
	facts(w, append(append(pairs, factsOf("attribute", v.Attributes)...), factsOf("tag", v.Tags)...)...)
}

func newGroupCreateCmd(g *globals, k *groupKind) *cobra.Command {
	var r adminapi.ThingGroupRequest
	var attributes, tags []string
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a group", Args: cobra.ExactArgs(1),
		Example: "  hallmark " + k.use + " create berlin --description 'Everything in Berlin'",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.Name = args[0]
			if r.Parent != "" && r.Query != "" {
				return errUsage{fmt.Errorf("a dynamic group has no --parent")}
			}
			if r.Attributes, err = pairsOf("attribute", attributes); err != nil {
				return err
			}
			if r.Tags, err = pairsOf("tag", tags); err != nil {
				return err
			}
			v, err := askFor(cmd, g, func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[adminapi.ThingGroup], error) {
				return k.create(ctx, c, r)
			})
			if err != nil {
				return err
			}
			return g.print(v, func(w io.Writer) { showGroup(w, v) })
		},
	}
	f := c.Flags()
	f.StringVar(&r.Description, "description", "", "what it is")
	f.StringArrayVar(&tags, "tag", nil, "tag NAME=VALUE (again for more)")
	if k.dynamic {
		c.Example += "\n  hallmark thing-group create berlin --parent europe --attribute manager=wei\n  hallmark thing-group create offline --query 'connectivity.connected:false'"
		f.StringVar(&r.Parent, "parent", "", "the static group above it")
		f.StringVar(&r.Query, "query", "", "makes it a dynamic group: the things that this query finds")
		f.StringArrayVar(&attributes, "attribute", nil, "attribute NAME=VALUE (again for more)")
	}
	return c
}

func newGroupListCmd(g *globals, k *groupKind) *cobra.Command {
	var parent, prefix string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List groups by name", Args: cobra.NoArgs,
		Example: "  hallmark " + k.use + " list --prefix ber",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.ThingGroup, string, error) {
				p, err := asked(cmd.Context(), api, func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[adminapi.ThingGroupPage], error) {
					return k.list(ctx, c, optional(parent), optional(prefix), cursor, &n)
				})
				if err != nil {
					return nil, "", err
				}
				return p.Items, p.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for _, v := range items {
					row := []string{v.Name}
					if k.dynamic {
						row = append(row, dash(v.Parent), dash(v.Query), v.Status)
					}
					rows = append(rows, append(row, day(v.CreatedAt), dash(v.Description)))
				}
				header := []string{"GROUP", "SINCE", "DESCRIPTION"}
				if k.dynamic {
					header = []string{"GROUP", "PARENT", "QUERY", "STATUS", "SINCE", "DESCRIPTION"}
				}
				table(w, header, rows, "No group fits. Make one with hallmark "+k.use+" create.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&prefix, "prefix", "", "start of the name")
	c.Flags().IntVar(&limit, "limit", 200, "most groups to list; 0 for all")
	if k.dynamic {
		c.Flags().StringVar(&parent, "parent", "", "only the groups right below this one")
	}
	return c
}

func newGroupShowCmd(g *globals, k *groupKind) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show one group", Args: cobra.ExactArgs(1),
		Example: "  hallmark " + k.use + " show berlin",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := askFor(cmd, g, func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[adminapi.ThingGroup], error) {
				return k.show(ctx, c, args[0])
			})
			if err != nil {
				return err
			}
			return g.print(v, func(w io.Writer) { showGroup(w, v) })
		},
	}
}

func newGroupUpdateCmd(g *globals, k *groupKind) *cobra.Command {
	var r adminapi.ThingGroupChange
	var description, query string
	var attributes, tags []string
	c := &cobra.Command{
		Use: "update NAME", Short: "Change a group; attributes and tags are replaced as a whole", Args: cobra.ExactArgs(1),
		Example: "  hallmark " + k.use + " update berlin --description 'Berlin and Potsdam' --version 2",
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			if f.Changed("description") {
				r.Description = &description
			}
			if f.Changed("query") {
				r.Query = &query
			}
			for _, x := range []struct {
				flag string
				from []string
				to   **map[string]string
			}{{"attribute", attributes, &r.Attributes}, {"tag", tags, &r.Tags}} {
				if !f.Changed(x.flag) && !f.Changed("no-"+x.flag+"s") {
					continue
				}
				if len(x.from) > 0 && f.Changed("no-"+x.flag+"s") {
					return errUsage{fmt.Errorf("--%s and --no-%ss do not go together", x.flag, x.flag)}
				}
				m, err := pairsOf(x.flag, x.from)
				if err != nil {
					return err
				}
				if m == nil {
					m = map[string]string{}
				}
				*x.to = &m
			}
			if r.Description == nil && r.Query == nil && r.Attributes == nil && r.Tags == nil {
				return errUsage{fmt.Errorf("nothing to change; see hallmark %s update --help", k.use)}
			}
			v, err := askFor(cmd, g, func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[adminapi.ThingGroup], error) {
				return k.update(ctx, c, args[0], r)
			})
			if err != nil {
				return err
			}
			return g.print(v, func(w io.Writer) { showGroup(w, v) })
		},
	}
	f := c.Flags()
	f.StringVar(&description, "description", "", "what it is")
	f.StringArrayVar(&tags, "tag", nil, "tag NAME=VALUE (again for more)")
	f.Bool("no-tags", false, "take all tags away")
	f.Int64Var(&r.ExpectedVersion, "version", 0, "change it only if it has this version")
	if k.dynamic {
		f.StringVar(&query, "query", "", "another query, of a dynamic group")
		f.StringArrayVar(&attributes, "attribute", nil, "attribute NAME=VALUE (again for more)")
		f.Bool("no-attributes", false, "take all attributes away")
	}
	return c
}

func newGroupDeleteCmd(g *globals, k *groupKind) *cobra.Command {
	var version int64
	c := &cobra.Command{
		Use: "delete NAME", Short: "Remove a group; its things stay", Args: cobra.ExactArgs(1),
		Example: "  hallmark " + k.use + " delete berlin",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := askFor(cmd, g, func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[adminapi.ThingGroup], error) {
				return k.drop(ctx, c, args[0], optional(version))
			})
			if err != nil {
				return err
			}
			return g.print(v, func(w io.Writer) { fmt.Fprintf(w, "The group %s is deleted.\n", visible(v.Name)) })
		},
	}
	c.Flags().Int64Var(&version, "version", 0, "delete it only if it has this version")
	return c
}

func newGroupThingsCmd(g *globals, k *groupKind) *cobra.Command {
	var nested bool
	var limit int
	c := &cobra.Command{
		Use: "things NAME", Short: "List the things of a group", Args: cobra.ExactArgs(1),
		Example: "  hallmark " + k.use + " things berlin",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]string, string, error) {
				p, err := asked(cmd.Context(), api, func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[adminapi.ThingNamePage], error) {
					return k.things(ctx, c, args[0], optional(nested), cursor, &n)
				})
				if err != nil {
					return nil, "", err
				}
				return p.Items, p.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for _, name := range items {
					rows = append(rows, []string{name})
				}
				empty := "The group has no things. Put one into it with hallmark " + k.use + " add."
				if k.dynamic {
					empty += " A dynamic group has those that its query finds."
				}
				table(w, []string{"THING"}, rows, empty)
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most things to list; 0 for all")
	if k.dynamic {
		c.Flags().BoolVar(&nested, "nested", false, "with those of the groups below it")
	}
	return c
}

func newGroupMemberCmd(g *globals, k *groupKind, verb, short, where string, do func(ctx context.Context, c *adminapi.ClientWithResponses, name, thing string) (answerOf[adminapi.Thing], error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME THING...", Short: short, Args: cobra.MinimumNArgs(2),
		Long:    short + ", one after the other; it ends with the first that fails, and the same again changes nothing.",
		Example: "  hallmark " + k.use + " " + verb + " berlin LMP-000123 LMP-000124",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			done := []adminapi.Thing{}
			for _, thing := range args[1:] {
				v, err := asked(cmd.Context(), api, func(ctx context.Context, c *adminapi.ClientWithResponses) (answerOf[adminapi.Thing], error) {
					return do(ctx, c, args[0], thing)
				})
				if err != nil {
					if !g.JSON && len(args) > 2 {
						fmt.Fprintf(g.Err, "%d of %d things done; it ends at %s.\n", len(done), len(args)-1, visible(thing))
					}
					return err
				}
				done = append(done, *v)
			}
			return g.print(done, func(w io.Writer) {
				for _, t := range done {
					fmt.Fprintf(w, "%s is %s %s.\n", visible(t.Name), where, visible(args[0]))
				}
			})
		},
	}
}
