package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/provisioner"
	"hallmark/provisioner/template"
)

func init() { commands = append(commands, newTemplateCmd) }

func newTemplateCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "template", Short: "Provisioning templates: which thing a certificate becomes",
		Long: `Provisioning templates. A template has one of four kinds: first-boot, for devices with
a birth certificate; fleet, for those with a claim; jitp, for those of a registered
CA; bulk, for files of devices. It keeps its kind's rules and is checked first.`,
		Example: `  hallmark template check lamps.json --kind fleet
  hallmark template put lamps lamps.json --kind fleet
  hallmark template enable lamps`,
	}
	c.AddCommand(newTemplateListCmd(g), newTemplateShowCmd(g), newTemplatePutCmd(g), newTemplateCheckCmd(g), newTemplateEnableCmd(g, true), newTemplateEnableCmd(g, false))
	return c
}

func newTemplateListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List provisioning templates", Args: cobra.NoArgs, Example: "  hallmark template list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListTemplatesWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			f, err := api.ListFleetTemplatesWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if f.JSON200 == nil {
				return problem(f.StatusCode(), f.Body)
			}
			enabled := map[string]adminapi.FleetTemplate{}
			for _, t := range f.JSON200.Items {
				enabled[t.Name] = t
			}
			type row struct {
				adminapi.Template
				Fleet adminapi.FleetTemplate `json:"fleet,omitzero"`
			}
			rows := []row{}
			for _, t := range a.JSON200.Items {
				rows = append(rows, row{t, enabled[t.Name]})
			}
			return g.print(rows, func(w io.Writer) {
				cells := [][]string{}
				for _, t := range rows {
					state := "-"
					if t.Kind == provisioner.FleetKind {
						state = yesNo(t.Fleet.Enabled)
					}
					cells = append(cells, []string{t.Name, t.Kind, state, dash(t.Fleet.Hook), day(t.UpdatedAt)})
				}
				table(w, []string{"TEMPLATE", "KIND", "ENABLED", "HOOK", "CHANGED"}, cells, "There is no template. Store one with hallmark template put.")
			})
		},
	}
}

func newTemplateShowCmd(g *globals) *cobra.Command {
	var body bool
	c := &cobra.Command{
		Use: "show NAME", Short: "Show one template with its body", Args: cobra.ExactArgs(1),
		Example: `  hallmark template show lamps
  hallmark template show lamps --body > lamps.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetTemplateWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				if !body {
					facts(w, "template", a.JSON200.Name, "kind", a.JSON200.Kind, "changed", moment(a.JSON200.UpdatedAt))
					fmt.Fprintln(w)
				}
				fmt.Fprintln(w, visibleLines(a.JSON200.Body))
			})
		},
	}
	c.Flags().BoolVar(&body, "body", false, "print the body alone")
	return c
}

const kindUsage = "first-boot, fleet, jitp or bulk"

func newTemplatePutCmd(g *globals) *cobra.Command {
	var r adminapi.TemplateRequest
	c := &cobra.Command{
		Use: "put NAME FILE", Short: "Store a template, or replace it; it is checked first", Args: cobra.ExactArgs(2),
		Example: "  hallmark template put lamps lamps.json --kind fleet",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if r.Body, err = g.readDocument(args[1]); err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.PutTemplateWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				fmt.Fprintf(w, "Template %s of the kind %s is stored.\n", visible(a.JSON200.Name), a.JSON200.Kind)
				switch a.JSON200.Kind {
				case provisioner.FleetKind:
					fmt.Fprintf(w, "Next: hallmark template enable %s\n", visible(a.JSON200.Name))
				case provisioner.JITPKind:
					fmt.Fprintf(w, "Next: hallmark registered-ca template ID %s\n", visible(a.JSON200.Name))
				case provisioner.BulkKind:
					fmt.Fprintf(w, "Next: hallmark bulk register FILE --template %s\n", visible(a.JSON200.Name))
				}
			})
		},
	}
	c.Flags().StringVar(&r.Kind, "kind", "", kindUsage)
	c.MarkFlagRequired("kind")
	return c
}

func newTemplateCheckCmd(g *globals) *cobra.Command {
	var kind string
	c := &cobra.Command{
		Use: "check FILE", Short: "Check a template without a service", Args: cobra.ExactArgs(1),
		Example: "  hallmark template check lamps.json --kind jitp",
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := g.readDocument(args[0])
			if err != nil {
				return err
			}
			switch kind {
			case provisioner.FirstBootTemplate:
				_, err = provisioner.ParseTemplate([]byte(text))
			case provisioner.FleetKind:
				_, err = template.Parse([]byte(text), template.Fleet)
			case provisioner.JITPKind:
				_, err = template.Parse([]byte(text), template.JITP)
			case provisioner.BulkKind:
				_, err = template.Parse([]byte(text), template.Bulk)
			default:
				return errUsage{fmt.Errorf("--kind %q is not %s", kind, kindUsage)}
			}
			if err != nil {
				return err
			}
			return g.print(map[string]any{"kind": kind, "good": true}, func(w io.Writer) { fmt.Fprintf(w, "It is a good template of the kind %s.\n", kind) })
		},
	}
	c.Flags().StringVar(&kind, "kind", "", kindUsage)
	c.MarkFlagRequired("kind")
	return c
}

func newTemplateEnableCmd(g *globals, on bool) *cobra.Command {
	r := adminapi.FleetTemplateRequest{Enabled: on}
	use, short := "enable", "Let devices with a claim provision themselves with a template of the kind fleet"
	if !on {
		use, short = "disable", "Stop devices with a claim from provisioning themselves with a template"
	}
	c := &cobra.Command{
		Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1), Example: "  hallmark template " + use + " lamps",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if !on { // what else is set stays
				f, err := api.ListFleetTemplatesWithResponse(cmd.Context())
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				if f.JSON200 == nil {
					return problem(f.StatusCode(), f.Body)
				}
				for _, t := range f.JSON200.Items {
					if t.Name == args[0] {
						r.Hook, r.Issuer, r.TakeOver = t.Hook, t.Issuer, t.TakeOver
					}
				}
			}
			a, err := api.PutFleetTemplateWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				t := a.JSON200
				facts(w, "template", t.Name, "enabled", yesNo(t.Enabled), "hook", t.Hook, "issuer", t.Issuer, "take-over", yesNo(t.TakeOver))
				if t.Enabled {
					fmt.Fprintf(w, "\nNext: hallmark claim create NAME --template %s --most N\n", visible(t.Name))
				}
			})
		},
	}
	if on {
		f := c.Flags()
		f.StringVar(&r.Hook, "hook", "", "webhook that is asked about each device")
		f.StringVar(&r.Issuer, "issuer", "", "authority of the certificates; the active one if not given")
		f.BoolVar(&r.TakeOver, "take-over", false, "a thing with a live device may go to another one, if the hook allows it too")
	}
	return c
}
