package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/witness"
	"hallmark/hsm"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

var errLogFile = fault.Define(fault.Unavailable, "log-checkpoint-file", "A file that keeps the log's newest checkpoint is not there.", "Mount or restore what log.checkpoint_files names; for a log that is new make the file empty (touch FILE).")

// WitnessConfig names a witness of the log.
type WitnessConfig struct {
	URL string `yaml:"url"` // of the witness; /add-checkpoint is added
	Key string `yaml:"key"` // its verifier key, NAME+HASH+KEY
}

// complete checks what is configured about the log.
func (l *LogConfig) complete(dir string) error {
	abs := func(name *string) {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
	abs(&l.Publish)
	for i := range l.CheckpointFiles {
		abs(&l.CheckpointFiles[i])
	}
	if l.PublishEvery == 0 {
		l.PublishEvery = Duration(10 * time.Second)
	}
	if d := time.Duration(l.PublishEvery); d < time.Second || d > time.Hour {
		return errConfig.New("log.publish_every: %s is not 1s to 1h.", d)
	}
	if _, err := l.group("", nil, nil); err != nil {
		return errConfig.New("log.witnesses: %s", fault.From(err).Detail)
	}
	return nil
}

// group is the configured witnesses, nil if there are none.
func (l *LogConfig) group(logKey string, now func() time.Time, log *slog.Logger) (*witness.Group, error) {
	if len(l.Witnesses) == 0 {
		if l.Quorum > 0 {
			return nil, witness.ErrConfig.New("A quorum of %d and no witness.", l.Quorum)
		}
		return nil, nil
	}
	c := witness.GroupConfig{Log: logKey, Quorum: l.Quorum, Now: now, Logger: log}
	for _, w := range l.Witnesses {
		c.Witnesses = append(c.Witnesses, witness.Remote{URL: w.URL, Key: w.Key})
	}
	return witness.NewGroup(c)
}

// logKeeper brings the log's checkpoints out of the house: to witnesses, to the
// directory that is published, to the files elsewhere. Nothing of it is on the
// way of an issuance.
type logKeeper struct {
	cfg   *Config
	log   *tlog.Log
	key   crypto.Signer
	group *witness.Group  // nil: no witnesses
	pub   *tlog.Publisher // nil: no directory
	// trail says whether the trail has what a checkpoint signed; nil in tests.
	trail func(ctx context.Context, note []byte) error
	now   func() time.Time
	slog  *slog.Logger

	stepping sync.Mutex // one round at a time

	mu        sync.Mutex
	newest    tlog.Checkpoint // that this node integrated
	integrate time.Time       // when that last succeeded
	settled   []byte          // the newest note that has a quorum, or any without witnesses
	done      []byte          // the note of the log for which all was done
	quorum    error           // why the last round had none

	publishFailures atomic.Int64
	quorumFailures  atomic.Int64
}

func newLogKeeper(cfg *Config, l *tlog.Log, key crypto.Signer, now func() time.Time, log *slog.Logger) (*logKeeper, error) {
	k := &logKeeper{cfg: cfg, log: l, key: key, now: now, slog: log}
	var err error
	if k.group, err = cfg.Log.group(l.VerifierKey(), now, log); err != nil {
		return nil, err
	}
	if cfg.Log.Publish != "" {
		k.pub = tlog.NewPublisher(tlog.PublisherConfig{Source: l.Source(), Key: l.VerifierKey(), Dir: cfg.Log.Publish, Log: log})
	}
	if k.group == nil {
		return k, nil
	}
	b, err := os.ReadFile(k.witnessedFile())
	if err == nil {
		// A note of other witnesses than are configured now is not ours to show.
		if _, _, err := k.group.Policy().Open(b); err == nil {
			k.settled = b
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return k, nil
}

func (k *logKeeper) witnessedFile() string {
	return filepath.Join(k.cfg.State, "checkpoint.witnessed")
}

// check compares the log with every checkpoint held outside the database (S34):
// in the state directory, in the files elsewhere, in the published directory,
// and with what the witnesses signed.
func (k *logKeeper) check(ctx context.Context) error {
	own := []string{filepath.Join(k.cfg.State, "checkpoint"), k.witnessedFile()}
	if k.pub != nil {
		own = append(own, filepath.Join(k.cfg.Log.Publish, "checkpoint"))
	}
	for _, name := range append(own, k.cfg.Log.CheckpointFiles...) {
		note, err := os.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && slices.Contains(own, name):
			continue
		case errors.Is(err, fs.ErrNotExist):
			return errLogFile.Wrap(err, "File %s.", name)
		case err != nil:
			return err
		case len(bytes.TrimSpace(note)) == 0:
			continue
		}
		err = k.log.CheckAgainst(ctx, note)
		if err == nil && k.trail != nil {
			err = k.trail(ctx, note)
		}
		if err != nil {
			var f *fault.Fault
			if errors.As(err, &f) {
				f.With("held", name)
			}
			return err
		}
	}
	if k.group == nil {
		return nil
	}
	return k.group.Check(ctx, k.log, k.log.Newest)
}

// made is told of every checkpoint that this node integrated or found.
func (k *logKeeper) made(c tlog.Checkpoint) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.newest, k.integrate = c, k.now()
}

// run does the rounds.
func (k *logKeeper) run(ctx context.Context) {
	for every(ctx, time.Duration(k.cfg.Log.PublishEvery)) {
		k.round(ctx)
	}
}

// last is the round of a service that ends; nobody waits for it long.
func (k *logKeeper) last(ctx context.Context) {
	if k == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	k.round(ctx)
}

// round gets the newest checkpoint signed and published, if it is not yet. What
// has no quorum is not published: readers would take it for a fork.
func (k *logKeeper) round(ctx context.Context) {
	k.stepping.Lock()
	defer k.stepping.Unlock()
	k.mu.Lock()
	c := k.newest
	finished := c.Note == nil || bytes.Equal(c.Note, k.done)
	k.mu.Unlock()
	if finished {
		return
	}
	signed := c.Note
	if k.group != nil {
		var err error
		signed, err = k.group.Cosign(ctx, k.log, c)
		k.mu.Lock()
		k.quorum = err
		k.mu.Unlock()
		if err != nil {
			k.quorumFailures.Add(1)
			if ctx.Err() == nil {
				k.slog.ErrorContext(ctx, "the newest checkpoint has no quorum of witnesses", "size", c.Size, "error", err)
			}
			return
		}
		if err := durable.WriteFile(k.witnessedFile(), signed, 0o644); err != nil {
			k.slog.ErrorContext(ctx, "witnessed checkpoint not kept", "error", err)
			return
		}
	}
	k.mu.Lock()
	k.settled = signed
	k.mu.Unlock()
	if err := k.publish(ctx, signed); err != nil {
		k.publishFailures.Add(1)
		k.slog.ErrorContext(ctx, "log not published", "size", c.Size, "error", err)
		return
	}
	k.mu.Lock()
	k.done = c.Note
	k.mu.Unlock()
}

func (k *logKeeper) publish(ctx context.Context, signed []byte) error {
	var errs []error
	for _, name := range k.cfg.Log.CheckpointFiles {
		errs = append(errs, durable.WriteFile(name, signed, 0o644))
	}
	if k.pub != nil {
		_, err := k.pub.Publish(ctx, signed)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// note is the checkpoint that this node shows: with witnesses the newest that
// has their quorum.
func (k *logKeeper) note(ctx context.Context) ([]byte, error) {
	if k != nil && k.group != nil {
		k.mu.Lock()
		settled := k.settled
		k.mu.Unlock()
		if settled != nil {
			return settled, nil
		}
	}
	if k == nil {
		return nil, tlog.ErrPending.New("")
	}
	c, err := k.log.Checkpoint(ctx)
	return c.Note, err
}

// receipt makes the receipt of a leaf, under a witnessed checkpoint if one
// covers it.
func (k *logKeeper) receipt(ctx context.Context, leaf tlog.Leaf) (*tlog.Receipt, error) {
	if k.group != nil {
		note, err := k.note(ctx)
		if err == nil {
			if c, err := tlog.ParseCheckpoint(note, k.log.VerifierKey()); err == nil && leaf.Index < c.Size {
				return k.log.ReceiptUnder(ctx, leaf, c)
			}
		}
	}
	return k.log.Receipt(ctx, leaf)
}

// state is what health and metrics say.
func (k *logKeeper) state() (newest tlog.Checkpoint, integrated time.Time, quorum error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.newest, k.integrate, k.quorum
}

// age is how long ago everything that was recorded had a checkpoint.
func (k *logKeeper) age() time.Duration {
	_, at, _ := k.state()
	if at.IsZero() {
		return 0
	}
	return k.now().Sub(at)
}

// logStale is how old that may be; integration runs once a second.
const logStale = time.Minute

// health adds the log's witnesses to the summary.
func (k *logKeeper) health(c *checks) {
	if k == nil {
		return
	}
	if age := k.age(); age > logStale {
		c.add("log integration", "failing", "Recorded leaves get no checkpoint since "+age.Round(time.Second).String()+".", "Look into the log file for why they are not integrated.")
	}
	if k.group == nil {
		return
	}
	_, _, quorum := k.state()
	switch {
	case errors.Is(quorum, tlog.ErrForked), errors.Is(quorum, tlog.ErrBehind):
		c.add("log witnesses", "failing", "A witness signed what this log does not contain.", "Stop issuing, keep the database and the witness's checkpoint, and run hallmark fsck.")
	case quorum != nil:
		c.add("log witnesses", "warning", "Too few of them sign; the published checkpoint stays behind.", "See which are silent: hallmark log show.")
	default:
		c.add("log witnesses", "ok", "", "")
	}
}

// Describe implements [prometheus.Collector].
func (k *logKeeper) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(k, ch) }

// Collect implements [prometheus.Collector]: figures that depend on what is
// configured.
func (k *logKeeper) Collect(ch chan<- prometheus.Metric) {
	gauge := func(name, help string, v float64) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("hallmark_log_"+name, help, nil, nil), prometheus.GaugeValue, v)
	}
	count := func(name, help string, v int64) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("hallmark_log_"+name, help, nil, nil), prometheus.CounterValue, float64(v))
	}
	c, _, _ := k.state()
	gauge("size", "Leaves under the newest checkpoint.", float64(c.Size))
	gauge("checkpoint_age_seconds", "Since everything that was recorded had a checkpoint.", k.age().Seconds())
	count("publish_failures_total", "Rounds in which the log could not be written to its directory or files.", k.publishFailures.Load())
	if k.group == nil {
		return
	}
	count("quorum_failures_total", "Rounds in which too few witnesses signed.", k.quorumFailures.Load())
	for _, m := range k.group.State() {
		one := func(name, help string, t prometheus.ValueType, v float64) {
			ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("hallmark_log_witness_"+name, help, []string{"witness"}, nil), t, v, m.Name)
		}
		one("failures_total", "Requests that a witness did not answer with its signature.", prometheus.CounterValue, float64(m.Failures))
		one("size", "Leaves of the checkpoint that a witness signed last.", prometheus.GaugeValue, float64(m.Size))
		if !m.SignedAt.IsZero() {
			one("age_seconds", "Since a witness signed last.", prometheus.GaugeValue, k.now().Sub(m.SignedAt).Seconds())
		}
	}
}

// logURL is where the log is published for others.
func (c *Config) logURL() string { return strings.TrimSuffix(c.BaseURL, "/") + "/log" }

// openLogKey opens the key that signs checkpoints: in a token, else in a sealed
// file, which is made if there is none.
func openLogKey(ctx context.Context, cfg *Config, keys *hsm.Keyring, v vault) (crypto.Signer, error) {
	if cfg.Log.Key == "" {
		return v.ed25519Key("log")
	}
	k, err := keys.CAKey(ctx, cfg.Log.Key, !cfg.Production)
	if err != nil {
		return nil, err
	}
	if _, ok := k.Public().(ed25519.PublicKey); !ok {
		return nil, errConfig.New("log.key: the key in the token is not Ed25519.")
	}
	return k, nil
}
