package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/internal/seal"
)

var errBackupFailed = fault.Define(fault.Unavailable, "backup-failed", "The service did not make the backup.", "Look into the service's log, and at hallmark config check.")

func init() { commands = append(commands, newBackupCmd) }

func newBackupCmd(g *globals) *cobra.Command {
	var offline bool
	var config string
	c := &cobra.Command{
		Use: "backup", Short: "Make an encrypted backup while the service goes on", Args: cobra.NoArgs,
		Long: `The service writes its database as of one moment, its own keys (sealed) and its
configuration (without secrets) to backup.directory, encrypted with age for
backup.recipients, reads the file back, and only then gives it its name. Keys in tokens
are not in it, and the master key only with backup.key_recipients: keep a copy of
seal.key elsewhere.

With --offline the backup is made by this command, on the machine of a service that
does not run.`,
		Example: `  hallmark backup --dir /srv/hallmark
  hallmark backup --offline --config hallmark.yaml
  hallmark backup verify hallmark-20270301T000000.000Z-81201.hmbackup --identity key.txt
  hallmark backup keygen --out key.txt`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newProgress(g)
			defer p.end()
			if offline {
				return g.offlineBackup(cmd.Context(), config, p)
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.MakeBackupWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			s, err := awaitBackup(cmd.Context(), api, p)
			if err != nil {
				return err
			}
			p.end()
			return g.print(s, func(w io.Writer) { showBackup(w, s) })
		},
	}
	c.Flags().BoolVar(&offline, "offline", false, "make it here, without the service")
	c.Flags().StringVar(&config, "config", "", "with --offline: configuration file; default hallmark.yaml in --dir")
	c.AddCommand(newBackupVerifyCmd(g), newBackupKeygenCmd(g))
	return c
}

// awaitBackup asks until the backup that runs has ended.
func awaitBackup(ctx context.Context, api *adminapi.ClientWithResponses, p *progress) (*adminapi.BackupState, error) {
	for {
		a, err := api.GetBackupWithResponse(ctx)
		if err != nil {
			return nil, errAnswer.Wrap(err, "")
		}
		s := a.JSON200
		switch {
		case s == nil:
			return nil, problem(a.StatusCode(), a.Body)
		case !s.Running && s.Failure != "":
			return nil, errBackupFailed.New("%s (%s)", s.Failure, s.FailureCode)
		case !s.Running:
			return s, nil
		}
		p.total = s.Total
		p.step(s.Stage, s.Done)
		if !every(ctx, 200*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

func showBackup(w io.Writer, s *adminapi.BackupState) {
	facts(w, "file", s.File, "octets", fmt.Sprint(s.Octets), "rows", fmt.Sprint(s.Rows), "log leaves", fmt.Sprint(s.Leaves), "took", (time.Duration(s.TookMs) * time.Millisecond).String())
	if !s.MasterKey {
		fmt.Fprintln(w, "The master key is not in it: without a copy of seal.key kept elsewhere it is of no use.")
	}
}

func (g *globals) offlineBackup(ctx context.Context, config string, p *progress) error {
	cfg, err := findConfig(g.Dir, config)
	if err != nil {
		return err
	}
	j, err := openBackupJob(ctx, cfg, g.Now, newLogger(g.Err, "warn"))
	if err != nil {
		return err
	}
	defer j.db.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for every(ctx, 200*time.Millisecond) {
			s := j.state()
			p.total = s.Total
			p.step(s.Stage, s.Done)
		}
	}()
	_, err = j.make(ctx)
	cancel()
	<-ended
	p.end()
	if err != nil {
		return err
	}
	s := j.state()
	return g.print(s, func(w io.Writer) { showBackup(w, &s) })
}

func newBackupVerifyCmd(g *globals) *cobra.Command {
	var keys restoreFlags
	c := &cobra.Command{
		Use: "verify FILE", Short: "Read a whole backup and compare it with its manifest", Args: cobra.ExactArgs(1),
		Long: `Decrypt a backup, read every row, and compare all parts with the manifest. With
--seal-key it is also proven that the service with this master key made it. Nothing is
written. What only a restore shows, hallmark restore --drill proves.`,
		Example: "  hallmark backup verify FILE --identity key.txt --seal-key seal.key",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := identitiesOf(keys.identity, keys.passphrase)
			if err != nil {
				return err
			}
			var box *seal.Box
			if keys.sealKey != "" {
				if box, err = seal.Load(keys.sealKey); err != nil {
					return err
				}
			}
			f, err := os.Open(args[0])
			if err != nil {
				return errBackupRead.Wrap(err, "")
			}
			defer f.Close()
			m, err := checkBackup(cmd.Context(), f, ids, box)
			if err != nil {
				return err
			}
			return g.print(map[string]any{"valid": true, "genuine": box != nil, "manifest": m}, func(w io.Writer) {
				facts(w, "made", m.MadeAt.Format(time.RFC3339), "from", m.Facts.Engine, "schema", fmt.Sprint(m.Version), "certificates", fmt.Sprint(m.Rows["certificates"]),
					"log leaves", fmt.Sprint(m.Facts.Log), "log", m.Origin, "last serial", fmt.Sprintf("%x", m.Facts.LastSerial), "parts", fmt.Sprint(len(m.Parts)), "master key", m.Master)
				for _, n := range m.NotInIt {
					fmt.Fprintf(w, "Not in it: %s\n", n)
				}
				if box == nil {
					fmt.Fprintln(w, "It is whole. --seal-key proves who made it.")
				} else {
					fmt.Fprintln(w, "It is whole, and the service with this master key made it.")
				}
			})
		},
	}
	f := c.Flags()
	f.StringVar(&keys.identity, "identity", os.Getenv("HALLMARK_BACKUP_IDENTITY"), "file with the secret key of a recipient (HALLMARK_BACKUP_IDENTITY)")
	f.StringVar(&keys.passphrase, "passphrase-file", "", "file with the passphrase, if it was encrypted with one")
	f.StringVar(&keys.sealKey, "seal-key", "", "copy of the service's master key, seal.key")
	return c
}

func newBackupKeygenCmd(g *globals) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "keygen", Short: "Make a key pair for backups", Args: cobra.NoArgs,
		Long:    "Make a secret key of age. Keep it away from the service's machine; the public key goes into backup.recipients.",
		Example: "  hallmark backup keygen --out backup-key.txt",
		RunE: func(*cobra.Command, []string) error {
			if _, err := os.Lstat(out); err == nil {
				return errUsage{errors.New("the file " + out + " is there already")}
			}
			id, err := age.GenerateX25519Identity()
			if err != nil {
				return err
			}
			if err := durable.WriteFile(out, []byte("# public key: "+id.Recipient().String()+"\n"+id.String()+"\n"), 0o600); err != nil {
				return err
			}
			return g.print(map[string]string{"public_key": id.Recipient().String(), "file": out}, func(w io.Writer) {
				fmt.Fprintf(w, "The secret key is in %s. For backup.recipients:\n  %s\n", filepath.Clean(out), strings.TrimSpace(id.Recipient().String()))
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "file for the secret key")
	requiredFlags(c, "out")
	return c
}
