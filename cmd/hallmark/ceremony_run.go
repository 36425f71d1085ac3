package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hallmark/ca/ceremony"
	"hallmark/hsm"
)

// ceremonyRunFlags are those of hallmark ceremony run.
type ceremonyRunFlags struct {
	outDir, module, clock string
	custodians, approvals []string
	rehearse, yes, check  bool
}

func newCeremonyRunCmd(g *globals) *cobra.Command {
	var f ceremonyRunFlags
	c := &cobra.Command{
		Use: "run SCRIPT", Short: "Carry a reviewed script out, or go on with it where it was interrupted", Args: cobra.ExactArgs(1),
		Long: `The script says everything that will be done. M of N custodians approve its hash,
each step is shown in words and agreed to, and the transcript that is left is signed
by the keys and by the custodians. Files that the script names lie beside it.

Custodians in the room are named with --custodian, others approve by file with
"hallmark ceremony approve". The command can be stopped at any moment and run again:
the transcript is its memory. A refused PIN is tried again only if a person says so.`,
		Example: `  hallmark ceremony run script.yaml --check
  hallmark ceremony run script.yaml --rehearse --yes
  hallmark ceremony run script.yaml --out-dir ./usb --module /usr/lib/softhsm/libsofthsm2.so \
      --custodian 'R. Roe=piv:serial=123;slot=9c' --approval j-doe.approval.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := f.run(cmd.Context(), g, args[0])
			if !errors.Is(err, hsm.ErrPINRefused) || f.yes {
				return err
			}
			// A token is asked once in the life of a process (A23). Whoever has
			// mistyped starts the process again, by word and hand; the step waits.
			g.complain(err)
			room := &ceremonyRoom{g: g}
			answer, aerr := room.Ask(cmd.Context(), "The token counts wrong PINs and locks itself. Type again to try once more, anything else to stop: ")
			if aerr != nil || strings.TrimSpace(answer) != "again" {
				return err
			}
			return ceremonyRestart()
		},
	}
	p := c.Flags()
	p.StringVar(&f.outDir, "out-dir", "", "directory for transcript and results; default: that of the script")
	p.StringVar(&f.module, "module", "", "PKCS #11 module, where a URI has no module-path")
	p.StringVar(&f.clock, "clock", "", "time that a person read from another clock, in UTC as 'YYYY-MM-DD HH:MM'; default: ask")
	p.StringArrayVar(&f.custodians, "custodian", nil, "NAME=URI: custodian in the room, with the URI of the key; repeatable")
	p.StringArrayVar(&f.approvals, "approval", nil, "approval of a custodian, by file; repeatable")
	p.BoolVar(&f.rehearse, "rehearse", false, "do all of it on a throw-away SoftHSM; nothing is kept but the transcript in --out-dir")
	p.BoolVar(&f.check, "check", false, "check the script and show it in words, nothing else")
	p.BoolVar(&f.yes, "yes", false, "do not ask; for rehearsals and scripts in development mode")
	return c
}

// ceremonyRestart puts the same command in this process's place.
func ceremonyRestart() error {
	self, err := os.Executable()
	if err != nil {
		return ceremony.ErrRequest.Wrap(err, "The program cannot be started again; do it by hand.")
	}
	return ceremony.ErrRequest.Wrap(syscall.Exec(self, os.Args, os.Environ()), "The program cannot be started again; do it by hand.")
}

func (f *ceremonyRunFlags) run(ctx context.Context, g *globals, file string) error {
	script, err := ceremonyRead(file)
	if err != nil {
		return err
	}
	a, err := ceremony.ParseAgenda(script)
	if err != nil {
		return err
	}
	if f.check {
		now := time.Now
		if g.Now != nil {
			now = g.Now
		}
		if err := a.Current(now()); err != nil {
			return err
		}
		return g.print(struct {
			ID     string `json:"id"`
			SHA256 string `json:"sha256"`
			Words  string `json:"words"`
		}{a.ID, sha256Hex(script), ceremony.WordsOf(script)}, func(w io.Writer) { fmt.Fprint(w, a.Describe(script)) })
	}
	if f.yes && a.Production() && !f.rehearse {
		return ceremony.ErrNotConfirmed.New("A script in production mode is agreed to by people; --yes is for rehearsals and development.")
	}
	dir := f.outDir
	if dir == "" {
		dir = filepath.Dir(file)
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return ceremony.ErrOutput.Wrap(err, "There is no directory %s.", dir)
	}
	if up := ceremony.NetworkUp(); len(up) > 0 && !f.rehearse {
		fmt.Fprintf(g.Err, "This machine has a network: %s. An air-gapped machine has none; the transcript says so.\n", strings.Join(up, ", "))
	}
	room := &ceremonyRoom{g: g, yes: f.yes}
	cfg := ceremony.RunConfig{
		Script: script, Dir: dir, Room: room, ClockRead: f.clock, Now: g.Now,
		Read: func(name string) ([]byte, error) { return ceremonyRead(filepath.Join(filepath.Dir(file), name)) },
	}
	for _, n := range f.approvals {
		b, err := ceremonyRead(n)
		if err != nil {
			return err
		}
		cfg.Approvals = append(cfg.Approvals, b)
	}
	if f.rehearse {
		r, err := ceremony.NewRehearsal(ctx, a, cfg.Read, g.Now)
		if err != nil {
			return err
		}
		defer r.Close()
		scratch, err := os.MkdirTemp("", "hallmark-rehearsal-out-")
		if err != nil {
			return ceremony.ErrOutput.Wrap(err, "There is no place for what the rehearsal makes.")
		}
		defer os.RemoveAll(scratch)
		room.rehearsal = true
		cfg.Rehearsal, cfg.Keys, cfg.Custodians, cfg.Dir, cfg.Approvals = r, r.Keys, r.Custodians, scratch, nil
		cfg.People = func() (ceremony.Keys, func(), error) { return r.Keys, func() {}, nil }
	} else {
		keys := hsm.Open(hsm.Config{Module: f.module, Production: a.Production(), PIN: room.pins(a)})
		defer keys.Close()
		open := func(production bool, of *ceremony.Agenda) func() (ceremony.Keys, func(), error) {
			return func() (ceremony.Keys, func(), error) {
				k := hsm.Open(hsm.Config{Module: f.module, Production: production, PIN: room.pins(of)})
				return k, func() { k.Close() }, nil
			}
		}
		cfg.Keys, cfg.Release = keys, func() { keys.Close() }
		cfg.Fresh, cfg.People = open(a.Production(), a), open(false, nil)
		if cfg.Custodians, err = ceremonyCustodians(f.custodians); err != nil {
			return err
		}
	}
	res, err := ceremony.Run(ctx, cfg)
	if err != nil {
		return err
	}
	name := res.Transcript
	if f.rehearse {
		name = filepath.Join(dir, a.ID+".rehearsal.jsonl")
		if err := os.WriteFile(name, res.Data, 0o644); err != nil {
			return ceremony.ErrOutput.Wrap(err, "%s cannot be written.", name)
		}
		res.Files = nil
	}
	out := struct {
		Ceremony   string   `json:"ceremony"`
		Rehearsal  bool     `json:"rehearsal"`
		Transcript string   `json:"transcript"`
		SHA256     string   `json:"sha256"`
		Words      string   `json:"words"`
		Files      []string `json:"files"`
		Checkpoint string   `json:"checkpoint"`
	}{a.ID, f.rehearse, name, sha256Hex(res.Data), ceremony.WordsOf(res.Data), res.Files, res.Verified.Checkpoint}
	return g.print(out, func(w io.Writer) {
		if f.rehearse {
			fmt.Fprintf(w, "Rehearsed: every step of %s works on a throw-away token. Nothing of it is real.\n  %s\n", a.ID, name)
			return
		}
		fmt.Fprintf(w, "Done: %d steps of %s, verified.\n  %s\n", len(a.Steps), a.ID, name)
		for _, n := range out.Files {
			fmt.Fprintf(w, "  %s\n", n)
		}
		fmt.Fprintf(w, "Read these words aloud and write them down.\n  the transcript   %s\n", out.Words)
		fmt.Fprintf(w, "Next: hallmark ceremony record %s, and hallmark ceremony anchor.\n", filepath.Base(name))
	})
}

func ceremonyCustodians(args []string) ([]ceremony.CustodianKey, error) {
	var out []ceremony.CustodianKey
	for _, a := range args {
		name, uri, ok := strings.Cut(a, "=")
		if !ok || name == "" || slices.ContainsFunc(out, func(c ceremony.CustodianKey) bool { return c.Name == name }) {
			return nil, ceremony.ErrRequest.New("--custodian takes NAME=URI, each name once, not %q.", a)
		}
		out = append(out, ceremony.CustodianKey{Name: name, URI: uri})
	}
	return out, nil
}

// ceremonyRoom speaks with people at a terminal. It reads no octet more than it
// was asked for, so that what follows is there for who comes after it.
type ceremonyRoom struct {
	g         *globals
	yes       bool
	rehearsal bool
}

// Show prints for all to read.
func (r *ceremonyRoom) Show(text string) { fmt.Fprint(r.g.Err, text) }

// Confirm takes the word yes and nothing else.
func (r *ceremonyRoom) Confirm(_ context.Context, question string) (string, error) {
	fmt.Fprint(r.g.Err, question)
	if r.yes {
		fmt.Fprintln(r.g.Err, "(not asked: --yes)")
		return "not asked: --yes", nil
	}
	fmt.Fprint(r.g.Err, "Type yes: ")
	line, err := ceremonyLine(r.g.In)
	if err != nil {
		return "", ceremony.ErrNotConfirmed.Wrap(err, "The answer cannot be read.")
	}
	if strings.TrimSpace(line) != "yes" {
		return "", ceremony.ErrNotConfirmed.New("")
	}
	return "typed yes", nil
}

// Ask takes a line.
func (r *ceremonyRoom) Ask(_ context.Context, question string) (string, error) {
	fmt.Fprint(r.g.Err, question)
	if r.rehearsal && r.yes && strings.Contains(question, "clock") {
		now := time.Now
		if r.g.Now != nil {
			now = r.g.Now
		}
		at := now().UTC().Format("2006-01-02 15:04")
		fmt.Fprintln(r.g.Err, at)
		return at, nil
	}
	line, err := ceremonyLine(r.g.In)
	if err != nil {
		return "", ceremony.ErrNotConfirmed.Wrap(err, "The answer cannot be read.")
	}
	return line, nil
}

// pins asks for the PINs of a script's tokens, whole or in parts.
func (r *ceremonyRoom) pins(a *ceremony.Agenda) hsm.PINFunc {
	return func(ctx context.Context, id hsm.TokenID, reason string) (hsm.Secret, error) {
		if a != nil {
			if name, k := a.KeyOfToken(id); k.PIN == "shares" {
				return r.shares(ctx, name, k.PINShares)
			}
		}
		return ceremonyPIN(r.g, id, reason)
	}
}

// shares takes the parts of a PIN one by one. A part that was mistyped is asked
// for again: that reaches no token.
func (r *ceremonyRoom) shares(_ context.Context, name string, n int) (hsm.Secret, error) {
	var parts []string
	for len(parts) < n {
		fmt.Fprintf(r.g.Err, "Part %d of %d of the PIN of the key %s, in words: ", len(parts)+1, n, name)
		text, err := r.hidden()
		if err != nil {
			return hsm.Secret{}, hsm.ErrPINMissing.Wrap(err, "The part cannot be read.")
		}
		point, needed, err := ceremony.CheckShare(text)
		if err != nil {
			r.g.complain(err)
			continue
		}
		fmt.Fprintf(r.g.Err, "This is part %d, of a PIN that needs %d.\n", point, needed)
		parts = append(parts, text)
	}
	return ceremony.JoinPIN(parts)
}

// hidden reads a line that the terminal does not show.
func (r *ceremonyRoom) hidden() (string, error) {
	if in, ok := r.g.In.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(r.g.Err)
		return string(b), err
	}
	return ceremonyLine(r.g.In)
}

// ceremonyLine reads up to the line end, octet by octet.
func ceremonyLine(in io.Reader) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for len(line) < 4096 {
		n, err := in.Read(one)
		if n == 1 {
			if one[0] == '\n' {
				return string(line), nil
			}
			line = append(line, one[0])
			continue
		}
		if err != nil {
			if errors.Is(err, io.EOF) && len(line) > 0 {
				return string(line), nil
			}
			return "", err
		}
	}
	return "", io.ErrShortBuffer
}
