package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/durable"
)

func newCeremonyCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "ceremony",
		Short: "Use the key of the offline root, and verify what was done with it",
		Long: `A ceremony is a reviewed script that "run" carries out with M of N custodians. The
commands root, sign and crl do single steps: each shows what will be signed, asks,
signs, and writes a transcript that is signed by the same key. Use a machine without a
network. The manual is docs/ceremony.md.`,
		Example: `  hallmark ceremony run script.yaml --rehearse --yes
  hallmark ceremony run script.yaml --out-dir ./usb --custodian 'R. Roe=piv:serial=123;slot=9c' --approval j-doe.approval.json
  hallmark ceremony root --key 'pkcs11:token=root;object=acme-root' --generate --name acme-root \
      --subject-cn 'Acme Device Root' --subject-o Acme --base-url http://pki.acme.com --out-dir ./usb
  hallmark ceremony verify ./usb/*.transcript.json --root ./usb/acme-root.pem`,
	}
	c.AddCommand(newCeremonyRunCmd(g), newCeremonyApproveCmd(g), newCeremonyCustodianCmd(g), newCeremonyPINCmd(g), newCeremonyRecordCmd(g), newCeremonyAnchorCmd(g))
	c.AddCommand(newCeremonyPackCmd(g), newCeremonyUnpackCmd(g), newCeremonyLifeCmd(g))
	c.AddCommand(newCeremonyRootCmd(g), newCeremonySignCmd(g), newCeremonyListCmd(g), newCeremonyVerifyCmd(g), newCeremonyShowCmd(g))
	return c
}

// ceremonyFlags are those of every step that signs.
type ceremonyFlags struct {
	key, module, outDir, previous, clock string
	witnesses                            []string
	development, acceptFirmware, yes     bool
	cn, o, ou, country, notAfter         string
}

func (f *ceremonyFlags) bind(c *cobra.Command) {
	p := c.Flags()
	keyURIFlag(c, &f.key, "key", "URI of the root's key: pkcs11:, piv: or, in development, file:")
	p.StringVar(&f.module, "module", "", "PKCS #11 module, where the URI has no module-path")
	p.StringVar(&f.outDir, "out-dir", ".", "directory for what is made; nothing in it is overwritten")
	p.StringVar(&f.previous, "previous", "", "transcript of the step before")
	p.StringVar(&f.clock, "clock", "", "time that a person read from another clock, for the transcript")
	p.StringArrayVar(&f.witnesses, "witness", nil, "name of a person in the room; repeatable")
	p.BoolVar(&f.development, "development", false, "accept file keys, unsafe keys and local URLs; the transcript says so")
	p.BoolVar(&f.acceptFirmware, "accept-firmware", false, "accept an EC key on a card whose firmware leaks such keys; the transcript says so")
	p.BoolVar(&f.yes, "yes", false, "do not ask; the transcript says so")
	ceremonyRequired(c, "key")
}

func (f *ceremonyFlags) bindSubject(c *cobra.Command) {
	p := c.Flags()
	p.StringVar(&f.cn, "subject-cn", "", "common name of the subject")
	p.StringVar(&f.o, "subject-o", "", "organization of the subject")
	p.StringVar(&f.ou, "subject-ou", "", "organizational unit of the subject")
	p.StringVar(&f.country, "subject-c", "", "country of the subject, two letters")
	p.StringVar(&f.notAfter, "not-after", "", "end, as YYYY-MM-DD, RFC 3339 or never; default: as long as the profile allows")
}

func (f *ceremonyFlags) subject() profile.Subject {
	return profile.Subject{Country: f.country, Organization: f.o, OrganizationalUnit: f.ou, CommonName: f.cn}
}

func (f *ceremonyFlags) end() (time.Time, error) {
	switch f.notAfter {
	case "":
		return time.Time{}, nil
	case "never":
		return profile.NoExpiry, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, f.notAfter); err == nil {
			return t, nil
		}
	}
	return time.Time{}, ceremony.ErrRequest.New("The end %q is not YYYY-MM-DD, an RFC 3339 time or never.", f.notAfter)
}

// ceremonyRequired panics only on a name that the program itself got wrong.
func ceremonyRequired(c *cobra.Command, names ...string) {
	for _, n := range names {
		if err := c.MarkFlagRequired(n); err != nil {
			panic(err)
		}
	}
}

func newCeremonyRootCmd(g *globals) *cobra.Command {
	var f ceremonyFlags
	var r ceremony.RootRequest
	var algorithm string
	c := &cobra.Command{
		Use: "root", Short: "Create a root in a token and its self-signed certificate", Args: cobra.NoArgs,
		Example: `  hallmark ceremony root --key 'pkcs11:token=root;object=acme-root?module-path=/usr/lib/softhsm/libsofthsm2.so' \
      --generate --algorithm P-384 --name acme-root --subject-cn 'Acme Device Root' --subject-o Acme \
      --base-url http://pki.acme.com --witness 'R. Roe' --clock '10:02 wall clock' --out-dir ./usb`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			end, err := f.end()
			if err != nil {
				return err
			}
			r.KeyURI, r.Algorithm, r.Subject, r.NotAfter = f.key, hsm.Algorithm(algorithm), f.subject(), end
			return f.run(cmd.Context(), g, r.Name, func(s *ceremony.Ceremony) (*ceremony.Plan, error) { return s.PlanRoot(cmd.Context(), r) })
		},
	}
	f.bind(c)
	f.bindSubject(c)
	c.Flags().StringVar(&r.Name, "name", "", "name of the root in files and URLs, for ever")
	c.Flags().StringVar(&r.BaseURL, "base-url", "", "start of the URLs below the root, http://NAME, for ever")
	c.Flags().BoolVar(&r.Generate, "generate", false, "make the key; without it, the key must be there")
	c.Flags().StringVar(&algorithm, "algorithm", "", "P-256, P-384, RSA-3072, RSA-4096 or Ed25519; default P-384 for a new key")
	ceremonyRequired(c, "name", "base-url", "subject-cn")
	return c
}

func newCeremonySignCmd(g *globals) *cobra.Command {
	var f ceremonyFlags
	var r ceremony.SignRequest
	var root, request, duty string
	var narrow profile.Constraints
	c := &cobra.Command{
		Use: "sign", Short: "Sign the certificate of an issuing authority", Args: cobra.NoArgs,
		Long: `Extensions come from the profile of the duty. Of the CSR only the key is used; name,
duty and subject come from the flags, or from the transcript that "hallmark ca csr" wrote.`,
		Example: `  hallmark ceremony sign --key 'pkcs11:token=root;object=acme-root' --root ./usb/acme-root.pem \
      --csr ./usb/devices-1.csr.transcript.json --previous ./usb/acme-root.root.transcript.json --out-dir ./usb`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if r.RootCert, err = ceremonyRead(root); err != nil {
				return err
			}
			if r.CSR, err = ceremonyCSR(g, request); err != nil {
				return err
			}
			if r.NotAfter, err = f.end(); err != nil {
				return err
			}
			r.KeyURI, r.Subject, r.Duty = f.key, f.subject(), profile.Duty(duty)
			if !narrow.Empty() {
				r.Constraints = &narrow
			}
			return f.run(cmd.Context(), g, "", func(s *ceremony.Ceremony) (*ceremony.Plan, error) { return s.PlanIntermediate(cmd.Context(), r) })
		},
	}
	f.bind(c)
	f.bindSubject(c)
	c.Flags().StringVar(&root, "root", "", "certificate of the root, DER or PEM")
	c.Flags().StringVar(&request, "csr", "", "the CSR: transcript of hallmark ca csr, DER or PEM")
	c.Flags().StringVar(&r.Name, "name", "", "name of the authority; default: that of the CSR's transcript")
	c.Flags().StringVar(&duty, "duty", "", "device or infrastructure; default: that of the CSR's transcript")
	c.Flags().StringVar(&r.RootName, "root-name", "", "name of the root in URLs; default: that of the previous transcript")
	c.Flags().StringVar(&r.BaseURL, "base-url", "", "start of the URLs; default: that of the previous transcript")
	bindConstraints(c, &narrow)
	ceremonyRequired(c, "root", "csr")
	return c
}

// ceremonyCSR reads a CSR. The transcript that lies beside it is taken in its place:
// without it, what was asked for would be lost unseen.
func ceremonyCSR(g *globals, file string) ([]byte, error) {
	b, err := ceremonyRead(file)
	if err != nil {
		return nil, err
	}
	beside := transcriptBeside(file)
	t, err := ceremonyRead(beside)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	alone, _, err := ceremony.CSRIn(b)
	if err != nil {
		return nil, err
	}
	req, _, err := ceremony.CSRIn(t)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(req.Raw, alone.Raw) {
		return nil, ceremony.ErrInput.New("%s is the transcript of another CSR than %s.", beside, file)
	}
	fmt.Fprintf(g.Err, "The transcript of the CSR is used: %s.\n", beside)
	return t, nil
}

// bindConstraints adds the flags that narrow an authority.
func bindConstraints(c *cobra.Command, n *profile.Constraints) {
	c.Flags().StringArrayVar(&n.Permitted, "permit", nil, "name that certificates below must keep to: dns:example.com, ip:10.0.0.0/8, uri:example.com, directory:C=DE,O=Example; repeatable")
	c.Flags().StringArrayVar(&n.Excluded, "exclude", nil, "name that no certificate below may have; repeatable")
	c.Flags().StringArrayVar(&n.Purposes, "purpose", nil, "purpose of everything below: client-auth, server-auth, ocsp-signing; repeatable")
}

func newCeremonyListCmd(g *globals) *cobra.Command {
	var f ceremonyFlags
	var r ceremony.ListRequest
	var root, list string
	var revoke []string
	var days int
	c := &cobra.Command{
		Use: "crl", Short: "Sign the list of certificates that the root revoked", Args: cobra.NoArgs,
		Example: `  hallmark ceremony crl --key 'pkcs11:token=root;object=acme-root' --root ./usb/acme-root.pem --first \
      --previous ./usb/devices-1.sign.transcript.json --out-dir ./usb
  hallmark ceremony crl --key 'pkcs11:token=root;object=acme-root' --root ./usb/acme-root.pem \
      --previous-list ./usb/acme-root-1.crl --revoke 4000ab...=cACompromise --root-name acme-root --base-url http://pki.acme.com`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if r.RootCert, err = ceremonyRead(root); err != nil {
				return err
			}
			if list != "" {
				if r.Previous, err = ceremonyRead(list); err != nil {
					return err
				}
			}
			if r.Revoke, err = ceremonyRevocations(revoke); err != nil {
				return err
			}
			if days < 1 || days > 3660 {
				return ceremony.ErrLifetime.New("The list would run for %d days.", days)
			}
			r.KeyURI, r.Life = f.key, time.Duration(days)*24*time.Hour
			return f.run(cmd.Context(), g, "", func(s *ceremony.Ceremony) (*ceremony.Plan, error) { return s.PlanRootCRL(cmd.Context(), r) })
		},
	}
	f.bind(c)
	c.Flags().StringVar(&root, "root", "", "certificate of the root, DER or PEM")
	c.Flags().StringVar(&list, "previous-list", "", "newest list of this root; its entries stay")
	c.Flags().BoolVar(&r.First, "first", false, "there was no list before")
	c.Flags().Int64Var(&r.Number, "number", 0, "number of the list; default: one more than the previous")
	c.Flags().StringArrayVar(&revoke, "revoke", nil, "SERIAL=REASON to add, for example 4000...=superseded; repeatable")
	c.Flags().IntVar(&days, "days", 365, "days until the next list")
	c.Flags().StringVar(&r.RootName, "root-name", "", "name of the root in URLs; default: that of the previous transcript")
	c.Flags().StringVar(&r.BaseURL, "base-url", "", "start of the URLs; default: that of the previous transcript")
	ceremonyRequired(c, "root")
	return c
}

func ceremonyRevocations(args []string) ([]ceremony.Revocation, error) {
	var out []ceremony.Revocation
	for _, a := range args {
		number, reason, ok := strings.Cut(a, "=")
		if !ok {
			return nil, ceremony.ErrRequest.New("--revoke takes SERIAL=REASON, not %q.", a)
		}
		var v ceremony.Revocation
		var err error
		if v.Serial, err = ca.ParseSerial(number); err != nil {
			return nil, err
		}
		if v.Reason, err = ceremony.Reason(reason); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// run carries a step out: plan, show, ask, note the intent, sign, keep.
func (f *ceremonyFlags) run(ctx context.Context, g *globals, base string, plan func(*ceremony.Ceremony) (*ceremony.Plan, error)) error {
	cfg := ceremony.Config{Development: f.development, AcceptFirmware: f.acceptFirmware, ClockRead: f.clock, Witnesses: f.witnesses, Now: g.Now}
	if f.previous != "" {
		b, err := ceremonyRead(f.previous)
		if err != nil {
			return err
		}
		cfg.Previous = b
	}
	// A name that is known before the key is made is refused before it.
	if base != "" {
		if err := ceremonyFree(f.outDir, base, ceremony.KindRoot); err != nil {
			return err
		}
	}
	keys := hsm.Open(hsm.Config{Module: f.module, Production: !f.development, PIN: hsm.PINFunc(func(ctx context.Context, id hsm.TokenID, reason string) (hsm.Secret, error) {
		return ceremonyPIN(g, id, reason)
	})})
	defer keys.Close()
	cfg.Keys = keys
	step, err := ceremony.New(cfg)
	if err != nil {
		return err
	}
	p, err := plan(step)
	if err != nil {
		return err
	}
	if base == "" {
		base = p.FileName()
		if err := ceremonyFree(f.outDir, base, p.Kind()); err != nil {
			return err
		}
	}
	fmt.Fprint(g.Err, p.Describe())
	confirmed := "not asked: --yes"
	if !f.yes {
		if confirmed, err = ceremonyAsk(g); err != nil {
			return err
		}
	}
	// If the machine dies now, this file says what the key may have signed.
	intent := filepath.Join(f.outDir, base+".intent")
	if err := durable.WriteFile(intent, p.TBS(), 0o644); err != nil {
		return ceremony.ErrOutput.Wrap(err, "The directory %s cannot be written; nothing was signed.", f.outDir)
	}
	res, err := step.Execute(ctx, p, confirmed)
	if err != nil {
		return err
	}
	return ceremonyKeep(g, f.outDir, base, intent, res)
}

// ceremonyTranscript is the name of a step's transcript.
func ceremonyTranscript(base string, kind ceremony.Kind) string {
	return base + "." + string(kind) + ".transcript.json"
}

// ceremonyFree refuses a step whose files are there already.
func ceremonyFree(dir, base string, kind ceremony.Kind) error {
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return ceremony.ErrOutput.Wrap(err, "There is no directory %s.", dir)
	}
	suffixes := []string{".cer", ".pem"}
	if kind == ceremony.KindList {
		suffixes = []string{".crl", ".crl.pem"}
	}
	names := []string{base + ".intent", ceremonyTranscript(base, kind)}
	for _, s := range suffixes {
		names = append(names, base+s)
	}
	for i, n := range names {
		name := filepath.Join(dir, n)
		switch _, err := os.Lstat(name); {
		case err == nil && i == 0:
			return ceremony.ErrFileExists.New("%s is left of a step that was interrupted: its octets may have been signed. Keep it with the records, then move it away.", name)
		case err == nil:
			return ceremony.ErrFileExists.New("%s.", name)
		case !errors.Is(err, os.ErrNotExist):
			return ceremony.ErrInput.Wrap(err, "%s cannot be examined.", name)
		}
	}
	return nil
}

func ceremonyAsk(g *globals) (string, error) {
	fmt.Fprint(g.Err, "Sign this? Type yes: ")
	line, err := bufio.NewReader(io.LimitReader(g.In, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", ceremony.ErrNotConfirmed.Wrap(err, "The answer cannot be read.")
	}
	if strings.TrimSpace(line) != "yes" {
		return "", ceremony.ErrNotConfirmed.New("")
	}
	return "typed yes", nil
}

func ceremonyPIN(g *globals, id hsm.TokenID, reason string) (hsm.Secret, error) {
	in, ok := g.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return hsm.Secret{}, hsm.ErrPINMissing.New("There is no terminal to ask at; give the URI a pin-source.")
	}
	fmt.Fprintf(g.Err, "%s PIN of the token %q (serial %q): ", reason, id.Label, id.Serial)
	b, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(g.Err)
	if err != nil {
		return hsm.Secret{}, hsm.ErrPINMissing.Wrap(err, "The PIN cannot be read.")
	}
	defer clear(b)
	return hsm.NewSecret(b), nil
}

// ceremonyOutput is what a step prints with --json.
type ceremonyOutput struct {
	Kind            string   `json:"kind"`
	Name            string   `json:"name"`
	Files           []string `json:"files"`
	Words           string   `json:"words"`
	TranscriptWords string   `json:"transcript_words"`
	Mode            string   `json:"mode"`
	Exceptions      []string `json:"exceptions"`
}

// ceremonyKeep writes the transcript first: it holds everything else.
func ceremonyKeep(g *globals, dir, base, intent string, res *ceremony.Result) error {
	out := ceremonyOutput{Kind: string(res.Kind), Name: res.Name, Words: res.Words, TranscriptWords: res.TranscriptWords, Mode: res.Transcript.Mode, Exceptions: res.Transcript.Exceptions}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{ceremonyTranscript(base, res.Kind), res.TranscriptJSON}, {base + ".cer", res.CertificateDER}, {base + ".pem", res.CertificatePEM},
		{base + ".crl", res.ListDER}, {base + ".crl.pem", res.ListPEM},
	} {
		if f.data == nil {
			continue
		}
		name := filepath.Join(dir, f.name)
		if err := durable.WriteFile(name, f.data, 0o644); err != nil {
			// What was signed must not be lost with a full disk.
			fmt.Fprintf(g.Err, "%s\n", res.TranscriptJSON)
			return ceremony.ErrOutput.Wrap(err, "%s cannot be written; the transcript is printed above, keep it.", name)
		}
		out.Files = append(out.Files, name)
	}
	if err := os.Remove(intent); err != nil {
		return ceremony.ErrInput.Wrap(err, "The step is done, but %s cannot be removed.", intent)
	}
	return g.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Done: %s of %s in %s mode.\n", out.Kind, out.Name, out.Mode)
		for _, n := range out.Files {
			fmt.Fprintf(w, "  %s\n", n)
		}
		fmt.Fprintf(w, "Read these words aloud and write them down.\n  what was signed  %s\n  the transcript   %s\n", out.Words, out.TranscriptWords)
	})
}

func newCeremonyVerifyCmd(g *globals) *cobra.Command {
	var roots, makers []string
	c := &cobra.Command{
		Use: "verify FILE...", Short: "Verify the transcript of a ceremony, or those of single steps in their order", Args: cobra.MinimumNArgs(1),
		Long: `FILE is the transcript of a whole ceremony, or those of single steps, of which each
must name the one before. Without --root the words of the root must be compared with
those written down at its creation.`,
		Example: `  hallmark ceremony verify acme-2026.ceremony.jsonl --root acme-root.pem
  hallmark ceremony verify acme-root.root.transcript.json devices-1.sign.transcript.json --root acme-root.pem`,
		RunE: func(_ *cobra.Command, args []string) error {
			trusted, err := ceremonyRoots(roots)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				b, err := ceremonyReadRun(args[0])
				if err != nil {
					return err
				}
				// Steps are JSON objects alone; what is damaged is named as the
				// ceremony that its name says it is.
				if ceremony.IsRun(b) || strings.HasSuffix(args[0], ".jsonl") {
					return ceremonyVerifyRun(g, b, trusted, makers)
				}
			}
			files := make([][]byte, len(args))
			for i, a := range args {
				if files[i], err = ceremonyRead(a); err != nil {
					return err
				}
			}
			steps, err := ceremony.VerifyChain(files, trusted...)
			if err != nil {
				for _, s := range steps {
					fmt.Fprintln(g.Err, "ok  "+s.String())
				}
				return err
			}
			return g.print(struct {
				Verified bool            `json:"verified"`
				Steps    []ceremony.Step `json:"steps"`
			}{true, steps}, func(w io.Writer) {
				for _, s := range steps {
					fmt.Fprintln(w, "ok  "+s.String())
				}
				fmt.Fprintf(w, "Verified: %d transcripts.\n", len(files))
			})
		},
	}
	c.Flags().StringArrayVar(&roots, "root", nil, "certificate of a root that is trusted, DER or PEM; repeatable")
	c.Flags().StringArrayVar(&makers, "maker", nil, "root certificate of a maker of tokens, in which attestations must end; repeatable")
	return c
}

// ceremonyVerifyRun verifies the transcript of a whole ceremony.
func ceremonyVerifyRun(g *globals, data []byte, trusted []*x509.Certificate, makers []string) error {
	of, err := ceremonyRoots(makers)
	if err != nil {
		return err
	}
	v, err := ceremony.VerifyRun(data, ceremony.RunTrust{Roots: trusted, Makers: of})
	if err != nil {
		for _, s := range v.Steps {
			fmt.Fprintln(g.Err, "ok  "+s.String())
		}
		return err
	}
	return g.print(struct {
		Verified bool `json:"verified"`
		*ceremony.Verification
	}{true, v}, func(w io.Writer) {
		for _, s := range v.Steps {
			fmt.Fprintln(w, "ok  "+s.String())
		}
		if v.Rehearsal {
			fmt.Fprintf(w, "Verified: a REHEARSAL of %s. Nothing of it is real.\n", v.ID)
			return
		}
		fmt.Fprintf(w, "Verified: the ceremony %s.\n", v.ID)
	})
}

func newCeremonyShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show FILE", Short: "Show what a transcript says, after verifying it by itself", Args: cobra.ExactArgs(1),
		Example: `  hallmark ceremony show acme-root.root.transcript.json
  hallmark ceremony show --json devices-1.sign.transcript.json`,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := ceremonyRead(args[0])
			if err != nil {
				return err
			}
			t, _, err := ceremony.Open(b)
			if err != nil {
				return err
			}
			return g.print(t, func(w io.Writer) { ceremony.Show(w, t, b) })
		},
	}
}

func ceremonyRoots(names []string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, n := range names {
		b, err := ceremonyRead(n)
		if err != nil {
			return nil, err
		}
		der, err := ceremony.ReadObject(b, "CERTIFICATE")
		if err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, ceremony.ErrInput.Wrap(err, "%s is not a certificate.", n)
		}
		out = append(out, c)
	}
	return out, nil
}

// ceremonyRead reads a file that was brought, up to the cap.
func ceremonyRead(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, ceremony.ErrInput.Wrap(err, "%s cannot be opened.", name)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, ceremony.MaxFile+1))
	if err != nil {
		return nil, ceremony.ErrInput.Wrap(err, "%s cannot be read.", name)
	}
	if len(b) > ceremony.MaxFile {
		return nil, ceremony.ErrInput.New("%s is larger than %d octets.", name, ceremony.MaxFile)
	}
	return b, nil
}
