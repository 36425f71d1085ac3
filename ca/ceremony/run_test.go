package ceremony_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"crypto/sha256"

	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/internal/fault"
)

// room answers like people who agree to everything, and keeps what was shown.
type room struct {
	shown   strings.Builder
	confirm func(question string) error // nil = yes
	ask     func(question string) string
}

func (r *room) Show(text string) { r.shown.WriteString(text) }

func (r *room) Confirm(_ context.Context, q string) (string, error) {
	r.shown.WriteString(q)
	if r.confirm != nil {
		if err := r.confirm(q); err != nil {
			return "", err
		}
	}
	return "typed yes", nil
}

func (r *room) Ask(_ context.Context, q string) (string, error) {
	if r.ask != nil {
		if a := r.ask(q); a != "" {
			return a, nil
		}
	}
	if strings.Contains(q, "clock") {
		return time.Now().UTC().Format("2006-01-02 15:04"), nil
	}
	return "", fmt.Errorf("nobody knows: %s", q)
}

// person is a custodian with a key.
type person struct {
	name, uri, key string
}

func people(t testing.TB, keys *hsm.Keyring, names ...string) []person {
	t.Helper()
	// Opening a key file takes long on purpose, so most custodians of the tests
	// have tokens; the command's test has files.
	tok := hsmtest.SoftHSM(t)
	var out []person
	for _, n := range names {
		uri := tok.URI(strings.ToLower(n))
		k, err := keys.Generate(t.Context(), uri, hsm.Spec{Algorithm: hsm.Ed25519})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, person{n, uri, publicText(t, k)})
	}
	return out
}

func publicText(t testing.TB, k hsm.Signer) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(spki)
}

func inRoom(p ...person) []ceremony.CustodianKey {
	var out []ceremony.CustodianKey
	for _, x := range p {
		out = append(out, ceremony.CustodianKey{Name: x.name, URI: x.uri})
	}
	return out
}

// head is the part of a script that all tests share.
func head(id string, threshold int, custodians ...person) string {
	s := fmt.Sprintf("schema: %s\nid: %s\ntitle: Test of a ceremony\nmode: production\nrun_until: %s\ncustodians:\n  threshold: %d\n  people:\n",
		ceremony.AgendaSchema, id, time.Now().Add(48*time.Hour).Format(time.DateOnly), threshold)
	for _, p := range custodians {
		s += fmt.Sprintf("    - {name: %s, key: %q}\n", p.name, p.key)
	}
	return s
}

// wholeSteps makes a root, an issuing authority and the first list.
const wholeSteps = `steps:
  - step: make-root
    do: create-root
    name: acme-root
    key: root
    base_url: http://pki.acme-devices.example
    subject: {country: DE, organization: Acme Devices, common_name: Acme Device Root}
    not_after: never
  - step: device-ca
    do: issue
    root: acme-root
    name: devices-1
    duty: device
    csr: {file: devices-1.csr.transcript.json}
    subject: {country: DE, organization: Acme Devices, common_name: Acme Devices CA 1}
  - step: first-list
    do: sign-crl
    root: acme-root
    first: true
    days: 365
`

// stage is a ceremony that a test can run again and again.
type stage struct {
	t      testing.TB
	keys   *hsm.Keyring
	people []person
	script []byte
	dir    string // files beside the script and of the result
	room   *room
	cfg    func(*ceremony.RunConfig)
}

func (s *stage) config() ceremony.RunConfig {
	cfg := ceremony.RunConfig{
		Script: s.script, Dir: s.dir, Keys: s.keys, Custodians: inRoom(s.people[0], s.people[2]), Room: s.room,
		People: func() (ceremony.Keys, func(), error) { return s.keys, func() {}, nil },
		Read:   func(n string) ([]byte, error) { return os.ReadFile(filepath.Join(s.dir, n)) },
		Fresh: func() (ceremony.Keys, func(), error) {
			k := hsm.Open(hsm.Config{})
			return k, func() { k.Close() }, nil
		},
	}
	if s.cfg != nil {
		s.cfg(&cfg)
	}
	return cfg
}

func (s *stage) run() (*ceremony.RunResult, error) { return ceremony.Run(s.t.Context(), s.config()) }

func (s *stage) must() *ceremony.RunResult {
	s.t.Helper()
	res, err := s.run()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.room.shown.String())
	}
	return res
}

// newStage is a two-of-three ceremony on SoftHSM.
func newStage(t testing.TB) *stage {
	t.Helper()
	keys, tok := ring(t), hsmtest.SoftHSM(t)
	s := &stage{t: t, keys: keys, people: people(t, keys, "Anna", "Bo", "Cem"), dir: t.TempDir(), room: &room{}}
	s.csr(tok)
	s.script = []byte(head("acme-2026", 2, s.people...) + "keys:\n  root: {uri: \"" + tok.URI("root") + "\", generate: P-256}\n" + wholeSteps)
	return s
}

// csr makes the issuing key and the file that the online side sends.
func (s *stage) csr(tok hsmtest.Token) {
	s.t.Helper()
	r := must(s.t)(start(s.t, ceremony.Config{Keys: s.keys}).MakeCSR(s.t.Context(), ceremony.CSRRequest{
		Name: "devices-1", Duty: profile.DutyDevice, KeyURI: tok.URI("devices-1"), Generate: true, Subject: name("Acme Devices CA 1"),
	}))
	if err := os.WriteFile(filepath.Join(s.dir, "devices-1.csr.transcript.json"), r.TranscriptJSON, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) file(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) read(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(s.file(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// opensslAgrees judges what a ceremony made with a program that is not ours.
func (s *stage) opensslAgrees() {
	s.t.Helper()
	out, err := tool(s.t, "openssl", "verify", "-x509_strict", "-CAfile", s.file("acme-root.pem"), "-CRLfile", s.file("acme-root-1.crl.pem"), "-crl_check_all", "-extended_crl", s.file("devices-1.pem"))
	if err != nil {
		s.t.Errorf("openssl: %s", out)
	}
	if out, err := tool(s.t, "openssl", "crl", "-in", s.file("acme-root-1.crl.pem"), "-CAfile", s.file("acme-root.pem"), "-noout", "-verify"); err != nil || !strings.Contains(out, "verify OK") {
		s.t.Errorf("openssl crl: %s", out)
	}
}

// S37: two of three custodians make a root, an authority and a list on SoftHSM;
// a copy of the transcript verifies elsewhere, and openssl believes the outcome.
func TestRun_TwoOfThreeOnSoftHSM_S37(t *testing.T) {
	s := newStage(t)
	res := s.must()
	s.opensslAgrees()
	root := parse(t, s.read("acme-root.cer"))
	v, err := ceremony.VerifyRun(bytes.Clone(s.read("acme-2026.ceremony.jsonl")), ceremony.RunTrust{Roots: []*x509.Certificate{root}})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, x := range v.Steps {
		fmt.Fprintln(&all, x)
	}
	for _, want := range []string{
		"script: acme-2026", "program: SHA-256", "clock read", "approval: Anna approved", "approval: Cem approved", "make-root key rules: kept", "never extractable yes",
		"device-ca request: the transcript of the step csr is good", "first-list crl: number 1", "seal: ", "custodian: Anna signed", "custodian: Cem signed", "root: acme-root is a given one",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("nothing was found of %q in\n%s", want, all.String())
		}
	}
	if strings.Contains(all.String(), "NOT compared") {
		t.Errorf("a root that is given counts as not compared:\n%s", all.String())
	}
	if len(res.Files) != 9 {
		t.Errorf("files: %v", res.Files)
	}
	// Transcripts of single steps are what the online side installs from.
	if _, err := ceremony.VerifyChain([][]byte{s.read("acme-root.root.transcript.json"), s.read("devices-1.sign.transcript.json"), s.read("acme-root-1.crl.transcript.json")}, root); err != nil {
		t.Error(err)
	}
	// A second run finds everything done and changes nothing.
	again := s.must()
	if !bytes.Equal(again.Data, res.Data) {
		t.Error("a finished ceremony was changed")
	}
	other := onToken(t, hsm.P256)
	_, err = ceremony.VerifyRun(res.Data, ceremony.RunTrust{Roots: []*x509.Certificate{parse(t, other.root.CertificateDER)}})
	refused(t, err, ceremony.ErrAnchor)
}

// S37: one flipped bit anywhere fails and names the step; in each line the ends
// and octets between are tried, and every line end.
func TestVerifyRun_NamesTheStepOfAFlippedBit_S37(t *testing.T) {
	s := newStage(t)
	data := s.must().Data
	var steps []string
	at, tried, named := 0, 0, map[string]int{}
	lines := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	for _, l := range lines {
		kind, step := between(l, `"kind":"`), between(l, `"step":"`)
		if step == "" {
			step = kind
		}
		steps = append(steps, step)
		stride := max(len(l)/3, 1)
		if os.Getenv("HALLMARK_PROOF") == "1" {
			stride = 1 + len(l)/2000
		}
		for i := 0; i <= len(l); i++ { // the octet after the last is the line end
			if i > 6 && i < len(l)-2 && i%stride != 0 {
				continue
			}
			bad := bytes.Clone(data)
			bad[at+i] ^= 1 << (i % 8)
			tried++
			_, err := ceremony.VerifyRun(bad, ceremony.RunTrust{})
			if !errors.Is(err, ceremony.ErrTranscript) && !errors.Is(err, ceremony.ErrUnfinished) {
				t.Fatalf("octet %d of the line %s: %v", i, step, err)
			}
			got, _ := fault.From(err).Members["step"].(string)
			named[got]++
			if got != step || !strings.Contains(err.Error(), got) {
				t.Fatalf("octet %d of the line %s (%q): named %q: %v", i, step, bad[max(at+i-8, 0):at+i+1], got, err)
			}
		}
		at += len(l) + 1
	}
	t.Logf("%d bits in %d lines: %v", tried, len(lines), named)
	if len(named) < 7 || tried < 150 {
		t.Errorf("only %d bits, %v", tried, named)
	}
	for _, bad := range [][]byte{nil, data[:len(data)-1], append(bytes.Clone(data), '\n'), append(bytes.Clone(data), data...), bytes.Join(lines[1:], []byte("\n"))} {
		if _, err := ceremony.VerifyRun(bad, ceremony.RunTrust{}); err == nil {
			t.Errorf("%d octets verify", len(bad))
		}
	}
	// A line left out, and two lines in each other's place.
	for i := range lines {
		less := append(append([][]byte{}, lines[:i]...), lines[i+1:]...)
		if _, err := ceremony.VerifyRun(append(bytes.Join(less, []byte("\n")), '\n'), ceremony.RunTrust{}); err == nil {
			t.Errorf("without line %d (%s) it verifies", i+1, steps[i])
		}
		if i == 0 {
			continue
		}
		swapped := append([][]byte{}, lines...)
		swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
		if _, err := ceremony.VerifyRun(append(bytes.Join(swapped, []byte("\n")), '\n'), ceremony.RunTrust{}); err == nil {
			t.Errorf("with lines %d and %d swapped it verifies", i, i+1)
		}
	}
}

// between is the value of a member of a line.
func between(line []byte, member string) string {
	_, rest, ok := bytes.Cut(line, []byte(member))
	if !ok {
		return ""
	}
	v, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(v)
}

func hash(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func decode(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
