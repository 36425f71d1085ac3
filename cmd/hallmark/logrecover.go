package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/ca/tlog"
	"hallmark/hsm"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/internal/seal"
	"hallmark/store"
)

// recovery is a database on which the service does not run, with what changes
// its log.
type recovery struct {
	cfg  *Config
	box  *seal.Box
	db   *store.DB
	keys *hsm.Keyring
	key  tlogKey
	old  string // verifier key under which the log was signed
	log  *slog.Logger
	now  time.Time
}

// tlogKey is the key that checkpoints are signed with from now on.
type tlogKey struct {
	vkey string
	log  *tlog.Log
}

// openRecovery opens a stopped service's database for the commands that repair it.
// The clock is taken for right: who restores an old backup is ahead of it.
func openRecovery(ctx context.Context, g *globals, file, origin string) (*recovery, error) {
	cfg, err := findConfig(g.Dir, file)
	if err != nil {
		return nil, err
	}
	r := &recovery{cfg: cfg, log: newLogger(g.Err, "warn"), now: g.Now()}
	if r.box, err = seal.Load(filepath.Join(cfg.State, "seal.key")); err != nil {
		return nil, err
	}
	if r.old, err = logVerifier(cfg, r.box); err != nil {
		return nil, err
	}
	if r.db, err = store.Open(ctx, store.Config{URL: cfg.Database, Seal: r.box, AcceptClock: true, Log: r.log, Now: g.Now}); err != nil {
		return nil, err
	}
	groups, err := cfg.groups()
	if err != nil {
		r.close()
		return nil, err
	}
	r.keys = hsm.Open(hsm.Config{Log: r.log, Sessions: cfg.Tokens.Sessions, Production: cfg.Production, Groups: groups, Direct: cfg.Tokens.Direct, Environment: cfg.Tokens.Environment})
	key, err := openLogKey(ctx, cfg, r.keys, vault{filepath.Join(cfg.State, "keys"), r.box})
	if err != nil {
		r.close()
		return nil, err
	}
	if origin == "" {
		origin = cfg.Log.Origin
	}
	if r.key.log, err = tlog.New(tlog.Config{Store: r.db.Log(), Origin: origin, Key: key, More: r.trailLine, Now: g.Now, Log: r.log}); err != nil {
		r.close()
		return nil, err
	}
	r.key.vkey = r.key.log.VerifierKey()
	return r, nil
}

// trailLine is what the service puts into every checkpoint.
func (r *recovery) trailLine(ctx context.Context) (string, error) {
	h, err := r.db.TrailHead(ctx)
	return h.Line(), err
}

func (r *recovery) close() {
	if r.keys != nil {
		r.keys.Close()
	}
	r.db.Close()
}

// stored is the checkpoint in the database, under the key that it was signed with.
func (r *recovery) stored(ctx context.Context) (tlog.Checkpoint, error) {
	size, _, note, err := r.db.Integrated(ctx)
	if err != nil || size == 0 && note == nil {
		return tlog.Checkpoint{}, err
	}
	return tlog.ParseCheckpoint(note, r.old)
}

// recorded does what the statement says with an entry in the trail, which the first
// transaction of it takes along; see [access.Recorded].
func (r *recovery) recorded(ctx context.Context, action access.Action, s *statement, by []string, do func(ctx context.Context) error) error {
	e := access.TrailEntry{At: r.now, Tenant: access.DefaultTenant, Actor: access.Actor{Kind: access.KindService, Name: "recovery"}.String(), Action: action, On: "hallmark " + s.Action,
		About: map[string]string{"log": fmt.Sprintf("%d %s", s.Log, s.Root)}}
	for name, value := range map[string]string{"restore": s.Restore, "backup": s.Backup, "since_log": s.SinceLog, "since_lists": s.SinceLists, "break_glass_spent": s.BreakGlass, "new_origin": s.NewOrigin, "disable": strings.Join(s.Disable, " "), "agreed": strings.Join(by, ", ")} {
		if value != "" {
			e.About[name] = value
		}
	}
	if b, err := s.canonical(); err == nil {
		sum := sha256.Sum256(b)
		e.Body = hex.EncodeToString(sum[:]) // of what was signed
	}
	return access.Recorded(ctx, r.db, e, func(err error) string { return fault.From(err).Code }, do)
}

// behind says whether a checkpoint that is held elsewhere is about more than the
// database has.
func (r *recovery) behind(ctx context.Context) error {
	k, err := newLogKeeper(r.cfg, r.key.log, nil, nil, r.log)
	if err != nil {
		return err
	}
	return k.check(ctx)
}

// recoverLog takes the leaves after the last one from a verified copy of the log.
// Their facts are lost; their places in the tree are not.
func (r *recovery) recoverLog(ctx context.Context, dir string) (lost int64, err error) {
	src := tlog.Dir(dir)
	note, err := src.Note(ctx)
	if err != nil {
		return 0, err
	}
	c, err := tlog.ParseCheckpoint(note, r.old)
	if err != nil {
		return 0, err
	}
	have, err := r.stored(ctx)
	if err != nil {
		return 0, err
	}
	tree := tlog.NewTree(src, c)
	if have.Size > 0 {
		if err := tree.Extends(ctx, have); err != nil {
			return 0, err
		}
	}
	head, err := r.db.Head(ctx)
	if err != nil {
		return 0, err
	}
	if c.Size < head {
		return 0, tlog.ErrBehind.New("The copy in %s has %d leaves, the database %d.", dir, c.Size, head)
	}
	// What was recorded and never signed must be what was signed later.
	for from := have.Size; from < head; from += batch {
		to := min(from+batch, head)
		signed, err := tree.Leaves(ctx, indexes(from, to))
		if err != nil {
			return 0, err
		}
		own, err := r.db.LogEntries(ctx, from, to)
		if err != nil {
			return 0, err
		}
		for i := range own {
			if own[i].Merkle() != signed[i] {
				return 0, tlog.ErrForked.New("Leaf %d of the database is not the one of the copy.", own[i].Index)
			}
		}
	}
	for from := head; from < c.Size; from += batch {
		hashes, err := tree.Leaves(ctx, indexes(from, min(from+batch, c.Size)))
		if err != nil {
			return lost, err
		}
		if err := r.db.AppendLost(ctx, from, hashes, r.now); err != nil {
			return lost, err
		}
		lost += int64(len(hashes))
	}
	now, err := r.key.log.Integrate(ctx)
	if err != nil {
		return lost, err
	}
	if now.Size < c.Size {
		return lost, tlog.ErrCorrupt.New("%d leaves after the recovery.", now.Size)
	}
	return lost, r.key.log.CheckAgainst(ctx, note)
}

func indexes(from, to int64) (out []int64) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// chain says how one log goes on as another. Both keys' signatures are in it.
type chain struct {
	ClosedOrigin string `json:"closed_origin"`
	ClosedKey    string `json:"closed_key"`
	ClosedHeld   string `json:"closed_newest"` // the newest checkpoint of the closed log that is known here
	Common       string `json:"common"`        // the closed log's checkpoint up to which both are the same
	Origin       string `json:"origin"`
	Key          string `json:"key"`
	First        string `json:"first"` // the new log's first checkpoint, over the same leaves
}

// closeLog signs the tree under another name, which every later checkpoint has.
func (r *recovery) closeLog(ctx context.Context, held string) (*chain, error) {
	if r.key.vkey == r.old {
		return nil, errUsage{errors.New("name another origin than the log has, or another key in the configuration")}
	}
	have, err := r.stored(ctx)
	if err != nil {
		return nil, err
	}
	if have.Note == nil {
		return nil, tlog.ErrPending.New("The log has no checkpoint; change its origin in the configuration.")
	}
	first, err := r.key.log.SignTree(ctx, r.old)
	if err != nil {
		return nil, err
	}
	c := &chain{ClosedOrigin: have.Origin, ClosedKey: r.old, ClosedHeld: held, Common: string(have.Note), Origin: r.key.log.Origin(), Key: r.key.vkey, First: string(first.Note)}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, err
	}
	// The statement first: a checkpoint without it would have no past.
	name := filepath.Join(r.cfg.State, "log-chain-"+r.now.UTC().Format("20060102-150405")+".json")
	if err := durable.WriteFile(name, append(b, '\n'), 0o644); err != nil {
		return nil, err
	}
	if err := r.db.SetCheckpoint(ctx, first); err != nil {
		return nil, err
	}
	return c, durable.WriteFile(logVerifierFile(r.cfg), []byte(r.key.vkey+"\n"), 0o644)
}

// newestHeld is the newest checkpoint of the old log in files of this machine.
func (r *recovery) newestHeld() (note string) {
	var size int64 = -1
	files := append([]string{filepath.Join(r.cfg.State, "checkpoint"), filepath.Join(r.cfg.State, "checkpoint.witnessed")}, r.cfg.Log.CheckpointFiles...)
	if r.cfg.Log.Publish != "" {
		files = append(files, filepath.Join(r.cfg.Log.Publish, "checkpoint"))
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if c, err := tlog.ParseCheckpoint(b, r.old); err == nil && c.Size > size {
			size, note = c.Size, string(b)
		}
	}
	return note
}

// hold replaces the checkpoints that are held on this machine; the old ones are
// kept beside, since they are evidence.
func (r *recovery) hold(ctx context.Context) error {
	c, err := r.key.log.Integrate(ctx)
	if err != nil {
		return err
	}
	stamp := ".before-" + r.now.UTC().Format("20060102-150405")
	keep := func(name string) error {
		err := os.Rename(name, name+stamp)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, name := range append([]string{filepath.Join(r.cfg.State, "checkpoint")}, r.cfg.Log.CheckpointFiles...) {
		if old, err := os.ReadFile(name); err == nil {
			if err := durable.WriteFile(name+stamp, old, 0o644); err != nil {
				return err
			}
		}
		if err := durable.WriteFile(name, c.Note, 0o644); err != nil {
			return err
		}
	}
	if err := keep(filepath.Join(r.cfg.State, "checkpoint.witnessed")); err != nil {
		return err
	}
	if r.cfg.Log.Publish == "" {
		return nil
	}
	// A published log under another name is another directory: its tiles may go on
	// where this one's do not.
	b, err := os.ReadFile(filepath.Join(r.cfg.Log.Publish, "checkpoint"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if old, err := tlog.ParseCheckpoint(b, r.key.vkey); err != nil || old.Size > c.Size {
		return keep(r.cfg.Log.Publish)
	}
	_, err = tlog.NewPublisher(tlog.PublisherConfig{Source: r.key.log.Source(), Key: r.key.vkey, Dir: r.cfg.Log.Publish}).Publish(ctx, c.Note)
	return err
}

// newLogRecoverCmd and newLogCloseCmd repair the log alone, when only its tail was
// lost or its key is to change.
func newLogRecoverCmd(g *globals) *cobra.Command {
	return newLogRepairCmd(g, &cobra.Command{
		Use: "recover", Short: "Take the places of lost leaves from a copy of the tiles", Args: cobra.NoArgs,
		Long: `The database has fewer leaves than were signed for: take the hashes of the missing
ones from a copy of the published log, so that the tree goes on as it was signed. What
they were about stays lost and visible; receipts of stations say it (hallmark log prove
--receipt). Use hallmark restore accept instead if the whole database went back: this
command does that, too, and says what else was forgotten. The service must be stopped.`,
		Example: "  hallmark log recover --from-tiles /mnt/copy --approved statement.json",
	}, "log-recover")
}

func newLogCloseCmd(g *globals) *cobra.Command {
	return newLogRepairCmd(g, &cobra.Command{
		Use: "close", Short: "Close the log and go on under another name or key", Args: cobra.NoArgs,
		Long: `Sign the leaves that there are under another origin, or, after log.key was changed,
by another key, and write a statement that chains both. Old receipts stay valid under
the closed log's checkpoints. The service must be stopped.`,
		Example: "  hallmark log close --new-origin log.example.com/brand-2 --approved statement.json",
	}, "log-close")
}

func newLogRepairCmd(g *globals, c *cobra.Command, action string) *cobra.Command {
	var config, tiles, origin, approved, out string
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		r, err := openRecovery(ctx, g, config, origin)
		if err != nil {
			return err
		}
		defer r.close()
		if err := checkRestored(ctx, r.db); err != nil {
			return err
		}
		s, err := r.statement(ctx, action, store.Restored{}, tiles, origin)
		if err != nil {
			return err
		}
		by, err := s.agreed(r.cfg, approved)
		if errors.Is(err, errStatement) && approved == "" {
			return g.writeStatement(s, out, err)
		}
		if err != nil {
			return err
		}
		var lost int64
		var ch *chain
		what := access.CloseLog
		if action == "log-recover" {
			what = access.RecoverLog
		}
		if err := r.recorded(ctx, what, s, by, func(ctx context.Context) (err error) {
			if action == "log-recover" {
				if lost, err = r.recoverLog(ctx, tiles); err == nil {
					err = r.spendBreakGlass(ctx, s)
				}
			} else {
				ch, err = r.closeLog(ctx, r.newestHeld())
			}
			if err != nil {
				return err
			}
			return r.hold(ctx)
		}); err != nil {
			return err
		}
		return g.print(map[string]any{"lost": lost, "chain": ch, "log_key": r.key.vkey, "break_glass_spent": s.BreakGlass}, func(w io.Writer) {
			if ch != nil {
				fmt.Fprintf(w, "The log is closed and goes on as %s. Set log.origin to it, and give the new key to everyone who verifies:\n  %s\n", ch.Origin, ch.Key)
				return
			}
			if s.BreakGlass != "" {
				fmt.Fprintf(w, "The break-glass key %s is spent: it may have been used in what was lost. Make a new one: hallmark breakglass create\n", s.BreakGlass)
			}
			fmt.Fprintf(w, "%d leaves have their places in the tree again; what they were about is lost.\nNext: hallmark serve, then hallmark log verify\n", lost)
		})
	}
	f := c.Flags()
	f.StringVar(&config, "config", "", "configuration file; default hallmark.yaml in --dir")
	f.StringVar(&approved, "approved", "", "the signed statement")
	f.StringVar(&out, "out", "log-statement.json", "where the statement to sign is written")
	if action == "log-recover" {
		f.StringVar(&tiles, "from-tiles", "", "directory with a copy of the published log")
		requiredFlags(c, "from-tiles")
	} else {
		f.StringVar(&origin, "new-origin", "", "name of the log from now on; default log.origin, where the key changed")
	}
	return c
}
