package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func newCACrossCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "cross", Short: "Cross certificates: one root certifies another",
		Long: `Who trusts only one of two roots finds a chain to what is below the other. The step
cross-sign of a ceremony makes the certificate; here it is checked, stored and served:
in the chain of every new device certificate, in the CA certificates of EST, and at
/ca/NAME.cer and /ca/AUTHORITY.pem.`,
		Example: `  hallmark ca cross add --name root-2-by-root-1 --certificate root-2-by-root-1.pem
  hallmark ca cross list
  hallmark ca cross remove root-2-by-root-1`,
	}
	c.AddCommand(newCACrossAddCmd(g), newCACrossListCmd(g), newCACrossRemoveCmd(g))
	return c
}

func newCACrossRemoveCmd(g *globals) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "remove NAME", Short: "Ask for a cross certificate to be taken away: it is served no more", Args: cobra.ExactArgs(1),
		Long: `Who trusts only the root that signed it finds no chain to what is below the other here
any more. It is not revoked: a device that has it in its chain keeps it until it ends.
Two people; one for a certificate that ended.`,
		Example: "  hallmark ca cross remove root-2-by-root-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, "CrossCertificate", args[0], crossSpec{State: crossRemoved}, yes)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newCACrossAddCmd(g *globals) *cobra.Command {
	var r adminapi.CrossRequest
	var cert string
	c := &cobra.Command{
		Use: "add", Short: "Check and store a cross certificate; both roots must be stored", Args: cobra.NoArgs,
		Example: "  hallmark ca cross add --name root-2-by-root-1 --certificate root-2-by-root-1.pem",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if r.Certificate, err = readPEM(cert, "CERTIFICATE"); err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.AddCrossWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			x := a.JSON201
			return g.print(x, func(w io.Writer) {
				fmt.Fprintf(w, "%s is stored: %s certifies %s until %s. It is served at %s.\n", x.Name, x.Root, x.Of, day(x.NotAfter), visible(x.Url))
			})
		},
	}
	f := c.Flags()
	f.StringVar(&r.Name, "name", "", "name of the cross certificate; part of its URL")
	f.StringVar(&cert, "certificate", "", "PEM or DER file")
	c.MarkFlagRequired("name")
	c.MarkFlagRequired("certificate")
	return c
}

func newCACrossListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the cross certificates", Args: cobra.NoArgs, Example: "  hallmark ca cross list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListCrossesWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				rows := [][]string{}
				for _, x := range a.JSON200.Items {
					rows = append(rows, []string{x.Name, x.Root, x.Of, day(x.NotAfter), x.Url})
				}
				table(w, []string{"NAME", "ROOT", "CERTIFIES", "UNTIL", "URL"}, rows, "None. A ceremony with the step cross-sign makes one.")
			})
		},
	}
}
