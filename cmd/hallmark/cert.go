package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newCertCmd) }

func newCertCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "cert", Short: "Certificates: find, show, revoke",
		Example: `  hallmark cert search LMP-0001
  hallmark cert revoke 40005085c3f09d3a2f0c7d1e5b6a798877665544 --reason keyCompromise --note "found on a forum"`,
	}
	c.AddCommand(newCertListCmd(g), newCertSearchCmd(g), newCertShowCmd(g), newCertRevokeCmd(g))
	return c
}

// certFilter is the flags of listing and searching.
type certFilter struct {
	holder, status, authority, order, profile string
	limit                                     int
}

func (f *certFilter) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.status, "status", "", "only good, revoked, hold, expired, reserved or void ones; revoked has those on hold too")
	c.Flags().StringVar(&f.authority, "authority", "", "only those of an authority")
	c.Flags().StringVar(&f.order, "order", "", "only those of an order")
	c.Flags().StringVar(&f.profile, "profile", "", "only those of a profile, such as idevid or ldevid")
	c.Flags().IntVar(&f.limit, "limit", 200, "most certificates to list; 0 for all")
}

func (f *certFilter) run(g *globals, cmd *cobra.Command) error {
	api, err := g.admin(cmd.Context())
	if err != nil {
		return err
	}
	items, cut, err := gather(f.limit, func(cursor *string, n int) ([]adminapi.CertificateSummary, string, error) {
		a, err := api.SearchCertificatesWithResponse(cmd.Context(), &adminapi.SearchCertificatesParams{
			Holder: optional(f.holder), Status: optional(f.status), Authority: optional(f.authority), Order: optional(f.order), Profile: optional(f.profile),
			Cursor: cursor, Limit: &n,
		})
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
		certTable(w, items, "No certificate fits.")
		more(w, cut, len(items))
	})
}

func certTable(w io.Writer, items []adminapi.CertificateSummary, empty string) {
	rows := [][]string{}
	for _, s := range items {
		rows = append(rows, []string{s.Serial, s.Holder, s.Profile, dash(s.Slot), s.Status, s.Authority, dash(s.Account), day(s.NotAfter)})
	}
	table(w, []string{"SERIAL", "HOLDER", "PROFILE", "SLOT", "STATUS", "AUTHORITY", "ORDER", "UNTIL"}, rows, empty)
}

func newCertListCmd(g *globals) *cobra.Command {
	var f certFilter
	c := &cobra.Command{
		Use: "list", Short: "List certificates", Args: cobra.NoArgs,
		Example: "  hallmark cert list --order PO-7 --status revoked",
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(g, cmd) },
	}
	f.flags(c)
	return c
}

func newCertSearchCmd(g *globals) *cobra.Command {
	var f certFilter
	c := &cobra.Command{
		Use: "search NAME", Short: "Find certificates by the start of their holder's name", Args: cobra.ExactArgs(1),
		Example: "  hallmark cert search LMP-0001",
		RunE: func(cmd *cobra.Command, args []string) error {
			f.holder = args[0]
			return f.run(g, cmd)
		},
	}
	f.flags(c)
	return c
}

func newCertShowCmd(g *globals) *cobra.Command {
	var pem bool
	c := &cobra.Command{
		Use: "show SERIAL", Short: "Show one certificate and its story", Args: cobra.ExactArgs(1),
		Example: `  hallmark cert show 40005085c3f09d3a2f0c7d1e5b6a798877665544
  hallmark cert show 40005085c3f09d3a2f0c7d1e5b6a798877665544 --pem > unit.pem`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetCertificateWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				if pem {
					fmt.Fprint(w, a.JSON200.Certificate)
					return
				}
				showCert(w, a.JSON200)
			})
		},
	}
	c.Flags().BoolVar(&pem, "pem", false, "print only the certificate, as PEM")
	return c
}

func showCert(w io.Writer, c *adminapi.Certificate) {
	leaf := ""
	if c.Certificate != "" {
		leaf = fmt.Sprint(c.Leaf)
	}
	facts(w, "serial", c.Serial, "holder", c.Holder, "profile", c.Profile, "slot", c.Slot, "status", c.Status, "authority", c.Authority, "subject", c.Subject,
		"issuer", c.Issuer, "from", moment(c.NotBefore), "until", moment(c.NotAfter), "issued", moment(c.IssuedAt), "order", c.Account, "asked by", c.Requester,
		"operator", c.Operator, "tool", c.Tool, "key origin", c.Origin, "fingerprint", c.Fingerprint, "log entry", leaf)
	if r := c.Revocation; !r.RevokedAt.IsZero() {
		fmt.Fprintln(w)
		facts(w, "revoked", moment(r.RevokedAt), "reason", r.Reason, "by", r.RevokedBy, "note", r.Note, "released", moment(r.ReleasedAt), "blocked", yesNo(r.Blocked))
	}
}

func newCertRevokeCmd(g *globals) *cobra.Command {
	var r adminapi.RevokeRequest
	var reenrol bool
	c := &cobra.Command{
		Use: "revoke SERIAL", Short: "Revoke one certificate, or hold it", Args: cobra.ExactArgs(1),
		Long: `Revoke one certificate. To take a whole device out of the field use hallmark device
revoke. After keyCompromise the identity gets no other certificate; for other
reasons say --allow-reenrol=false to block it.`,
		Example: `  hallmark cert revoke 40005085c3f09d3a2f0c7d1e5b6a798877665544 --reason superseded
  hallmark cert revoke 40005085c3f09d3a2f0c7d1e5b6a798877665544 --reason certificateHold --note "returned, being examined"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("allow-reenrol") {
				r.AllowReenrol = &reenrol
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.RevokeCertificateWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				word := "Revoked"
				if a.JSON200.Already {
					word = "Was revoked already"
				}
				fmt.Fprintf(w, "%s: %s of %s (%s).\n", word, a.JSON200.Serial, visible(a.JSON200.Holder), a.JSON200.Reason)
				if a.JSON200.Blocked {
					fmt.Fprintln(w, "The identity is blocked and gets no other certificate.")
				}
			})
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "keyCompromise, superseded, cessationOfOperation, privilegeWithdrawn, affiliationChanged, unspecified, or certificateHold")
	c.Flags().StringVar(&r.Note, "note", "", "why, for the record")
	c.Flags().BoolVar(&reenrol, "allow-reenrol", true, "the identity may get another certificate")
	c.MarkFlagRequired("reason")
	return c
}
