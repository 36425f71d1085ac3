package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newThingCmd) }

func newThingCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "thing", Aliases: []string{"things"}, Short: "Things: devices after their first boot",
		Example: `  hallmark thing search 'attributes.color:red AND connectivity.connected:true'
  hallmark thing list --silent-for 24h
  hallmark thing show LMP-000123`,
	}
	c.AddCommand(newThingListCmd(g), newThingSearchCmd(g), newThingShowCmd(g), newThingCreateCmd(g), newThingUpdateCmd(g), newThingDeleteCmd(g),
		newThingPrincipalsCmd(g), newThingAttachCmd(g), newThingDetachCmd(g))
	return c
}

func newThingListCmd(g *globals) *cobra.Command {
	var attribute, value, silent string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List things: all, by the start of an attribute's value, or the silent ones", Args: cobra.NoArgs,
		Long: `List things. --silent-for lists those that are not connected and were not for that
long; one that never connected counts from when it was made.`,
		Example: `  hallmark thing list
  hallmark thing list --attribute model --value LMP
  hallmark thing list --silent-for 24h`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if value != "" && attribute == "" {
				return errUsage{fmt.Errorf("--value needs --attribute")}
			}
			seconds, err := parseSilence(silent)
			if err != nil {
				return err
			}
			if seconds > 0 && attribute != "" {
				return errUsage{fmt.Errorf("--attribute and --silent-for do not go together")}
			}
			empty := "No thing fits. A device becomes a thing at its first boot; make one by hand with hallmark thing create."
			if seconds > 0 {
				empty = "No thing is silent that long."
			}
			return listThings(cmd, g, limit, adminapi.ListThingsParams{Attribute: optional(attribute), Value: optional(value), Silent: optional(seconds)}, empty)
		},
	}
	c.Flags().StringVar(&attribute, "attribute", "", "name of an attribute")
	c.Flags().StringVar(&value, "value", "", "start of its value")
	c.Flags().StringVar(&silent, "silent-for", "", "only things that are not connected and were not for that long, such as 90m, 24h or 30d")
	c.Flags().IntVar(&limit, "limit", 200, "most things to list; 0 for all")
	return c
}

// parseSilence gives seconds, 0 for none. Days are what people count silence in.
func parseSilence(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int64
		n, err = strconv.ParseInt(days, 10, 32)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Second {
		return 0, errUsage{fmt.Errorf("%q is not a time of at least a second such as 90m, 24h or 30d", text)}
	}
	return int64(d / time.Second), nil
}

func newThingSearchCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "search QUERY", Short: "Find things by a query", Args: cobra.ExactArgs(1),
		Long: `Find things by a query of the search language. A term is field:value; AND, OR, NOT and
brackets join terms. Fields are thingName, thingTypeName, thingGroupNames,
billingGroupName, attributes.NAME, certificate.status, connectivity.connected,
connectivity.timestamp (milliseconds), shadow.desired.NAME, shadow.reported.NAME,
shadow.hasDelta, shadow.name.SHADOW.reported.NAME and their like. Values compare
without case; abc* and a?c match parts, [1 TO 5] and >5 ranges, field:* whatever
has the field.`,
		Example: `  hallmark thing search 'attributes.color:red AND connectivity.connected:true'
  hallmark thing search 'thingName:LMP-* NOT certificate.status:ACTIVE'
  hallmark thing search 'shadow.reported.battery<20 OR shadow.hasDelta:true'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(args[0]) == "" {
				return errUsage{fmt.Errorf("the query is empty; * finds every thing")}
			}
			return listThings(cmd, g, limit, adminapi.ListThingsParams{Query: &args[0]}, "No thing fits. See the fields with hallmark thing search --help.")
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most things to list; 0 for all")
	return c
}

func listThings(cmd *cobra.Command, g *globals, limit int, q adminapi.ListThingsParams, empty string) error {
	api, err := g.admin(cmd.Context())
	if err != nil {
		return err
	}
	items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.Thing, string, error) {
		q.Cursor, q.Limit = cursor, &n
		a, err := api.ListThingsWithResponse(cmd.Context(), &q)
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
			connected := yesNo(t.Connectivity.Connected)
			if t.Connectivity.At.IsZero() {
				connected = "never"
			}
			rows = append(rows, []string{t.Name, dash(t.Type), dash(t.Holder), dash(strings.Join(t.Groups, ",")), moment(t.CreatedAt), connected, dash(moment(t.Connectivity.At))})
		}
		table(w, []string{"THING", "TYPE", "DEVICE", "GROUPS", "SINCE", "CONNECTED", "LAST CHANGE"}, rows, empty)
		more(w, cut, len(items))
	})
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
	pairs := []string{"thing", t.Name, "type", t.Type, "device", t.Holder, "connected", connectivityText(&t.Connectivity), "groups", strings.Join(t.Groups, ", "),
		"dynamic groups", strings.Join(t.DynamicGroups, ", "), "billing group", t.BillingGroup,
		"policies", strings.Join(t.Policies, ", "), "registered by", t.RegisteredBy, "since", moment(t.CreatedAt), "changed", moment(t.UpdatedAt), "version", fmt.Sprint(t.Version)}
	for _, k := range slices.Sorted(maps.Keys(t.Attributes)) {
		pairs = append(pairs, "attribute", k+" = "+t.Attributes[k])
	}
	for _, k := range slices.Sorted(maps.Keys(t.Configuration)) {
		pairs = append(pairs, "configuration", k+" = "+t.Configuration[k])
	}
	for _, p := range t.Principals {
		pairs = append(pairs, "certificate", principalText(&p))
	}
	facts(w, pairs...)
}

func connectivityText(c *adminapi.ThingConnectivity) string {
	switch {
	case c.At.IsZero():
		return "never"
	case c.Connected:
		return "yes, since " + moment(c.At) + " as " + c.Client
	}
	return "no, last seen " + moment(c.At) + " as " + c.Client + ", " + c.Reason
}

func principalText(p *adminapi.ThingPrincipal) string {
	return strings.Join(strings.Fields(p.Certificate+" "+p.Serial+" "+p.Status+" "+p.Kind), " ")
}
