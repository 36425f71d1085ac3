package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/tlog"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

var errTrailExport = fault.Define(fault.Conflict, "trail-export-broken", "What the service gave is not a whole trail. Nothing was written.", "Run hallmark audit verify; it names the first entry that is wrong.")

func init() { commands = append(commands, newAuditCmd) }

func newAuditCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "audit", Short: "The trail of what people did, and proof that it is whole",
		Long: `Whatever somebody changes through the administration API, every refused sign-in and
every redeemed station code is an entry of the trail, written in the same transaction
as the change. Entries are chained by hash, and the newest hash is in the log's signed
checkpoint, which is published and witnessed.`,
		Example: `  hallmark audit list --actor principal:ann --since 2026-11-01
  hallmark audit export --out trail.jsonl
  hallmark audit verify trail.jsonl --checkpoint seen-last-month.txt --log-key KEY`,
	}
	c.AddCommand(newAuditListCmd(g), newAuditVerifyCmd(g), newAuditExportCmd(g))
	return c
}

// instant reads a moment: a date, or a date with a time.
func instant(text string) (time.Time, error) {
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errUsage{fmt.Errorf("%q is no date such as 2026-11-22 or 2026-11-22T08:00:00Z", text)}
}

func newAuditListCmd(g *globals) *cobra.Command {
	var actor, action, since, until string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List what people did, newest first", Args: cobra.NoArgs,
		Example: "  hallmark audit list\n  hallmark audit list --actor principal:ann --action order.approve --since 2026-11-01 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := &adminapi.ListTrailParams{}
			if actor != "" {
				if !strings.Contains(actor, ":") {
					actor = string(access.KindPrincipal) + ":" + actor
				}
				p.Actor = &actor
			}
			if action != "" {
				p.Action = &action
			}
			for text, into := range map[string]**int64{since: &p.Since, until: &p.Until} {
				if text == "" {
					continue
				}
				t, err := instant(text)
				if err != nil {
					return err
				}
				s := t.Unix()
				*into = &s
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items := []adminapi.TrailRow{}
			for len(items) < limit {
				n := min(limit-len(items), 100)
				p.Limit = &n
				a, err := api.ListTrailWithResponse(cmd.Context(), p)
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return problem(a.StatusCode(), a.Body)
				}
				if items = append(items, a.JSON200.Items...); a.JSON200.Next == "" {
					break
				}
				p.Cursor = &a.JSON200.Next
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for i := range items {
					e, _, err := access.TrailRow{Seq: items[i].Seq, Entry: items[i].Entry}.Read()
					if err != nil {
						rows = append(rows, []string{fmt.Sprint(items[i].Seq), "unreadable"})
						continue
					}
					rows = append(rows, []string{fmt.Sprint(items[i].Seq), moment(e.At), e.Actor, string(e.Action), outcome(&e), e.On, trailAbout(&e), dash(e.From)})
				}
				table(w, []string{"ENTRY", "AT", "WHO", "DID", "OUTCOME", "ON", "ABOUT", "FROM"}, rows, "Nothing that matches.")
			})
		},
	}
	f := c.Flags()
	f.StringVar(&actor, "actor", "", "who: a principal's name, or its whole form such as station:st-1")
	f.StringVar(&action, "action", "", "what, such as order.approve")
	f.StringVar(&since, "since", "", "not before this date")
	f.StringVar(&until, "until", "", "before this date")
	f.IntVar(&limit, "limit", 50, "most entries")
	return c
}

func outcome(e *access.TrailEntry) string {
	out := e.Outcome
	if e.Code != "" {
		out += " " + e.Code
	}
	if e.Count > 1 {
		out += fmt.Sprintf(" (%d times)", e.Count)
	}
	return out
}

func trailAbout(e *access.TrailEntry) string {
	var parts []string
	for k, v := range e.About {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	if e.Approval != "" {
		parts = append(parts, "approval="+e.Approval)
	}
	return dash(strings.Join(parts, " "))
}

// fetchTrail reads the chain from a row on.
func fetchTrail(ctx context.Context, api *adminapi.ClientWithResponses, from int64) iter.Seq2[access.TrailRow, error] {
	return func(yield func(access.TrailRow, error) bool) {
		for limit := 1000; ; {
			a, err := api.ListTrailRowsWithResponse(ctx, &adminapi.ListTrailRowsParams{From: &from, Limit: &limit})
			if err == nil && a.JSON200 == nil {
				err = problem(a.StatusCode(), a.Body)
			} else if err != nil {
				err = errAnswer.Wrap(err, "")
			}
			if err != nil {
				yield(access.TrailRow{}, err)
				return
			}
			for i := range a.JSON200.Items {
				v := &a.JSON200.Items[i]
				r := access.TrailRow{Seq: v.Seq, Entry: v.Entry}
				hash, herr := hex.DecodeString(v.Hash)
				digest, derr := hex.DecodeString(v.Digest)
				copy(r.Hash[:], hash)
				copy(r.Digest[:], digest)
				if herr != nil || derr != nil {
					r.Hash = [32]byte{}
				}
				if !yield(r, nil) {
					return
				}
				from = v.Seq + 1
			}
			if len(a.JSON200.Items) < limit {
				return
			}
		}
	}
}

// maxTrailLine bounds a line of an export; an entry holds names and digests.
const maxTrailLine = 1 << 20

// errTrailLine marks what cannot be read of an export, which is a finding.
type errTrailLine struct{ error }

// readTrail reads exports, one after the other.
func readTrail(names []string) iter.Seq2[access.TrailRow, error] {
	return func(yield func(access.TrailRow, error) bool) {
		for _, name := range names {
			f, err := os.Open(name)
			if err != nil {
				yield(access.TrailRow{}, err)
				return
			}
			in := bufio.NewReaderSize(f, 64<<10)
			for {
				line, err := in.ReadBytes('\n')
				if err == io.EOF && len(line) == 0 {
					break
				}
				var r access.TrailRow
				switch {
				case err == io.EOF:
					err = errTrailLine{errors.New("the file ends in the middle of it")}
				case err == nil && len(line) > maxTrailLine:
					err = errTrailLine{errors.New("it is too long")}
				case err == nil:
					if r, err = access.ParseTrailRow(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
						err = errTrailLine{errors.New("it is not written as an export writes it")}
					}
				}
				if !yield(r, err) || err != nil {
					f.Close()
					return
				}
			}
			f.Close()
		}
	}
}

// trailReport is what `audit verify` prints.
type trailReport struct {
	Clean       bool   `json:"clean"`
	Entries     int64  `json:"entries"`           // that are as they were written
	Hidden      int64  `json:"hidden"`            // of other tenants
	Signed      int64  `json:"signed"`            // how many the newest checkpoint vouches for
	Checkpoints int    `json:"checkpoints"`       // that were compared
	Entry       int64  `json:"entry,omitempty"`   // the first that is wrong
	Finding     string `json:"finding,omitempty"` // what is wrong with it
}

// verifyTrail holds rows to their chain and to what checkpoints signed.
func verifyTrail(rows iter.Seq2[access.TrailRow, error], signed []access.TrailHead) (rep trailReport, err error) {
	chain := access.NewChain(signed...)
	for _, s := range signed {
		rep.Signed = max(rep.Signed, s.Seq)
	}
	rep.Checkpoints = len(signed)
	finding := func(err error) (trailReport, error) {
		f := fault.From(err)
		rep.Entry, _ = f.Members["entry"].(int64)
		rep.Finding = f.Detail
		rep.Entries = chain.Head().Seq
		return rep, nil
	}
	for r, err := range rows {
		var line errTrailLine
		if errors.As(err, &line) {
			return finding(chain.Broken(line.error))
		}
		if err != nil {
			return rep, err
		}
		if err := chain.Add(r); err != nil {
			return finding(err)
		}
		if r.Entry == nil {
			rep.Hidden++
		}
	}
	if err := chain.End(); err != nil {
		return finding(err)
	}
	rep.Clean, rep.Entries = true, chain.Head().Seq
	return rep, nil
}

func newAuditVerifyCmd(g *globals) *cobra.Command {
	var trust logTrust
	var checkpoints []string
	c := &cobra.Command{
		Use: "verify [FILE...]", Short: "Check that no entry is missing, added or altered",
		Long: `Check the trail from its first entry on, and name the first that is wrong. Without
files the service is asked, and its own checkpoint is compared too. With files, which
hallmark audit export wrote, nobody is asked; give several in their order.

What was cut off at the end shows only against a checkpoint that was kept elsewhere:
--checkpoint names such files (from the published log, a witness, a backup). Entries
newer than the newest checkpoint at hand have no such proof; the service signs a
checkpoint within two seconds of an entry. Exit code 1 means a finding.`,
		Example: "  hallmark audit verify --checkpoint seen-last-month.txt --log-key KEY\n  hallmark audit verify trail.jsonl --checkpoint checkpoint --log-key log.vkey",
		RunE: func(cmd *cobra.Command, files []string) error {
			ctx := cmd.Context()
			rows := readTrail(files)
			var notes [][]byte
			for _, name := range checkpoints {
				b, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				notes = append(notes, b)
			}
			var state *adminapi.LogState
			if len(files) == 0 {
				api, err := g.admin(ctx)
				if err != nil {
					return err
				}
				if state, err = logState(ctx, api); err != nil {
					return err
				}
				if state.Checkpoint != "" {
					// The witnesses sign what is published, which may be older.
					if len(trust.witnesses) == 0 {
						notes = append(notes, []byte(state.Checkpoint))
					}
				}
				rows = fetchTrail(ctx, api, 1)
			}
			var signed []access.TrailHead
			if len(notes) > 0 {
				policy, err := trust.from(g, state)
				if err != nil {
					return err
				}
				for _, n := range notes {
					h, err := openTrailHead(policy, n)
					if err != nil {
						return err
					}
					signed = append(signed, h)
				}
			}
			rep, err := verifyTrail(rows, signed)
			if err != nil {
				return err
			}
			if err := g.print(rep, func(w io.Writer) { rep.show(w) }); err != nil {
				return err
			}
			if !rep.Clean {
				return errSilent
			}
			return nil
		},
	}
	trust.flags(c)
	c.Flags().StringSliceVar(&checkpoints, "checkpoint", nil, "file with a checkpoint of the log that was kept elsewhere (again for more)")
	return c
}

// openTrailHead checks a checkpoint and reads what it says of the trail.
func openTrailHead(policy tlog.Policy, note []byte) (access.TrailHead, error) {
	c, _, err := policy.Open(note)
	if err != nil {
		return access.TrailHead{}, err
	}
	return access.ParseTrailHead(c.More)
}

func (r *trailReport) show(w io.Writer) {
	if !r.Clean {
		fmt.Fprintf(w, "%s\n%d entries before it are as they were written. Keep the database, this export and every checkpoint.\n", visible(r.Finding), r.Entries)
		return
	}
	fmt.Fprintf(w, "Clean: %d entries follow one from the other", r.Entries)
	if r.Hidden > 0 {
		fmt.Fprintf(w, " (%d are other tenants', of which only digests were seen)", r.Hidden)
	}
	fmt.Fprintln(w, ".")
	switch {
	case r.Checkpoints == 0:
		fmt.Fprintln(w, "No checkpoint was compared: what may be cut off at the end is not known. Give --checkpoint FILE.")
	case r.Signed < r.Entries:
		fmt.Fprintf(w, "The newest checkpoint vouches for %d of them; %d are newer than it.\n", r.Signed, r.Entries-r.Signed)
	default:
		fmt.Fprintln(w, "A signed checkpoint vouches for all of them.")
	}
}

func newAuditExportCmd(g *globals) *cobra.Command {
	var out string
	var from int64
	c := &cobra.Command{
		Use: "export", Short: "Write the trail to a file, one JSON object a line", Args: cobra.NoArgs,
		Long: `Write the trail as lines of JSON, as it is hashed. The file can be checked anywhere
with hallmark audit verify FILE. With --from the export goes on where an earlier one
ended; give both to verify.`,
		Example: "  hallmark audit export --out trail.jsonl\n  hallmark audit export --from 1001 --out trail-2.jsonl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from < 1 {
				return errUsage{errors.New("--from begins at 1")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			var text bytes.Buffer
			next := from
			for r, err := range fetchTrail(cmd.Context(), api, from) {
				if err != nil {
					return err
				}
				if r.Seq != next {
					return errTrailExport.New("Entry %d is not there.", next)
				}
				next++
				line, err := r.Export()
				if err != nil {
					return errTrailExport.Wrap(err, "Entry %d cannot be written.", r.Seq)
				}
				text.Write(append(line, '\n'))
			}
			if out == "" {
				_, err := g.Out.Write(text.Bytes())
				return err
			}
			if err := durable.WriteFile(out, text.Bytes(), 0o600); err != nil {
				return err
			}
			return g.print(map[string]any{"file": out, "from": from, "entries": next - from}, func(w io.Writer) {
				fmt.Fprintf(w, "%d entries are in %s. Keep a checkpoint of the log with it: hallmark log show.\n", next-from, out)
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "the file; default is the standard output")
	c.Flags().Int64Var(&from, "from", 1, "number of the first entry")
	return c
}
