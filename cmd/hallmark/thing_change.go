package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

// shown prints what a request gave, or says why it gave nothing.
func shown[T any](g *globals, v *T, status int, body []byte, human func(w io.Writer, v *T)) error {
	if v == nil {
		return problem(status, body)
	}
	return g.print(v, func(w io.Writer) { human(w, v) })
}

// pairsOf reads flags of the form NAME=VALUE; nil for none.
func pairsOf(flag string, list []string) (map[string]string, error) {
	var out map[string]string
	for _, text := range list {
		k, v, ok := strings.Cut(text, "=")
		if !ok || k == "" {
			return nil, errUsage{fmt.Errorf("--%s wants NAME=VALUE, not %q", flag, text)}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out, nil
}

func newThingCreateCmd(g *globals) *cobra.Command {
	var r adminapi.ThingRequest
	var attributes []string
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a thing by hand", Args: cobra.ExactArgs(1),
		Long: `Make a thing before its device comes, or for one that is registered by hand. The same
again changes nothing.`,
		Example: `  hallmark thing create LMP-000123 --type lamp --attribute color=red --attribute site=berlin`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.Name = args[0]
			if r.Attributes, err = pairsOf("attribute", attributes); err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateThingWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON201, a.StatusCode(), a.Body, showThing)
		},
	}
	f := c.Flags()
	f.StringVar(&r.Type, "type", "", "thing type")
	f.StringVar(&r.BillingGroup, "billing-group", "", "billing group")
	f.StringArrayVar(&attributes, "attribute", nil, "attribute NAME=VALUE (again for more)")
	return c
}

func newThingUpdateCmd(g *globals) *cobra.Command {
	var r adminapi.ThingChange
	var attributes, removed []string
	var typ string
	var noType, replace bool
	c := &cobra.Command{
		Use: "update NAME", Short: "Change the attributes or the type of a thing", Args: cobra.ExactArgs(1),
		Long: `Change a thing. Attributes that are not named stay, unless --replace is given.`,
		Example: `  hallmark thing update LMP-000123 --attribute color=blue --remove-attribute site
  hallmark thing update LMP-000123 --type lamp --version 4`,
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := pairsOf("attribute", attributes)
			if err != nil {
				return err
			}
			if change == nil && (len(removed) > 0 || replace) {
				change = map[string]string{}
			}
			for _, k := range removed {
				change[k] = ""
			}
			if change != nil {
				r.Attributes, r.Merge = &change, !replace
			}
			if typ != "" && noType {
				return errUsage{fmt.Errorf("--type and --no-type do not go together")}
			}
			if typ != "" || noType {
				r.Type = &typ
			}
			if r.Attributes == nil && r.Type == nil {
				return errUsage{fmt.Errorf("nothing to change: give --attribute, --remove-attribute, --replace, --type or --no-type")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.UpdateThingWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON200, a.StatusCode(), a.Body, showThing)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&attributes, "attribute", nil, "attribute NAME=VALUE (again for more)")
	f.StringSliceVar(&removed, "remove-attribute", nil, "attribute to remove (again for more)")
	f.BoolVar(&replace, "replace", false, "remove all attributes that are not given")
	f.StringVar(&typ, "type", "", "thing type")
	f.BoolVar(&noType, "no-type", false, "take the type away")
	f.Int64Var(&r.ExpectedVersion, "version", 0, "change it only if it has this version")
	return c
}

func newThingDeleteCmd(g *globals) *cobra.Command {
	var version int64
	c := &cobra.Command{
		Use: "delete NAME", Short: "Remove a thing that has no certificate, with its shadows", Args: cobra.ExactArgs(1),
		Long: `Remove a thing, its shadows, and what it still had to do. Its certificates stay in
the records; detach them first, and revoke them if the device is gone.`,
		Example: `  hallmark thing detach LMP-000123 CERTIFICATE
  hallmark thing delete LMP-000123`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DeleteThingWithResponse(cmd.Context(), args[0], &adminapi.DeleteThingParams{Version: optional(version)})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON200, a.StatusCode(), a.Body, func(w io.Writer, t *adminapi.Thing) { fmt.Fprintf(w, "%s is deleted.\n", visible(t.Name)) })
		},
	}
	c.Flags().Int64Var(&version, "version", 0, "delete it only if it has this version")
	return c
}

func newThingPrincipalsCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "principals NAME", Short: "List the certificates that act for a thing", Args: cobra.ExactArgs(1),
		Example: "  hallmark thing principals LMP-000123",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListThingPrincipalsWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				rows := [][]string{}
				for _, p := range a.JSON200.Items {
					rows = append(rows, []string{p.Certificate, dash(p.Serial), p.Status, p.Kind, dash(day(p.NotAfter)), moment(p.AttachedAt)})
				}
				table(w, []string{"CERTIFICATE", "SERIAL", "STATUS", "KIND", "UNTIL", "ATTACHED"}, rows, "No certificate acts for it. Attach one with hallmark thing attach, or let its device register.")
			})
		},
	}
}

func newThingAttachCmd(g *globals) *cobra.Command {
	var r adminapi.AttachRequest
	var exclusive bool
	c := &cobra.Command{
		Use: "attach NAME CERTIFICATE", Short: "Let a certificate act for a thing", Args: cobra.ExactArgs(2),
		Long: `Let a registered device certificate act for a thing. CERTIFICATE is its id, the
SHA-256 in hexadecimal. A thing that has a live certificate of another device takes
it only with --take-over, which is the security officer's right.`,
		Example: "  hallmark thing attach LMP-000123 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8 --exclusive",
		RunE: func(cmd *cobra.Command, args []string) error {
			if exclusive {
				r.Kind = "EXCLUSIVE_THING"
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.AttachThingPrincipalWithResponse(cmd.Context(), args[0], strings.ToLower(args[1]), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON200, a.StatusCode(), a.Body, showThing)
		},
	}
	c.Flags().BoolVar(&exclusive, "exclusive", false, "it acts for no other thing")
	c.Flags().BoolVar(&r.TakeOver, "take-over", false, "the thing changes hands")
	return c
}

func newThingDetachCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "detach NAME CERTIFICATE", Short: "End that a certificate acts for a thing", Args: cobra.ExactArgs(2),
		Example: "  hallmark thing detach LMP-000123 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DetachThingPrincipalWithResponse(cmd.Context(), args[0], strings.ToLower(args[1]))
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return shown(g, a.JSON200, a.StatusCode(), a.Body, showThing)
		},
	}
}
