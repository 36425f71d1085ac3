package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/ca/tlog"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/internal/fsck"
	"hallmark/internal/strictjson"
)

var errProofSize = fault.Define(fault.Invalid, "log-proof-size", "The receipt is about another size of the log than the checkpoint.", "Give --tiles with a copy of the log, or fetch the proof from the service: hallmark log prove SERIAL --checkpoint FILE.")

func init() { commands = append(commands, newLogCmd) }

func newLogCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "log", Short: "The transparency log: what was issued, provably",
		Long: `Every certificate and every revocation is a leaf of the transparency log. Its
tiles and checkpoints are public and say how many there are and nothing else;
whoever has a receipt proves one of them without asking us.`,
		Example: `  hallmark log show
  hallmark log verify --tiles /mnt/copy --checkpoint seen-last-month.txt
  hallmark log prove 40AB… --out receipt.json
  hallmark log audit --order PO-7`,
	}
	c.AddCommand(newLogShowCmd(g), newLogVerifyCmd(g), newLogProveCmd(g), newLogAuditCmd(g), newLogCopyCmd(g), newLogRecoverCmd(g), newLogCloseCmd(g))
	return c
}

// logTrust is whom a command believes about a log.
type logTrust struct {
	key       string
	witnesses []string
	quorum    int
}

func (t *logTrust) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&t.key, "log-key", os.Getenv("HALLMARK_LOG_KEY"), "verifier key of the log, or a file with it (HALLMARK_LOG_KEY)")
	f.StringSliceVar(&t.witnesses, "witness", nil, "verifier key of a witness, or a file with it (again for more)")
	f.IntVar(&t.quorum, "quorum", -1, "how many of them must have signed; all if not given")
}

// keyText reads a key that may be in a file.
func keyText(s string) (string, error) {
	if strings.Count(s, "+") >= 2 {
		return s, nil
	}
	b, err := os.ReadFile(s)
	return strings.TrimSpace(string(b)), err
}

// policy without a log key is a usage error.
func (t *logTrust) policy() (p tlog.Policy, err error) {
	if t.key == "" {
		return p, errUsage{errNoLogKey}
	}
	if p.Log, err = keyText(t.key); err != nil {
		return p, err
	}
	for _, w := range t.witnesses {
		k, err := keyText(w)
		if err != nil {
			return p, err
		}
		p.Witnesses = append(p.Witnesses, k)
	}
	if p.Quorum = t.quorum; p.Quorum < 0 {
		p.Quorum = len(p.Witnesses)
	}
	return p, nil
}

// from takes the service's word for the key where none is given, and says so.
func (t *logTrust) from(g *globals, state *adminapi.LogState) (tlog.Policy, error) {
	if t.key == "" && state != nil {
		t.key = state.VerifierKey
		if !g.JSON {
			fmt.Fprintln(g.Err, "The log's key is taken from the service itself; --log-key checks it against what you know.")
		}
	}
	return t.policy()
}

func decodeBase64(s string) ([]byte, error) { return base64.StdEncoding.DecodeString(s) }

func logState(ctx context.Context, api *adminapi.ClientWithResponses) (*adminapi.LogState, error) {
	a, err := api.GetLogWithResponse(ctx)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	if a.JSON200 == nil {
		return nil, problem(a.StatusCode(), a.Body)
	}
	return a.JSON200, nil
}

// tiles is the source that a flag names: a URL, a directory, or, if it is empty,
// where the service publishes.
func (g *globals) tiles(flag string, state *adminapi.LogState) tlog.Source {
	switch {
	case strings.HasPrefix(flag, "http://"), strings.HasPrefix(flag, "https://"):
		return tlog.Web(flag, nil)
	case flag != "":
		return tlog.Dir(flag)
	}
	for _, dir := range []string{g.Dir, filepath.Join(g.Dir, "state")} {
		var e endpointFile
		if b, err := os.ReadFile(filepath.Join(dir, "endpoints.json")); g.Dir != "" && err == nil && json.Unmarshal(b, &e) == nil && e.Doors["public"] != "" {
			return tlog.Web("http://"+e.Doors["public"]+"/log", nil)
		}
	}
	return tlog.Web(state.Url, nil)
}

func showSeen(w io.Writer, seen []tlog.Cosignature) {
	for _, s := range seen {
		fmt.Fprintf(w, "Witness %s signed it at %s.\n", s.Witness, moment(s.At))
	}
}

func newLogShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the newest checkpoint, the log's key and its witnesses", Args: cobra.NoArgs,
		Example: "  hallmark log show",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			s, err := logState(cmd.Context(), api)
			if err != nil {
				return err
			}
			return g.print(s, func(w io.Writer) {
				facts(w, "log", s.Origin, "key", s.VerifierKey, "published at", s.Url, "leaves", fmt.Sprintf("%d, %d recorded", s.Size, s.Head), "root", base64.StdEncoding.EncodeToString(s.Root), "checkpoint made", moment(s.SignedAt))
				rows := [][]string{}
				for _, m := range s.Witnesses {
					rows = append(rows, []string{m.Name, m.Url, fmt.Sprint(m.Size), dash(moment(m.SignedAt)), fmt.Sprint(m.Failures), dash(m.Error)})
				}
				fmt.Fprintln(w)
				table(w, []string{"WITNESS", "URL", "SIGNED", "AT", "FAILURES", "NOW"}, rows, "No witness is configured: nobody but the service would notice a second history.")
				fmt.Fprintf(w, "\n%s", s.Checkpoint)
			})
		},
	}
}

// logReport is what `log verify` prints.
type logReport struct {
	Clean bool `json:"clean"`
	*tlog.AuditReport
	Database  bool               `json:"database"` // compared with it
	Waiting   int64              `json:"waiting"`  // recorded, not under this checkpoint
	Older     int                `json:"checkpoints_compared"`
	Witnesses []tlog.Cosignature `json:"witnesses"`
}

func newLogVerifyCmd(g *globals) *cobra.Command {
	var trust logTrust
	var tiles string
	var older []string
	var offline bool
	c := &cobra.Command{
		Use: "verify", Short: "Check the whole log, and the database against it", Args: cobra.NoArgs,
		Long: `Read every tile, check it against the signed checkpoint, and compare the database
leaf by leaf. A leaf that was removed, moved to another place or altered is named,
and so is a certificate that is missing or is not the logged one. With --tiles a
copy is read instead of what the service publishes; with --offline nobody is
asked and the copy alone is checked. Checkpoints seen earlier (--checkpoint) must
be contained in the log. Exit code 1 means findings.`,
		Example: "  hallmark log verify\n  hallmark log verify --tiles /mnt/copy --log-key KEY --checkpoint seen-last-month.txt\n  hallmark log verify --offline --tiles /mnt/copy --log-key KEY --witness KEY",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			var api *adminapi.ClientWithResponses
			var state *adminapi.LogState
			var err error
			if offline && tiles == "" {
				return errUsage{errors.New("--offline needs --tiles")}
			}
			if !offline {
				if api, err = g.admin(ctx); err != nil {
					return err
				}
				if state, err = logState(ctx, api); err != nil {
					return err
				}
			}
			policy, err := trust.from(g, state)
			if err != nil {
				return err
			}
			src := g.tiles(tiles, state)
			signed, err := src.Note(ctx)
			if err != nil {
				return err
			}
			now, seen, err := policy.Open(signed)
			if err != nil {
				return err
			}
			tree := tlog.NewTree(src, now)
			var rows tlog.Rows
			if api != nil {
				rows = func(ctx context.Context, from, to int64) ([]tlog.Row, error) {
					if !g.JSON && from > 0 && from%(1<<16) == 0 {
						fmt.Fprintf(g.Err, "%d of %d leaves\n", from, now.Size)
					}
					return fetchRows(ctx, api, from, to)
				}
			}
			rep := logReport{Database: api != nil, Witnesses: seen}
			if rep.AuditReport, err = tree.Audit(ctx, rows); err != nil {
				return err
			}
			if state != nil {
				rep.Waiting = max(state.Head-now.Size, 0)
			}
			// The published checkpoint is compared with the service's own, and both
			// with what was seen earlier.
			if state != nil && state.Checkpoint != "" {
				if own, err := tlog.ParseCheckpoint([]byte(state.Checkpoint), policy.Log); err != nil {
					rep.add("log-checkpoint", "checkpoint of the service", err)
				} else if own.Size == now.Size && own.Root != now.Root || own.Size < now.Size && tree.Extends(ctx, own) != nil {
					rep.add("log-forked", "checkpoint of the service", tlog.ErrForked.New("It has another root for %d leaves than the published log.", own.Size))
				}
			}
			for _, name := range older {
				b, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				c, err := tlog.ParseCheckpoint(b, policy.Log)
				if err == nil {
					err = tree.Extends(ctx, c)
				}
				if err != nil {
					rep.add("log-checkpoint", "checkpoint "+name, err)
				}
				rep.Older++
			}
			rep.Clean = len(rep.Findings) == 0
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
	c.Flags().StringVar(&tiles, "tiles", "", "directory or URL of a copy of the log; default is what the service publishes")
	c.Flags().StringSliceVar(&older, "checkpoint", nil, "file with a checkpoint that was seen earlier (again for more)")
	c.Flags().BoolVar(&offline, "offline", false, "ask nobody; check the copy alone")
	return c
}

func (r *logReport) add(check, object string, err error) {
	f := fault.From(err)
	r.Findings = append(r.Findings, fsck.Finding{Check: check, Object: object, Detail: strings.TrimSpace(f.What + " " + f.Detail)})
}

func (r *logReport) show(w io.Writer) {
	for _, f := range r.Findings {
		fmt.Fprintln(w, visible(f.String()))
	}
	showSeen(w, r.Witnesses)
	if !r.Clean {
		fmt.Fprintf(w, "%d findings in %d leaves. Stop issuing, keep the database and this copy of the log.\n", len(r.Findings), r.Leaves)
		return
	}
	fmt.Fprintf(w, "Clean: %d leaves hash to the signed root", r.Leaves)
	if r.Database {
		fmt.Fprintf(w, ", and the database has the same, with %d certificates", r.Certificates)
	}
	if r.Foreign > 0 {
		fmt.Fprintf(w, " (%d leaves are other tenants')", r.Foreign)
	}
	fmt.Fprintln(w, ".")
	if r.Older > 0 {
		fmt.Fprintf(w, "The log contains all of %d checkpoints seen earlier.\n", r.Older)
	}
	if r.Waiting > 0 {
		fmt.Fprintf(w, "%d leaves wait for the next checkpoint and were not compared.\n", r.Waiting)
	}
}

func fetchRows(ctx context.Context, api *adminapi.ClientWithResponses, from, to int64) ([]tlog.Row, error) {
	limit := int(to - from)
	a, err := api.ListLogLeavesWithResponse(ctx, &adminapi.ListLogLeavesParams{From: &from, Limit: &limit})
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	if a.JSON200 == nil {
		return nil, problem(a.StatusCode(), a.Body)
	}
	return mapped(a.JSON200.Items, rowOf), nil
}

func newLogProveCmd(g *globals) *cobra.Command {
	var trust logTrust
	var receiptFile, checkpoint, tiles, out string
	c := &cobra.Command{
		Use: "prove [SERIAL]", Short: "Prove that a certificate is in the log", Args: cobra.MaximumNArgs(1),
		Long: `Fetch the receipt of a certificate (its leaf, the inclusion proof, the signed
checkpoint), verify it, and keep it with --out. With --checkpoint the proof is made
and verified against a checkpoint that you have from elsewhere, for example from a
witness. With --receipt nobody is asked: the file is verified as it is.`,
		Example: "  hallmark log prove 40AB… --out receipt.json\n  hallmark log prove --receipt receipt.json --log-key KEY --checkpoint theirs.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (receiptFile != "") {
				return errUsage{errors.New("give a serial number or --receipt FILE")}
			}
			p := &prover{g: g, ctx: cmd.Context(), trust: &trust, tiles: tiles}
			var under *tlog.Checkpoint
			if checkpoint != "" {
				b, err := os.ReadFile(checkpoint)
				if err != nil {
					return err
				}
				if under, err = p.open(b, len(args) == 1); err != nil {
					return err
				}
			}
			var r *tlog.Receipt
			var err error
			if len(args) == 1 {
				r, err = p.fetch(args[0], under)
			} else {
				r, err = p.read(receiptFile, under)
			}
			if err != nil {
				return err
			}
			if out != "" {
				b, err := json.MarshalIndent(r, "", "  ")
				if err != nil {
					return err
				}
				if err := durable.WriteFile(out, append(b, '\n'), 0o644); err != nil {
					return err
				}
			}
			return g.print(map[string]any{"valid": true, "receipt": r, "size": p.used.Size, "witnesses": p.seen}, func(w io.Writer) {
				facts(w, "leaf", fmt.Sprintf("%d of %d", r.Leaf.Index, p.used.Size), "event", string(r.Leaf.Type), "order", r.Leaf.Account, "unit", r.Leaf.Holder, "log", p.used.Origin, "root", p.used.Root.String())
				showSeen(w, p.seen)
				fmt.Fprintln(w, "Proven: the log contains it.")
				if out != "" {
					fmt.Fprintf(w, "The receipt is in %s.\n", out)
				}
			})
		},
	}
	trust.flags(c)
	f := c.Flags()
	f.StringVar(&receiptFile, "receipt", "", "verify this receipt, offline")
	f.StringVar(&checkpoint, "checkpoint", "", "file with the checkpoint to prove against; default is the receipt's own")
	f.StringVar(&tiles, "tiles", "", "directory or URL of a copy of the log, if receipt and checkpoint differ in size")
	f.StringVar(&out, "out", "", "write the receipt to this file")
	return c
}

// prover fetches and verifies a receipt.
type prover struct {
	g     *globals
	ctx   context.Context
	trust *logTrust
	tiles string
	known *tlog.Policy

	api  *adminapi.ClientWithResponses
	used tlog.Checkpoint
	seen []tlog.Cosignature
}

func (p *prover) client() (_ *adminapi.ClientWithResponses, err error) {
	if p.api == nil {
		p.api, err = p.g.admin(p.ctx)
	}
	return p.api, err
}

// open verifies a checkpoint. Where a service is asked anyway, its key is taken
// if none is given.
func (p *prover) open(signed []byte, online bool) (*tlog.Checkpoint, error) {
	if p.known == nil {
		var state *adminapi.LogState
		if online && p.trust.key == "" {
			api, err := p.client()
			if err != nil {
				return nil, err
			}
			if state, err = logState(p.ctx, api); err != nil {
				return nil, err
			}
		}
		policy, err := p.trust.from(p.g, state)
		if err != nil {
			return nil, err
		}
		p.known = &policy
	}
	c, seen, err := p.known.Open(signed)
	p.used, p.seen = c, seen
	return &c, err
}

func (p *prover) fetch(serial string, under *tlog.Checkpoint) (*tlog.Receipt, error) {
	api, err := p.client()
	if err != nil {
		return nil, err
	}
	params := &adminapi.GetReceiptParams{}
	if under != nil {
		params.Size = &under.Size
	}
	a, err := api.GetReceiptWithResponse(p.ctx, serial, params)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	if a.JSON200 == nil {
		return nil, problem(a.StatusCode(), a.Body)
	}
	var r tlog.Receipt
	if err := json.Unmarshal(a.Body, &r); err != nil {
		return nil, tlog.ErrReceipt.Wrap(err, "It cannot be read.")
	}
	if under == nil {
		if under, err = p.open([]byte(r.Checkpoint), true); err != nil {
			return nil, err
		}
	}
	r.Checkpoint = string(under.Note)
	return &r, r.VerifyUnder(*under)
}

func (p *prover) read(file string, under *tlog.Checkpoint) (*tlog.Receipt, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r tlog.Receipt
	if err := strictjson.Decode(b, &r); err != nil {
		return nil, tlog.ErrReceipt.Wrap(err, "It cannot be read.")
	}
	if under == nil {
		c, err := p.open([]byte(r.Checkpoint), false)
		if err != nil {
			return nil, err
		}
		return &r, r.VerifyUnder(*c)
	}
	own, err := tlog.ReadCheckpoint([]byte(r.Checkpoint))
	if err != nil {
		return nil, err
	}
	if own.Size != under.Size {
		if p.tiles == "" {
			return nil, errProofSize.New("Receipt %d, checkpoint %d.", own.Size, under.Size)
		}
		if r.Proof, err = tlog.NewTree(p.g.tiles(p.tiles, nil), *under).Inclusion(p.ctx, r.Leaf.Index); err != nil {
			return nil, err
		}
	}
	r.Checkpoint = string(under.Note)
	return &r, r.VerifyUnder(*under)
}

func newLogCopyCmd(g *globals) *cobra.Command {
	var trust logTrust
	var from, to string
	c := &cobra.Command{
		Use: "copy", Short: "Copy the published log to a directory", Args: cobra.NoArgs,
		Long: `Copy checkpoint and tiles, each checked against the signed root before it is kept.
Done again it copies only what is new, and refuses a log that does not contain the
copy. The copy can be served by any web server.`,
		Example: "  hallmark log copy --from http://pki.example.com/log --to /mnt/copy --log-key KEY",
		RunE: func(cmd *cobra.Command, _ []string) error {
			policy, err := trust.policy()
			if err != nil {
				return err
			}
			src := g.tiles(from, nil)
			signed, err := src.Note(cmd.Context())
			if err != nil {
				return err
			}
			now, seen, err := policy.Open(signed)
			if err != nil {
				return err
			}
			n, err := tlog.NewPublisher(tlog.PublisherConfig{Source: src, Key: policy.Log, Dir: to}).Publish(cmd.Context(), signed)
			if err != nil {
				return err
			}
			return g.print(map[string]any{"size": now.Size, "tiles": n, "witnesses": seen}, func(w io.Writer) {
				showSeen(w, seen)
				fmt.Fprintf(w, "%d leaves are in %s; %d tiles were new.\n", now.Size, to, n)
			})
		},
	}
	trust.flags(c)
	c.Flags().StringVar(&from, "from", "", "directory or URL of the log")
	c.Flags().StringVar(&to, "to", "", "directory of the copy")
	requiredFlags(c, "from", "to")
	return c
}
