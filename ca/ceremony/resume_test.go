package ceremony_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/ca/ceremony"
	"hallmark/ca/tlog"
	"hallmark/ca/tlog/witness"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/token"
)

const transcriptFile = "acme-2026.ceremony.jsonl"

// A machine that dies after any line, also within one, loses nothing that was
// done, and the transcript tells of it.
func TestRun_GoesOnAfterEveryLine_S37(t *testing.T) {
	s := newStage(t)
	whole := s.must().Data
	lines := bytes.SplitAfter(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n"))
	lines[len(lines)-1] = append(bytes.Clone(lines[len(lines)-1]), '\n')
	for n := 1; n <= len(lines); n++ {
		kept := bytes.Join(lines[:n], nil)
		kind := between(lines[n-1], `"kind":"`)
		if n%2 == 0 && kind != "intent" && os.Getenv("HALLMARK_PROOF") != "1" {
			continue
		}
		s.dir = t.TempDir()
		for name, data := range map[string][]byte{
			transcriptFile: append(bytes.Clone(kept), []byte(`{"at":"half a li`)...), "devices-1.csr.transcript.json": csrOf(t, whole),
		} {
			if err := os.WriteFile(s.file(name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s.room = &room{}
		res, err := s.run()
		if kind == "open" || kind == "approval" {
			// Nothing says that the key was made by this ceremony.
			refused(t, err, hsm.ErrKeyExists)
			continue
		}
		if err != nil {
			t.Fatalf("after line %d (%s): %v", n, kind, err)
		}
		if !bytes.HasPrefix(res.Data, kept) {
			t.Fatalf("after line %d (%s) the past was changed", n, kind)
		}
		found := fmt.Sprint(res.Verified.Steps)
		if sealed := kind == "seal" || kind == "custodian"; !sealed && !strings.Contains(found, "16 octets of a half written line were dropped") {
			t.Errorf("after line %d (%s) nothing is said of the half line", n, kind)
		}
		if kind == "intent" && !strings.Contains(found, "earlier attempts were interrupted") {
			t.Errorf("after line %d the octets that may be signed are not named", n)
		}
	}
	s.opensslAgrees()
}

// csrOf is the CSR's transcript that was brought to a ceremony.
func csrOf(t testing.TB, run []byte) []byte {
	t.Helper()
	for line := range bytes.Lines(run) {
		if between(line, `"kind":"`) == "done" && between(line, `"step":"`) == "device-ca" {
			tr, _, err := ceremony.Open(decode(t, between(line, `"transcript":"`)))
			if err != nil {
				t.Fatal(err)
			}
			return tr.Object(ceremony.RoleRequest)
		}
	}
	t.Fatal("no CSR in the transcript")
	return nil
}

// Who says no stops the ceremony and loses no step.
func TestRun_ANoKeepsWhatWasDone(t *testing.T) {
	s := newStage(t)
	for _, at := range []string{"approve the script", "Do this?", "Compare aloud", "sign the transcript"} {
		s.room = &room{confirm: func(q string) error {
			if strings.Contains(q, at) {
				return ceremony.ErrNotConfirmed.New("")
			}
			return nil
		}}
		_, err := s.run()
		refused(t, err, ceremony.ErrNotConfirmed)
	}
	s.room = &room{}
	res := s.must()
	if n := strings.Count(string(res.Data), `"kind":"intent"`); n != 3 {
		t.Errorf("%d times a key may have signed", n)
	}
	// The script of a ceremony cannot be changed under way.
	s.script = append(s.script, "# more\n"...)
	_, err := s.run()
	refused(t, err, ceremony.ErrDiffers)
}

// mistyped refuses a PIN once, as a token does.
type mistyped struct {
	*hsm.Keyring
	left int
}

func (m *mistyped) Signer(ctx context.Context, uri string) (hsm.Signer, error) {
	if m.left > 0 {
		m.left--
		return nil, hsm.ErrPINRefused.New("The token is \"test\".")
	}
	return m.Keyring.Signer(ctx, uri)
}

// A mistyped PIN is never tried again by the program, and costs no step.
func TestRun_AMistypedPINLosesNoStep_S37(t *testing.T) {
	s := newStage(t)
	keys := &mistyped{Keyring: s.keys}
	s.cfg = func(c *ceremony.RunConfig) { c.Keys = keys }
	stop := errors.New("stop")
	s.room.confirm = func(q string) error {
		if strings.Contains(q, "Compare aloud") {
			return stop
		}
		return nil
	}
	if _, err := s.run(); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	s.room, keys.left = &room{}, 1
	_, err := s.run()
	refused(t, err, hsm.ErrPINRefused)
	if keys.left != 0 {
		t.Error("the token was not asked")
	}
	res := s.must()
	if found := fmt.Sprint(res.Verified.Steps); strings.Count(found, "a token refused a PIN") != 1 {
		t.Errorf("the refusal is not in the transcript: %s", found)
	}
	if n := strings.Count(string(res.Data), `"kind":"done"`); n != 3 {
		t.Errorf("%d steps were done", n)
	}
}

// S37: fewer than M custodians, or others, do nothing; approvals come by file.
func TestRun_NeedsItsCustodians_S37(t *testing.T) {
	s := newStage(t)
	stranger := people(t, s.keys, "Dan")[0]
	approve := func(p person, name, about string, of []byte) ([]byte, error) {
		a, err := ceremony.ParseAgenda(s.script)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := a.Custodian(name)
		return ceremony.Approve(t.Context(), ceremony.ApproveRequest{Keys: s.keys, KeyURI: p.uri, Custodian: c, Ceremony: a.ID, About: about, Of: of, Now: time.Now})
	}
	_, err := approve(stranger, "Bo", ceremony.AboutScript, s.script)
	refused(t, err, ceremony.ErrApproval)
	anna, err := approve(s.people[0], "Anna", ceremony.AboutScript, s.script)
	if err != nil {
		t.Fatal(err)
	}
	bo, err := approve(s.people[1], "Bo", ceremony.AboutScript, s.script)
	if err != nil {
		t.Fatal(err)
	}
	other, err := approve(s.people[1], "Bo", ceremony.AboutScript, append(bytes.Clone(s.script), '#'))
	if err != nil {
		t.Fatal(err)
	}
	var files [][]byte
	s.cfg = func(c *ceremony.RunConfig) { c.Custodians, c.Approvals = nil, files }
	for _, few := range [][][]byte{nil, {anna}, {anna, anna}, {anna, other}} {
		files = few
		if _, err := s.run(); !errors.Is(err, ceremony.ErrQuorum) && !errors.Is(err, ceremony.ErrApproval) && !errors.Is(err, ceremony.ErrTranscript) {
			t.Fatalf("%d approvals: %v", len(few), err)
		}
		if _, err := os.Stat(s.file("acme-root.cer")); err == nil {
			t.Fatal("a root was made")
		}
		if len(few) < 2 {
			continue
		}
		// Anna's approval is kept; the second was not one.
		if err := os.Remove(s.file(transcriptFile)); err != nil {
			t.Fatal(err)
		}
	}
	bad := bytes.Clone(bo)
	bad[len(bad)/2] ^= 1
	files = [][]byte{anna, bad}
	_, err = s.run()
	refused(t, err, ceremony.ErrApproval)
	files = [][]byte{anna, bo}
	_, err = s.run()
	refused(t, err, ceremony.ErrQuorum) // the steps are done; the transcript is unsigned
	_, err = ceremony.VerifyRun(s.read(transcriptFile), ceremony.RunTrust{})
	refused(t, err, ceremony.ErrUnfinished)
	_, of, _, err := ceremony.Closing(s.read(transcriptFile))
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []string{"Bo", "Cem"} {
		f, err := approve(s.people[i+1], n, ceremony.AboutTranscript, of)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	res := s.must()
	// Who leaves a custodian's line out has no ceremony.
	last := bytes.LastIndexByte(res.Data[:len(res.Data)-1], '\n') + 1
	_, err = ceremony.VerifyRun(res.Data[:last], ceremony.RunTrust{})
	refused(t, err, ceremony.ErrUnfinished)
}

// S7, A21: a custodian's card is held to the rule of the root's.
func TestApprove_RefusesALeakingCard_A21_S7(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	keys := doctored{Keyring: ring(t), attributes: func(a *hsm.Attributes) { a.Scheme, a.Token.Firmware = token.SchemePIV, "5.4.3" }}
	k, err := keys.Keyring.Generate(t.Context(), tok.URI("eve"), hsm.Spec{Algorithm: hsm.P256})
	if err != nil {
		t.Fatal(err)
	}
	r := ceremony.ApproveRequest{Keys: keys, KeyURI: tok.URI("eve"), Custodian: ceremony.Custodian{Name: "Eve", Key: publicText(t, k)}, Ceremony: "x", About: ceremony.AboutScript, Of: []byte("x"), Now: time.Now}
	_, err = ceremony.Approve(t.Context(), r)
	refused(t, err, hsm.ErrKeyUnsafe)
	r.AcceptFirmware = true
	f, err := ceremony.Approve(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := ceremony.ReadStatement(f); err != nil || len(st.Exceptions) != 1 || st.Key.Token.Firmware != "5.4.3" {
		t.Errorf("%+v %v", st, err)
	}
}

// A new root, certified by the old and the other way round, the old one's last
// list, and the end of its key.
func TestRun_RotatesARootAndDestroysTheOldKey_S37(t *testing.T) {
	s := newStage(t)
	s.must()
	oldRoot := parse(t, s.read("acme-root.cer"))
	tok := hsmtest.SoftHSM(t)
	oldURI := between(s.script, `root: {uri: "`)
	serial := fmt.Sprintf("%x", parse(t, s.read("devices-1.cer")).SerialNumber)
	next := head("acme-2031", 2, s.people...) + fmt.Sprintf(`keys:
  old: {uri: %q, counter: read}
  new: {uri: %q, generate: P-256}
roots:
  acme-root:
    certificate: acme-root.cer
    sha256: %s
    key: old
    base_url: http://pki.acme-devices.example
    previous: acme-root-1.crl.transcript.json
steps:
  - step: turn
    do: rotate
    name: acme-root-2
    root: acme-root
    key: new
    base_url: http://pki.acme-devices.example
    subject: {country: DE, organization: Acme Devices, common_name: Acme Device Root 2}
  - step: last-list
    do: sign-crl
    root: acme-root
    previous_list: {file: acme-root-1.crl}
    days: 900
    revoke:
      - {serial_number: %s, reason: superseded}
  - step: new-list
    do: sign-crl
    root: acme-root-2
    first: true
  - step: end
    do: destroy
    key: old
    how: Delete the key with the token's tool.
`, oldURI, tok.URI("new"), hash(oldRoot.Raw), serial)
	s.script = []byte(next)
	count, asked := 100, 0
	s.room = &room{
		ask: func(q string) string {
			if strings.Contains(q, "counter") {
				count += 2
				return fmt.Sprint(count)
			}
			return ""
		},
		confirm: func(q string) error {
			if !strings.Contains(q, "Is it destroyed?") {
				return nil
			}
			// The first answer is a mistake, and is found.
			if asked++; asked == 2 {
				return deleteKey(oldURI, "root")
			}
			return nil
		},
	}
	res := s.must()
	if asked != 2 {
		t.Errorf("people were asked %d times whether the key is gone", asked)
	}
	found := fmt.Sprint(res.Verified.Steps)
	for _, want := range []string{"turn.new-by-old", "turn.old-by-new", "every entry is kept", "the key is gone: the token reports no such key", "the token counted 2 signatures"} {
		if !strings.Contains(found, want) {
			t.Errorf("nothing of %q in %s", want, found)
		}
	}
	// The seal is signed by the new key; the old one is no more.
	if strings.Contains(found, "signed by the key old") || !strings.Contains(found, "signed by the key new") {
		t.Error("the seal has the wrong signers")
	}
	if _, err := ring(t).Signer(t.Context(), oldURI); !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Errorf("the old key: %v", err)
	}
	for _, k := range []struct{ anchor, cross string }{{"acme-root.pem", "acme-root-2-by-acme-root.pem"}, {"acme-root-2.pem", "acme-root-by-acme-root-2.pem"}} {
		if out, err := tool(t, "openssl", "verify", "-x509_strict", "-CAfile", s.file(k.anchor), s.file(k.cross)); err != nil {
			t.Errorf("openssl: %s", out)
		}
	}
	// What is below the old root is believed by who trusts only the new one.
	if out, err := tool(t, "openssl", "verify", "-x509_strict", "-CAfile", s.file("acme-root-2.pem"), "-untrusted", s.file("acme-root-by-acme-root-2.pem"), s.file("devices-1.pem")); err != nil {
		t.Errorf("openssl: %s", out)
	}
	if out, err := tool(t, "openssl", "crl", "-in", s.file("acme-root-2.crl.pem"), "-CAfile", s.file("acme-root.pem"), "-noout", "-text", "-verify"); err != nil || !strings.Contains(strings.ToLower(out), serial) || !strings.Contains(out, "Superseded") {
		t.Errorf("openssl crl: %s", out)
	}
	both := []*x509.Certificate{oldRoot, parse(t, s.read("acme-root-2.cer"))}
	if _, err := ceremony.VerifyRun(res.Data, ceremony.RunTrust{Roots: both}); err != nil {
		t.Error(err)
	}
}

// deleteKey does what people do with the token's own tool.
func deleteKey(uri, label string) error {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return err
	}
	for _, kind := range []string{"privkey", "pubkey"} {
		cmd := exec.Command("pkcs11-tool", "--module", u.ModulePath, "--login", "--pin", hsmtest.PIN, "--token-label", u.Token, "--delete-object", "--type", kind, "--label", label)
		cmd.Env = append(cmd.Environ(), "SOFTHSM2_CONF="+filepath.Join(filepath.Dir(u.ModulePath), "softhsm2.conf"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// The program stops while people destroy a key. Nothing can be asked of the key
// any more, and the ceremony is finished all the same.
func TestRun_GoesOnAfterTheKeyWasDestroyed(t *testing.T) {
	s := newStage(t)
	tok := hsmtest.SoftHSM(t)
	uri := tok.URI("old")
	s.script = []byte(head("acme-2026", 2, s.people...) + fmt.Sprintf(`keys:
  old: {uri: %q, generate: P-256, counter: read}
  new: {uri: %q, generate: P-256}
steps:
  - {step: make-old, do: create-root, name: old-root, key: old, base_url: "http://pki.acme-devices.example", subject: {common_name: Old Root}}
  - {step: make-new, do: create-root, name: new-root, key: new, base_url: "http://pki.acme-devices.example", subject: {common_name: New Root}}
  - {step: end, do: destroy, key: old, how: Delete the key with the token's tool.}
`, uri, hsmtest.SoftHSM(t).URI("new")))
	stopped := errors.New("the power is gone")
	count := 0
	counter := func(q string) string {
		if !strings.Contains(q, "counter") {
			return ""
		}
		count += 2
		return fmt.Sprint(count)
	}
	s.room = &room{ask: counter, confirm: func(q string) error {
		if strings.Contains(q, "Is it destroyed?") {
			return errors.Join(deleteKey(uri, "old"), stopped)
		}
		return nil
	}}
	_, err := s.run()
	refused(t, err, stopped)
	kept := s.read(transcriptFile)
	_, err = ceremony.VerifyRun(kept, ceremony.RunTrust{})
	refused(t, err, ceremony.ErrUnfinished)

	// After any line since then, and stopped once more.
	s.room = &room{ask: counter, confirm: func(q string) error {
		if strings.Contains(q, "Is it destroyed?") {
			return stopped
		}
		return nil
	}}
	_, err = s.run()
	refused(t, err, stopped)
	s.room = &room{ask: func(q string) string {
		if strings.Contains(q, "counter") {
			t.Errorf("a token without its key is asked: %s", q)
		}
		return ""
	}}
	res := s.must()
	if shown := s.room.shown.String(); strings.Contains(shown, "Shall the key sign its end") || strings.Count(shown, "Is it destroyed?") != 1 || !strings.Contains(shown, "what is left is to destroy it") {
		t.Errorf("people were asked:\n%s", shown)
	}
	if !bytes.HasPrefix(res.Data, kept) {
		t.Error("the past was changed")
	}
	found := fmt.Sprint(res.Verified.Steps)
	for _, want := range []string{"the key signed its end at", "the key is gone: the token reports no such key", "the token counted 2 signatures", "signed by the key new"} {
		if !strings.Contains(found, want) {
			t.Errorf("nothing of %q in %s", want, found)
		}
	}
	if strings.Contains(found, "earlier attempts were interrupted") {
		t.Error("the key signed its end more than once")
	}
	if _, err := ceremony.VerifyRun(s.read(transcriptFile), ceremony.RunTrust{}); err != nil {
		t.Error(err)
	}
}

// What people mistype is called that, not a clock that is wrong.
func TestRun_AReadingThatIsNoTimeIsNoWrongClock(t *testing.T) {
	s := newStage(t)
	s.cfg = func(c *ceremony.RunConfig) { c.ClockRead = "garbage" }
	_, err := s.run()
	refused(t, err, ceremony.ErrReading)
	s.cfg = nil
	s.room = &room{ask: func(string) string { return "10 o'clock" }}
	_, err = s.run()
	refused(t, err, ceremony.ErrReading)
	s.room = &room{ask: func(string) string { return time.Now().UTC().Add(-time.Hour).Format("2006-01-02 15:04") }}
	_, err = s.run()
	refused(t, err, ceremony.ErrClock)
	s.room = &room{}
	s.must()
	if b := s.read(transcriptFile); bytes.Contains(b, []byte("garbage")) {
		t.Error("it is in the transcript")
	}
}

// A script whose approvals have ended is refused before anything is made, while a
// ceremony that was carried out in time verifies for ever.
func TestRun_AScriptThatHasEndedIsRefusedAtOnce(t *testing.T) {
	s := newStage(t)
	s.cfg = func(c *ceremony.RunConfig) { c.Now = func() time.Time { return time.Now().AddDate(0, 0, 4) } }
	_, err := s.run()
	refused(t, err, ceremony.ErrScript)
	if _, err := os.Stat(s.file(transcriptFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a transcript was begun: %v", err)
	}
	a, err := ceremony.ParseAgenda(s.script)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Current(time.Now()); err != nil {
		t.Error(err)
	}
	s.cfg = nil
	s.must()
	s.cfg = func(c *ceremony.RunConfig) { c.Now = func() time.Time { return time.Now().AddDate(0, 0, 4) } }
	s.must()
}

// S37: a rehearsal does every step on a throw-away token, touches no other, and
// nothing of it can be mistaken for real.
func TestRun_RehearsesOnAThrowAwayToken_S37(t *testing.T) {
	s := newStage(t)
	a, err := ceremony.ParseAgenda(s.script)
	if err != nil {
		t.Fatal(err)
	}
	rehearse := func() *ceremony.RunResult {
		r, err := ceremony.NewRehearsal(t.Context(), a, s.config().Read, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cfg := s.config()
		cfg.Rehearsal, cfg.Keys, cfg.Custodians, cfg.Dir = r, r.Keys, r.Custodians, t.TempDir()
		cfg.People = func() (ceremony.Keys, func(), error) { return r.Keys, func() {}, nil }
		res, err := ceremony.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := rehearse()
	if !res.Verified.Rehearsal || !strings.Contains(fmt.Sprint(res.Verified.Steps), "EXCEPTION: development: this was a rehearsal") {
		t.Errorf("it does not say that it was a rehearsal: %v", res.Verified.Steps)
	}
	if _, err := s.keys.Signer(t.Context(), between(s.script, `root: {uri: "`)); !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Errorf("the real token was touched: %v", err)
	}
	// A rehearsed transcript is no start of a real ceremony.
	if err := os.WriteFile(s.file(transcriptFile), res.Data, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = s.run()
	refused(t, err, ceremony.ErrDiffers)
	if err := os.Remove(s.file(transcriptFile)); err != nil {
		t.Fatal(err)
	}
	s.must()
}

// S37: the transcript is anchored by a witness of the log's kind, and only by
// those that the script names.
func TestAnchor_AWitnessSignsTheCheckpoint_S37(t *testing.T) {
	s := newStage(t)
	logURI := hsmtest.SoftHSM(t).URI("log")
	logKey, err := s.keys.Generate(t.Context(), logURI, hsm.Spec{Algorithm: hsm.Ed25519})
	if err != nil {
		t.Fatal(err)
	}
	logName, err := ceremony.LogKey("acme-2026", logKey.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	witnessOf := func(name string) (*witness.Witness, string) {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		vkey, err := tlog.CosignerKey(name, pub)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := witness.Init(dir, vkey); err != nil {
			t.Fatal(err)
		}
		w, err := witness.Open(witness.Config{Name: name, Key: key, Dir: dir, Logs: []string{logName}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close() })
		return w, vkey
	}
	good, goodKey := witnessOf("witness.example/a")
	other, _ := witnessOf("witness.example/b")
	s.script = bytes.Replace(s.script, []byte("keys:\n"), fmt.Appendf(nil, "witnesses:\n  - %q\n  - %q\nkeys:\n", goodKey, logName), 1)
	res := s.must()
	if found := fmt.Sprint(res.Verified.Steps); !strings.Contains(found, "NOT anchored yet") {
		t.Error("nothing is said of the missing witness")
	}
	signed, err := ceremony.SignCheckpoint(t.Context(), res.Verified.Checkpoint, logKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []*witness.Witness{other, good} {
		line, err := w.AddCheckpoint(t.Context(), 0, nil, []byte(signed))
		if err != nil {
			t.Fatal(err)
		}
		longer, err := ceremony.Anchor(res.Data, signed+string(line))
		if w == other {
			refused(t, err, ceremony.ErrWitness)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		v, err := ceremony.VerifyRun(longer, ceremony.RunTrust{})
		if err != nil || v.Anchored != 2 || !strings.Contains(fmt.Sprint(v.Steps), "witness.example/a saw this transcript at 20") {
			t.Errorf("%d anchors, %v %v", v.Anchored, err, v.Steps)
		}
		for i := len(res.Data); i < len(longer); i++ {
			if i > len(res.Data)+8 && i%41 != 0 && os.Getenv("HALLMARK_PROOF") != "1" {
				continue
			}
			bad := bytes.Clone(longer)
			bad[i] ^= 1 << (i % 8)
			if _, err := ceremony.VerifyRun(bad, ceremony.RunTrust{}); err == nil {
				t.Fatalf("octet %d of the witness line changed unseen", i-len(res.Data))
			}
		}
	}
}
