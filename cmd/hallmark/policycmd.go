package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newPolicyCmd) }

func newPolicyCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Device policies: what devices may do",
		Example: `  hallmark policy create lamps lamps.json
  hallmark policy attach lamps --group lamps
  hallmark policy check --thing LMP-000123 --action iot:Publish --topic dt/LMP-000123/heat`,
	}
	c.AddCommand(newPolicyListCmd(g), newPolicyShowCmd(g), newPolicyCreateCmd(g), newPolicyVersionCmd(g), newPolicyDefaultCmd(g), newPolicyDeleteVersionCmd(g), newPolicyDeleteCmd(g),
		newPolicyAttachCmd(g, true), newPolicyAttachCmd(g, false), newPolicyTargetsCmd(g), newPolicyAttachedCmd(g), newPolicyCheckCmd(g), newPolicyLintCmd(g))
	return c
}

func newPolicyListCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List policies", Args: cobra.NoArgs, Example: "  hallmark policy list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.DevicePolicy, string, error) {
				a, err := api.ListPoliciesWithResponse(cmd.Context(), &adminapi.ListPoliciesParams{Cursor: cursor, Limit: &n})
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
				for _, p := range items {
					rows = append(rows, []string{p.Name, fmt.Sprint(p.DefaultVersion), fmt.Sprint(p.LatestVersion), day(p.CreatedAt), day(p.UpdatedAt)})
				}
				table(w, []string{"POLICY", "DEFAULT", "LATEST", "CREATED", "CHANGED"}, rows, "There is no policy, so devices may do nothing. Make one with hallmark policy create.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most policies to list; 0 for all")
	return c
}

func newPolicyShowCmd(g *globals) *cobra.Command {
	var version int
	var document bool
	c := &cobra.Command{
		Use: "show NAME", Short: "Show one policy with its default document, or another version", Args: cobra.ExactArgs(1),
		Example: `  hallmark policy show lamps
  hallmark policy show lamps --version 2 --document > lamps-2.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if version != 0 {
				a, err := api.GetPolicyVersionWithResponse(cmd.Context(), args[0], version)
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return problem(a.StatusCode(), a.Body)
				}
				return g.print(a.JSON200, func(w io.Writer) {
					if !document {
						v := a.JSON200
						facts(w, "policy", v.Policy, "version", fmt.Sprint(v.Version), "default", yesNo(v.Default), "created", moment(v.CreatedAt))
						for _, f := range v.Findings {
							facts(w, "finding", findingText(f))
						}
						fmt.Fprintln(w)
					}
					fmt.Fprintln(w, visibleLines(a.JSON200.Document))
				})
			}
			a, err := api.GetPolicyWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				if !document {
					showPolicy(w, a.JSON200)
					fmt.Fprintln(w)
				}
				fmt.Fprintln(w, visibleLines(a.JSON200.Document))
			})
		},
	}
	c.Flags().IntVar(&version, "version", 0, "number of the version; the default one if not given")
	c.Flags().BoolVar(&document, "document", false, "print the document alone")
	return c
}

func showPolicy(w io.Writer, p *adminapi.DevicePolicy) {
	var versions []string
	for _, v := range p.Versions {
		text := fmt.Sprint(v.Version)
		if v.Default {
			text += " (default)"
		}
		versions = append(versions, text)
	}
	facts(w, "policy", p.Name, "versions", strings.Join(versions, ", "), "created", moment(p.CreatedAt), "changed", moment(p.UpdatedAt))
}

// policyDone prints what a change left.
func (g *globals) policyDone(p *adminapi.DevicePolicy, status int, body []byte) error {
	if p == nil {
		return problem(status, body)
	}
	return g.print(p, func(w io.Writer) { showPolicy(w, p) })
}

// readDocument reads a file, or standard input for "-".
func (g *globals) readDocument(name string) (string, error) {
	if name == "-" {
		b, err := io.ReadAll(io.LimitReader(g.In, 1<<20))
		return string(b), err
	}
	b, err := os.ReadFile(name)
	return string(b), err
}

func newPolicyCreateCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "create NAME FILE", Short: "Make a policy with its first version", Args: cobra.ExactArgs(2),
		Long:    "Make a policy. The document is in the policy language of AWS IoT Core; it is checked first. FILE may be - for standard input.",
		Example: "  hallmark policy create lamps lamps.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := g.readDocument(args[1])
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreatePolicyWithResponse(cmd.Context(), adminapi.DevicePolicyRequest{Name: args[0], Document: text})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.policyDone(a.JSON201, a.StatusCode(), a.Body)
		},
	}
}

func newPolicyVersionCmd(g *globals) *cobra.Command {
	var asDefault bool
	c := &cobra.Command{
		Use: "version NAME FILE", Short: "Add a version to a policy", Args: cobra.ExactArgs(2),
		Long:    "Add a version to a policy, of at most five. Without --default it counts once hallmark policy default says so.",
		Example: "  hallmark policy version lamps lamps.json --default",
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := g.readDocument(args[1])
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreatePolicyVersionWithResponse(cmd.Context(), args[0], adminapi.DevicePolicyVersionRequest{Document: text, Default: asDefault})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.policyDone(a.JSON201, a.StatusCode(), a.Body)
		},
	}
	c.Flags().BoolVar(&asDefault, "default", false, "let it count at once, for connected devices too")
	return c
}

func versionNumber(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, errUsage{fmt.Errorf("%q is not the number of a version", text)}
	}
	return n, nil
}

func newPolicyDefaultCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "default NAME VERSION", Short: "Choose the version that counts, at once", Args: cobra.ExactArgs(2),
		Example: "  hallmark policy default lamps 2",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := versionNumber(args[1])
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.SetDefaultPolicyVersionWithResponse(cmd.Context(), args[0], n)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.policyDone(a.JSON200, a.StatusCode(), a.Body)
		},
	}
}

func newPolicyDeleteVersionCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "delete-version NAME VERSION", Short: "Delete a version that is not the default", Args: cobra.ExactArgs(2),
		Example: "  hallmark policy delete-version lamps 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := versionNumber(args[1])
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DeletePolicyVersionWithResponse(cmd.Context(), args[0], n)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.policyDone(a.JSON200, a.StatusCode(), a.Body)
		},
	}
}

func newPolicyDeleteCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a policy that has one version and is attached to nothing", Args: cobra.ExactArgs(1),
		Example: "  hallmark policy delete lamps",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DeletePolicyWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { fmt.Fprintf(w, "Policy %s is deleted.\n", visible(a.JSON200.Name)) })
		},
	}
}

func newPolicyAttachCmd(g *globals, attach bool) *cobra.Command {
	var certificate, group string
	verb, use, done := "Attach a policy to a device certificate or a static thing group", "attach", "attached to"
	if !attach {
		verb, use, done = "Take a policy from a device certificate or a thing group", "detach", "detached from"
	}
	c := &cobra.Command{
		Use: use + " NAME", Short: verb, Args: cobra.ExactArgs(1),
		Example: fmt.Sprintf("  hallmark policy %s lamps --group lamps\n  hallmark policy %s lamps --certificate %s", use, use, strings.Repeat("ab12", 16)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (certificate == "") == (group == "") {
				return errUsage{errors.New("give either --certificate or --group")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			var t *adminapi.PolicyTarget
			var status int
			var body []byte
			switch {
			case certificate != "" && attach:
				a, e := api.AttachPolicyToCertificateWithResponse(ctx, args[0], certificate)
				if err = e; e == nil {
					t, status, body = a.JSON200, a.StatusCode(), a.Body
				}
			case certificate != "":
				a, e := api.DetachPolicyFromCertificateWithResponse(ctx, args[0], certificate)
				if err = e; e == nil {
					t, status, body = a.JSON200, a.StatusCode(), a.Body
				}
			case attach:
				a, e := api.AttachPolicyToGroupWithResponse(ctx, args[0], group)
				if err = e; e == nil {
					t, status, body = a.JSON200, a.StatusCode(), a.Body
				}
			default:
				a, e := api.DetachPolicyFromGroupWithResponse(ctx, args[0], group)
				if err = e; e == nil {
					t, status, body = a.JSON200, a.StatusCode(), a.Body
				}
			}
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if t == nil {
				return problem(status, body)
			}
			return g.print(t, func(w io.Writer) {
				fmt.Fprintf(w, "Policy %s is %s the %s %s.\n", visible(t.Policy), done, t.Kind, visible(t.Name))
			})
		},
	}
	c.Flags().StringVar(&certificate, "certificate", "", "id of a device certificate")
	c.Flags().StringVar(&group, "group", "", "name of a thing group")
	return c
}

func newPolicyTargetsCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "targets NAME", Short: "List what a policy is attached to", Args: cobra.ExactArgs(1), Example: "  hallmark policy targets lamps",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.PolicyTarget, string, error) {
				a, err := api.ListPolicyTargetsWithResponse(cmd.Context(), args[0], &adminapi.ListPolicyTargetsParams{Cursor: cursor, Limit: &n})
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
					rows = append(rows, []string{t.Kind, t.Name})
				}
				table(w, []string{"KIND", "NAME"}, rows, "It is attached to nothing. Attach it with hallmark policy attach.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most targets to list; 0 for all")
	return c
}

func newPolicyAttachedCmd(g *globals) *cobra.Command {
	var certificate, thing, group string
	var inherited bool
	c := &cobra.Command{
		Use: "attached", Short: "List the policies that count for a certificate or a thing, or that a group has", Args: cobra.NoArgs,
		Example: `  hallmark policy attached --thing LMP-000123
  hallmark policy attached --group lamps --inherited`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n := len(slices.DeleteFunc([]string{certificate, thing, group}, func(s string) bool { return s == "" })); n != 1 || inherited && group == "" {
				return errUsage{errors.New("give one of --certificate, --thing and --group; --inherited goes with --group")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			p := &adminapi.ListAttachedPoliciesParams{Certificate: optional(certificate), Thing: optional(thing), Group: optional(group)}
			if inherited {
				p.Inherited = optional("yes")
			}
			a, err := api.ListAttachedPoliciesWithResponse(cmd.Context(), p)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				attachedTable(w, a.JSON200.Items, "There is none, so nothing is allowed. Attach one with hallmark policy attach.")
			})
		},
	}
	c.Flags().StringVar(&certificate, "certificate", "", "id of a device certificate")
	c.Flags().StringVar(&thing, "thing", "", "name of a thing")
	c.Flags().StringVar(&group, "group", "", "name of a thing group")
	c.Flags().BoolVar(&inherited, "inherited", false, "those of the groups above it too")
	return c
}

func attachedTable(w io.Writer, items []adminapi.AttachedPolicy, empty string) {
	rows := [][]string{}
	for _, p := range items {
		rows = append(rows, []string{p.Policy, dash(optionalNumber(p.Version)), strings.TrimSpace(p.From.Kind + " " + p.From.Name)})
	}
	table(w, []string{"POLICY", "VERSION", "FROM"}, rows, empty)
}

func optionalNumber(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
