package ceremony_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallmark/ca/ceremony"
	"hallmark/hsm"
	"hallmark/internal/fault"
)

func TestVerifyTranscript_NamesTheFirstFlippedBit(t *testing.T) {
	c := onToken(t, hsm.P256)
	root := parse(t, c.root.CertificateDER)
	parts := map[string]int{}
	inside, beside := 29*4+1, 3
	if os.Getenv("HALLMARK_PROOF") == "1" {
		inside, beside = 29, 1
	}
	for n, file := range [][]byte{c.root.TranscriptJSON, c.device.TranscriptJSON, c.csr.TranscriptJSON} {
		payload := bytes.Index(file, []byte(`"payload":"`)) + 11
		end := payload + bytes.IndexByte(file[payload:], '"')
		for i := range file {
			// Every octet outside the payload, of one file; inside it the step has no
			// common factor with 4 and 8, so every place of a base64 group is met with
			// every bit.
			switch within := i > payload+40 && i < end-40; {
			case within && i%inside != 0, !within && n > 0 && i%beside != 0:
				continue
			}
			bad := bytes.Clone(file)
			bad[i] ^= 1 << (i % 8)
			_, err := ceremony.VerifyTranscript(bad, root)
			if !errors.Is(err, ceremony.ErrTranscript) {
				t.Fatalf("octet %d of %d, %q became %q: %v", i, len(file), file[i], bad[i], err)
			}
			part, ok := fault.From(err).Members["part"].(string)
			if !ok || !strings.Contains(err.Error(), part) {
				t.Fatalf("octet %d: the error names no part: %v", i, err)
			}
			parts[part]++
		}
		for _, bad := range [][]byte{file[:len(file)-1], append(bytes.Clone(file), '\n'), append(bytes.Clone(file), file...), nil} {
			if _, err := ceremony.VerifyTranscript(bad, root); !errors.Is(err, ceremony.ErrTranscript) {
				t.Errorf("%d octets: %v", len(bad), err)
			}
		}
	}
	for _, p := range []string{"signature", "payload", "envelope", "keyid", "payloadType"} {
		if parts[p] == 0 {
			t.Errorf("nothing broke the part %s: %v", p, parts)
		}
	}
}

// open reads a transcript without checks.
func open(t testing.TB, file []byte) *ceremony.Transcript {
	t.Helper()
	var e struct{ Payload string }
	if err := json.Unmarshal(file, &e); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	out := new(ceremony.Transcript)
	if err := json.Unmarshal(payload, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Somebody who may use the root key signs a transcript that is not true.
func TestVerifyTranscript_FindsALieUnderAGoodSignature(t *testing.T) {
	c := onToken(t, hsm.P256)
	dev := run(t, &chain{keys: c.keys, tok: hsmtestToken(t), rootKey: fileURI(t, "root"), dev: true}, hsm.P256)
	signers, sound := map[string]hsm.Signer{}, map[string]bool{}
	for _, k := range []struct {
		name, part string
		file       []byte
		change     func(*ceremony.Transcript)
	}{
		{"object changed", "objects.certificate.sha256", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Objects[3].DER[200] ^= 1 }},
		{"words changed", "objects.certificate.words", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Objects[3].Words = t.Objects[0].Words }},
		{"another certificate", "objects.certificate", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Objects[3] = c.infra.Transcript.Objects[3] }},
		{"another CSR", "objects.csr", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Objects[1] = c.infra.Transcript.Objects[1] }},
		{"another request", "objects.request", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Objects[2] = c.infra.Transcript.Objects[2] }},
		{"object added", "objects", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Objects = append(t.Objects, t.Objects[0]) }},
		{"object missing", "objects", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Objects = t.Objects[:3] }},
		{"kind", "objects", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Kind = ceremony.KindList }},
		{"subject", "objects.certificate", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Script.Subject.CommonName = "X" }},
		{"end", "objects.certificate", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Script.NotAfter = t.Script.NotBefore }},
		{"base URL", "objects.certificate", c.device.TranscriptJSON, func(t *ceremony.Transcript) { t.Script.BaseURL = "http://x.example" }},
		{"list URL", "script.list_url", c.list.TranscriptJSON, func(t *ceremony.Transcript) { t.Script.ListURL = "http://x.example" }},
		{"list number", "script.list_number", c.list.TranscriptJSON, func(t *ceremony.Transcript) { t.Script.ListNumber = "7" }},
		{"revoked", "script.revoked", c.list.TranscriptJSON, func(t *ceremony.Transcript) {
			t.Script.Revoked = []ceremony.Revoked{{SerialNumber: "40", RevokedAt: t.Script.NotBefore}}
		}},
		{"clock", "finished", c.list.TranscriptJSON, func(t *ceremony.Transcript) { t.Finished = "2001-01-01T00:00:00Z" }},
		{"nobody agreed", "confirmed", c.list.TranscriptJSON, func(t *ceremony.Transcript) { t.Confirmed = "" }},
		{"program", "program.sha256", c.list.TranscriptJSON, func(t *ceremony.Transcript) { t.Program.SHA256 = "" }},
		{"attribute", "key.attributes", c.root.TranscriptJSON, func(t *ceremony.Transcript) { t.Key.Attributes.Extractable = "yes" }},
		{"attribute word", "key.attributes", c.root.TranscriptJSON, func(t *ceremony.Transcript) { t.Key.Attributes.Extractable = "never" }},
		{"development called production", "key.attributes", dev.root.TranscriptJSON, func(t *ceremony.Transcript) { t.Mode = "production" }},
		{"exception left out", "key.attributes", dev.root.TranscriptJSON, func(t *ceremony.Transcript) { t.Exceptions = []string{} }},
		{"schema", "schema", c.root.TranscriptJSON, func(t *ceremony.Transcript) { t.Schema = "hallmark.ceremony/v2" }},
	} {
		t.Run(k.name, func(t *testing.T) {
			tr := open(t, k.file)
			uri := c.rootKey
			if bytes.Equal(k.file, dev.root.TranscriptJSON) {
				uri = dev.rootKey
			}
			key := signers[uri]
			if key == nil {
				var err error
				if key, err = c.keys.Signer(t.Context(), uri); err != nil {
					t.Fatal(err)
				}
				signers[uri] = key
			}
			if !sound[string(k.file)] { // once for each file: unchanged it verifies
				honest, err := ceremony.Seal(t.Context(), key, tr)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := ceremony.VerifyTranscript(honest); err != nil {
					t.Fatalf("unchanged: %v", err)
				}
				sound[string(k.file)] = true
			}
			k.change(tr)
			lie, err := ceremony.Seal(t.Context(), key, tr)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ceremony.VerifyTranscript(lie)
			refused(t, err, ceremony.ErrTranscript)
			if got := fault.From(err).Members["part"]; got != k.part {
				t.Errorf("named %v, want %s: %v", got, k.part, err)
			}
		})
	}
}

// A12: a self-made root of the same name is another root.
func TestA12_VerifyTranscriptComparesRootsByAllOctets(t *testing.T) {
	c, other := onToken(t, hsm.P256), onToken(t, hsm.P256)
	_, err := ceremony.VerifyTranscript(c.device.TranscriptJSON, parse(t, other.root.CertificateDER))
	refused(t, err, ceremony.ErrAnchor)
	steps, err := ceremony.VerifyTranscript(c.device.TranscriptJSON)
	if err != nil || !slices.ContainsFunc(steps, func(s ceremony.Step) bool { return s.What == "root" && strings.HasPrefix(s.Found, "NOT compared") }) {
		t.Errorf("%v %v", steps, err)
	}
	// Not signed by the root although its certificate is inside.
	tr := open(t, c.device.TranscriptJSON)
	tr.Key = other.root.Transcript.Key
	key, err := other.keys.Signer(t.Context(), other.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := ceremony.Seal(t.Context(), key, tr)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ceremony.VerifyTranscript(forged)
	refused(t, err, ceremony.ErrTranscript)
}

func TestVerifyChain_FindsAMissingAndASwappedStep(t *testing.T) {
	c := onToken(t, hsm.P256)
	f := c.files()
	for _, files := range [][][]byte{{f[0], f[2], f[3]}, {f[0], f[2], f[1], f[3]}, {f[1], f[0]}} {
		if _, err := ceremony.VerifyChain(files); !errors.Is(err, ceremony.ErrTranscript) || !strings.Contains(err.Error(), "previous") {
			t.Errorf("got %v", err)
		}
	}
}

func TestWords_AreTwelveOrMoreAndDifferByOctet(t *testing.T) {
	if len(ceremony.WordList) != 256 {
		t.Fatalf("%d words", len(ceremony.WordList))
	}
	seen := map[string]bool{}
	for _, w := range ceremony.WordList {
		if seen[w] || len(w) < 3 || len(w) > 8 || strings.Trim(w, "abcdefghijklmnopqrstuvwxyz") != "" {
			t.Errorf("word %q", w)
		}
		seen[w] = true
	}
	// The list is frozen: transcripts hold words made from it.
	if got := hex.EncodeToString(sum(strings.Join(ceremony.WordList, " "))); got != frozenWordList {
		t.Errorf("the list of words changed: %s", got)
	}
	words := strings.Fields(strings.ReplaceAll(ceremony.WordsOf([]byte("x")), "-", ""))
	s := sum("x")
	for i, w := range words {
		if w != ceremony.WordList[s[i]] {
			t.Errorf("word %d is %s", i, w)
		}
	}
	if len(words) != 16 {
		t.Errorf("%d words; S37 asks for twelve or more", len(words))
	}
}

const frozenWordList = "1a8ef41ff2e10ab50fac0a886414429743aedaa455f8a1a3e391b2812a33f1eb"

func sum(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

var update = flag.Bool("update", false, "write the transcripts in testdata anew")

// kept are transcripts of an earlier build. They must verify for ever.
var kept = []string{"root", "csr", "sign", "crl"}

func keptFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".transcript.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVerifyTranscript_TakesThoseOfAnEarlierBuild(t *testing.T) {
	if *update {
		c := onToken(t, hsm.P256)
		for i, r := range []*ceremony.Result{c.root, c.csr, c.device, c.list} {
			if err := os.WriteFile(filepath.Join("testdata", kept[i]+".transcript.json"), r.TranscriptJSON, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, _, err := ceremony.Open(keptFile(t, "root"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := first.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		if steps, err := ceremony.VerifyTranscript(keptFile(t, k), root); err != nil {
			t.Errorf("%s: %v after %v", k, err, steps)
		}
	}
}

func FuzzOpen(f *testing.F) {
	var known [][]byte
	for _, k := range kept {
		known = append(known, keptFile(f, k))
		f.Add(keptFile(f, k))
	}
	f.Add([]byte(`{"payload":"e30=","payloadType":"application/vnd.hallmark.ceremony+json","signatures":[{"keyid":"","sig":""}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, _, err := ceremony.Open(data)
		if err != nil {
			if tr != nil {
				t.Error("a transcript beside an error")
			}
			return
		}
		// Nobody can make one without a key, and there is one form of each.
		if !slices.ContainsFunc(known, func(k []byte) bool { return bytes.Equal(k, data) }) {
			t.Error("a transcript that nobody signed")
		}
	})
}

func FuzzReadObject(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if out, err := ceremony.ReadObject(data, "CERTIFICATE"); err != nil && out != nil {
			t.Error("octets beside an error")
		}
	})
}
