package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gowebpki/jcs"
	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/tlog"
	"hallmark/hsm"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/store"
)

// statementType is the DSSE payload type of what people agree to.
const statementType = "application/vnd.hallmark.restore+json"

// statement is what two people agree to. It names the database as it is, so that
// nothing else can be done with their signatures.
type statement struct {
	Action     string   `json:"action"` // accept, log-recover, log-close
	Restore    string   `json:"restore"`
	Backup     string   `json:"backup"`
	Log        int64    `json:"log"` // leaves
	Root       string   `json:"root"`
	SinceLog   string   `json:"since_log"`   // "SIZE ROOT" of the copy of the log
	SinceLists string   `json:"since_lists"` // of accept: "COUNT SHA256" of the published lists, or noLists
	NewOrigin  string   `json:"new_origin"`
	Disable    []string `json:"disable"`
	// BreakGlass is the id of the break-glass key that is spent by it.
	BreakGlass string `json:"break_glass_spent"`
}

// noLists says in a statement that nothing is revoked again. It is a word, so that
// whoever signs sees it.
const noLists = "none"

func (s *statement) canonical() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(b)
}

// agreed verifies the envelope and gives the names of those who signed. Outside
// production mode as many must sign as there are approvers, at most two.
func (s *statement) agreed(cfg *Config, file string) ([]string, error) {
	approvers, err := cfg.approvers()
	if err != nil {
		return nil, err
	}
	need := 2
	if !cfg.Production {
		need = min(need, len(approvers))
	}
	if need == 0 {
		return nil, nil
	}
	want, err := s.canonical()
	if err != nil {
		return nil, err
	}
	var env adminapi.Envelope
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(b, &env); err != nil {
			return nil, errStatement.Wrap(err, "%s is no envelope.", file)
		}
		var signed statement
		if env.PayloadType == statementType && json.Unmarshal(env.Payload, &signed) == nil && signed.SinceLists != s.SinceLists {
			return nil, errOtherLists.New("The statement is about %q, --since-lists has %q.", visible(signed.SinceLists), s.SinceLists)
		}
		if env.PayloadType != statementType || string(env.Payload) != string(want) {
			return nil, errStatement.New("%s is about something else: the database or the options changed.", file)
		}
	}
	var names []string
	for _, a := range approvers {
		id, err := provisioner.KeyID(a.Key)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(env.Signatures, func(sig adminapi.EnvelopeSignature) bool {
			return sig.Keyid == id && a.VerifySignature(provisioner.PAE(statementType, want), sig.Sig)
		}) {
			names = append(names, a.Name)
		}
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	if len(names) < need {
		return nil, errStatement.New("%d of %d signed.", len(names), need)
	}
	return names, nil
}

// statement says what is about to be done to which database.
func (r *recovery) statement(ctx context.Context, action string, p store.Restored, sinceLog, newOrigin string) (*statement, error) {
	s := &statement{Action: action, Restore: p.ID, Backup: p.Backup, NewOrigin: newOrigin, Disable: []string{}}
	if action != "log-close" {
		key, err := access.ParseBreakGlassKey(r.cfg.BreakGlass.Key)
		if err != nil {
			return nil, errConfig.New("break_glass.key: %s.", err)
		}
		if !key.IsZero() {
			s.BreakGlass = key.ID()
		}
	}
	head, err := r.db.Head(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.stored(ctx)
	if err != nil {
		return nil, err
	}
	s.Log, s.Root = head, c.Root.String()
	if sinceLog != "" {
		note, err := tlog.Dir(sinceLog).Note(ctx)
		if err != nil {
			return nil, err
		}
		c, err := tlog.ParseCheckpoint(note, r.old)
		if err != nil {
			return nil, err
		}
		s.SinceLog = fmt.Sprintf("%d %s", c.Size, c.Root)
	}
	return s, nil
}

// publishedList is the file of a list with its SHA-256, so that what is read later is
// what people agreed to.
type publishedList struct {
	file string
	sum  [sha256.Size]byte
}

// publishedLists finds the lists in a directory and what a statement says of them: the
// contents count, not the names, so that a copy elsewhere is the same.
func publishedLists(dir string) (lists []publishedList, said string, err error) {
	if dir == "" {
		return nil, noLists, nil
	}
	var sums [][]byte
	err = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(name) != ".crl" {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		l := publishedList{name, sha256.Sum256(b)}
		lists, sums = append(lists, l), append(sums, l.sum[:])
		return nil
	})
	if err == nil && len(lists) == 0 {
		err = errUsage{fmt.Errorf("--since-lists %s has no file *.crl", dir)}
	}
	if err != nil {
		return nil, "", err
	}
	slices.SortFunc(sums, bytes.Compare)
	return lists, fmt.Sprintf("%d %x", len(lists), sha256.Sum256(slices.Concat(sums...))), nil
}

func (l *publishedList) read() ([]byte, error) {
	b, err := os.ReadFile(l.file)
	if err == nil && sha256.Sum256(b) != l.sum {
		err = errOtherLists.New("%s changed a moment ago.", l.file)
	}
	return b, err
}

func (g *globals) writeStatement(s *statement, out string, why error) error {
	b, err := s.canonical()
	if err != nil {
		return err
	}
	env := adminapi.Envelope{PayloadType: statementType, Payload: b, Signatures: []adminapi.EnvelopeSignature{}}
	text, err := json.MarshalIndent(env, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(out, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return errStatement.New("%s The statement is in %s.", fault.From(why).Detail, out)
}

func newRestoreApproveCmd(g *globals) *cobra.Command {
	var key, module string
	var yes bool
	c := &cobra.Command{
		Use: "approve FILE", Short: "Sign the statement of what is about to be done to a restored database", Args: cobra.ExactArgs(1),
		Example: "  hallmark restore approve restore-statement.json --key 'pkcs11:token=officer;object=orders'",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			var env adminapi.Envelope
			if err := json.Unmarshal(b, &env); err != nil || env.PayloadType != statementType {
				return errStatement.Wrap(err, "%s is no statement.", args[0])
			}
			if err := confirmOrder(g, env.Payload, yes); err != nil {
				return err
			}
			keys := hsm.Open(hsm.Config{Module: module, PIN: hsm.PINFunc(func(_ context.Context, id hsm.TokenID, _ string) (hsm.Secret, error) {
				return ceremonyPIN(g, id, "to agree to a restore")
			})})
			defer keys.Close()
			signer, err := keys.Signer(cmd.Context(), key)
			if err != nil {
				return err
			}
			id, err := provisioner.KeyID(signer.Public())
			if err != nil {
				return err
			}
			sig, err := signMessage(signer, provisioner.PAE(statementType, env.Payload))
			if err != nil {
				return err
			}
			env.Signatures = append(slices.DeleteFunc(env.Signatures, func(s adminapi.EnvelopeSignature) bool { return s.Keyid == id }), adminapi.EnvelopeSignature{Keyid: id, Sig: sig})
			text, err := json.MarshalIndent(env, "", "  ")
			if err != nil {
				return err
			}
			if err := durable.WriteFile(args[0], append(text, '\n'), 0o600); err != nil {
				return err
			}
			return g.print(env, func(w io.Writer) { fmt.Fprintf(w, "Signed; %s has %d signatures.\n", args[0], len(env.Signatures)) })
		},
	}
	keyURIFlag(c, &key, "key", "URI of your key: pkcs11:, piv: or file:")
	c.Flags().StringVar(&module, "module", os.Getenv("HALLMARK_PKCS11_MODULE"), "PKCS #11 module for a pkcs11: URI that names none (HALLMARK_PKCS11_MODULE)")
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	requiredFlags(c, "key")
	return c
}
