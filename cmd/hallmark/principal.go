package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newPrincipalCmd) }

func newPrincipalCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "principal", Short: "Named people and scripts, and their tokens",
		Example: `  hallmark principal create anna --role security-officer
  hallmark principal disable anna`,
	}
	c.AddCommand(newPrincipalListCmd(g), newPrincipalCreateCmd(g), newPrincipalDisableCmd(g))
	return c
}

func newPrincipalListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List principals", Args: cobra.NoArgs,
		Example: "  hallmark principal list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, _, err := gather(0, func(cursor *string, n int) ([]adminapi.Principal, string, error) {
				a, err := api.ListPrincipalsWithResponse(cmd.Context(), &adminapi.ListPrincipalsParams{Cursor: cursor, Limit: &n})
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
					state := "live"
					switch {
					case !p.DisabledAt.IsZero():
						state = "disabled"
					case !g.Now().Before(p.ExpiresAt):
						state = "expired"
					}
					rows = append(rows, []string{p.Name, p.Role, state, day(p.CreatedAt), day(p.ExpiresAt)})
				}
				table(w, []string{"NAME", "ROLE", "STATE", "CREATED", "UNTIL"}, rows, "There is no principal. Make one with hallmark principal create.")
			})
		},
	}
}

func newPrincipalCreateCmd(g *globals) *cobra.Command {
	var r adminapi.PrincipalRequest
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a principal; its token is shown once", Args: cobra.ExactArgs(1),
		Long: `Create a principal. The service makes its token and keeps a hash; it is shown only
now. With --json the member token holds it.`,
		Example: `  hallmark principal create anna --role security-officer
  hallmark principal create ci-bot --role auditor --days 30 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreatePrincipalWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON201, func(w io.Writer) {
				p := a.JSON201.Principal
				facts(w, "name", p.Name, "role", p.Role, "until", moment(p.ExpiresAt), "token", a.JSON201.Token)
				fmt.Fprintln(w, "\nThe token is not shown again. Its owner sets HALLMARK_TOKEN, or signs in with it at the console.")
			})
		},
	}
	c.Flags().StringVar(&r.Role, "role", "", "operator, cm-manager, security-officer, auditor, fleet-operator or platform")
	c.Flags().IntVar(&r.Days, "days", 0, "life of the token in days; 90 if not given")
	c.MarkFlagRequired("role")
	return c
}

func newPrincipalDisableCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "disable NAME", Short: "Disable a principal for good", Args: cobra.ExactArgs(1),
		Example: "  hallmark principal disable anna",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DisablePrincipalWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				fmt.Fprintf(w, "%s is disabled since %s.\n", a.JSON200.Name, moment(a.JSON200.DisabledAt))
			})
		},
	}
}
