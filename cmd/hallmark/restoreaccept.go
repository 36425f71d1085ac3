package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/internal/fault"
	"hallmark/store"
)

var (
	errNothingRestored = fault.Define(fault.Conflict, "restore-nothing", "There is nothing to accept: this database did not come back from a backup.", "Start the service: hallmark serve.")
	errStatement       = fault.Define(fault.Forbidden, "restore-statement", "Too few people have agreed to this.", "Let two approvers of the configuration sign the statement: hallmark restore approve FILE --key URI.")
	errOtherLists      = fault.Define(fault.Conflict, "restore-other-lists", "These are not the lists that people agreed to.", "Give --since-lists the lists that the statement was written with, in a copy that nobody changes, or write a new statement and have it signed.")
	errLogStillBehind  = fault.Define(fault.Conflict, "restore-log-behind", "Checkpoints held elsewhere are about leaves that this database has lost.", "Give a copy of the log with --since-log DIR, or close the log with --new-origin NAME.")
)

// acceptReport is what an acceptance did and what people have to look at.
type acceptReport struct {
	store.Restored
	Lost    int64    `json:"lost_leaves"`
	People  []string `json:"people_let_in"`
	NewLog  string   `json:"new_log_key,omitempty"`
	Skipped []string `json:"lists_not_used"`
	// BreakGlass is the key that opens nothing any more; "" if none is configured.
	BreakGlass string `json:"break_glass_spent,omitempty"`
}

// floorJump is by how much the numbers of lists and filters go on above the last
// that is known. A list is signed by a token and committed, so a service that made
// ten a second would need a day for so many; the time since the backup counts too.
const floorJump = 1 << 20

// accept does all of it. Lists come first: what is revoked is known before
// anything else is.
func (r *recovery) accept(ctx context.Context, pending store.Restored, lists []publishedList, s *statement, sinceLog string, by []string) (*acceptReport, error) {
	rep := &acceptReport{Skipped: []string{}}
	var err error
	if s.SinceLog != "" {
		if rep.Lost, err = r.recoverLog(ctx, sinceLog); err != nil {
			return nil, err
		}
	}
	if s.NewOrigin != "" {
		if _, err := r.closeLog(ctx, r.newestHeld()); err != nil {
			return nil, err
		}
		rep.NewLog = r.key.vkey
	}
	seen := map[string]int64{}
	if err := r.reenter(ctx, lists, seen, &pending, rep); err != nil {
		return nil, err
	}
	heads, err := r.db.ListHeads(ctx)
	if err != nil {
		return nil, err
	}
	since := int64(max(r.now.Sub(pending.MadeAt), 0) / (100 * time.Millisecond))
	pending.Above = floorJump + since
	pending.Floors = nil
	for _, h := range heads {
		n := max(h.Number, seen[fmt.Sprintf("%s/%d", h.Authority, h.Shard)])
		pending.Floors = append(pending.Floors, store.ListFact{Authority: h.Authority, Shard: h.Shard, Number: n + floorJump + since})
		pending.Above = max(pending.Above, n+floorJump+since)
	}
	if pending.Void, err = r.db.VoidTokens(ctx, r.now); err != nil {
		return nil, err
	}
	for _, name := range s.Disable {
		tenant, name, ok := strings.Cut(name, "/")
		if !ok {
			tenant, name = access.DefaultTenant, tenant
		}
		if _, err := r.db.DisablePrincipal(ctx, access.Scope{Tenant: tenant}, name, r.now); err != nil {
			return nil, err
		}
	}
	if err := r.spendBreakGlass(ctx, s); err != nil {
		return nil, err
	}
	rep.BreakGlass = s.BreakGlass
	if rep.People, err = r.db.LiveTokens(ctx, r.now); err != nil {
		return nil, err
	}
	if err := r.hold(ctx); err != nil {
		return nil, err
	}
	// Last of all: until then the service does not start.
	pending.Accepted, pending.AcceptedAt, pending.Approvers = true, r.now.UTC(), by
	if err := r.db.PutRestored(ctx, pending); err != nil {
		return nil, err
	}
	rep.Restored = pending
	return rep, nil
}

// reenter takes the lists that were published since the backup: what is on them
// and the database knows is revoked again; what it does not know stays listed,
// since the newer list is where the publisher goes on from.
func (r *recovery) reenter(ctx context.Context, lists []publishedList, seen map[string]int64, p *store.Restored, rep *acceptReport) error {
	authorities, err := r.db.Authorities(ctx)
	if err != nil {
		return err
	}
	svc := crl.New(crl.Config{Store: r.db, Log: r.log, Now: func() time.Time { return r.now }})
	by := access.Actor{Kind: access.KindService, Name: "restore", Role: access.SecurityOfficer}
	p.Entered, p.Unknown = 0, []string{}
	enter := func(name string, b []byte) error {
		l, err := crl.ParseList(b)
		if err != nil {
			rep.Skipped = append(rep.Skipped, name+": "+fault.From(err).Detail)
			return nil
		}
		at := slices.IndexFunc(authorities, func(a ca.Authority) bool { return len(a.Certificate) > 0 && signedBy(l, &a) == nil })
		if at < 0 {
			rep.Skipped = append(rep.Skipped, name+": no authority of this service signed it")
			return nil
		}
		a := authorities[at]
		if l.Base == 0 {
			for shard := range max(a.Shards, 1) {
				if l.URL != profile.ListURL(a.ListBase(), shard) {
					continue
				}
				id := fmt.Sprintf("%s/%d", a.Name, shard)
				if l.Number > seen[id] {
					seen[id] = l.Number
					if have, err := r.db.List(ctx, a.Name, shard, -1); err == nil && (have == nil || have.Number < l.Number) {
						if err := writeList(r.cfg.State, a.Name, shard, b); err != nil {
							return err
						}
					}
				}
			}
		}
		return l.Each(func(e crl.Entry) error {
			if len(e.Serial) > ca.SerialLen {
				return nil
			}
			var serial ca.Serial
			copy(serial[ca.SerialLen-len(e.Serial):], e.Serial)
			tenant, known, err := r.db.StoryOf(ctx, a.Name, serial)
			if err != nil {
				return err
			}
			if !known {
				if id := a.Name + "/" + hex.EncodeToString(serial[:]); !slices.Contains(p.Unknown, id) {
					p.Unknown = append(p.Unknown, id)
				}
				return nil
			}
			if e.Reason == 8 { // removeFromCRL, of a delta list (RFC 5280, Section 5.3.1)
				return nil
			}
			actor := by
			actor.Tenant = tenant
			res, err := svc.Revoke(ctx, actor, crl.Withdrawal{Authority: a.Name, Serial: serial, Reason: e.Reason, Note: fmt.Sprintf("entered again from list %d after a restore; revoked %s", l.Number, e.At.UTC().Format(time.RFC3339))})
			if res.Changed {
				p.Entered++
			}
			return err
		})
	}
	for _, l := range lists {
		b, err := l.read()
		if err == nil {
			err = enter(l.file, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// spendBreakGlass makes a session that was over before it began: nobody can know
// whether the key opened one that this database has forgotten, so it opens none (S42).
func (r *recovery) spendBreakGlass(ctx context.Context, s *statement) error {
	if s.BreakGlass == "" {
		return nil
	}
	var id [8]byte
	rand.Read(id[:])
	err := r.db.OpenBreakGlass(ctx, access.BreakGlassSession{ID: hex.EncodeToString(id[:]), Tenant: access.DefaultTenant, KeyID: s.BreakGlass, TokenHash: access.NewToken().Hash(),
		OpenedAt: r.now.UTC(), ExpiresAt: r.now.UTC(), ClosedAt: r.now.UTC(), Reason: "none was opened: the database came back, and the key may have been used since", From: "hallmark " + s.Action})
	if errors.Is(err, access.ErrBreakGlassSpent) {
		return nil
	}
	return err
}

// pendingRestore finds what is to be accepted. A copy of files that somebody put
// back has no mark; there the log is behind what is held elsewhere.
func (r *recovery) pendingRestore(ctx context.Context) (p store.Restored, behind error, err error) {
	all, err := r.db.Restores(ctx)
	if err != nil {
		return p, nil, err
	}
	behind = r.behind(ctx)
	for _, v := range all {
		if !v.Accepted {
			return v, behind, nil
		}
	}
	if behind == nil {
		return p, nil, errNothingRestored.New("")
	}
	head, err := r.db.Head(ctx)
	if err != nil {
		return p, nil, err
	}
	made := r.now
	if last, _, err := r.db.LastCertificates(ctx); err == nil && !last.IsZero() {
		made = last
	}
	// The name is the same until it was accepted: people sign it.
	return store.Restored{ID: fmt.Sprintf("copy-at-%d", head), MadeAt: made.UTC(), RestoredAt: r.now.UTC(), Log: head}, behind, nil
}

func newRestoreAcceptCmd(g *globals) *cobra.Command {
	var config, lists, sinceLog, newOrigin, approved, out string
	var disable []string
	c := &cobra.Command{
		Use: "accept", Short: "Accept a restored database, after which it may be served", Args: cobra.NoArgs,
		Long: `A database that came back from a backup, or whose files were put back, has forgotten
what happened since. Before the service starts on it:

  - numbers of lists and filters jump above all that may have been published;
  - station codes, enrolment passwords and open claims that were handed out end;
  - the configured break-glass key is spent, whether or not it was used since;
  - revocations since are entered again from published lists (--since-lists);
  - the log takes the places of its lost leaves from a copy of the tiles (--since-log),
    or is closed and goes on under another name (--new-origin).

Two approvers of the configuration have to sign what is about to be done: without
--approved the command writes the statement; hallmark restore approve signs it. The
service must be stopped.`,
		Example: `  hallmark restore accept --since-lists /mnt/cdn/crl --since-log /mnt/cdn/log --out statement.json
  hallmark restore approve statement.json --key 'pkcs11:token=anna;object=approve'
  hallmark restore approve statement.json --key piv:slot=9c
  hallmark restore accept --since-lists /mnt/cdn/crl --since-log /mnt/cdn/log --approved statement.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if sinceLog != "" && newOrigin != "" {
				return errUsage{errors.New("give --since-log or --new-origin")}
			}
			r, err := openRecovery(ctx, g, config, newOrigin)
			if err != nil {
				return err
			}
			defer r.close()
			pending, behind, err := r.pendingRestore(ctx)
			if err != nil {
				return err
			}
			if newOrigin == "" && sinceLog == "" && behind != nil {
				return errLogStillBehind.Wrap(behind, "")
			}
			s, err := r.statement(ctx, "accept", pending, sinceLog, newOrigin)
			if err != nil {
				return err
			}
			s.Disable = nonNil(disable)
			published, said, err := publishedLists(lists)
			if err != nil {
				return err
			}
			s.SinceLists = said
			by, err := s.agreed(r.cfg, approved)
			if errors.Is(err, errStatement) && approved == "" {
				return g.writeStatement(s, out, err)
			}
			if err != nil {
				return err
			}
			var rep *acceptReport
			if err := r.recorded(ctx, access.AcceptRestore, s, by, func(ctx context.Context) (err error) {
				rep, err = r.accept(ctx, pending, published, s, sinceLog, by)
				return err
			}); err != nil {
				return err
			}
			return g.print(rep, func(w io.Writer) { rep.show(w, newOrigin) })
		},
	}
	f := c.Flags()
	f.StringVar(&config, "config", "", "configuration file; default hallmark.yaml in --dir")
	f.StringVar(&lists, "since-lists", "", "directory with the newest published lists, *.crl")
	f.StringVar(&sinceLog, "since-log", "", "directory with the newest copy of the published log")
	f.StringVar(&newOrigin, "new-origin", "", "close the log and go on under this name")
	f.StringSliceVar(&disable, "disable", nil, "shut out this person again (again for more)")
	f.StringVar(&approved, "approved", "", "the signed statement")
	f.StringVar(&out, "out", "restore-statement.json", "where the statement to sign is written")
	return c
}

func (rep *acceptReport) show(w io.Writer, newOrigin string) {
	facts(w, "accepted", rep.ID, "agreed", dash(strings.Join(rep.Approvers, ", ")), "revocations entered again", fmt.Sprint(rep.Entered), "lost leaves kept in the tree", fmt.Sprint(rep.Lost))
	for what, n := range rep.Void {
		fmt.Fprintf(w, "Void: %d %s.\n", n, what)
	}
	for _, l := range rep.Floors {
		fmt.Fprintf(w, "List %s/%d goes on above number %d.\n", l.Authority, l.Shard, l.Number)
	}
	for _, u := range rep.Unknown {
		fmt.Fprintf(w, "Revoked since and not known here, it stays listed: %s\n", u)
	}
	for _, s := range rep.Skipped {
		fmt.Fprintf(w, "Not used: %s\n", visible(s))
	}
	fmt.Fprintf(w, "These people are let in, whoever shut them out since: %s\n", strings.Join(rep.People, ", "))
	if rep.BreakGlass != "" {
		fmt.Fprintf(w, "The break-glass key %s is spent: it may have been used since the backup. Make a new one: hallmark breakglass create\n", rep.BreakGlass)
	}
	if newOrigin != "" {
		fmt.Fprintf(w, "The log goes on as %s. Set log.origin to it, and give the new key to everyone who verifies:\n  %s\n", newOrigin, rep.NewLog)
	}
	fmt.Fprintln(w, "Next: hallmark serve, then hallmark fsck")
}
