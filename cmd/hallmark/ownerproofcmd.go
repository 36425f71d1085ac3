package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/internal/durable"
	"hallmark/internal/strictjson"
)

func newOwnerStatementCmd(g *globals) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "statement UNIT", Short: "Get the signed proof that a unit was taken out of use", Args: cobra.ExactArgs(1),
		Long: `The statement says that every certificate of the unit was revoked and its name blocked.
It is signed with the key of the transparency log and proves that the log has each of
these events, so that it can be verified later without us.`,
		Example: "  hallmark owner statement LMP-000123 --out lmp-000123.json\n  hallmark owner verify lmp-000123.json --log-key KEY",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetDecommissionStatementWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			env, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
			if err != nil {
				return err
			}
			var d disposal
			if err := strictjson.Decode(env.Payload, &d); err != nil {
				return errDisposal.Wrap(err, "")
			}
			if !strings.EqualFold(d.Unit, args[0]) {
				return errDisposal.New("It is about unit %s.", d.Unit)
			}
			if out != "" {
				b, err := json.MarshalIndent(env, "", "  ")
				if err != nil {
					return err
				}
				if err := durable.WriteFile(out, append(b, '\n'), 0o644); err != nil {
					return err
				}
			}
			return g.print(env, func(w io.Writer) {
				showDisposal(w, &d)
				if out != "" {
					fmt.Fprintf(w, "\nThe signed statement is in %s. Verify it with hallmark owner verify.\n", out)
				}
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "write the signed statement to this file")
	return c
}

func newOwnerVerifyCmd(g *globals) *cobra.Command {
	var trust logTrust
	c := &cobra.Command{
		Use: "verify FILE", Short: "Verify a statement of decommissioning, offline", Args: cobra.ExactArgs(1),
		Long: `Verify the statement's signature, the checkpoint in it, and that the log has the
revocation of each certificate and the block of the name. Nobody is asked; the log's
verifier key must come from somewhere other than the statement. It is about the time when
it was made: certificates that had ended by then, and those that have ended since, are
named, and it holds all the same.`,
		Example: "  hallmark owner verify lmp-000123.json --log-key KEY --witness KEY",
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			var env adminapi.Envelope
			if err := strictjson.Decode(b, &env); err != nil {
				return errDisposal.Wrap(err, "It cannot be read.")
			}
			policy, err := trust.policy()
			if err != nil {
				return err
			}
			d, seen, err := verifyDisposal(env, policy)
			if err != nil {
				return err
			}
			ended := d.ended(g.Now())
			return g.print(map[string]any{"valid": true, "statement": d, "ended": ended, "witnesses": seen}, func(w io.Writer) {
				showDisposal(w, d)
				fmt.Fprintln(w, "\nThe statement holds: signed by the log's key, and the log has every event that it names.")
				ended.show(w)
				showSeen(w, seen)
			})
		},
	}
	trust.flags(c)
	return c
}

// show says it in words.
func (e endings) show(w io.Writer) {
	for _, s := range e.Before {
		fmt.Fprintf(w, "%s had ended before the statement was made.\n", s)
	}
	for _, s := range e.Since {
		fmt.Fprintf(w, "%s has ended since the statement was made; it was revoked before.\n", s)
	}
}

func showDisposal(w io.Writer, d *disposal) {
	facts(w, "unit", d.Unit, "owner", d.Tenant, "out of use since", moment(d.At), "by", d.By, "note", d.Note, "statement made", moment(d.MadeAt))
	rows := [][]string{}
	for _, c := range d.Certificates {
		leaf, why, since := "", c.Reason, moment(c.RevokedAt)
		switch {
		case c.Revocation != nil:
			leaf = fmt.Sprint(c.Revocation.Leaf.Index)
		case c.Issuance != nil:
			leaf, why, since = fmt.Sprint(c.Issuance.Leaf.Index), "(ended by itself)", ""
		}
		rows = append(rows, []string{c.Profile, c.Serial, why, since, moment(c.NotAfter), leaf})
	}
	fmt.Fprintln(w)
	table(w, []string{"PROFILE", "SERIAL NUMBER", "REASON", "REVOKED", "ENDS", "LEAF"}, rows, "")
}
