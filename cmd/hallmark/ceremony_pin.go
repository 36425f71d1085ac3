package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"hallmark/ca/ceremony"
	"hallmark/hsm"
	"hallmark/hsm/token"
	"hallmark/internal/durable"
)

func newCeremonyPINCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "pin", Short: "Divide the PIN of a token among custodians, and join it again",
		Long: `For tokens that have one PIN only. Any M of N parts give the PIN (Shamir's scheme);
fewer tell nothing. A part is a line of words that its custodian keeps on paper, sealed.`,
		Example: `  hallmark ceremony pin split --shares 3 --threshold 2 --generate 12
  hallmark ceremony pin join --shares 2`,
	}
	c.AddCommand(newCeremonySplitCmd(g), newCeremonyJoinCmd(g))
	return c
}

func newCeremonySplitCmd(g *globals) *cobra.Command {
	var n, m, digits int
	var source, outDir string
	c := &cobra.Command{
		Use: "split", Short: "Divide a PIN into parts", Args: cobra.NoArgs,
		Long: `The PIN is asked for, read from --pin-source, or made with --generate; a PIN that was
made is not shown: join the parts to set it. With --out-dir each part goes into a file
of its own, else all are printed, for one custodian after the other to copy.`,
		Example: `  hallmark ceremony pin split --shares 3 --threshold 2
  hallmark ceremony pin split --shares 5 --threshold 3 --generate 16 --out-dir /run/parts`,
		RunE: func(_ *cobra.Command, _ []string) error {
			pin, err := ceremonyPINToSplit(g, source, digits)
			if err != nil {
				return err
			}
			defer pin.Wipe()
			parts, err := ceremony.SplitPIN(pin, m, n, nil)
			if err != nil {
				return err
			}
			if outDir == "" {
				return g.print(map[string]any{"threshold": m, "parts": parts}, func(w io.Writer) {
					for i, p := range parts {
						fmt.Fprintf(w, "Part %d of %d, any %d give the PIN:\n  %s\n", i+1, n, m, p)
					}
				})
			}
			var files []string
			for i, p := range parts {
				name := filepath.Join(outDir, fmt.Sprintf("pin-part-%d-of-%d.txt", i+1, n))
				if _, err := os.Lstat(name); err == nil {
					return ceremony.ErrFileExists.New("%s.", name)
				}
				if err := durable.WriteFile(name, []byte(p+"\n"), 0o600); err != nil {
					return ceremony.ErrOutput.Wrap(err, "%s cannot be written.", name)
				}
				files = append(files, name)
			}
			return g.print(map[string]any{"threshold": m, "files": files}, func(w io.Writer) {
				for _, f := range files {
					fmt.Fprintln(w, f)
				}
			})
		},
	}
	p := c.Flags()
	p.IntVar(&n, "shares", 3, "how many parts to make")
	p.IntVar(&m, "threshold", 2, "how many of them give the PIN")
	p.IntVar(&digits, "generate", 0, "make a PIN of so many digits instead of asking for one")
	p.StringVar(&source, "pin-source", "", "read the PIN from file:, env: or credential: instead of asking")
	p.StringVar(&outDir, "out-dir", "", "directory for a file with each part, mode 0600")
	return c
}

func ceremonyPINToSplit(g *globals, source string, digits int) (hsm.Secret, error) {
	switch {
	case digits != 0 && source != "":
		return hsm.Secret{}, ceremony.ErrRequest.New("Give --generate or --pin-source, not both.")
	case digits != 0:
		if digits < 6 || digits > ceremony.MaxPIN {
			return hsm.Secret{}, ceremony.ErrRequest.New("A PIN that is made has 6 to %d digits.", ceremony.MaxPIN)
		}
		b := make([]byte, digits)
		defer clear(b)
		for i := range b {
			d, err := rand.Int(rand.Reader, big.NewInt(10))
			if err != nil {
				return hsm.Secret{}, ceremony.ErrRequest.Wrap(err, "There is no randomness.")
			}
			b[i] = '0' + byte(d.Int64())
		}
		return hsm.NewSecret(b), nil
	case source != "":
		return token.ReadSource(source)
	}
	room := &ceremonyRoom{g: g}
	fmt.Fprint(g.Err, "PIN to divide: ")
	first, err := room.hidden()
	if err != nil {
		return hsm.Secret{}, hsm.ErrPINMissing.Wrap(err, "The PIN cannot be read.")
	}
	fmt.Fprint(g.Err, "The same once more: ")
	again, err := room.hidden()
	if err != nil {
		return hsm.Secret{}, hsm.ErrPINMissing.Wrap(err, "The PIN cannot be read.")
	}
	if first != again {
		return hsm.Secret{}, ceremony.ErrRequest.New("The two are not the same.")
	}
	return hsm.NewSecret([]byte(first)), nil
}

func newCeremonyJoinCmd(g *globals) *cobra.Command {
	var n int
	var out string
	c := &cobra.Command{
		Use: "join", Short: "Give the PIN of enough parts", Args: cobra.NoArgs,
		Long: `A ceremony asks for the parts itself; this is to set the PIN of a token that is
made ready, or to change it. The PIN goes to a file of mode 0600 with --out, else to
standard output.`,
		Example: `  hallmark ceremony pin join --shares 2 --out /run/pin`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			room := &ceremonyRoom{g: g}
			pin, err := room.shares(cmd.Context(), "token", n)
			if err != nil {
				return err
			}
			defer pin.Wipe()
			if out == "" {
				_, err := fmt.Fprintf(g.Out, "%s\n", pin.Reveal())
				return err
			}
			if _, err := os.Lstat(out); err == nil {
				return ceremony.ErrFileExists.New("%s.", out)
			}
			if err := durable.WriteFile(out, append(append([]byte{}, pin.Reveal()...), '\n'), 0o600); err != nil {
				return ceremony.ErrOutput.Wrap(err, "%s cannot be written.", out)
			}
			return nil
		},
	}
	c.Flags().IntVar(&n, "shares", 2, "how many parts are joined")
	c.Flags().StringVar(&out, "out", "", "file to write the PIN to")
	return c
}

func newCeremonyPackCmd(g *globals) *cobra.Command {
	var out, from string
	c := &cobra.Command{
		Use: "pack FILE...", Short: "Put files into one exchange file whose words are read aloud", Args: cobra.MinimumNArgs(1),
		Example: `  hallmark ceremony pack --from 'air-gapped machine' --out to-online.exchange.json *.transcript.json acme-root.cer acme-root-1.crl`,
		RunE: func(_ *cobra.Command, args []string) error {
			files := map[string][]byte{}
			for _, a := range args {
				b, err := ceremonyReadRun(a)
				if err != nil {
					return err
				}
				if _, twice := files[filepath.Base(a)]; twice {
					return ceremony.ErrExchange.New("Two files are called %s.", filepath.Base(a))
				}
				files[filepath.Base(a)] = b
			}
			b, err := ceremony.PackExchange(from, files)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(out); err == nil {
				return ceremony.ErrFileExists.New("%s.", out)
			}
			if err := durable.WriteFile(out, b, 0o644); err != nil {
				return ceremony.ErrOutput.Wrap(err, "%s cannot be written.", out)
			}
			return g.print(map[string]string{"file": out, "sha256": sha256Hex(b), "words": ceremony.WordsOf(b)}, func(w io.Writer) {
				fmt.Fprintf(w, "Packed %d files. Read these words to the other side:\n  %s\n", len(files), ceremony.WordsOf(b))
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "exchange file to write")
	c.Flags().StringVar(&from, "from", "", "who packed it, in words")
	ceremonyRequired(c, "out", "from")
	return c
}

func newCeremonyUnpackCmd(g *globals) *cobra.Command {
	var outDir string
	c := &cobra.Command{
		Use: "unpack FILE", Short: "Take the files out of an exchange file, after its words were compared", Args: cobra.ExactArgs(1),
		Example: `  hallmark ceremony unpack to-online.exchange.json --out-dir ./in`,
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := ceremonyReadRun(args[0])
			if err != nil {
				return err
			}
			e, err := ceremony.ReadExchange(b)
			if err != nil {
				return err
			}
			room := &ceremonyRoom{g: g}
			if _, err := room.Confirm(cmd.Context(), fmt.Sprintf("Compare aloud with the sender, %q: the words are\n  %s\nAre they the same? ", e.From, ceremony.WordsOf(b))); err != nil {
				return err
			}
			var names []string
			for _, i := range e.Items {
				name := filepath.Join(outDir, i.Name)
				if _, err := os.Lstat(name); err == nil {
					return ceremony.ErrFileExists.New("%s.", name)
				}
				names = append(names, name)
			}
			for i, name := range names {
				if err := durable.WriteFile(name, e.Items[i].Data, 0o644); err != nil {
					return ceremony.ErrOutput.Wrap(err, "%s cannot be written.", name)
				}
			}
			return g.print(map[string]any{"from": e.From, "files": names}, func(w io.Writer) {
				for _, n := range names {
					fmt.Fprintln(w, n)
				}
			})
		},
	}
	c.Flags().StringVar(&outDir, "out-dir", ".", "directory for the files; nothing in it is overwritten")
	return c
}

func newCeremonyLifeCmd(g *globals) *cobra.Command {
	var root string
	c := &cobra.Command{
		Use: "crl-life LIST", Short: "Say how much life the list of a root has left", Args: cobra.ExactArgs(1),
		Long: `For a timer: the command fails at 50, 25 and 10 percent of the list's life and when it
has lapsed, and says what to do.`,
		Example: `  hallmark ceremony crl-life acme-root-1.crl --root acme-root.pem`,
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := ceremonyRead(args[0])
			if err != nil {
				return err
			}
			r, err := ceremonyRead(root)
			if err != nil {
				return err
			}
			now := time.Now
			if g.Now != nil {
				now = g.Now
			}
			life, err := ceremony.LifeOfList(list, r, now())
			if err != nil {
				return err
			}
			err = g.print(life, func(w io.Writer) {
				fmt.Fprintf(w, "List %s of the root ends at %s, %.0f %% of its life are left.\n", life.Number, life.NextUpdate.Format(time.RFC3339), 100*max(life.Left, 0))
				if life.Next != "" {
					fmt.Fprintln(w, life.Next)
				}
			})
			if err == nil && life.Alarm != "" {
				return errSilent
			}
			return err
		},
	}
	c.Flags().StringVar(&root, "root", "", "certificate of the root, DER or PEM")
	ceremonyRequired(c, "root")
	return c
}
