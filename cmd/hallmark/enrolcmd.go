package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newEnrolCmd) }

func newEnrolCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "enrol", Short: "Enrolment by the standard protocols: EST, CMP, SCEP, ACME",
		Example: "  hallmark enrol password create --unit LMP-000001 --profile ldevid",
	}
	p := &cobra.Command{
		Use: "password", Short: "One-time passwords with which units enrol",
		Example: "  hallmark enrol password create --unit LMP-000001 --profile idevid --order PO-1",
	}
	p.AddCommand(newEnrolPasswordCreateCmd(g))
	c.AddCommand(p, newEnrolAcmeKeyCmd(g))
	return c
}

func newEnrolPasswordCreateCmd(g *globals) *cobra.Command {
	var r adminapi.EnrolPasswordRequest
	c := &cobra.Command{
		Use: "create", Short: "Make a one-time password for one unit and one profile; good for an hour, shown once", Args: cobra.NoArgs,
		Example: `  hallmark enrol password create --unit LMP-000001 --profile ldevid
  hallmark enrol password create --unit LMP-000001 --profile idevid --order PO-1 --minutes 10`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateEnrolPasswordWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON201, func(w io.Writer) {
				p := a.JSON201
				facts(w, "unit", p.Unit, "profile", p.Profile, "reference", p.Reference, "password", p.Password, "until", moment(p.ExpiresAt))
				fmt.Fprintln(w, "\nEST: the unit is the user name. CMP: the reference is the sender's key identifier\n(-ref). SCEP: the password is the challenge, the unit the common name.\nThe first key that comes with the password keeps it.")
			})
		},
	}
	f := c.Flags()
	f.StringVar(&r.Unit, "unit", "", "the unit's serial")
	f.StringVar(&r.Profile, "profile", "", "idevid (a birth certificate) or ldevid (an operational one)")
	f.StringVar(&r.Order, "order", "", "the order that a birth certificate counts on")
	f.IntVar(&r.Minutes, "minutes", 60, "how long it is good, 1 to 60")
	c.MarkFlagRequired("unit")
	c.MarkFlagRequired("profile")
	return c
}
