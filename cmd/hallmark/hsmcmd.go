package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"hallmark/hsm"
	"hallmark/hsm/softhsm"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

func init() { commands = append(commands, newHSMCmd) }

// hsmFlags are those of every hsm command.
type hsmFlags struct {
	g         *globals
	module    string
	pinSource string
	timeout   time.Duration
}

func newHSMCmd(g *globals) *cobra.Command {
	f := &hsmFlags{g: g}
	cmd := &cobra.Command{
		Use: "hsm", Short: "Tokens and cards: list, generate, test, measure",
		Long: `These commands work on the tokens of this machine and need no service. Keys are
named by URI:

  pkcs11:token=LABEL;object=NAME?module-path=/usr/lib/x.so&pin-source=SOURCE
  piv:serial=1234567;slot=9c?pin-source=SOURCE

A SOURCE is file:/path (nobody else may read it), env:NAME, credential:NAME (a
systemd credential), prompt: (the terminal asks), or protected: (the token asks
at its own keypad). Without one the terminal asks. A PIN is sent once and never
tried again.`,
		Example: "  hallmark hsm tokens\n  hallmark hsm generate 'pkcs11:token=line-a;object=device-1?module-path=/usr/lib/softhsm/libsofthsm2.so' --algorithm P-256\n  hallmark hsm keys 'piv:serial=1234567'",
	}
	p := cmd.PersistentFlags()
	p.StringVar(&f.module, "module", "", "PKCS#11 module for URIs that name none")
	p.StringVar(&f.pinSource, "pin-source", "", "PIN for URIs that name no source")
	p.DurationVar(&f.timeout, "timeout", 2*time.Minute, "give up after this time")
	cmd.AddCommand(f.tokensCmd(), f.keysCmd(), f.generateCmd(), f.signCmd(), f.benchCmd("bench URI"), f.healthCmd(), f.replicateCmd(), f.recordCmd())
	return cmd
}

// ring opens the keyring of one command.
func (f *hsmFlags) ring() *hsm.Keyring {
	return hsm.Open(hsm.Config{Module: f.module, PIN: hsm.PINFunc(func(_ context.Context, id hsm.TokenID, reason string) (hsm.Secret, error) {
		if f.pinSource != "" && f.pinSource != hsm.SourcePrompt {
			return hsm.ReadSource(f.pinSource)
		}
		return ceremonyPIN(f.g, id, reason)
	})})
}

// run gives a command a keyring and an end.
func (f *hsmFlags) run(cmd *cobra.Command, do func(ctx context.Context, ring *hsm.Keyring) error) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	ring := f.ring()
	return errors.Join(do(ctx, ring), ring.Close())
}

// hsmToken is a token as hsm tokens shows it.
type hsmToken struct {
	Kind         string   `json:"kind"`
	Label        string   `json:"label"`
	Serial       string   `json:"serial"`
	Manufacturer string   `json:"manufacturer,omitempty"`
	Model        string   `json:"model"`
	Firmware     string   `json:"firmware"`
	Module       string   `json:"module,omitempty"`
	Reader       string   `json:"reader,omitempty"`
	Algorithms   []string `json:"algorithms"`
	Login        bool     `json:"login_required"`
	Keypad       bool     `json:"protected_path"`
	PIN          string   `json:"pin"` // ok, low, final-try, locked
}

func tokenView(i hsm.TokenInfo, module string) hsmToken {
	t := hsmToken{Kind: i.Scheme, Label: i.Label, Serial: i.Serial, Manufacturer: i.Manufacturer, Model: i.Model, Firmware: i.Firmware, Module: module, Reader: i.Reader, Algorithms: i.Algorithms, Login: i.LoginRequired, Keypad: i.PINPad, PIN: "ok"}
	switch {
	case i.PINLocked:
		t.PIN = "locked"
	case i.PINFinalTry:
		t.PIN = "final-try"
	case i.PINLow:
		t.PIN = "low"
	}
	return t
}

func (f *hsmFlags) tokensCmd() *cobra.Command {
	var modules []string
	var cards bool
	cmd := &cobra.Command{
		Use: "tokens", Short: "List the tokens of PKCS#11 modules and the PIV cards", Args: cobra.NoArgs,
		Long:    "Without flags: SoftHSM's tokens, if it is installed, and the cards, if a card daemon runs. No PIN is needed.",
		Example: "  hallmark hsm tokens\n  hallmark hsm tokens --modules /usr/lib/softhsm/libsofthsm2.so --json\n  hallmark hsm tokens --cards",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				asked := len(modules) > 0 || f.module != "" || cards
				if f.module != "" {
					modules = append(modules, f.module)
				}
				if !asked {
					if m, err := softhsm.Module(); err == nil {
						modules = append(modules, m)
					}
				}
				out := []hsmToken{}
				for _, m := range modules {
					all, err := ring.Tokens(ctx, m)
					if err != nil {
						return err
					}
					for _, i := range all {
						out = append(out, tokenView(i, m))
					}
				}
				if cards || !asked {
					all, err := ring.Cards(ctx)
					if err != nil && cards {
						return err
					}
					for _, i := range all {
						out = append(out, tokenView(i, ""))
					}
				}
				return f.g.print(out, func(w io.Writer) {
					var rows [][]string
					for _, t := range out {
						where := t.Module
						if where == "" {
							where = t.Reader
						}
						rows = append(rows, []string{t.Kind, t.Label, t.Serial, t.Model, t.Firmware, strings.Join(t.Algorithms, ", "), t.PIN, where})
					}
					table(w, []string{"KIND", "TOKEN", "SERIAL", "MODEL", "FIRMWARE", "SIGNS", "PIN", "MODULE OR READER"}, rows, "There is no token. Name a module with --modules, or look at the cards with --cards.")
				})
			})
		},
	}
	cmd.Flags().StringSliceVar(&modules, "modules", nil, "PKCS#11 modules to look into")
	cmd.Flags().BoolVar(&cards, "cards", false, "look at the PIV cards")
	return cmd
}

// hsmKey is a key as the hsm commands show it.
type hsmKey struct {
	URI         string            `json:"uri"`
	Token       string            `json:"token"`
	Serial      string            `json:"serial"`
	Firmware    string            `json:"firmware"`
	Algorithm   string            `json:"algorithm,omitempty"`
	Object      string            `json:"object"`
	ID          string            `json:"id,omitempty"`
	SHA256      string            `json:"spki_sha256,omitempty"`
	PublicKey   string            `json:"public_key,omitempty"`
	Attributes  map[string]string `json:"attributes"`
	PINEachTime bool              `json:"pin_each_time"`
	ForCA       string            `json:"for_a_ca"` // "yes", or why not
	Note        string            `json:"note,omitempty"`
	Override    string            `json:"override,omitempty"`
}

func keyView(k hsm.KeyInfo) hsmKey {
	v := hsmKey{
		URI: k.URI, Token: k.Token.Label, Serial: k.Token.Serial, Firmware: k.Token.Firmware, Algorithm: string(k.Algorithm), Object: k.Object,
		ID: hex.EncodeToString(k.ID), Attributes: hsm.TokenFacts(k.Attributes).Attributes, PINEachTime: k.PINEachTime, Note: k.Note, ForCA: "yes",
	}
	if len(k.SPKI) > 0 {
		d := sha256.Sum256(k.SPKI)
		v.SHA256, v.PublicKey = hex.EncodeToString(d[:]), pemText("PUBLIC KEY", k.SPKI)
	}
	if err := hsm.CheckCAKey(k.Attributes, false); err != nil {
		v.ForCA = "no: " + fault.From(err).Detail
	}
	return v
}

func (v hsmKey) show(w io.Writer) {
	var no []string
	for _, n := range []string{"sensitive", "always-sensitive", "never-extractable", "local", "private"} {
		if v.Attributes[n] != "yes" {
			no = append(no, n+": "+v.Attributes[n])
		}
	}
	for _, n := range []string{"extractable", "decrypt", "unwrap", "derive"} {
		if v.Attributes[n] == "yes" {
			no = append(no, n)
		}
	}
	facts(w, "Key", v.URI, "Algorithm", v.Algorithm, "Public key SHA-256", v.SHA256, "Token", v.Token+", serial "+v.Serial+", firmware "+v.Firmware,
		"Attributes to look at", strings.Join(no, ", "), "Good for a CA", v.ForCA, "Note", v.Note, "Override", v.Override)
}

// wholeToken lets a URI name a card without a slot.
func wholeToken(uri string) string {
	scheme, rest, _ := strings.Cut(uri, ":")
	if (strings.EqualFold(scheme, "piv") || strings.EqualFold(scheme, "yubikey")) && !strings.Contains(rest, "slot=") {
		path, query, found := strings.Cut(rest, "?")
		uri = scheme + ":" + path + ";slot=9a"
		if found {
			uri += "?" + query
		}
	}
	return uri
}

func (f *hsmFlags) keysCmd() *cobra.Command {
	return &cobra.Command{
		Use: "keys URI", Short: "List the private keys of a token, with what it says of them", Args: cobra.ExactArgs(1),
		Example: "  hallmark hsm keys 'pkcs11:token=line-a?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin'\n  hallmark hsm keys piv:serial=1234567 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				all, err := ring.Keys(ctx, wholeToken(args[0]))
				if err != nil {
					return err
				}
				out := []hsmKey{}
				for _, k := range all {
					out = append(out, keyView(k))
				}
				return f.g.print(out, func(w io.Writer) {
					if len(out) == 0 {
						fmt.Fprintln(w, "The token holds no private key that this PIN shows.")
					}
					for i, k := range out {
						if i > 0 {
							fmt.Fprintln(w)
						}
						k.show(w)
					}
				})
			})
		},
	}
}

func (f *hsmFlags) generateCmd() *cobra.Command {
	var algorithm, accept, record string
	cmd := &cobra.Command{
		Use: "generate URI", Short: "Make a key that signs and does nothing else", Args: cobra.ExactArgs(1),
		Long: `Makes a key of the profile "unique": it never leaves its token and has no backup.
A key with a spare in a second token is made by hallmark hsm replicate.

An EC key on a PIV card of firmware below 5.7.0 is refused: its chip gives ECDSA
keys away to somebody who holds the card for some minutes (EUCLEAK). Who must use
it all the same says why with --accept-firmware; that is written to --record.`,
		Example: "  hallmark hsm generate 'pkcs11:token=line-a;object=device-1?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin' --algorithm P-256\n  hallmark hsm generate 'piv:serial=1234567;slot=9c' --algorithm P-384",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (accept != "") != (record != "") {
				return errUsage{errors.New("--accept-firmware and --record go together")}
			}
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				spec := hsm.Spec{Algorithm: hsm.Algorithm(algorithm)}
				firmware, err := ring.CheckCard(ctx, args[0], spec.Algorithm)
				override := ""
				if err != nil {
					if accept == "" || fault.From(err).Definition != hsm.ErrKeyUnsafe {
						return err
					}
					override = fmt.Sprintf("firmware %s accepted: %s", firmware, accept)
					// Before the key is there: an override without a record is none.
					if err := f.auditOverride(record, args[0], algorithm, firmware, accept); err != nil {
						return err
					}
					fmt.Fprintf(f.g.Err, "Warning: %s Recorded in %s.\n", fault.From(err).Detail, record)
				}
				fmt.Fprintf(f.g.Err, "Generating a %s key; RSA can take minutes.\n", algorithm)
				s, err := ring.Generate(ctx, args[0], spec)
				if err != nil {
					return err
				}
				a, err := ring.Attributes(ctx, sameKeyAs(args[0], s.URI()))
				if err != nil {
					return err
				}
				v := keyView(hsm.KeyInfo{Attributes: a})
				v.Override = override
				if u, err := hsm.ParseURI(s.URI()); err == nil {
					v.URI, v.Object, v.ID = s.URI(), u.Object, hex.EncodeToString(u.ID)
				}
				return f.g.print(v, v.show)
			})
		},
	}
	cmd.Flags().StringVar(&algorithm, "algorithm", string(hsm.P256), "P-256, P-384, RSA-2048, RSA-3072, RSA-4096 or Ed25519")
	cmd.Flags().StringVar(&accept, "accept-firmware", "", "why a card with known weak firmware is used all the same")
	cmd.Flags().StringVar(&record, "record", "", "file that the override is appended to")
	return cmd
}

// sameKeyAs gives a URI the object and id of a key's canonical name.
func sameKeyAs(uri, canonical string) string {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return uri
	}
	if c, err := hsm.ParseURI(canonical); err == nil {
		u.Object, u.ID = c.Object, c.ID
	}
	return u.String()
}

// auditOverride appends a line that says who accepted what, and why.
func (f *hsmFlags) auditOverride(file, uri, algorithm, firmware, reason string) error {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	line, err := json.Marshal(map[string]string{
		"time": f.g.Now().UTC().Format(time.RFC3339), "what": "eucleak-override", "key": u.Key(), "algorithm": algorithm, "firmware": firmware,
		"reason": reason, "by": whoami(), "host": host,
	})
	if err != nil {
		return err
	}
	w, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return errors.Join(err, w.Sync(), w.Close())
}

func whoami() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

func (f *hsmFlags) signCmd() *cobra.Command {
	return &cobra.Command{
		Use: "sign URI", Short: "Make a test signature and verify it", Args: cobra.ExactArgs(1),
		Long:    "What is signed is a marked random challenge that can be no certificate; nothing else can be signed with this command.",
		Example: "  hallmark hsm sign 'pkcs11:token=line-a;object=device-1?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				s, err := ring.Signer(ctx, args[0])
				if err != nil {
					return err
				}
				began := time.Now()
				if err := hsm.TestSign(ctx, s); err != nil {
					return err
				}
				took := time.Since(began)
				out := map[string]any{"key": s.URI(), "algorithm": string(hsm.AlgorithmOf(s.Public())), "verified": true, "milliseconds": float64(took.Microseconds()) / 1000}
				return f.g.print(out, func(w io.Writer) {
					fmt.Fprintf(w, "%s signed, and the signature verifies with its public key (%s, %v).\n", s.URI(), hsm.AlgorithmOf(s.Public()), took.Round(10*time.Microsecond))
				})
			})
		},
	}
}

// signBench is what a measurement gives.
type signBench struct {
	Key         string  `json:"key"`
	Algorithm   string  `json:"algorithm"`
	Clients     int     `json:"clients"`
	Seconds     float64 `json:"seconds"`
	Signatures  int     `json:"signatures"`
	PerSecond   float64 `json:"signatures_per_second"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	Max         float64 `json:"max_ms"`
	Errors      int     `json:"errors"`
	FirstError  string  `json:"first_error,omitempty"`
	Unverified  int     `json:"unverified"`
	Interrupted bool    `json:"interrupted,omitempty"`
}

// benchCmd is hsm bench, and bench sign with the key in a flag.
func (f *hsmFlags) benchCmd(use string) *cobra.Command {
	var clients int
	var duration time.Duration
	var key string
	flag := !strings.Contains(use, "URI")
	cmd := &cobra.Command{
		Use: use, Short: "Measure the signatures of a key; every one is verified", Args: cobra.ExactArgs(1),
		Long:    "Each client asks for the next signature when it has the last one. The digests are marked as tests, as those of hsm sign.",
		Example: "  hallmark hsm bench 'pkcs11:token=line-a;object=device-1?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin' --clients 8\n  hallmark bench sign --key 'piv:serial=1234567;slot=9c' --clients 1 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !flag {
				key = args[0]
			}
			if key == "" {
				return errUsage{errors.New("--key names the key")}
			}
			if clients < 1 || clients > 4096 || duration <= 0 {
				return errUsage{errors.New("--clients is 1 to 4096 and --duration positive")}
			}
			f.timeout = max(f.timeout, duration+time.Minute)
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				s, err := ring.Signer(ctx, key)
				if err != nil {
					return err
				}
				r := benchSign(ctx, s, clients, duration, f.g)
				if err := f.g.print(r, func(w io.Writer) {
					fmt.Fprintf(w, "%s (%s): %.0f signatures a second with %d clients, p50 %.2f ms, p99 %.2f ms, max %.2f ms, %d errors.\n", r.Key, r.Algorithm, r.PerSecond, r.Clients, r.P50, r.P99, r.Max, r.Errors)
				}); err != nil {
					return err
				}
				if r.Errors > 0 || r.Unverified > 0 {
					return hsm.ErrOperation.New("%d signatures failed and %d did not verify; the first: %s", r.Errors, r.Unverified, r.FirstError)
				}
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&clients, "clients", 4, "that ask at once")
	cmd.Flags().DurationVar(&duration, "duration", 3*time.Second, "how long to measure")
	if flag {
		cmd.Args = cobra.NoArgs
		keyURIFlag(cmd, &key, "key", "URI of the key")
		cmd.Flags().StringVar(&f.module, "module", "", "PKCS#11 module for URIs that name none")
		cmd.Flags().StringVar(&f.pinSource, "pin-source", "", "PIN for URIs that name no source")
	}
	return cmd
}

func newBenchSignCmd(g *globals) *cobra.Command {
	return (&hsmFlags{g: g, timeout: 2 * time.Minute}).benchCmd("sign")
}

func benchSign(ctx context.Context, s hsm.Signer, clients int, duration time.Duration, g *globals) signBench {
	r := signBench{Key: s.URI(), Algorithm: string(hsm.AlgorithmOf(s.Public())), Clients: clients}
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	began := time.Now()
	for range clients {
		wg.Go(func() {
			var own []time.Duration
			for ctx.Err() == nil {
				digest, opts := hsm.TestDigest(s.Public())
				at := time.Now()
				sig, err := s.SignContext(context.WithoutCancel(ctx), digest, opts)
				took := time.Since(at)
				switch {
				case err != nil:
					mu.Lock()
					if r.Errors++; r.FirstError == "" {
						r.FirstError = err.Error()
					}
					mu.Unlock()
					time.Sleep(10 * time.Millisecond)
				case !hsm.Verify(s.Public(), digest, opts, sig):
					mu.Lock()
					r.Unverified++
					mu.Unlock()
				default:
					own = append(own, took)
				}
			}
			mu.Lock()
			all = append(all, own...)
			mu.Unlock()
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-done:
			tick.Stop()
		case <-tick.C:
			fmt.Fprintf(g.Err, "\rMeasuring: %v of %v", time.Since(began).Round(time.Second), duration)
			continue
		}
		break
	}
	if duration > time.Second {
		fmt.Fprintln(g.Err)
	}
	r.Seconds, r.Signatures = time.Since(began).Seconds(), len(all)
	r.PerSecond = float64(len(all)) / r.Seconds
	slices.Sort(all)
	ms := func(q float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[min(len(all)-1, int(q*float64(len(all))))].Microseconds()) / 1000
	}
	r.P50, r.P99, r.Max = ms(.5), ms(.99), ms(1)
	return r
}

// hsmHealth is a token as hsm health shows it.
type hsmHealth struct {
	Kind       string  `json:"kind"`
	Token      string  `json:"token"`
	Serial     string  `json:"serial"`
	Firmware   string  `json:"firmware"`
	State      string  `json:"state"`
	Keys       int     `json:"keys"`
	Sessions   int     `json:"sessions"`
	InUse      int     `json:"in_use"`
	Waiting    int     `json:"waiting"`
	Generation uint64  `json:"generation"`
	LatencyMS  float64 `json:"latency_ms"`
	PINLow     bool    `json:"pin_low"`
	LastError  string  `json:"last_error,omitempty"`
}

func (f *hsmFlags) healthCmd() *cobra.Command {
	return &cobra.Command{
		Use: "health URI...", Short: "Open keys and say how their tokens are", Args: cobra.MinimumNArgs(1),
		Long:    "Each key is opened and tested by a signature. The tokens of a running service are in its own health view (hallmark_hsm_* metrics, /readyz and the summary).",
		Example: "  hallmark hsm health 'pkcs11:token=line-a;object=device-1?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				var bad []error
				for _, u := range args {
					if s, err := ring.Signer(ctx, u); err != nil {
						bad = append(bad, err)
					} else if err := hsm.TestSign(ctx, s); err != nil {
						bad = append(bad, err)
					}
				}
				out := []hsmHealth{}
				for _, h := range ring.Health(ctx) {
					if h.State != hsm.StateUp && len(bad) == 0 {
						bad = append(bad, hsm.ErrTokenDown.New("Token %s is %s.", h.Token.Label, h.State))
					}
					out = append(out, hsmHealth{Kind: h.Scheme, Token: h.Token.Label, Serial: h.Token.Serial, Firmware: h.Token.Firmware, State: h.State, Keys: h.Keys, Sessions: h.Sessions,
						InUse: h.InUse, Waiting: h.Waiting, Generation: h.Generation, LatencyMS: float64(h.Latency.Microseconds()) / 1000, PINLow: h.PINLow, LastError: h.LastError})
				}
				if err := f.g.print(out, func(w io.Writer) {
					var rows [][]string
					for _, h := range out {
						rows = append(rows, []string{h.Token, h.Serial, h.State, fmt.Sprint(h.Keys), fmt.Sprint(h.Sessions), fmt.Sprintf("%.2f ms", h.LatencyMS), h.LastError})
					}
					table(w, []string{"TOKEN", "SERIAL", "STATE", "KEYS", "SESSIONS", "TEST SIGNATURE", "LAST ERROR"}, rows, "No token could be opened.")
				}); err != nil {
					return err
				}
				return errors.Join(bad...)
			})
		},
	}
}

func (f *hsmFlags) replicateCmd() *cobra.Command {
	var from, to, algorithm, record, by string
	cmd := &cobra.Command{
		Use: "replicate", Short: "Make a key in one token and a copy of it, under wrap, in a second", Args: cobra.NoArgs,
		Long: `The first token makes the key; it can leave only while this runs, wrapped by an AES
key that is itself wrapped by an RSA key which the second token made for this one
transfer. Afterwards neither copy can leave, and the wrapping keys are destroyed.

The record names the key, both tokens and the wrapping key, and both tokens sign
it. tokens.groups needs it: production mode takes no copied key without its record.`,
		Example: "  hallmark hsm replicate --from 'pkcs11:token=line-a;object=device-1?module-path=/usr/lib/x.so&pin-source=file:/run/pin-a' \\\n    --to 'pkcs11:token=line-b;object=device-1?module-path=/usr/lib/x.so&pin-source=file:/run/pin-b' --algorithm P-384 --record device-1.transfer.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || to == "" || record == "" {
				return errUsage{errors.New("--from, --to and --record are needed")}
			}
			if _, err := os.Lstat(record); err == nil {
				return errUsage{fmt.Errorf("%s is there already", record)}
			}
			if by == "" {
				by = whoami()
			}
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				fmt.Fprintf(f.g.Err, "Making a %s key and moving a copy of it.\n", algorithm)
				t, err := ring.Replicate(ctx, from, to, hsm.Algorithm(algorithm), by, f.g.Now())
				if err != nil {
					return err
				}
				b, err := json.MarshalIndent(t, "", "  ")
				if err != nil {
					return err
				}
				if err := durable.WriteFile(record, append(b, '\n'), 0o644); err != nil {
					return fmt.Errorf("the key is in both tokens, but its record is not written: %w", err)
				}
				return f.g.print(t, func(w io.Writer) { showTransfer(w, t, record) })
			})
		},
	}
	fl := cmd.Flags()
	keyURIFlag(cmd, &from, "from", "URI of the new key in the first token")
	keyURIFlag(cmd, &to, "to", "URI of its copy in the second token")
	fl.StringVar(&algorithm, "algorithm", string(hsm.P256), "P-256, P-384, RSA-2048, RSA-3072 or RSA-4096")
	fl.StringVar(&record, "record", "", "file that the record is written to; it must not exist")
	fl.StringVar(&by, "by", "", "who does it, for the record; default the user of this machine")
	return cmd
}

func showTransfer(w io.Writer, t *hsm.Transfer, record string) {
	facts(w, "Key", t.Key.Object+" ("+string(t.Key.Algorithm)+")", "Public key SHA-256", t.Key.SHA256,
		"First token", t.From.Label+", serial "+t.From.Serial, "Second token", t.To.Label+", serial "+t.To.Serial,
		"Wrapping key SHA-256", t.Wrapping.SHA256, "Wrapped by", t.Wrapping.KEK+", "+t.Wrapping.Mechanism,
		"Made", moment(t.Made)+" by "+t.By, "Record", record, "Record SHA-256", t.Digest())
}

func (f *hsmFlags) recordCmd() *cobra.Command {
	return &cobra.Command{
		Use: "record FILE", Short: "Verify the record of a key's transfer", Args: cobra.ExactArgs(1),
		Long:    "The record must be signed by the key in both tokens, and its digests must be right. No token is needed.",
		Example: "  hallmark hsm record device-1.transfer.json",
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := readTransfer(args[0])
			if err != nil {
				return err
			}
			return f.g.print(t, func(w io.Writer) { showTransfer(w, t, args[0]+" verifies") })
		},
	}
}
