package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/internal/seal"
	"hallmark/store"
)

// benchCRL measures revocation lists in the real store with the real builder.
type benchCRL struct {
	g       *globals
	entries int
	shards  int
	out     string
	caOut   string
	compare bool
	dir     string
	step    string // of the child that is measured
}

// benchCRLResult is what bench crl prints. CPU times are of the whole process, so
// that a busy machine shows.
type benchCRLResult struct {
	Entries int `json:"entries"`
	Shards  int `json:"shards"`
	// Build is all lists from the store: reading, making, signing, verifying. What
	// follows, storing and serving, is Publish.
	Build       float64 `json:"build_ms"`
	BuildCPU    float64 `json:"build_cpu_ms"`
	Publish     float64 `json:"publish_ms"`
	Bytes       int64   `json:"bytes"`
	BaseMemory  float64 `json:"base_memory_mb"`
	PeakMemory  float64 `json:"peak_memory_mb"`
	AboveBase   float64 `json:"memory_above_base_mb"`
	Rebuild     float64 `json:"rebuild_after_one_ms"` // of the list that one revocation is on
	RebuildCPU  float64 `json:"rebuild_after_one_cpu_ms"`
	SmallShard  float64 `json:"rebuild_shard_of_1000_ms"`
	FromRows    float64 `json:"first_list_from_rows_ms,omitempty"` // once in a list's life
	DeltaBytes  int64   `json:"delta_bytes"`
	Standard    float64 `json:"go_standard_library_ms,omitempty"`
	StandardMB  float64 `json:"go_standard_library_memory_mb,omitempty"`
	StandardCPU float64 `json:"go_standard_library_cpu_ms,omitempty"`
	Ratio       float64 `json:"times_go_standard_library,omitempty"`
}

func newBenchCRLCmd(g *globals) *cobra.Command {
	b := &benchCRL{g: g}
	cmd := &cobra.Command{
		Use: "crl", Short: "Revocation lists of many entries, from the store", Args: cobra.NoArgs,
		Long: `A database is filled with revocations and the first lists are made from its rows.
Then a new process makes every list anew from the store, as after a start, and after
one revocation the list that it is on; a second list of 1,000 entries shows what a
shard costs. Every signature is verified. Without --dir everything is removed at the end.

Build time is reading, making, signing and verifying; storing and serving the list
is publish time. With --compare the same entries are also made into a list by the
standard library of Go, in a process of its own.`,
		Example: `  hallmark bench crl --entries 1000000 --out list.crl --ca-out ca.pem --json
  hallmark bench crl --entries 1000000 --shards 1000 --json
  openssl crl -inform DER -in list.crl -CAfile ca.pem -noout`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.entries < 1 || b.entries > 5_000_000 || b.shards < 1 || b.shards > 100_000 {
				return errUsage{errors.New("--entries is 1 to 5000000 and --shards 1 to 100000")}
			}
			switch b.step {
			case "":
				return b.run(cmd.Context())
			case "fill":
				return b.fill(cmd.Context())
			case "measure":
				return b.measure(cmd.Context())
			case "standard":
				return b.standard()
			}
			return errUsage{errors.New("--step is for the command itself")}
		},
	}
	f := cmd.Flags()
	f.IntVar(&b.entries, "entries", 1_000_000, "revoked certificates")
	f.IntVar(&b.shards, "shards", 1, "lists that they are spread over")
	f.StringVar(&b.out, "out", "", "write the list here as DER; further shards to FILE.1, FILE.2, …; the delta list to FILE.delta")
	f.StringVar(&b.caOut, "ca-out", "", "write the CA's certificate here as PEM")
	f.BoolVar(&b.compare, "compare", false, "measure the standard library of Go beside it")
	f.StringVar(&b.dir, "dir", "", "keep the database in this new directory")
	f.StringVar(&b.step, "step", "", "")
	f.MarkHidden("step")
	return cmd
}

// run has the steps done by processes of their own, so that memory is told apart.
func (b *benchCRL) run(ctx context.Context) error {
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "hallmark-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.dir = dir
	} else if err := os.Mkdir(b.dir, 0o700); err != nil {
		return err
	}
	var out benchCRLResult
	steps := []string{"fill", "measure"}
	if b.compare {
		steps = append(steps, "standard")
	}
	for _, step := range steps {
		fmt.Fprintf(b.g.Err, "%s\n", map[string]string{"fill": "filling the database and making the first lists", "measure": "making the lists from the store", "standard": "the standard library"}[step])
		if err := b.child(ctx, step, &out); err != nil {
			return err
		}
	}
	if out.Standard > 0 {
		out.Ratio = out.Standard / out.Build
	}
	return b.g.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%d entries in %d lists, %d octets\n", out.Entries, out.Shards, out.Bytes)
		fmt.Fprintf(w, "from the store    %8.1f ms (%.1f ms CPU), then stored and served in %.1f ms\n", out.Build, out.BuildCPU, out.Publish)
		fmt.Fprintf(w, "memory            %8.1f MB above %.1f MB\n", out.AboveBase, out.BaseMemory)
		fmt.Fprintf(w, "after one more    %8.2f ms (%.2f ms CPU)\n", out.Rebuild, out.RebuildCPU)
		fmt.Fprintf(w, "a shard of 1,000  %8.2f ms\n", out.SmallShard)
		fmt.Fprintf(w, "from rows, once   %8.1f ms\n", out.FromRows)
		if out.Standard > 0 {
			fmt.Fprintf(w, "Go's own          %8.1f ms (%.1f times), %.1f MB\n", out.Standard, out.Ratio, out.StandardMB)
		}
	})
}

func (b *benchCRL) child(ctx context.Context, step string, out *benchCRLResult) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"bench", "crl", "--step", step, "--dir", b.dir, "--entries", strconv.Itoa(b.entries), "--shards", strconv.Itoa(b.shards), "--out", b.out, "--ca-out", b.caOut}
	cmd := exec.CommandContext(ctx, self, args...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, b.g.Err
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the signal is for the death of the thread that started it
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("step %s: %w", step, err)
	}
	return json.Unmarshal(text.Bytes(), out)
}

// benchKeys are software keys in files.
type benchKeys struct{ dir string }

type benchKey struct{ crypto.Signer }

// SignContext implements [ca.Key].
func (k benchKey) SignContext(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.Sign(rand.Reader, digest, opts)
}

// Key implements [ca.Keys].
func (k benchKeys) Key(_ context.Context, uri string) (ca.Key, error) {
	text, err := os.ReadFile(filepath.Join(k.dir, strings.TrimPrefix(uri, "bench:")+".key"))
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(text)
	if err != nil {
		return nil, err
	}
	return benchKey{key.(crypto.Signer)}, nil
}

// The authorities of the measurement: one with all the entries, and one whose list
// has 1,000.
const (
	benchBig   = "bench-1"
	benchSmall = "bench-2"
	smallShard = 1000
)

// open opens the database and its authorities.
func (b *benchCRL) open(ctx context.Context) (*store.DB, *ca.CA, error) {
	box, err := seal.Load(filepath.Join(b.dir, "seal.key"))
	if err != nil {
		return nil, nil, err
	}
	db, err := store.Open(ctx, store.Config{URL: filepath.Join(b.dir, "bench.db"), Seal: box})
	if err != nil {
		return nil, nil, err
	}
	authorities, err := ca.New(ctx, ca.Config{Ledger: db.Ledger(), Keys: benchKeys{b.dir}, Store: db})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, authorities, nil
}

func (b *benchCRL) publisher(db *store.DB, c *ca.CA) *crl.Publisher {
	// A minute behind: two lists of one second differ in thisUpdate, and none of
	// those made here may be of the future.
	now := func() time.Time { return time.Now().Add(-time.Minute) }
	return crl.NewPublisher(crl.PublisherConfig{Store: db, CA: c, Set: crl.NewSet(crl.SetConfig{Feed: db}), Deltas: true, Now: now})
}

// fill makes the authorities and the rows, and the first lists from them.
func (b *benchCRL) fill(ctx context.Context) error {
	if _, err := seal.Create(filepath.Join(b.dir, "seal.key")); err != nil {
		return err
	}
	box, err := seal.Load(filepath.Join(b.dir, "seal.key"))
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, store.Config{URL: filepath.Join(b.dir, "bench.db"), Seal: box})
	if err != nil {
		return err
	}
	if err := b.makeAuthorities(ctx, db); err != nil {
		return errors.Join(err, db.Close())
	}
	if err := b.makeRows(ctx, db, benchBig, b.shards, b.entries); err != nil {
		return errors.Join(err, db.Close())
	}
	if err := b.makeRows(ctx, db, benchSmall, 1, smallShard); err != nil {
		return errors.Join(err, db.Close())
	}
	if err := db.Close(); err != nil {
		return err
	}
	db, authorities, err := b.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	p := b.publisher(db, authorities)
	var out benchCRLResult
	for shard := range b.shards {
		if _, err := p.Publish(ctx, benchBig, shard); err != nil {
			return err
		}
		out.FromRows += ms(p.Stats.Building())
	}
	if _, err := p.Publish(ctx, benchSmall, 0); err != nil {
		return err
	}
	return json.NewEncoder(b.g.Out).Encode(out)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// makeAuthorities makes a root and the two authorities below it.
func (b *benchCRL) makeAuthorities(ctx context.Context, db *store.DB) error {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	var root *x509.Certificate
	make := func(name string, duty profile.Duty, p profile.Name, key *ecdsa.PrivateKey, shards int) (*x509.Certificate, error) {
		issuer := profile.Issuer{Key: rootKey.Public()}
		if root != nil {
			issuer = ca.IssuerOf(&ca.Authority{Name: "root", BaseURL: "http://pki.example.com"}, root)
		}
		pr, _ := profile.Get(p)
		t, err := profile.Compile(pr, issuer, profile.DefaultArc)
		if err != nil {
			return nil, err
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		serial, err := ca.NewSerial(now, nil)
		if err != nil {
			return nil, err
		}
		end := now.Add(pr.Lifetime).UTC().Truncate(time.Second)
		if pr.NoExpiry {
			end = profile.NoExpiry
		}
		tbs, err := t.Render(&profile.Fields{Serial: serial[:], NotBefore: now.Add(-time.Hour).UTC().Truncate(time.Second), NotAfter: end,
			Subject: profile.Subject{Organization: "Bench", CommonName: name}, SPKI: spki})
		if err != nil {
			return nil, err
		}
		digest := sha256.Sum256(tbs)
		sig, err := rootKey.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(profile.Assemble(tbs, t.SigAlg, sig))
		if err != nil {
			return nil, err
		}
		a := ca.Authority{Name: name, Tenant: access.DefaultTenant, Duty: duty, State: ca.StateActive, BaseURL: "http://pki.example.com", Shards: shards, CreatedAt: now, Certificate: c.Raw}
		if duty != profile.DutyRoot {
			a.KeyURI = "bench:" + name
			text, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(b.dir, name+".key"), text, 0o600); err != nil {
				return nil, err
			}
		}
		return c, db.CreateAuthority(ctx, a)
	}
	if root, err = make("root", profile.DutyRoot, profile.Root, rootKey, 1); err != nil {
		return err
	}
	for _, a := range []struct {
		name   string
		shards int
	}{{benchBig, b.shards}, {benchSmall, 1}} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		if _, err := make(a.name, profile.DutyDevice, profile.DeviceCA, key, a.shards); err != nil {
			return err
		}
	}
	return nil
}

// makeRows revokes serial numbers that were drawn over some years.
func (b *benchCRL) makeRows(ctx context.Context, db *store.DB, authority string, shards, n int) error {
	a := ca.Authority{Name: authority, Shards: shards}
	serials := make([]ca.Serial, n)
	now := time.Now()
	for i := range serials {
		s, err := ca.NewSerial(now.AddDate(0, 0, -1000+1000*i/n), nil)
		if err != nil {
			return err
		}
		serials[i] = s
	}
	reasons := []crl.Reason{crl.Unspecified, crl.KeyCompromise, crl.AffiliationChanged, crl.Superseded, crl.CessationOfOperation}
	rows := make([]crl.Revocation, 0, 10_000)
	last := time.Now()
	for i, s := range serials {
		rows = append(rows, crl.Revocation{Authority: authority, Serial: s, Tenant: access.DefaultTenant, Holder: "bench", Shard: a.Shard(s), Reason: reasons[i%len(reasons)],
			At: now.Add(-time.Duration(n-i) * time.Millisecond), By: "service:bench", NotAfter: now.AddDate(20, 0, 0)})
		if len(rows) < cap(rows) && i+1 < n {
			continue
		}
		if err := db.SeedRevocations(ctx, rows); err != nil {
			return err
		}
		rows = rows[:0]
		if time.Since(last) > 5*time.Second {
			fmt.Fprintf(b.g.Err, "  %d of %d rows\n", i+1, n)
			last = time.Now()
		}
	}
	return nil
}

// measure makes every list from the store.
func (b *benchCRL) measure(ctx context.Context) error {
	db, authorities, err := b.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	runtime.GC()
	out := benchCRLResult{Entries: b.entries, Shards: b.shards, BaseMemory: memory("VmRSS")}
	p := b.publisher(db, authorities)
	cpu, start := ownCPU(), time.Now()
	var built time.Duration
	for shard := range b.shards {
		if _, err := p.Publish(ctx, benchBig, shard); err != nil {
			return err
		}
		built += p.Stats.Loading() + p.Stats.Building()
	}
	out.Build, out.Publish, out.BuildCPU = ms(built), ms(time.Since(start)-built), ms(ownCPU()-cpu)
	out.PeakMemory = memory("VmHWM")
	out.AboveBase = out.PeakMemory - out.BaseMemory
	count := &counter{}
	for shard := range b.shards {
		if err := p.WriteList(count, benchBig, shard, false); err != nil {
			return err
		}
	}
	out.Bytes = count.n
	if out.Rebuild, out.RebuildCPU, err = b.afterOne(ctx, db, p, benchBig, b.shards); err != nil {
		return err
	}
	if _, err := p.Publish(ctx, benchSmall, 0); err != nil {
		return err
	}
	if out.SmallShard, _, err = b.afterOne(ctx, db, p, benchSmall, 1); err != nil {
		return err
	}
	count.n = 0
	if err := p.WriteList(count, benchBig, 0, true); err == nil {
		out.DeltaBytes = count.n
	}
	if err := b.write(p, authorities); err != nil {
		return err
	}
	return json.NewEncoder(b.g.Out).Encode(out)
}

// afterOne revokes one more certificate and makes its list anew, five times; the
// median is told.
func (b *benchCRL) afterOne(ctx context.Context, db *store.DB, p *crl.Publisher, authority string, shards int) (wall, cpu float64, err error) {
	a := ca.Authority{Name: authority, Shards: shards}
	var walls, cpus []float64
	for range 5 {
		s, err := ca.NewSerial(time.Now().AddDate(0, 0, -500), nil)
		if err != nil {
			return 0, 0, err
		}
		r := crl.Revocation{Authority: authority, Serial: s, Tenant: access.DefaultTenant, Holder: "bench", Shard: a.Shard(s), Reason: crl.KeyCompromise, At: time.Now(), By: "service:bench", NotAfter: time.Now().AddDate(20, 0, 0)}
		if err := db.SeedRevocations(ctx, []crl.Revocation{r}); err != nil {
			return 0, 0, err
		}
		used := ownCPU()
		if _, err := p.Publish(ctx, authority, r.Shard); err != nil {
			return 0, 0, err
		}
		cpus = append(cpus, ms(ownCPU()-used))
		walls = append(walls, ms(p.Stats.Building()))
	}
	slices.Sort(walls)
	slices.Sort(cpus)
	return walls[2], cpus[2], nil
}

func (b *benchCRL) write(p *crl.Publisher, authorities *ca.CA) error {
	if b.caOut != "" {
		a, err := authorities.Authority(benchBig)
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.caOut, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw}), 0o644); err != nil {
			return err
		}
	}
	if b.out == "" {
		return nil
	}
	one := func(name string, shard int, delta bool) error {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		return errors.Join(p.WriteList(f, benchBig, shard, delta), f.Close())
	}
	for shard := range b.shards {
		name := b.out
		if shard > 0 {
			name += "." + strconv.Itoa(shard)
		}
		if err := one(name, shard, false); err != nil {
			return err
		}
	}
	return one(b.out+".delta", 0, true)
}

// standard makes a list of as many entries with crypto/x509.
func (b *benchCRL) standard() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}, RawSubject: []byte{0x30, 0}}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().AddDate(0, 0, 7)}
	for i := range b.entries {
		s, err := ca.NewSerial(time.Now(), nil)
		if err != nil {
			return err
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s.Int(), RevocationTime: time.Now(), ReasonCode: []int{0, 1, 3, 4, 5}[i%5]})
	}
	runtime.GC()
	base, cpu, start := memory("VmRSS"), ownCPU(), time.Now()
	if _, err := x509.CreateRevocationList(rand.Reader, list, issuer, key); err != nil {
		return err
	}
	out := map[string]float64{"go_standard_library_ms": ms(time.Since(start)), "go_standard_library_cpu_ms": ms(ownCPU() - cpu), "go_standard_library_memory_mb": memory("VmHWM") - base}
	return json.NewEncoder(b.g.Out).Encode(out)
}

type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

// memory reads a line of /proc/self/status (proc(5)) in MB; 0 where there is none.
func memory(line string) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

// ownCPU is the user and system time of this process.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
