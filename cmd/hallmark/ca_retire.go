package main

import (
	"github.com/spf13/cobra"

	"hallmark/ca"
	"hallmark/crl"
)

func newCARetireCmd(g *globals) *cobra.Command {
	var yes bool
	var note string
	c := &cobra.Command{
		Use: "retire NAME", Short: "Ask for an authority to be closed: it only signs lists, and then its last ones", Args: cobra.ExactArgs(1),
		Long: `A closed authority issues nothing more but the certificate of its OCSP responder. It
signs its lists until a day after its last certificate ended; its last lists hold to its
own end. It is refused while nobody else is declared for what it serves. Two people.`,
		Example: "  hallmark ca retire device-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, "AuthorityEnd", args[0], endSpec{Stage: string(ca.EndClosed), Note: note}, yes)
		},
	}
	c.Flags().StringVar(&note, "note", "", "why, for the record")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newCARevokeCmd(g *globals) *cobra.Command {
	var yes bool
	e := endSpec{Stage: string(ca.EndRevoked)}
	c := &cobra.Command{
		Use: "revoke NAME", Short: "Ask for an authority to be revoked: nothing is issued by it, nothing of it is taken", Args: cobra.ExactArgs(1),
		Long: `Once a second person approved, the service issues nothing by the authority, and its
doors and its OCSP responder refuse what it issued. Everybody else learns it from the
list of its root, which is signed in a ceremony: the answer and hallmark ca rollover
status say what is left to do.`,
		Example: "  hallmark ca revoke device-1 --reason keyCompromise",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, "AuthorityEnd", args[0], e, yes)
		},
	}
	f := c.Flags()
	f.StringVar(&e.Reason, "reason", crl.KeyCompromise.String(), "why, as in RFC 5280, Section 5.3.1")
	f.StringVar(&e.Note, "note", "", "why, for the record")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return c
}
