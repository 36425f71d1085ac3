package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/ca/ceremony"
	"hallmark/hsm"
	"hallmark/internal/durable"
)

func sha256Hex(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func newCeremonyApproveCmd(g *globals) *cobra.Command {
	var name, key, module, out string
	var acceptFirmware bool
	c := &cobra.Command{
		Use: "approve FILE", Short: "Approve a script, or sign the transcript of a ceremony, as its custodian", Args: cobra.ExactArgs(1),
		Long: `FILE is a script or a sealed transcript. Both are checked and shown in words first;
the approval is a file that goes to "hallmark ceremony run --approval".`,
		Example: `  hallmark ceremony approve script.yaml --name 'J. Doe' --key 'piv:serial=123;slot=9c'
  hallmark ceremony approve acme-2026.ceremony.jsonl --name 'J. Doe' --key 'file:/home/j/custodian.pem'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := ceremonyReadRun(args[0])
			if err != nil {
				return err
			}
			r := ceremony.ApproveRequest{KeyURI: key, About: ceremony.AboutScript, Of: data, AcceptFirmware: acceptFirmware, Now: g.Now}
			if r.Now == nil {
				r.Now = time.Now
			}
			var ok bool
			if ceremony.IsRun(data) {
				a, of, v, err := ceremony.Closing(data)
				if err != nil {
					return err
				}
				for _, s := range v.Steps {
					fmt.Fprintln(g.Err, "ok  "+s.String())
				}
				r.About, r.Of, r.Ceremony = ceremony.AboutTranscript, of, a.ID
				r.Custodian, ok = v.Custodian(name)
			} else {
				a, err := ceremony.ParseAgenda(data)
				if err != nil {
					return err
				}
				fmt.Fprint(g.Err, a.Describe(data))
				r.Ceremony = a.ID
				r.Custodian, ok = a.Custodian(name)
			}
			if !ok {
				return ceremony.ErrApproval.New("%q is no custodian of %s.", name, r.Ceremony)
			}
			if out == "" {
				out = r.Ceremony + "." + r.About + "." + ceremonySlug(name) + ".approval.json"
			}
			if _, err := os.Lstat(out); err == nil {
				return ceremony.ErrFileExists.New("%s.", out)
			}
			room := &ceremonyRoom{g: g}
			if _, err := room.Confirm(cmd.Context(), fmt.Sprintf("%s, do you approve the %s with the words\n  %s\n", name, r.About, ceremony.WordsOf(r.Of))); err != nil {
				return err
			}
			keys := hsm.Open(hsm.Config{Module: module, PIN: room.pins(nil)})
			defer keys.Close()
			r.Keys = keys
			file, err := ceremony.Approve(cmd.Context(), r)
			if err != nil {
				return err
			}
			if err := durable.WriteFile(out, file, 0o644); err != nil {
				return ceremony.ErrOutput.Wrap(err, "%s cannot be written.", out)
			}
			return g.print(map[string]string{"approval": out, "about": r.About, "sha256": sha256Hex(r.Of)}, func(w io.Writer) {
				fmt.Fprintf(w, "%s approved the %s of %s.\n  %s\n", name, r.About, r.Ceremony, out)
			})
		},
	}
	p := c.Flags()
	p.StringVar(&name, "name", "", "your name, as the script has it")
	keyURIFlag(c, &key, "key", "URI of your key: piv:, pkcs11: or file:")
	p.StringVar(&module, "module", "", "PKCS #11 module, where the URI has no module-path")
	p.StringVar(&out, "out", "", "file to write; default: named after the ceremony and you")
	p.BoolVar(&acceptFirmware, "accept-firmware", false, "accept an EC key on a card whose firmware leaks such keys; the approval says so, and the script must allow it")
	ceremonyRequired(c, "name", "key")
	return c
}

func newCeremonyCustodianCmd(g *globals) *cobra.Command {
	var name, key, module, algorithm, logOf string
	c := &cobra.Command{
		Use: "custodian", Short: "Make or open a custodian's key and print the line for the script", Args: cobra.NoArgs,
		Example: `  hallmark ceremony custodian --name 'J. Doe' --key 'file:/home/j/custodian.pem?passphrase-source=env:PASS' --generate Ed25519
  hallmark ceremony custodian --name 'R. Roe' --key 'piv:serial=123;slot=9c'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			room := &ceremonyRoom{g: g}
			keys := hsm.Open(hsm.Config{Module: module, PIN: room.pins(nil)})
			defer keys.Close()
			var k hsm.Signer
			var err error
			if algorithm != "" {
				k, err = keys.Generate(cmd.Context(), key, hsm.Spec{Algorithm: hsm.Algorithm(algorithm)})
			} else {
				k, err = keys.Signer(cmd.Context(), key)
			}
			if err != nil {
				return err
			}
			a, err := keys.Attributes(cmd.Context(), key)
			if err != nil {
				return err
			}
			// S7: said now and not in the room.
			if err := hsm.CheckFirmware(a, false); err != nil {
				return err
			}
			spki, err := x509.MarshalPKIXPublicKey(k.Public())
			if err != nil {
				return ceremony.ErrKey.Wrap(err, "The key has no standard form.")
			}
			if logOf != "" {
				pub, ok := k.Public().(ed25519.PublicKey)
				if !ok {
					return ceremony.ErrWitness.New("The key of a log is Ed25519.")
				}
				vkey, err := ceremony.LogKey(logOf, pub)
				if err != nil {
					return ceremony.ErrRequest.Wrap(err, "The name %q is no part of a key's name.", logOf)
				}
				return g.print(map[string]string{"witness": vkey}, func(w io.Writer) { fmt.Fprintf(w, "  - %q\n", vkey) })
			}
			text := base64.StdEncoding.EncodeToString(spki)
			return g.print(map[string]string{"name": name, "key": text, "words": ceremony.WordsOf(spki)}, func(w io.Writer) {
				fmt.Fprintf(w, "    - {name: %q, key: %q}\n", name, text)
				fmt.Fprintf(g.Err, "Words of the key: %s\n", ceremony.WordsOf(spki))
			})
		},
	}
	p := c.Flags()
	p.StringVar(&name, "name", "", "name of the custodian")
	keyURIFlag(c, &key, "key", "URI of the key: piv:, pkcs11: or file:")
	p.StringVar(&module, "module", "", "PKCS #11 module, where the URI has no module-path")
	p.StringVar(&algorithm, "generate", "", "make the key: Ed25519 in a file, P-256 or P-384 on a card")
	p.StringVar(&logOf, "log-of", "", "print the line for the script's witnesses instead: the key hands the checkpoint of this ceremony to witnesses")
	ceremonyRequired(c, "name", "key")
	return c
}

// ceremonySlug makes a name fit for a file.
func ceremonySlug(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
}

// ceremonyReadRun reads a script or the transcript of a whole ceremony.
func ceremonyReadRun(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, ceremony.ErrInput.Wrap(err, "%s cannot be opened.", name)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, ceremony.MaxRun+1))
	if err != nil {
		return nil, ceremony.ErrInput.Wrap(err, "%s cannot be read.", name)
	}
	if len(b) > ceremony.MaxRun {
		return nil, ceremony.ErrInput.New("%s is larger than %d octets.", name, ceremony.MaxRun)
	}
	return b, nil
}

func newCeremonyAnchorCmd(g *globals) *cobra.Command {
	var note, logKey, module string
	c := &cobra.Command{
		Use: "anchor TRANSCRIPT", Short: "Print the checkpoint of a ceremony for a witness, or add what the witness signed", Args: cobra.ExactArgs(1),
		Long: `Without --witnessed the checkpoint is printed that a witness signs: the transcript as
a Merkle tree, in the form of C2SP tlog-checkpoint; --log-key signs it, for witnesses
that want to see who asks. With --witnessed, the signed note is checked against the
witnesses of the script and added to the transcript as a line.`,
		Example: `  hallmark ceremony anchor acme-2026.ceremony.jsonl > checkpoint
  hallmark ceremony anchor acme-2026.ceremony.jsonl --witnessed checkpoint.signed`,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := ceremonyReadRun(args[0])
			if err != nil {
				return err
			}
			if note == "" {
				v, err := ceremony.VerifyRun(data, ceremony.RunTrust{})
				if err != nil {
					return err
				}
				text := v.Checkpoint
				if logKey != "" {
					room := &ceremonyRoom{g: g}
					keys := hsm.Open(hsm.Config{Module: module, PIN: room.pins(nil)})
					defer keys.Close()
					k, err := keys.Signer(cmd.Context(), logKey)
					if err != nil {
						return err
					}
					if text, err = ceremony.SignCheckpoint(cmd.Context(), text, k); err != nil {
						return err
					}
				}
				return g.print(map[string]string{"checkpoint": text}, func(w io.Writer) { fmt.Fprint(w, text) })
			}
			signed, err := ceremonyRead(note)
			if err != nil {
				return err
			}
			longer, err := ceremony.Anchor(data, string(signed))
			if err != nil {
				return err
			}
			if err := durable.WriteFile(args[0], longer, 0o644); err != nil {
				return ceremony.ErrOutput.Wrap(err, "%s cannot be written.", args[0])
			}
			return g.print(map[string]string{"transcript": args[0], "words": ceremony.WordsOf(longer)}, func(w io.Writer) {
				fmt.Fprintf(w, "Anchored. The words of the transcript are now\n  %s\n", ceremony.WordsOf(longer))
			})
		},
	}
	c.Flags().StringVar(&note, "witnessed", "", "signed note of a witness over the checkpoint")
	keyURIFlag(c, &logKey, "log-key", "URI of the Ed25519 key with which the checkpoint is handed to witnesses")
	c.Flags().StringVar(&module, "module", "", "PKCS #11 module, where the URI has no module-path")
	return c
}

func newCeremonyRecordCmd(g *globals) *cobra.Command {
	var out string
	var makers []string
	c := &cobra.Command{
		Use: "record TRANSCRIPT", Short: "Write the printable record of a ceremony, with QR codes of the fingerprints", Args: cobra.ExactArgs(1),
		Long:    `The record is one page of HTML that needs no network. Print it from a browser, to paper or PDF.`,
		Example: `  hallmark ceremony record acme-2026.ceremony.jsonl --out acme-2026.html`,
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := ceremonyReadRun(args[0])
			if err != nil {
				return err
			}
			trusted, err := ceremonyRoots(makers)
			if err != nil {
				return err
			}
			v, err := ceremony.VerifyRun(data, ceremony.RunTrust{Makers: trusted})
			if err != nil {
				return err
			}
			if out == "" {
				out = filepath.Join(filepath.Dir(args[0]), v.ID+".html")
			}
			var page strings.Builder
			if err := ceremony.WriteRecord(&page, v, data); err != nil {
				return err
			}
			if err := durable.WriteFile(out, []byte(page.String()), 0o644); err != nil {
				return ceremony.ErrOutput.Wrap(err, "%s cannot be written.", out)
			}
			return g.print(map[string]string{"record": out}, func(w io.Writer) { fmt.Fprintf(w, "Written: %s. Print it from a browser and sign it.\n", out) })
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write; default: named after the ceremony, beside the transcript")
	c.Flags().StringArrayVar(&makers, "maker", nil, "root certificate of a maker of tokens, in which attestations must end; repeatable")
	return c
}
