package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/provisioner/declare"
)

func newCAServeCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "serve", Short: "Which authorities issue what, and in which order",
		Long: `An authority issues only what it is declared for. A declaration is about a profile, or
about a duty, which stands for its profiles without a declaration of their own; product
and region narrow it. Of its authorities the first that is open and whose key answers
issues. A change takes two people. An authority under a root that devices may not have is
refused: a root rollover brings it to them, or --reason says why it may issue all the same.`,
		Example: `  hallmark ca serve list
  hallmark ca serve set --serves idevid --product sensor-2 --authority device-3 --authority device-1`,
	}
	c.AddCommand(newCAServeListCmd(g), newCAServeSetCmd(g))
	return c
}

func newCAServeListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the declarations, and who would issue now", Args: cobra.NoArgs, Example: "  hallmark ca serve list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListServingsWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				rows := [][]string{}
				for _, s := range a.JSON200.Items {
					rows = append(rows, []string{s.Name, s.Serves, dash(s.Product), dash(s.Region), strings.Join(s.Authorities, ", "), dash(s.Issues)})
				}
				table(w, []string{"NAME", "SERVES", "PRODUCT", "REGION", "AUTHORITIES", "ISSUES NOW"}, rows, "Nothing is declared. The first authority of a duty is declared when it is installed.")
			})
		},
	}
}

func newCAServeSetCmd(g *globals) *cobra.Command {
	var s servingSpec
	var name string
	var yes bool
	c := &cobra.Command{
		Use: "set", Short: "Ask for a declaration, or for another order of authorities", Args: cobra.NoArgs,
		Example: `  hallmark ca serve set --serves device --authority device-2 --authority device-1
  hallmark ca serve set --serves idevid --product sensor-2 --region eu --authority device-eu
  hallmark ca serve set --serves idevid --product sensor-2 --region eu     withdraws it`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				name = s.Serves
				for _, part := range []string{s.Product, s.Region} {
					if part != "" {
						name += "." + part
					}
				}
			}
			return g.ask(cmd, "Serving", name, s, yes)
		},
	}
	f := c.Flags()
	f.StringVar(&s.Serves, "serves", "", "a profile (idevid, ldevid, station, …) or a duty (device, infrastructure)")
	f.StringVar(&s.Product, "product", "", "only for orders of this product")
	f.StringVar(&s.Region, "region", "", "only for this region: a station's site")
	f.StringArrayVar(&s.Authorities, "authority", nil, "who issues; again for who steps in")
	f.StringVar(&s.Reason, "reason", "", "why one may issue although devices may not have its root; the trail keeps it")
	f.StringVar(&name, "name", "", "name of the declaration; made of what it is about by default")
	f.BoolVar(&yes, "yes", false, "do not ask")
	c.MarkFlagRequired("serves")
	return c
}

// ask plans one document, shows what it changes, and asks a second person for it.
func (g *globals) ask(cmd *cobra.Command, kind, name string, spec any, yes bool) error {
	if g.JSON && !yes {
		return errUsage{errors.New("--json asks nothing: give --yes")}
	}
	// JSON is YAML.
	text, err := json.Marshal(map[string]any{"apiVersion": declare.APIVersion, "kind": kind, "metadata": map[string]string{"name": name}, "spec": spec})
	if err != nil {
		return err
	}
	files := []adminapi.DocumentFile{{Name: kind + " " + name, Text: string(text)}}
	api, err := g.admin(cmd.Context())
	if err != nil {
		return err
	}
	a, err := api.MakePlanWithResponse(cmd.Context(), adminapi.PlanRequest{Files: files})
	if err != nil {
		return errAnswer.Wrap(err, "")
	}
	if a.JSON200 == nil {
		return g.refusedDocuments(a.StatusCode(), a.Body)
	}
	plan := a.JSON200
	if !g.JSON {
		showPlan(g.Out, plan, colours(g.Out))
	}
	if plan.Todo+plan.Waiting == 0 {
		return g.print(plan, func(io.Writer) {})
	}
	if !yes {
		fmt.Fprintf(g.Err, "\nAsk a second person to approve this? Type yes: ")
		if line, _ := bufio.NewReader(g.In).ReadString('\n'); strings.TrimSpace(line) != "yes" {
			return errNotApplied.New("")
		}
	}
	done, err := api.ApplyPlanWithResponse(cmd.Context(), adminapi.PlanApplyRequest{Files: files, Plan: plan.Hash})
	if err != nil {
		return errAnswer.Wrap(err, "")
	}
	if done.JSON200 == nil {
		return g.refusedDocuments(done.StatusCode(), done.Body)
	}
	return g.print(done.JSON200, func(w io.Writer) { showApplied(w, done.JSON200) })
}
