package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	zlintlint "github.com/zmap/zlint/v3/lint"
	merkle "golang.org/x/mod/sumdb/tlog"

	"golang.org/x/mod/sumdb/note"

	"hallmark/hsm/hsmtest"
	"hallmark/hsm/softhsm"
	"hallmark/internal/seal"
)

// TestDemo_IsAcceptedByOthers runs the demonstration as a process and asks
// programs that are not ours what they think of what it made: openssl of chains,
// lists and OCSP answers, zlint of certificates, pkcs11-tool of the CA key, the
// Go project's checksum database code of the log.
func TestDemo_IsAcceptedByOthers(t *testing.T) {
	for _, c := range []struct {
		hsm   string
		units int
	}{{"softhsm", 25}, {"software", 5}} {
		t.Run(c.hsm, func(t *testing.T) {
			if c.hsm == "softhsm" {
				if err := softhsm.Available(); err != nil {
					hsmtest.Missing(t, err.Error())
				}
			}
			d := newDemoRun(t, c.hsm, c.units)
			t.Run("openssl verifies all but the revoked device", d.opensslVerify)
			t.Run("serial numbers, devices and keys are distinct", d.distinct)
			t.Run("zlint finds no error", d.zlint)
			t.Run("the ceremony's transcripts verify", d.transcripts)
			t.Run("fsck is clean, and names what was deleted", d.fsck)
			t.Run("pkcs11-tool shows a key that cannot leave", d.token)
			serving := d.service("hallmark.yaml", "state")
			t.Run("openssl ocsp tells good, revoked and unknown", d.ocsp)
			t.Run("the public log proves every certificate", d.log)
			if err := serving.stop(); err != nil {
				t.Errorf("the service: %v", err)
			}
		})
	}
}

// demoRun is what one demonstration left.
type demoRun struct {
	*site
	units   int
	summary demoSummary
	devices []string // directories
}

func newDemoRun(t *testing.T, hsm string, units int) *demoRun {
	t.Helper()
	d := &demoRun{site: &site{stage: stage{dir: filepath.Join(t.TempDir(), "demo"), hsm: hsm}, t: t}, units: units}
	began := time.Now()
	p := d.spawn("demo", "--exit", "--units", fmt.Sprint(units), "--dir", d.dir, "--hsm", hsm)
	if err := <-p.done; err != nil {
		t.Fatalf("the demonstration: %v\n%s", err, p.said.Bytes())
	}
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("the demonstration took %s", took)
	}
	b, err := os.ReadFile(d.path("summary.json"))
	if err == nil {
		err = json.Unmarshal(b, &d.summary)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s := d.summary; s.Units != units || s.Certificates != 2*units || len(s.Revoked) != 1 || s.HSM != hsm || s.Log.Size == 0 || s.Log.Certificates < int64(2*units) {
		t.Errorf("summary: %+v", s)
	}
	if d.devices, err = filepath.Glob(d.path("devices", "*")); err != nil || len(d.devices) != units {
		t.Fatalf("%d directories of %d devices, %v", len(d.devices), units, err)
	}
	if hsm == "softhsm" {
		d.env = []string{"SOFTHSM2_CONF=" + d.path("keys", "softhsm", "softhsm2.conf")}
	}
	return d
}

func (d *demoRun) revoked(device string) bool { return filepath.Base(device) == d.summary.Revoked[0] }

func (d *demoRun) opensslVerify(t *testing.T) {
	lists := filepath.Join(t.TempDir(), "lists.pem")
	var text []byte
	for _, name := range []string{"root.crl", "issuing.crl"} {
		b, err := os.ReadFile(d.path("pki", name))
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
	}
	if err := os.WriteFile(lists, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{
		{"-crl_check_all"},
		{"-crl_check_all", "-x509_strict", "-purpose", "sslclient", "-extended_crl"},
	} {
		args := append([]string{"verify"}, flags...)
		args = append(args, "-CAfile", d.path("pki", "root.pem"), "-untrusted", d.path("pki", "issuing.pem"), "-CRLfile", lists)
		var good, bad []string
		for _, dir := range d.devices {
			for _, name := range []string{"idevid.pem", "ldevid.pem"} {
				file := filepath.Join(dir, name)
				args = append(args, file)
				if d.revoked(dir) {
					bad = append(bad, file)
				} else {
					good = append(good, file)
				}
			}
		}
		out, err := tool(t, nil, "openssl", args...)
		if err == nil {
			t.Errorf("openssl %v accepted everything", flags)
		}
		for _, file := range good {
			if !strings.Contains(out, file+": OK") {
				t.Errorf("openssl %v refuses %s", flags, file)
			}
		}
		for _, file := range bad {
			if !strings.Contains(out, file+": verification failed") {
				t.Errorf("openssl %v does not refuse %s", flags, file)
			}
		}
		if n := strings.Count(out, "error 23 at 0 depth lookup: certificate revoked"); n != len(bad) {
			t.Errorf("openssl %v called %d of %d revoked", flags, n, len(bad))
		}
		if t.Failed() {
			t.Logf("%s", out)
			return
		}
	}
}

func (d *demoRun) certs(t *testing.T) (out []*x509.Certificate) {
	for _, dir := range d.devices {
		for _, name := range []string{"idevid.pem", "ldevid.pem"} {
			out = append(out, readCert(t, filepath.Join(dir, name)))
		}
	}
	return out
}

func (d *demoRun) distinct(t *testing.T) {
	serials, keys, names := map[string]bool{}, map[string]bool{}, map[string]int{}
	for _, c := range d.certs(t) {
		serials[c.SerialNumber.Text(16)] = true
		keys[string(c.RawSubjectPublicKeyInfo)] = true
		names[c.Subject.CommonName]++
		if n := len(c.SerialNumber.FillBytes(make([]byte, 20))); c.SerialNumber.Sign() <= 0 || n != 20 || c.SerialNumber.BitLen() != 159 {
			t.Errorf("serial number %x (S4)", c.SerialNumber)
		}
	}
	if len(serials) != 2*d.units || len(keys) != 2*d.units || len(names) != d.units {
		t.Errorf("%d serial numbers, %d keys, %d names of %d devices with two certificates", len(serials), len(keys), len(names), d.units)
	}
	for name, n := range names {
		if n != 2 {
			t.Errorf("%s is in %d certificates", name, n)
		}
	}
}

func (d *demoRun) zlint(t *testing.T) {
	reg, err := zlintlint.GlobalRegistry().Filter(zlintlint.FilterOptions{
		IncludeSources: zlintlint.SourceList{zlintlint.RFC5280, zlintlint.RFC3279, zlintlint.RFC5480, zlintlint.RFC8813, zlintlint.RFC5891, zlintlint.Community},
		ExcludeNames:   []string{"e_cert_issued_by_compromised_emudhra_ca"},
	})
	if err != nil {
		t.Fatal(err)
	}
	certs := d.certs(t)
	for _, name := range []string{"root", "issuing", "infrastructure"} {
		certs = append(certs, readCert(t, d.path("pki", name+".pem")))
	}
	certs = append(certs, readCert(t, d.path("station", "station-a.pem")), readCert(t, d.path("state", "keys", "doors.pem")))
	for _, c := range certs {
		z, err := zx509.ParseCertificate(c.Raw)
		if err != nil {
			t.Fatal(err)
		}
		applied := 0
		for name, r := range zlint.LintCertificateEx(z, reg).Results {
			if r.Status >= zlintlint.Error {
				t.Errorf("%s: %s %s", c.Subject, name, r.Details)
			}
			if r.Status >= zlintlint.Pass {
				applied++
			}
		}
		if applied < 20 {
			t.Errorf("%s: only %d rules were looked at", c.Subject, applied)
		}
	}
}

func (d *demoRun) transcripts(t *testing.T) {
	files, _ := filepath.Glob(d.path("root", "*.transcript.json"))
	if len(files) != 4 {
		t.Fatalf("transcripts: %v", files)
	}
	slices.Sort(files)
	args := append([]string{"ceremony", "verify", "--root", d.path("pki", "root.pem")}, files...)
	if out, errOut, exit := d.cli(args...); exit != exitOK {
		t.Errorf("exit code %d: %s%s", exit, out, errOut)
	}
	// One octet of the second one changed.
	b, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "changed.json")
	at := strings.Index(string(b), `"payload":"`) + 40
	if b[at]++; b[at] > 'z' {
		b[at] = 'A'
	}
	if err := os.WriteFile(bad, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, exit := d.cli("ceremony", "verify", "--root", d.path("pki", "root.pem"), files[0], bad); exit != exitFault {
		t.Errorf("a changed transcript verifies: exit code %d", exit)
	}
}

func (d *demoRun) fsck(t *testing.T) {
	if found := d.findings(); len(found) != 0 {
		t.Fatalf("fsck: %s", strings.Join(found, "\n"))
	}
	file := d.path("state", "hallmark.db")
	saved := saveFiles(t, d.path("state"))
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var id int64
	var serial []byte
	if err := db.QueryRow(`SELECT r.id, r.serial FROM reservations r JOIN certificates c ON c.reservation = r.id ORDER BY random() LIMIT 1`).Scan(&id, &serial); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`DELETE FROM certificates WHERE reservation = $1`, id); err != nil {
		t.Fatal(err)
	}
	db.Close()
	found := d.findings()
	if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, hex.EncodeToString(serial)) }) {
		t.Errorf("fsck does not name the deleted %x: %s", serial, strings.Join(found, "\n"))
	}
	saved.restore(t)
	if found := d.findings(); len(found) != 0 {
		t.Errorf("after the row came back: %s", strings.Join(found, "\n"))
	}
}

// token asks OpenSC about the CA keys (acceptance 3).
func (d *demoRun) token(t *testing.T) {
	if d.hsm != "softhsm" {
		t.Skip("the keys are files")
	}
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]int{"line": 2, "root": 1} {
		out, err := tool(t, d.env, "pkcs11-tool", "--module", module, "--token-label", token, "--login", "--pin", "demo-1234", "--list-objects", "--type", "privkey")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		keys := strings.Split(out, "Private Key Object")[1:]
		if len(keys) != want {
			t.Errorf("token %s has %d keys: %s", token, len(keys), out)
		}
		for _, k := range keys {
			if !strings.Contains(k, "Access:     sensitive, always sensitive, never extractable, local") || !strings.Contains(k, "Usage:      sign\n") {
				t.Errorf("token %s: %s", token, k)
			}
		}
	}
}

func (d *demoRun) ocsp(t *testing.T) {
	url := "http://" + d.door("public") + "/ocsp/device-1"
	ask := func(which ...string) string {
		args := append([]string{"ocsp", "-issuer", d.path("pki", "issuing.pem"), "-url", url, "-CAfile", d.path("pki", "root.pem"), "-verify_other", d.path("pki", "issuing.pem")}, which...)
		out, err := tool(t, nil, "openssl", args...)
		if err != nil || !strings.Contains(out, "Response verify OK") {
			t.Errorf("openssl ocsp %v: %v %s", which, err, out)
		}
		return out
	}
	for _, dir := range d.devices[:3] {
		want := ": good"
		if d.revoked(dir) {
			want = ": revoked"
		}
		for _, name := range []string{"idevid.pem", "ldevid.pem"} {
			file := filepath.Join(dir, name)
			if out := ask("-cert", file); !strings.Contains(out, file+want) {
				t.Errorf("%s is not%s: %s", file, want, out)
			}
		}
	}
	if out := ask("-serial", "0x4000512b00000000000000000000000000000001"); !strings.Contains(out, ": unknown") {
		t.Errorf("a serial number that was never drawn is not unknown: %s", out)
	}
}

// publicTiles reads tiles over HTTP, where C2SP tlog-tiles says they are. It is
// written from that document, not with our code.
type publicTiles struct {
	t    *testing.T
	base string
}

func (p publicTiles) Height() int { return 8 }

func (p publicTiles) SaveTiles([]merkle.Tile, [][]byte) {}

func (p publicTiles) ReadTiles(tiles []merkle.Tile) (out [][]byte, err error) {
	for _, tile := range tiles {
		n := fmt.Sprintf("%03d", tile.N%1000)
		for rest := tile.N / 1000; rest > 0; rest /= 1000 {
			n = fmt.Sprintf("x%03d/%s", rest%1000, n)
		}
		path := fmt.Sprintf("/tile/%d/%s", tile.L, n)
		if tile.W < 256 {
			path += fmt.Sprintf(".p/%d", tile.W)
		}
		b, err := fetch(p.base + path)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

func fetch(url string) ([]byte, error) {
	r, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, r.Status)
	}
	return io.ReadAll(r.Body)
}

// log verifies the checkpoint with the note package and proves with the checksum
// database's code, from public tiles only, that the entry of every certificate is
// in the tree (ten ways, no. 5).
func (d *demoRun) log(t *testing.T) {
	cfg, err := loadConfig(d.path("hallmark.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	box, err := seal.Load(d.path("state", "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := vault{d.path("state", "keys"), box}.load("log")
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey(cfg.Log.Origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + d.door("public") + "/log"
	signed, err := fetch(base + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		t.Fatalf("%v: %s", err, signed)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 3 || lines[0] != cfg.Log.Origin {
		t.Fatalf("checkpoint %q", n.Text)
	}
	var size int64
	if _, err := fmt.Sscan(lines[1], &size); err != nil {
		t.Fatal(err)
	}
	root, err := merkle.ParseHash(lines[2])
	if err != nil {
		t.Fatal(err)
	}
	if size < d.summary.Log.Size {
		t.Errorf("the checkpoint covers %d leaves, the demonstration left %d", size, d.summary.Log.Size)
	}
	tree := merkle.Tree{N: size, Hash: root}
	tiles := publicTiles{t, base}
	reader := merkle.TileHashReader(tree, tiles)
	db, err := sql.Open("sqlite", d.path("state", "hallmark.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	proved := 0
	for _, c := range d.certs(t) {
		fingerprint := sha256.Sum256(c.Raw)
		var index int64
		var entry []byte
		err := db.QueryRowContext(context.Background(), `SELECT idx, entry FROM log_leaves WHERE type = 'issue' AND subject = $1`, fingerprint[:]).Scan(&index, &entry)
		if err != nil {
			t.Fatalf("%s is not in the log: %v", c.Subject, err)
		}
		proof, err := merkle.ProveRecord(size, index, reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := merkle.CheckRecord(proof, size, root, index, merkle.RecordHash(entry)); err != nil {
			t.Errorf("%s, leaf %d: %v", c.Subject, index, err)
		}
		proved++
	}
	if proved != 2*d.units {
		t.Errorf("%d proofs", proved)
	}
	// The tree of the demonstration's end is a prefix of today's.
	old, err := merkle.TreeHash(d.summary.Log.Size, reader)
	if err != nil || hex.EncodeToString(old[:]) != d.summary.Log.Root {
		t.Errorf("the log of the summary is not the beginning of this one: %v", err)
	}
}
