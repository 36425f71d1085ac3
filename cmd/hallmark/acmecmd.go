package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func newEnrolAcmeKeyCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "acme-key", Short: "External account keys, with which ACME accounts are made",
		Example: "  hallmark enrol acme-key create --profile site-server --name gw1.plant.example.com",
	}
	c.AddCommand(newEnrolAcmeKeyCreateCmd(g), newEnrolAcmeKeyListCmd(g), newEnrolAcmeKeyRevokeCmd(g))
	return c
}

func newEnrolAcmeKeyCreateCmd(g *globals) *cobra.Command {
	var r adminapi.AcmeKeyRequest
	c := &cobra.Command{
		Use: "create", Short: "Make a key for one account, one profile and these names; its secret is shown once", Args: cobra.NoArgs,
		Example: `  hallmark enrol acme-key create --profile ldevid --name 12345678=LMP-000001 --name LMP-000002
  hallmark enrol acme-key create --profile idevid --order PO-1 --name LMP-000001
  hallmark enrol acme-key create --profile site-server --name .lab.plant.example.com`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateAcmeKeyWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON201, func(w io.Writer) {
				k := a.JSON201
				facts(w, "profile", k.Profile, "order", k.Order, "names", strings.Join(k.Names, " "), "kid", k.Id, "secret", k.Secret, "until", moment(k.ExpiresAt))
				fmt.Fprintln(w, "\ncertbot: --eab-kid KID --eab-hmac-key SECRET. lego: --eab --kid KID --hmac SECRET.")
			})
		},
	}
	f := c.Flags()
	f.StringVar(&r.Profile, "profile", "", "idevid (birth certificates), ldevid (operational ones) or site-server")
	f.StringVar(&r.Order, "order", "", "the order that birth certificates count on")
	f.StringArrayVar(&r.Names, "name", nil, "a device as IDENTIFIER or IDENTIFIER=UNIT, or a host name; with a dot before it everything below")
	f.IntVar(&r.Hours, "hours", 168, "in which the account has to be made, 1 to 2160")
	c.MarkFlagRequired("profile")
	c.MarkFlagRequired("name")
	return c
}

func newEnrolAcmeKeyListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the keys, without their secrets", Args: cobra.NoArgs,
		Example: "  hallmark enrol acme-key list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListAcmeKeysWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.StatusCode() != http.StatusOK || a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				for _, k := range a.JSON200.Items {
					fmt.Fprintf(w, "%s  %-8s %-12s %s  %s\n", k.Id, k.State, k.Profile, moment(k.ExpiresAt), strings.Join(k.Names, " "))
				}
			})
		},
	}
}

func newEnrolAcmeKeyRevokeCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "revoke KID", Short: "End a key and the account that was made with it; certificates stay", Args: cobra.ExactArgs(1),
		Example: "  hallmark enrol acme-key revoke a2b3c4d5e6f7g8h9",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.RevokeAcmeKeyWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { fmt.Fprintf(w, "Key %s is revoked.\n", a.JSON200.Id) })
		},
	}
}
