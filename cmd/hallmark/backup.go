package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/tlog"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/internal/seal"
	"hallmark/store"
)

var (
	errBackupRuns = fault.Define(fault.Conflict, "backup-runs", "A backup is being made already.", "Wait for it: hallmark backup shows how far it is.")
	errBackupDir  = fault.Define(fault.Unavailable, "backup-directory", "The backup could not be written.", "Check backup.directory, its rights and free space.")
	errBackupOff  = fault.Define(fault.Conflict, "backup-off", "The service makes no backups.", "Set backup.directory and backup.recipients in the configuration, and restart.")
)

// BackupConfig says where backups are kept, and for whom they are encrypted.
type BackupConfig struct {
	// Directory is where they are written; empty means that none are made.
	Directory string `yaml:"directory"`
	// Interval is how often one is made by itself; 0 means only when asked.
	Interval Duration `yaml:"interval"`
	// Keep is how many stay; default 14, the newest.
	Keep int `yaml:"keep"`
	// Recipients are age public keys, or files with some.
	Recipients []string `yaml:"recipients"`
	// KeyRecipients may besides open the master key, which is left out without
	// them.
	KeyRecipients []string `yaml:"key_recipients"`
	// PassphraseFile encrypts with a passphrase instead of for recipients.
	PassphraseFile string `yaml:"passphrase_file"`
}

func (b *BackupConfig) complete(dir string) error {
	if b.Directory == "" {
		if b.Interval != 0 || b.Keep != 0 || len(b.Recipients)+len(b.KeyRecipients) > 0 || b.PassphraseFile != "" {
			return errConfig.New("backup: directory is missing; without it there are no backups.")
		}
		return nil
	}
	for _, name := range []*string{&b.Directory, &b.PassphraseFile} {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
	if d := time.Duration(b.Interval); d != 0 && (d < time.Minute || d > 30*24*time.Hour) {
		return errConfig.New("backup.interval: %s is not 1m to 720h.", d)
	}
	if b.Keep == 0 {
		b.Keep = 14
	}
	if b.Keep < 1 || b.Keep > 10_000 {
		return errConfig.New("backup.keep: %d is not 1 to 10000.", b.Keep)
	}
	if (len(b.Recipients) == 0) == (b.PassphraseFile == "") {
		return errConfig.New("backup: recipients or passphrase_file is needed, and not both.")
	}
	return nil
}

// keys opens the recipients, and whatever opens the backup again at once.
func (c *Config) backupKeys() (to []age.Recipient, again age.Identity, master []age.Recipient, err error) {
	abs := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(c.dir, name)
	}
	if master, err = recipientsOf(c.Backup.KeyRecipients, abs); err != nil {
		return nil, nil, nil, err
	}
	if c.Backup.PassphraseFile != "" {
		p, err := readPassphrase(c.Backup.PassphraseFile)
		if err != nil {
			return nil, nil, nil, err
		}
		r, err := age.NewScryptRecipient(p)
		if err != nil {
			return nil, nil, nil, err
		}
		again, err = age.NewScryptIdentity(p)
		return []age.Recipient{r}, again, master, err
	}
	if to, err = recipientsOf(c.Backup.Recipients, abs); err != nil {
		return nil, nil, nil, err
	}
	if len(to) == 0 {
		return nil, nil, nil, errBackupRecipients.New("")
	}
	again, once, err := onceFor(to)
	return append(to, once), again, master, err
}

const (
	backupSuffix  = ".hmbackup"
	partialPrefix = ".backup-"
	partialSuffix = ".partial"
)

// backupJob makes backups, one at a time.
type backupJob struct {
	cfg    *Config
	db     *store.DB
	box    *seal.Box
	logKey string      // verifier key of the log
	busy   func() bool // the line is; nil means never
	now    func() time.Time
	log    *slog.Logger
	life   context.Context // of the service; nil without one

	wg *sync.WaitGroup // of the service

	running sync.Mutex
	stage   atomic.Pointer[string]
	done    atomic.Int64
	total   atomic.Int64

	mu   sync.Mutex
	last *backupResult
	err  error
}

// backupResult is a backup that was made.
type backupResult struct {
	File   string        `json:"file"`
	Octets int64         `json:"octets"`
	Rows   int64         `json:"rows"`
	Leaves int64         `json:"leaves"`
	MadeAt time.Time     `json:"made_at"`
	Took   time.Duration `json:"took_ns"`
	Master bool          `json:"master_in_it"`
}

func (j *backupJob) at(stage string) { j.stage.Store(&stage) }

// make makes a backup and reads it back. Until that went well nothing has its
// name, and nothing is on the disk in clear at any time.
func (j *backupJob) make(ctx context.Context) (r *backupResult, err error) {
	if j == nil || j.cfg.Backup.Directory == "" {
		return nil, errBackupOff.New("")
	}
	if !j.running.TryLock() {
		return nil, errBackupRuns.New("")
	}
	defer j.running.Unlock()
	return j.run(ctx)
}

// run is make under the lock.
func (j *backupJob) run(ctx context.Context) (r *backupResult, err error) {
	defer func() {
		j.at("")
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.err = err; err == nil {
			j.last = r
		}
	}()
	start := time.Now()
	dir := j.cfg.Backup.Directory
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errBackupDir.Wrap(err, "")
	}
	j.sweep(dir)
	to, again, master, err := j.cfg.backupKeys()
	if err != nil {
		return nil, err
	}
	partial := filepath.Join(dir, partialPrefix+strings.ToLower(rand.Text())+partialSuffix)
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errBackupDir.Wrap(err, "")
	}
	defer os.Remove(partial)
	defer f.Close()
	m, err := j.write(ctx, f, to, master)
	if err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, errBackupDir.Wrap(err, "")
	}
	j.at("reading it back")
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errBackupDir.Wrap(err, "")
	}
	back, err := checkBackup(ctx, f, []age.Identity{again}, j.box)
	if err != nil {
		return nil, err
	}
	if back.ID != m.ID {
		return nil, errBackupRead.New("It is another one than was written.")
	}
	name := filepath.Join(dir, fmt.Sprintf("hallmark-%s-%d%s", m.MadeAt.UTC().Format("20060102T150405.000Z"), m.Facts.Log, backupSuffix))
	if err := os.Link(partial, name); err != nil { // never over one that is there
		return nil, errBackupDir.Wrap(err, "")
	}
	if err := os.Remove(partial); err != nil {
		return nil, errBackupDir.Wrap(err, "")
	}
	if err := durable.SyncDir(dir); err != nil {
		return nil, errBackupDir.Wrap(err, "")
	}
	j.prune(ctx, dir)
	r = &backupResult{File: name, Octets: size, Leaves: m.Facts.Log, MadeAt: m.MadeAt, Took: time.Since(start), Master: m.MasterIn}
	for _, n := range m.Rows {
		r.Rows += n
	}
	j.log.InfoContext(ctx, "backup made", "file", name, "octets", size, "rows", r.Rows, "leaves", r.Leaves, "took", r.Took)
	return r, nil
}

// rest gives way to the line: while it works, a backup takes half of the time
// that it could have.
func (j *backupJob) rest(worked time.Duration) {
	if j.busy != nil && j.busy() {
		time.Sleep(min(worked, time.Second))
	}
}

// write writes all parts.
func (j *backupJob) write(ctx context.Context, f io.Writer, to, master []age.Recipient) (*backupManifest, error) {
	j.at("database")
	j.done.Store(0)
	j.total.Store(0)
	s, err := j.db.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var id [16]byte
	rand.Read(id[:])
	m := &backupManifest{MadeAt: j.now().UTC().Round(0), Program: version, Origin: j.cfg.Log.Origin, LogKey: j.logKey, Rows: map[string]int64{}}
	if m.Facts, err = s.Facts(ctx); err != nil {
		return nil, err
	}
	m.backupHead = backupHead{Format: backupFormat, ID: hex.EncodeToString(id[:]), Version: m.Facts.Version, Master: j.box.KeyID()}
	w, err := newBackupWriter(f, to)
	if err != nil {
		return nil, err
	}
	putJSON := func(name string, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return w.put(name, b)
	}
	disk := func(err error) error {
		var known *fault.Fault
		if err == nil || errors.As(err, &known) || ctx.Err() != nil {
			return err
		}
		return errBackupDir.Wrap(err, "")
	}
	if err := putJSON(headPart, m.backupHead); err != nil {
		return nil, disk(err)
	}
	names, all, err := s.Tables(ctx)
	if err != nil {
		return nil, err
	}
	j.total.Store(all)
	for _, table := range names {
		n, since := 0, time.Now()
		if err := s.Read(ctx, table, func(c store.Chunk) error {
			n++
			if err := w.put(fmt.Sprintf("%s%s/%06d", tablesDir, table, n), c.Data); err != nil {
				return err
			}
			m.Rows[table] += c.Rows
			j.done.Add(c.Rows)
			j.rest(time.Since(since))
			since = time.Now()
			return ctx.Err()
		}); err != nil {
			return nil, disk(err)
		}
	}
	s.Close()
	if err := j.putFiles(w, m, master); err != nil {
		return nil, disk(err)
	}
	m.Parts = w.parts
	if m.MAC, err = m.mac(j.box); err != nil {
		return nil, err
	}
	if err := putJSON(manifestPart, m); err != nil {
		return nil, disk(err)
	}
	return m, disk(w.close())
}

// putFiles adds what is needed besides the database, and says what is not there.
func (j *backupJob) putFiles(w *backupWriter, m *backupManifest, master []age.Recipient) error {
	m.NotInIt = []string{
		"keys in tokens: they are copied as the ceremony of each authority says (docs/tokens.md)",
		"secrets in the configuration, the files that it names, and tokens of people, of whom only hashes are kept",
		"published lists and tiles: both are made again from the database",
	}
	// The service's own keys are sealed under the master key.
	files, err := os.ReadDir(filepath.Join(j.cfg.State, "keys"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range files {
		if ext := filepath.Ext(e.Name()); !e.Type().IsRegular() || ext != ".key" && ext != ".pem" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(j.cfg.State, "keys", e.Name()))
		if err != nil {
			return err
		}
		if err := w.put(keysDir+e.Name(), b); err != nil {
			return err
		}
	}
	if text, err := os.ReadFile(filepath.Join(j.cfg.dir, "hallmark.yaml")); err == nil {
		if err := w.put(configPart, withoutSecrets(text)); err != nil {
			return err
		}
	}
	if len(master) == 0 {
		m.NotInIt = append(m.NotInIt, "the master key, seal.key in the state directory: without a copy of it elsewhere this backup is of no use")
		return nil
	}
	key, err := os.ReadFile(filepath.Join(j.cfg.State, "seal.key"))
	if err != nil {
		return err
	}
	defer clear(key)
	sealed, err := encrypted(key, master)
	if err != nil {
		return err
	}
	m.MasterIn = true
	return w.put(masterPart, sealed)
}

// partialAge is after how long a file that a backup left half done is removed:
// on a shared directory another node may be writing it.
const partialAge = 24 * time.Hour

// sweep removes what broke off.
func (j *backupJob) sweep(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, partialPrefix+"*"+partialSuffix))
	for _, name := range files {
		if info, err := os.Lstat(name); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > partialAge {
			os.Remove(name)
		}
	}
}

// prune keeps the newest. The names sort by time.
func (j *backupJob) prune(ctx context.Context, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "hallmark-*"+backupSuffix))
	slices.Sort(files)
	for len(files) > j.cfg.Backup.Keep {
		if err := os.Remove(files[0]); err != nil {
			j.log.ErrorContext(ctx, "an old backup was not removed", "file", files[0], "error", err)
		}
		files = files[1:]
	}
}

// newest is when the last backup in the directory was made, by its name.
func (j *backupJob) newest() time.Time {
	files, _ := filepath.Glob(filepath.Join(j.cfg.Backup.Directory, "hallmark-*"+backupSuffix))
	slices.Sort(files)
	for _, name := range slices.Backward(files) {
		parts := strings.Split(filepath.Base(name), "-")
		if at, err := time.Parse("20060102T150405.000Z", parts[1]); err == nil {
			return at
		}
	}
	return time.Time{}
}

// schedule makes one whenever the newest is older than the interval.
func (j *backupJob) schedule(ctx context.Context) {
	interval := time.Duration(j.cfg.Backup.Interval)
	if j.cfg.Backup.Directory == "" || interval == 0 {
		return
	}
	for every(ctx, min(interval/4, time.Minute)) {
		if j.now().Sub(j.newest()) < interval {
			continue
		}
		if _, err := j.make(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errBackupRuns) {
			j.log.ErrorContext(ctx, "backup not made", "error", err)
			every(ctx, min(interval, 10*time.Minute))
		}
	}
}

// health warns of a backup that is overdue or failed.
func (j *backupJob) health(c *checks) {
	if j == nil || j.cfg.Backup.Directory == "" {
		return
	}
	j.mu.Lock()
	err := j.err
	j.mu.Unlock()
	interval := time.Duration(j.cfg.Backup.Interval)
	switch newest := j.newest(); {
	case err != nil:
		c.add("backup", "failing", fault.From(err).What, fault.From(err).Next)
	case newest.IsZero():
		c.add("backup", "warning", "There is none yet.", "Make one: hallmark backup.")
	case interval > 0 && j.now().Sub(newest) > 2*interval:
		c.add("backup", "warning", "The newest is of "+newest.Format(time.RFC3339)+".", "Look into the log for why none was made since.")
	default:
		c.add("backup", "ok", "", "")
	}
}

// state is what people see.
func (j *backupJob) state() adminapi.BackupState {
	s := adminapi.BackupState{Done: j.done.Load(), Total: j.total.Load()}
	if stage := j.stage.Load(); stage != nil && *stage != "" {
		s.Running, s.Stage = true, *stage
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if l := j.last; l != nil {
		s.File, s.Octets, s.Rows, s.Leaves, s.MadeAt, s.TookMs, s.MasterKey = l.File, l.Octets, l.Rows, l.Leaves, l.MadeAt, l.Took.Milliseconds(), l.Master
	}
	if j.err != nil {
		f := fault.From(j.err)
		s.Failure, s.FailureCode = strings.TrimSpace(f.What+" "+f.Detail), f.Code
	}
	return s
}

// BackupState implements [web.Backup].
func (b *backend) BackupState(context.Context) (adminapi.BackupState, error) {
	if b.saves == nil || b.saves.cfg.Backup.Directory == "" {
		return adminapi.BackupState{}, errBackupOff.New("")
	}
	return b.saves.state(), nil
}

// MakeBackup implements [web.Backup]: it begins one, which nobody who goes away
// ends.
func (b *backend) MakeBackup(ctx context.Context, by access.Actor) (adminapi.BackupState, error) {
	j := b.saves
	if j == nil || j.cfg.Backup.Directory == "" {
		return adminapi.BackupState{}, errBackupOff.New("")
	}
	if !j.running.TryLock() {
		return adminapi.BackupState{}, errBackupRuns.New("")
	}
	j.at("beginning")
	j.log.InfoContext(ctx, "backup asked for", "by", by.String())
	j.wg.Go(func() {
		defer j.running.Unlock()
		if _, err := j.run(j.life); err != nil {
			j.log.Error("backup not made", "error", err)
		}
	})
	return j.state(), nil
}

// openBackupJob is the job of a service that does not run here: for a backup
// from the command line on the service's machine.
func openBackupJob(ctx context.Context, cfg *Config, now func() time.Time, log *slog.Logger) (*backupJob, error) {
	box, err := seal.Load(filepath.Join(cfg.State, "seal.key"))
	if err != nil {
		return nil, err
	}
	vkey, err := logVerifier(cfg, box)
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, store.Config{URL: cfg.Database, Seal: box, ReadOnly: true, Log: log})
	if err != nil {
		return nil, err
	}
	return &backupJob{cfg: cfg, db: db, box: box, logKey: vkey, now: now, log: log}, nil
}

// logVerifierFile is where a service leaves the log's public key for the commands
// on its machine, which need no token then.
func logVerifierFile(cfg *Config) string { return filepath.Join(cfg.State, "log.pub") }

// logVerifier is the log's public key as this machine knows it.
func logVerifier(cfg *Config, box *seal.Box) (string, error) {
	b, err := os.ReadFile(logVerifierFile(cfg))
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	key, err := vault{filepath.Join(cfg.State, "keys"), box}.load("log")
	if err != nil {
		return "", fmt.Errorf("the log's key: %w", err)
	}
	return tlog.VerifierKey(cfg.Log.Origin, key.Public())
}

func encrypted(plain []byte, to []age.Recipient) ([]byte, error) {
	var out strings.Builder
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, errBackupRecipients.Wrap(err, "")
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return []byte(out.String()), nil
}
