package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/crl"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
	"hallmark/internal/fsck"
	"hallmark/internal/seal"
	"hallmark/provisioner"
	"hallmark/station/uplink"
	"hallmark/store"
)

// fsckReport is what the check says.
type fsckReport struct {
	Clean        bool           `json:"clean"`
	Certificates int64          `json:"certificates"`
	Leaves       int64          `json:"leaves"`
	Findings     []fsck.Finding `json:"findings"`
	Elapsed      time.Duration  `json:"elapsed_ns"`
}

// checkEverything proves the promises from database, log and published lists.
// It reads, uses no key but the seal, and may run beside the service.
func checkEverything(ctx context.Context, cfg *Config, now time.Time) (*fsckReport, error) {
	start := time.Now()
	box, err := seal.Load(filepath.Join(cfg.State, "seal.key"))
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, store.Config{URL: cfg.Database, Seal: box, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	approvers, err := cfg.approvers()
	if err != nil {
		return nil, err
	}
	orders, err := provisioner.NewOrders(approvers, cfg.ApprovalsNeeded)
	if err != nil {
		return nil, err
	}
	vkey, err := logVerifier(cfg, box)
	if err != nil {
		return nil, err
	}
	pub, err := logPublicKey(vkey)
	if err != nil {
		return nil, err
	}
	log, err := tlog.New(tlog.Config{Store: db.Log(), Origin: cfg.Log.Origin, Key: tlog.ReadOnly(pub)})
	if err != nil {
		return nil, err
	}
	rep := &fsckReport{Findings: []fsck.Finding{}}
	for _, part := range []struct {
		name  string
		check func() ([]fsck.Finding, error)
	}{
		{"issuance", func() ([]fsck.Finding, error) { return ca.Fsck(ctx, db, now, commitProof(box)) }},
		{"orders", func() ([]fsck.Finding, error) { return provisioner.Fsck(ctx, db, orders) }},
		{"revocation", func() ([]fsck.Finding, error) { return crl.Fsck(ctx, db, now) }},
		{"published lists", func() ([]fsck.Finding, error) { return checkPublished(ctx, db, filepath.Join(cfg.State, "public")) }},
		{"registry", func() ([]fsck.Finding, error) { return registry.New(registry.Config{Store: db}).Fsck(ctx) }},
		{"shadows", func() ([]fsck.Finding, error) { return shadow.New(shadow.Config{Store: db}).Fsck(ctx) }},
		{"campaigns", func() ([]fsck.Finding, error) { return campaign.New(campaign.Config{Store: db}).Fsck(ctx) }},
		{"ownership", func() ([]fsck.Finding, error) { return ownership.New(ownership.Config{Store: db}).Fsck(ctx) }},
		{"jobs", func() ([]fsck.Finding, error) { return jobs.New(jobs.Config{Store: db}).Fsck(ctx) }},
		{"log", func() ([]fsck.Finding, error) { return checkLog(ctx, log, db, cfg) }},
		{"trail", func() ([]fsck.Finding, error) { return checkTrail(ctx, log, db, cfg) }},
	} {
		found, err := part.check()
		rep.Findings = append(rep.Findings, found...)
		if err != nil {
			rep.Findings = append(rep.Findings, fsck.Finding{Check: "readable", Object: part.name, Detail: err.Error()})
		}
	}
	rep.Leaves, _ = db.LogSize(ctx) // what is wrong with it is a finding
	if rep.Certificates, err = db.CountCertificates(ctx); err != nil {
		return nil, err
	}
	rep.Clean = len(rep.Findings) == 0
	rep.Elapsed = time.Since(start)
	return rep, nil
}

// commitProof verifies what a device signed at its commit (S12).
func commitProof(box *seal.Box) ca.Proof {
	return func(unit string, serial ca.Serial, certificate, evidence []byte) error {
		c, err := x509.ParseCertificate(certificate)
		if err != nil {
			return err
		}
		return uplink.VerifyCommit(c.PublicKey, uplink.CommitMessage(box.MAC("commit-nonce", serial[:]), unit, certificate), evidence)
	}
}

// checkLog recomputes the tree and compares it with the checkpoint kept outside
// the database.
func checkLog(ctx context.Context, log *tlog.Log, db *store.DB, cfg *Config) (out []fsck.Finding, _ error) {
	if _, err := db.LogSize(ctx); err != nil {
		out = append(out, fsck.Finding{Check: "log-size", Object: "transparency log", Detail: err.Error()})
	}
	if err := log.Verify(ctx); err != nil {
		out = append(out, fsck.Finding{Check: "log-tree", Object: "transparency log", Detail: err.Error()})
	}
	note, err := os.ReadFile(filepath.Join(cfg.State, "checkpoint"))
	if os.IsNotExist(err) {
		return out, nil
	}
	if err == nil {
		err = log.CheckAgainst(ctx, note)
	}
	if err != nil {
		out = append(out, fsck.Finding{Check: "log-checkpoint", Object: "transparency log", Detail: err.Error()})
	}
	return out, nil
}

// checkPublished compares the files that are served with the signed lists.
func checkPublished(ctx context.Context, db *store.DB, dir string) (out []fsck.Finding, _ error) {
	heads, err := db.ListHeads(ctx)
	if err != nil {
		return nil, err
	}
	signed := map[string]bool{}
	for _, h := range heads {
		signed[fmt.Sprintf("%s/%d", h.Authority, h.Shard)] = true
	}
	all, err := db.Authorities(ctx)
	for _, a := range all {
		for shard := range max(a.Shards, 1) {
			id := fmt.Sprintf("%s/%d", a.Name, shard)
			if _, published := os.Stat(filepath.Join(dir, "crl", id+".crl")); !signed[id] && (published == nil || a.State != ca.StatePending && a.Duty != profile.DutyRoot) {
				out = append(out, fsck.Finding{Check: "list-stored", Object: "list " + id, Detail: "the authority has no signed list in the database"})
			}
		}
	}
	if err != nil {
		out = append(out, fsck.Finding{Check: "authority", Object: "table authorities", Detail: err.Error()})
	}
	for _, h := range heads {
		name := filepath.Join(dir, "crl", h.Authority, fmt.Sprintf("%d.crl", h.Shard))
		l, err := db.List(ctx, h.Authority, h.Shard, -1)
		if err != nil {
			return out, err
		}
		file, err := os.ReadFile(name)
		if err != nil || l == nil || string(file) != string(l.DER) {
			out = append(out, fsck.Finding{Check: "list-published", Object: name, Detail: "the published file is not the newest signed list"})
		}
	}
	return out, nil
}

// findConfig is the configuration of a directory: the file itself, or a
// demo's or service's directory with hallmark.yaml in it.
func findConfig(dir, file string) (*Config, error) {
	if dir != "" && file == "" {
		file = filepath.Join(dir, "hallmark.yaml")
	}
	if file == "" {
		file = "hallmark.yaml"
	}
	return loadConfig(file)
}

func newFsckCmd(g *globals) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "fsck", Short: "Prove every promise from what is on disk", Args: cobra.NoArgs,
		Long: `fsck reads the database, the transparency log and the published lists and proves:
every serial number has its story, no identity has two live certificates, quotas
hold, every certificate is in the log and verifies, every revoked one is listed.
It changes nothing and may run beside the service. Exit code 1 means findings.`,
		Example: "  hallmark fsck --dir demo\n  hallmark fsck --config hallmark.yaml --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := findConfig(g.Dir, file)
			if err != nil {
				return err
			}
			rep, err := checkEverything(cmd.Context(), cfg, g.Now())
			if err != nil {
				return err
			}
			if err := g.print(rep, func(w io.Writer) {
				for _, f := range rep.Findings {
					fmt.Fprintln(w, f)
				}
				if rep.Clean {
					fmt.Fprintf(w, "Clean: %d certificates and %d log leaves checked in %s.\n", rep.Certificates, rep.Leaves, rep.Elapsed.Round(time.Millisecond))
				} else {
					fmt.Fprintf(w, "%d findings in %d certificates and %d log leaves. Stop writing, keep the files, and restore what is named.\n", len(rep.Findings), rep.Certificates, rep.Leaves)
				}
			}); err != nil {
				return err
			}
			if !rep.Clean {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file; default hallmark.yaml in --dir")
	return cmd
}
