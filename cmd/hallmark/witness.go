package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/witness"
	"hallmark/internal/durable"
	"hallmark/web"
)

func init() { commands = append(commands, newWitnessCmd) }

func newWitnessCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "witness", Short: "Look at somebody else's transparency log",
		Long: `A witness signs a log's checkpoints, and only those that contain everything it
signed before. A contract manufacturer or a brand owner runs one, so that the
log's operator cannot show them another history than everybody else, and notices
at the start if its database was set back. It keeps one file and needs no
database.`,
		Example: `  hallmark witness init --state /var/lib/witness --name witness.example.com/line-3
  hallmark witness serve --state /var/lib/witness --log KEY --listen :8460
  hallmark witness show --state /var/lib/witness`,
	}
	c.AddCommand(newWitnessInitCmd(g), newWitnessServeCmd(g), newWitnessShowCmd(g))
	return c
}

const (
	witnessKeyFile  = "key.pem"
	witnessNameFile = "verifier-key"
)

// loadWitness reads what init made.
func loadWitness(dir string) (name, vkey string, key ed25519.PrivateKey, err error) {
	text, err := os.ReadFile(filepath.Join(dir, witnessKeyFile))
	if err != nil {
		return "", "", nil, witness.ErrState.Wrap(err, "There is no key in %s; hallmark witness init makes one.", dir)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return "", "", nil, witness.ErrState.New("%s holds no key.", witnessKeyFile)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "", "", nil, witness.ErrState.Wrap(err, "%s holds no key.", witnessKeyFile)
	}
	key, ok := any.(ed25519.PrivateKey)
	if !ok {
		return "", "", nil, witness.ErrState.New("The key is not Ed25519.")
	}
	if vkey, err = keyText(filepath.Join(dir, witnessNameFile)); err != nil {
		return "", "", nil, witness.ErrState.Wrap(err, "")
	}
	name, err = tlog.CosignerName(vkey)
	return name, vkey, key, err
}

func newWitnessInitCmd(g *globals) *cobra.Command {
	var state, name string
	c := &cobra.Command{
		Use: "init", Short: "Make a witness's key and its empty state", Args: cobra.NoArgs,
		Long: `Make the key and the state of a new witness, and print its verifier key, which the
log's operator puts under log.witnesses. It is done once: a witness that lost its
state does not know what it signed, and gets a new key and name.`,
		Example: "  hallmark witness init --state /var/lib/witness --name witness.example.com/line-3",
		RunE: func(*cobra.Command, []string) error {
			if err := os.MkdirAll(state, 0o700); err != nil {
				return err
			}
			file := filepath.Join(state, witnessKeyFile)
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				return witness.ErrState.New("There is a witness in %s already.", state)
			}
			pub, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			vkey, err := tlog.CosignerKey(name, pub)
			if err != nil {
				return err
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				return err
			}
			// The state first: a key without a state signs nothing.
			if err := witness.Init(state, vkey); err != nil {
				return err
			}
			if err := durable.WriteFile(filepath.Join(state, witnessNameFile), []byte(vkey+"\n"), 0o644); err != nil {
				return err
			}
			if err := durable.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
				return err
			}
			return g.print(map[string]string{"verifier_key": vkey, "name": name}, func(w io.Writer) {
				fmt.Fprintf(w, "%s\n", vkey)
			})
		},
	}
	c.Flags().StringVar(&state, "state", "", "the witness's own directory")
	c.Flags().StringVar(&name, "name", "", "its name for ever, a domain and path without scheme")
	requiredFlags(c, "state", "name")
	return c
}

func newWitnessServeCmd(g *globals) *cobra.Command {
	var state, listen, cert, key, level string
	var logs []string
	c := &cobra.Command{
		Use: "serve", Short: "Sign checkpoints of the named logs", Args: cobra.NoArgs,
		Long: `Answer add-checkpoint (C2SP tlog-witness). What a log signed speaks for itself, so
no caller is asked who he is; put TLS in front or give a certificate where the
way to it is not trusted.`,
		Example: "  hallmark witness serve --state /var/lib/witness --log KEY --listen 127.0.0.1:8460",
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, _, signer, err := loadWitness(state)
			if err != nil {
				return err
			}
			var keys []string
			for _, l := range logs {
				k, err := keyText(l)
				if err != nil {
					return err
				}
				keys = append(keys, k)
			}
			if (cert == "") != (key == "") {
				return errUsage{errors.New("--tls-cert and --tls-key go together")}
			}
			log := newLogger(g.Err, level)
			w, err := witness.Open(witness.Config{Name: name, Key: signer, Dir: state, Logs: keys, Now: g.Now, Log: log})
			if err != nil {
				return err
			}
			defer w.Close()
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			srv := &http.Server{Handler: w.Handler()}
			web.Guard(srv)
			if err := durable.WriteFile(filepath.Join(state, "address"), []byte(l.Addr().String()+"\n"), 0o644); err != nil {
				l.Close()
				return err
			}
			log.Info("witness serves", "name", name, "address", l.Addr().String(), "logs", len(keys), "verifier_key", w.VerifierKey())
			done := make(chan error, 1)
			go func() {
				if cert != "" {
					done <- srv.ServeTLS(l, cert, key)
				} else {
					done <- srv.Serve(l)
				}
			}()
			select {
			case err := <-done:
				return err
			case <-cmd.Context().Done():
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return srv.Shutdown(ctx)
		},
	}
	f := c.Flags()
	f.StringVar(&state, "state", "", "the witness's own directory")
	f.StringVar(&listen, "listen", "127.0.0.1:8460", "where to listen")
	f.StringSliceVar(&logs, "log", nil, "verifier key of a log, or a file with it (again for more)")
	f.StringVar(&cert, "tls-cert", "", "PEM file with a certificate and its chain; plain HTTP without")
	f.StringVar(&key, "tls-key", "", "PEM file with its key")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	requiredFlags(c, "state", "log")
	return c
}

func newWitnessShowCmd(g *globals) *cobra.Command {
	var state, out string
	c := &cobra.Command{
		Use: "show", Short: "Show what a witness signed last", Args: cobra.NoArgs,
		Long: `Show the newest checkpoint of each log that the witness signed, also while it
serves. The note itself is what others compare a log with: hallmark log verify
--checkpoint FILE.`,
		Example: "  hallmark witness show --state /var/lib/witness\n  hallmark witness show --state /var/lib/witness --out seen.txt",
		RunE: func(*cobra.Command, []string) error {
			_, vkey, _, err := loadWitness(state)
			if err != nil {
				return err
			}
			logs, err := witness.Inspect(state)
			if err != nil {
				return err
			}
			if out != "" {
				if len(logs) != 1 {
					return errUsage{fmt.Errorf("--out takes one log, the witness has %d", len(logs))}
				}
				if err := durable.WriteFile(out, logs[0].Note, 0o644); err != nil {
					return err
				}
			}
			type view struct {
				Log  string `json:"log"`
				Size int64  `json:"size"`
				Root string `json:"root"`
				Note string `json:"note"`
			}
			all := []view{}
			for _, c := range logs {
				all = append(all, view{c.Origin, c.Size, c.Root.String(), string(c.Note)})
			}
			return g.print(map[string]any{"verifier_key": vkey, "logs": all}, func(w io.Writer) {
				fmt.Fprintf(w, "%s\n", vkey)
				for _, v := range all {
					fmt.Fprintf(w, "\n%s", v.Note)
				}
			})
		},
	}
	c.Flags().StringVar(&state, "state", "", "the witness's own directory")
	c.Flags().StringVar(&out, "out", "", "write the note to this file")
	requiredFlags(c, "state")
	return c
}
