package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	slash "path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"hallmark/ca"
	"hallmark/ca/tlog"
	"hallmark/crl"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/internal/seal"
	"hallmark/store"
)

var (
	errRestoreInto = fault.Define(fault.Conflict, "restore-not-empty", "The place to restore into is not empty.", "Name a directory that does not exist or is empty; nothing that exists is ever overwritten.")
	errRestored    = fault.Define(fault.Conflict, "restored-not-accepted", "This database came back from a backup, and nobody has accepted it yet.", "Find out what was lost, then have two people accept it: hallmark restore accept.")
	errDrill       = fault.Define(fault.Internal, "restore-drill-failed", "The backup restores to something else than it says.", "Keep the backup, make another one now, and look into what is listed.")
)

// checkRestored refuses to start on a database that came back from a backup until
// people accepted it (A77).
func checkRestored(ctx context.Context, db *store.DB) error {
	all, err := db.Restores(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if !r.Accepted {
			return errRestored.New("Restored %s from backup %s of %s.", r.RestoredAt.Format(time.RFC3339), r.Backup, r.MadeAt.Format(time.RFC3339)).With("restore", r.ID)
		}
	}
	return nil
}

// restorePlace is where a backup goes.
type restorePlace struct {
	state    string // directory
	database string // file or URL
}

// placeOf reads --into and --state.
func placeOf(into, state string) (p restorePlace, err error) {
	if !strings.Contains(into, "://") {
		if state != "" {
			return p, errUsage{errors.New("--state goes with a database URL in --into")}
		}
		return restorePlace{state: into, database: filepath.Join(into, "hallmark.db")}, nil
	}
	if state == "" {
		return p, errUsage{errors.New("--into names a database; give --state DIR for the files beside it")}
	}
	return restorePlace{state: state, database: into}, nil
}

// restoreKeys is what opens a backup.
type restoreKeys struct {
	identities []age.Identity
	master     string         // file with the master key; "" means that the backup has it
	keyOpeners []age.Identity // for the one in the backup
}

// restore puts a backup into an empty place and leaves it marked as restored.
// What fails leaves nothing behind.
func restore(ctx context.Context, file string, keys restoreKeys, to restorePlace, now time.Time, step func(what string, rows int64)) (m *backupManifest, err error) {
	if files, err := os.ReadDir(to.state); err == nil && len(files) > 0 {
		return nil, errRestoreInto.New("%s has %d files.", to.state, len(files))
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, errBackupRead.Wrap(err, "")
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Join(to.state, "keys"), 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil { // it was empty
			files, _ := os.ReadDir(to.state)
			for _, e := range files {
				os.RemoveAll(filepath.Join(to.state, e.Name()))
			}
		}
	}()
	if keys.master != "" {
		b, err := os.ReadFile(keys.master)
		if err != nil {
			return nil, errBackupMaster.Wrap(err, "")
		}
		defer clear(b)
		if err := durable.WriteFile(filepath.Join(to.state, "seal.key"), b, 0o600); err != nil {
			return nil, err
		}
	}

	// The rows come with their own MACs; a key of the moment will do to make the
	// tables.
	var once [seal.MasterSize]byte
	rand.Read(once[:])
	box, err := seal.Open(once[:])
	if err != nil {
		return nil, err
	}
	var l *store.Loader
	defer func() {
		if l != nil {
			l.Close()
		}
	}()
	var rows int64
	m, err = readBackup(ctx, f, keys.identities, func(name string, data []byte) error {
		switch base := slash.Base(name); {
		case name == headPart:
			var h backupHead
			if err := json.Unmarshal(data, &h); err != nil {
				return err
			}
			l, err = store.NewLoader(ctx, store.Config{URL: to.database, Seal: box}, h.Version)
			return err
		case strings.HasPrefix(name, tablesDir):
			if err := l.Load(ctx, data); err != nil {
				return err
			}
			rows = 0
			for _, n := range l.Rows {
				rows += n
			}
			step("rows", rows)
			return nil
		case slash.Dir(name)+"/" == keysDir:
			return durable.WriteFile(filepath.Join(to.state, "keys", base), data, 0o600)
		case name == configPart:
			return durable.WriteFile(filepath.Join(to.state, "hallmark.yaml.backup"), data, 0o600)
		case name == masterPart && keys.master == "":
			key, err := decrypted(data, keys.keyOpeners)
			if err != nil {
				return err
			}
			defer clear(key)
			return durable.WriteFile(filepath.Join(to.state, "seal.key"), key, 0o600)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if box, err = seal.Load(filepath.Join(to.state, "seal.key")); err != nil {
		return nil, errBackupMaster.Wrap(err, "")
	}
	if err := m.genuine(box); err != nil {
		return nil, err
	}
	for table, want := range m.Rows {
		if l.Rows[table] != want {
			return nil, errBackupRead.New("Table %s has %d rows; the manifest says %d.", table, l.Rows[table], want)
		}
	}
	step("indexes", rows)
	if err := l.Commit(ctx); err != nil {
		return nil, err
	}
	step("state", rows)
	return m, finishRestore(ctx, m, box, to, now)
}

// finishRestore writes what is made from the database, and the mark.
func finishRestore(ctx context.Context, m *backupManifest, box *seal.Box, to restorePlace, now time.Time) error {
	if m.Facts.Note != "" {
		if err := durable.WriteFile(filepath.Join(to.state, "checkpoint"), []byte(m.Facts.Note), 0o644); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(filepath.Join(to.state, "log.pub"), []byte(m.LogKey+"\n"), 0o644); err != nil {
		return err
	}
	db, err := store.Open(ctx, store.Config{URL: to.database, Seal: box})
	if err != nil {
		return err
	}
	defer db.Close()
	var id [8]byte
	rand.Read(id[:])
	if err := db.PutRestored(ctx, store.Restored{ID: now.UTC().Format("20060102-150405-") + hex.EncodeToString(id[:]), Backup: m.ID, MadeAt: m.MadeAt, RestoredAt: now.UTC(), Log: m.Facts.Log}); err != nil {
		return err
	}
	heads, err := db.ListHeads(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		list, err := db.List(ctx, h.Authority, h.Shard, -1)
		if err != nil {
			return err
		}
		if err := writeList(to.state, h.Authority, h.Shard, list.DER); err != nil {
			return err
		}
	}
	return nil
}

// writeList puts a list where the publisher looks for what was published.
func writeList(state, authority string, shard int, der []byte) error {
	dir := filepath.Join(state, "public", "crl", authority)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.crl", shard)), der, 0o644)
}

func decrypted(data []byte, identities []age.Identity) ([]byte, error) {
	if len(identities) == 0 {
		return nil, errBackupMaster.New("")
	}
	r, err := age.Decrypt(bytes.NewReader(data), identities...)
	if err != nil {
		return nil, errBackupMaster.Wrap(err, "")
	}
	return io.ReadAll(io.LimitReader(r, 4096))
}

// drillReport is what a drill measured and found.
type drillReport struct {
	Good         bool          `json:"good"`
	Backup       string        `json:"backup"`
	MadeAt       time.Time     `json:"made_at"`
	Rows         int64         `json:"rows"`
	Certificates int64         `json:"certificates"`
	Leaves       int64         `json:"leaves"`
	Restore      time.Duration `json:"restore_ns"`
	Fsck         time.Duration `json:"fsck_ns"`
	Serve        time.Duration `json:"serve_ns"`
	Findings     []string      `json:"findings"`
}

// drill restores into a place of its own, proves everything, serves it on this
// machine as far as that needs no token, compares, and removes it.
func drill(ctx context.Context, cfg *Config, file string, keys restoreKeys, to restorePlace, now time.Time, step func(string, int64)) (*drillReport, error) {
	rep := &drillReport{Findings: []string{}}
	bad := func(text string, args ...any) { rep.Findings = append(rep.Findings, fmt.Sprintf(text, args...)) }
	start := time.Now()
	m, err := restore(ctx, file, keys, to, now, step)
	if err != nil {
		return nil, err
	}
	rep.Restore, rep.Backup, rep.MadeAt = time.Since(start), m.ID, m.MadeAt
	for _, n := range m.Rows {
		rep.Rows += n
	}
	// The configuration is that of the service, but for where everything is.
	c := *cfg
	c.State, c.Database, c.Log.Origin = to.state, to.database, m.Origin
	c.Log.Publish, c.Log.CheckpointFiles, c.Log.Witnesses, c.Log.Quorum = "", nil, nil, 0
	step("proofs", rep.Rows)
	start = time.Now()
	proof, err := checkEverything(ctx, &c, now)
	if err != nil {
		return nil, err
	}
	rep.Fsck, rep.Certificates, rep.Leaves = time.Since(start), proof.Certificates, proof.Leaves
	for _, f := range proof.Findings {
		bad("%s", f)
	}
	if proof.Leaves != m.Facts.Log {
		bad("the log has %d leaves; the manifest says %d", proof.Leaves, m.Facts.Log)
	}
	if proof.Certificates != m.Rows["certificates"] {
		bad("there are %d certificates; the manifest says %d", proof.Certificates, m.Rows["certificates"])
	}
	step("service", rep.Rows)
	start = time.Now()
	err = answers(ctx, &c, m, bad)
	rep.Serve = time.Since(start)
	if err != nil {
		return nil, err
	}
	rep.Good = len(rep.Findings) == 0
	return rep, nil
}

// answers serves the restored database for reading on a port of this machine and
// asks it for what anybody may ask.
func answers(ctx context.Context, c *Config, m *backupManifest, bad func(string, ...any)) error {
	box, err := seal.Load(filepath.Join(c.State, "seal.key"))
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, store.Config{URL: c.Database, Seal: box, ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	pub, err := logPublicKey(m.LogKey)
	if err != nil {
		return err
	}
	log, err := tlog.New(tlog.Config{Store: db.Log(), Origin: m.Origin, Key: tlog.ReadOnly(pub)})
	if err != nil {
		return err
	}
	// Who is revoked is known before anything is answered, as in the service (A28).
	set := crl.NewSet(crl.SetConfig{Feed: db})
	if err := set.Load(ctx); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/log/", http.StripPrefix("/log", log.Handler()))
	mux.Handle("/crl/", http.FileServer(http.Dir(filepath.Join(c.State, "public"))))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() { srv.Serve(l); close(ended) }()
	defer func() { srv.Close(); <-ended }()
	get := func(path string) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			return nil, err
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			return nil, err
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		if err == nil && a.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", a.StatusCode)
		}
		return b, err
	}
	if m.Facts.Signed > 0 {
		note, err := get("/log/checkpoint")
		var have tlog.Checkpoint
		if err == nil {
			have, err = tlog.ParseCheckpoint(note, m.LogKey)
		}
		switch {
		case err != nil:
			bad("the service's checkpoint: %v", err)
		case have.Size != m.Facts.Signed || !bytes.Equal(have.Root[:], m.Facts.Root):
			bad("the service's log has %d leaves with root %s; the manifest says %d with %x", have.Size, have.Root, m.Facts.Signed, m.Facts.Root)
		}
	}
	authorities, err := db.Authorities(ctx)
	if err != nil {
		return err
	}
	for _, want := range m.Facts.Lists {
		b, err := get(fmt.Sprintf("/crl/%s/%d.crl", want.Authority, want.Shard))
		var have *crl.List
		if err == nil {
			have, err = crl.ParseList(b)
		}
		for _, a := range authorities {
			if err == nil && a.Name == want.Authority {
				err = signedBy(have, &a)
			}
		}
		if err != nil {
			bad("list %s/%d: %v", want.Authority, want.Shard, err)
		} else if have.Number != want.Number {
			bad("list %s/%d has number %d; the manifest says %d", want.Authority, want.Shard, have.Number, want.Number)
		}
	}
	return nil
}

// signedBy says whether an authority signed a list.
func signedBy(l *crl.List, a *ca.Authority) error {
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return err
	}
	return l.Verify(c)
}

// restoreFlags are those with which backups are opened.
type restoreFlags struct {
	identity, passphrase, sealKey, keyIdentity string
}

func (r *restoreFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.identity, "identity", os.Getenv("HALLMARK_BACKUP_IDENTITY"), "file with the secret key of a recipient (HALLMARK_BACKUP_IDENTITY)")
	f.StringVar(&r.passphrase, "passphrase-file", "", "file with the passphrase, if it was encrypted with one")
	f.StringVar(&r.sealKey, "seal-key", "", "copy of the service's master key, seal.key")
	f.StringVar(&r.keyIdentity, "key-identity", "", "file with the secret key that opens the master key in the backup; default --identity")
}

func (r *restoreFlags) open() (k restoreKeys, err error) {
	if k.identities, err = identitiesOf(r.identity, r.passphrase); err != nil {
		return k, err
	}
	k.master, k.keyOpeners = r.sealKey, k.identities
	if r.keyIdentity != "" {
		k.keyOpeners, err = identitiesOf(r.keyIdentity, "")
	}
	return k, err
}

func init() { commands = append(commands, newRestoreCmd) }

func newRestoreCmd(g *globals) *cobra.Command {
	var keys restoreFlags
	var into, state, config, scratch string
	var isDrill bool
	c := &cobra.Command{
		Use: "restore FILE", Short: "Restore a backup into an empty place, or rehearse it", Args: cobra.ExactArgs(1),
		Long: `Restore a backup into an empty directory or database. What is there is never
overwritten, and a restored database is not served before two people have accepted it
(hallmark restore accept).

With --drill the backup is restored into a place that is removed afterwards, everything
in it is proven (hallmark fsck), and it is served on this machine for a moment and
compared with what the backup says of itself. A drill needs no token and touches
nothing of the service. Exit code 1 means that something differs.`,
		Example: `  hallmark restore backup.hmbackup --into /srv/hallmark/state --identity key.txt --seal-key seal.key
  hallmark restore backup.hmbackup --into postgres:///hallmark --state /srv/hallmark/state --identity key.txt --key-identity vault.txt
  hallmark restore backup.hmbackup --drill --identity key.txt --seal-key seal.key --config hallmark.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !isDrill && into == "" {
				return errUsage{errors.New("give --into, or --drill")}
			}
			k, err := keys.open()
			if err != nil {
				return err
			}
			p := newProgress(g)
			defer p.end()
			if isDrill {
				return g.drill(cmd.Context(), args[0], k, into, config, scratch, p)
			}
			to, err := placeOf(into, state)
			if err != nil {
				return err
			}
			start := time.Now()
			m, err := restore(cmd.Context(), args[0], k, to, g.Now(), p.step)
			p.end()
			if err != nil {
				return err
			}
			took := time.Since(start)
			return g.print(map[string]any{"backup": m.ID, "made_at": m.MadeAt, "rows": m.Rows, "leaves": m.Facts.Log, "state": to.state, "took_ns": took, "not_in_it": m.NotInIt}, func(w io.Writer) {
				fmt.Fprintf(w, "Restored in %s: %d certificates, %d log leaves, as of %s.\n", took.Round(time.Millisecond), m.Rows["certificates"], m.Facts.Log, m.MadeAt.Format(time.RFC3339))
				fmt.Fprintln(w, "Not in the backup:")
				for _, n := range m.NotInIt {
					fmt.Fprintf(w, "  - %s\n", n)
				}
				fmt.Fprintf(w, "Its configuration without secrets is %s.\nNext: hallmark restore accept\n", filepath.Join(to.state, "hallmark.yaml.backup"))
			})
		},
	}
	keys.add(c)
	f := c.Flags()
	f.StringVar(&into, "into", "", "directory, or postgres:// URL of an empty database")
	f.StringVar(&state, "state", "", "directory for the files beside a database in --into")
	f.BoolVar(&isDrill, "drill", false, "restore into a place that is removed, prove and compare everything")
	f.StringVar(&config, "config", "", "of a drill: the service's configuration, for the approvers' keys; default hallmark.yaml in --dir")
	f.StringVar(&scratch, "scratch", "", "of a drill: directory to work in; the default is the system's for temporary files")
	c.AddCommand(newRestoreAcceptCmd(g), newRestoreApproveCmd(g))
	return c
}

func (g *globals) drill(ctx context.Context, file string, k restoreKeys, into, config, scratch string, p *progress) error {
	cfg, err := findConfig(g.Dir, config)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(scratch, "hallmark-drill-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	to := restorePlace{state: filepath.Join(dir, "state"), database: filepath.Join(dir, "state", "hallmark.db")}
	if strings.Contains(into, "://") { // an empty database on PostgreSQL, which stays for whoever gave it
		to.database = into
	} else if into != "" {
		return errUsage{errors.New("a drill takes no directory in --into; see --scratch")}
	}
	rep, err := drill(ctx, cfg, file, k, to, g.Now(), p.step)
	p.end()
	if err != nil {
		return err
	}
	if err := g.print(rep, func(w io.Writer) {
		sort.Strings(rep.Findings)
		for _, f := range rep.Findings {
			fmt.Fprintln(w, visible(f))
		}
		facts(w, "backup of", rep.MadeAt.Format(time.RFC3339), "certificates", fmt.Sprint(rep.Certificates), "log leaves", fmt.Sprint(rep.Leaves), "rows", fmt.Sprint(rep.Rows),
			"restored in", rep.Restore.Round(time.Millisecond).String(), "proven in", rep.Fsck.Round(time.Millisecond).String(), "served and compared in", rep.Serve.Round(time.Millisecond).String())
		if rep.Good {
			fmt.Fprintln(w, "The backup is good: it restores to what it says, and everything in it is proven.")
		}
	}); err != nil {
		return err
	}
	if !rep.Good {
		return errDrill.New("%d findings.", len(rep.Findings))
	}
	return nil
}

// progress shows how far a long command is, on a line that it writes again.
type progress struct {
	g     *globals
	total int64
	shown time.Time
	last  string
}

func newProgress(g *globals) *progress { return &progress{g: g} }

func (p *progress) step(what string, rows int64) {
	if p.g.JSON || what == p.last && time.Since(p.shown) < 200*time.Millisecond {
		return
	}
	p.shown, p.last = time.Now(), what
	text := fmt.Sprintf("%-12s %12d rows", what, rows)
	if p.total > 0 {
		done := int(min(rows*30/p.total, 30))
		text += fmt.Sprintf("  [%s%s] %3d %%", strings.Repeat("#", done), strings.Repeat(".", 30-done), rows*100/p.total)
	}
	fmt.Fprintf(p.g.Err, "\r%-78s", text)
}

func (p *progress) end() {
	if p.last != "" {
		fmt.Fprintf(p.g.Err, "\r%-78s\r", "")
		p.last = ""
	}
}
