package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/api/factoryapi"
	"hallmark/ca"
	"hallmark/crl"
	"hallmark/internal/fault"
	"hallmark/internal/seal"
	"hallmark/store"
	"hallmark/store/storetest"
)

// savedSite is a site that makes backups, with a break-glass key.
func savedSite(t *testing.T) *logSite {
	t.Helper()
	glass, a, b := access.NewBreakGlassKey()
	return &logSite{site: newChangedSite(t, "software", "", anyName(20), func(s *site) {
		for name, share := range map[string]access.Share{"share-a": a, "share-b": b} {
			if err := os.WriteFile(s.path(name), []byte(share.Reveal()+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range [][]string{{"backup", "keygen", "--out", s.path("backup-key.txt")}} {
			if out, errOut, exit := s.cli(f...); exit != exitOK {
				t.Fatalf("%v: %s%s", f, out, errOut)
			}
		}
		if err := os.WriteFile(s.path("elsewhere"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		key := ""
		for line := range strings.Lines(string(must(os.ReadFile(s.path("backup-key.txt"))))) {
			if rest, ok := strings.CutPrefix(line, "# public key: "); ok {
				key = strings.TrimSpace(rest)
			}
		}
		s.configure("log:\n  publish: published\n  publish_every: 1s\n  checkpoint_files: [elsewhere]\nbackup:\n  directory: backups\n  recipients: [" + key + "]\n  key_recipients: [" + key + "]\nenrolment:\n  est: {enabled: true}\nbreak_glass:\n  key: " + glass.String() + "\n")
	})}
}

// TestTrailAndBackup_OfOneSite has the trail (A75) and break-glass (S42) of a site, and
// then its backup (A77), whose SQLite database comes back as PostgreSQL; A14, A26, A32,
// A64 and S34 with it.
func TestTrailAndBackup_OfOneSite_A75_S42_A77_A14_A26_A32_S34_S36(t *testing.T) {
	w := savedSite(t)
	w.trail(t)
	if t.Failed() {
		return
	}
	for i := range 3 {
		w.serials = append(w.serials, w.issueAnswer(newUnit(t, fmt.Sprintf("B-%d", i))).Serial)
	}
	a, err := w.api("ann").CreateStationCodeWithResponse(t.Context(), adminapi.StationCodeRequest{Station: "line-9", Site: "elsewhere"})
	if err != nil || a.JSON201 == nil {
		t.Fatalf("%v %s", err, a.Body)
	}
	code := a.JSON201.Code
	w.settle("published/checkpoint")

	// The service makes it, and says how far it is.
	var made adminapi.BackupState
	w.into(&made, "backup")
	if made.Running || made.Failure != "" || made.Rows == 0 || made.Leaves == 0 || !made.MasterKey {
		t.Fatalf("%+v", made)
	}
	noCanaries(t, w, made.File, code)
	identity := w.path("backup-key.txt")
	w.must("backup", "verify", made.File, "--identity", identity, "--seal-key", w.path("state", "seal.key"))

	// Since then: a certificate more, two revocations (one of the new certificate),
	// and lists and log that the world saw.
	young := w.issueAnswer(newUnit(t, "B-3")).Serial
	w.must("cert", "revoke", w.serials[0], "--reason", "keyCompromise")
	w.must("cert", "revoke", young, "--reason", "superseded")
	w.settle("published/checkpoint")
	for _, serial := range []string{w.serials[0], young} {
		if !w.listed(must(ca.ParseSerial(serial))) {
			t.Fatalf("%s is not listed", serial)
		}
	}
	seen := w.publicList()
	world := w.path("world")
	if err := os.CopyFS(filepath.Join(world, "crl"), os.DirFS(w.path("state", "public", "crl"))); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(world, "log"), os.DirFS(w.path("published"))); err != nil {
		t.Fatal(err)
	}
	w.halt()
	w.cutTrail(t)

	// A rehearsal touches nothing.
	var d drillReport
	w.into(&d, "restore", made.File, "--drill", "--identity", identity, "--scratch", t.TempDir())
	if !d.Good || d.Certificates == 0 || d.Leaves != made.Leaves {
		t.Errorf("drill: %+v", d)
	}

	// Nothing that exists is overwritten; the real one goes to another engine.
	if out, errOut, exit := w.cli("restore", made.File, "--into", w.path("state"), "--identity", identity); exit != exitFault || !strings.Contains(errOut, "restore-not-empty") {
		t.Errorf("over what is there: %d %s%s", exit, out, errOut)
	}
	url := storetest.Postgres(t)
	w.must("restore", made.File, "--into", url, "--state", w.path("back"), "--identity", identity)
	if err := os.Rename(w.path("state"), w.path("lost")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.path("back"), w.path("state")); err != nil {
		t.Fatal(err)
	}
	file := w.path("hallmark.yaml")
	if err := os.WriteFile(file, bytes.Replace(must(os.ReadFile(file)), []byte(`database: "hallmark.db"`), []byte("database: "+url), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	w.reload(t)

	// It is not served. The log that the world saw has to be dealt with, and people
	// have to agree.
	refused := func(what, code string) {
		t.Helper()
		if err := w.serve(t.Context()); err == nil {
			t.Fatalf("%s: the service runs", what)
		} else if f := fault.From(err); f.Code != code {
			t.Fatalf("%s: %v", what, err)
		}
		w.server = nil
	}
	refused("after the restore", "restored-not-accepted")
	if _, errOut, exit := w.cli("restore", "accept"); exit != exitFault || !strings.Contains(errOut, "restore-log-behind") {
		t.Errorf("with a log that is behind: %d %s", exit, errOut)
	}
	statement := w.path("statement.json")
	accept := []string{"restore", "accept", "--since-lists", filepath.Join(world, "crl"), "--since-log", filepath.Join(world, "log"), "--out", statement}
	if _, errOut, exit := w.cli(accept...); exit != exitFault || !strings.Contains(errOut, "restore-statement") {
		t.Fatalf("without agreement: %d %s", exit, errOut)
	}
	if _, errOut, exit := w.cli(append(accept, "--approved", statement)...); exit != exitFault || !strings.Contains(errOut, "restore-statement") {
		t.Errorf("with a statement that nobody signed: %d %s", exit, errOut)
	}
	refused("before it was accepted", "restored-not-accepted")
	w.must("restore", "approve", statement, "--yes", "--key", w.approverURI())
	var rep acceptReport
	w.into(&rep, append(accept, "--approved", statement)...)
	if rep.Lost == 0 || rep.Entered != 1 || len(rep.Unknown) != 1 || rep.Void["station codes"] == 0 || len(rep.People) == 0 {
		t.Errorf("accepted: %+v", rep)
	}
	w.again()

	// Numbers jumped (A32), what was revoked since is revoked, and what nobody knows
	// any more stays listed.
	now := w.publicList()
	if now.Number.Int64() <= seen.Number.Int64()+1000 {
		t.Errorf("list %d after %d", now.Number, seen.Number)
	}
	have := map[string]bool{}
	for _, e := range now.RevokedCertificateEntries {
		have[fmt.Sprintf("%X", e.SerialNumber)] = true
	}
	for _, e := range seen.RevokedCertificateEntries {
		if !have[fmt.Sprintf("%X", e.SerialNumber)] {
			t.Errorf("%X is off the list", e.SerialNumber)
		}
	}
	// The key of the one that was revoked for keyCompromise since (A14).
	story, err := w.server.db.Story(t.Context(), "main", "device-1", must(ca.ParseSerial(w.serials[0])))
	if err != nil || story.Revocation == nil || story.Revocation.Reason != crl.KeyCompromise {
		t.Errorf("%+v, %v", story.Revocation, err)
	}
	// The code that was open in the backup.
	late, err := call(t.Context(), w.client(nil, 1), "POST", "https://"+w.door("enrol")+"/enrol/v1/station", factoryapi.EnrolRequest{Station: "line-9", Code: code, Csr: newUnit(t, "line-9").csr})
	if err != nil || late.status != 401 || !bytes.Contains(late.body, []byte("station-code-refused")) {
		t.Errorf("a code of before the backup: %v %+v", err, late)
	}
	// The line goes on, and everything is proven, with the gap in the log named.
	w.issue(newUnit(t, "B-9"))
	w.settle("elsewhere")
	var v logReport
	w.into(&v, "log", "verify", "--checkpoint", filepath.Join(world, "log", "checkpoint"))
	if !v.Clean || v.Lost == 0 {
		t.Errorf("verify: %+v", v)
	}
	var f fsckReport
	out, errOut, _ := w.cli("fsck")
	// What is listed and unknown stays named.
	if err := json.Unmarshal([]byte(out), &f); err != nil || len(f.Findings) != 1 || f.Findings[0].Check != "crl-listed-revoked" {
		t.Errorf("fsck: %s%s", out, errOut)
	}
	if _, errOut, exit := w.cli("restore", "accept", "--since-log", filepath.Join(world, "log")); exit != exitFault || !strings.Contains(errOut, "restore-nothing") {
		t.Errorf("twice: %d %s", exit, errOut)
	}
}

// noCanaries looks for secrets in the backup, as it is and decrypted (A26).
func noCanaries(t *testing.T, w *logSite, file, code string) {
	t.Helper()
	canaries := map[string][]byte{"station code": []byte(code), "PIN": []byte("demo-1234"), "master key": must(os.ReadFile(w.path("state", "seal.key")))}
	for _, person := range []string{"people/olga.token", "state/admin.token"} {
		if b, err := os.ReadFile(w.path(filepath.FromSlash(person))); err == nil {
			canaries[person] = bytes.TrimSpace(b)
		}
	}
	look := func(where string, b []byte) {
		for name, c := range canaries {
			if len(c) > 0 && bytes.Contains(b, c) {
				t.Errorf("%s: the %s is in it", where, name)
			}
		}
		if bytes.Contains(b, []byte("PRIVATE KEY")) {
			t.Errorf("%s: a private key is in it", where)
		}
	}
	look("the file", must(os.ReadFile(file)))
	ids := must(identitiesOf(w.path("backup-key.txt"), ""))
	f := must(os.Open(file))
	defer f.Close()
	names := map[string]bool{}
	if _, err := readBackup(context.Background(), f, ids, func(name string, data []byte) error {
		names[strings.Split(name, "/")[0]] = true
		look(name, data)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !names["tables"] || !names["state"] || !names["config"] {
		t.Errorf("parts %v", names)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBackupFile_NamesEveryChange_A77(t *testing.T) {
	dir := t.TempDir()
	cfg := &Config{State: filepath.Join(dir, "state"), dir: dir, Database: filepath.Join(dir, "state", "h.db")}
	cfg.Backup = BackupConfig{Directory: filepath.Join(dir, "backups"), Keep: 2}
	id := must(age.GenerateX25519Identity())
	cfg.Backup.Recipients = []string{id.Recipient().String()}
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		t.Fatal(err)
	}
	box := must(seal.Create(filepath.Join(cfg.State, "seal.key")))
	db := must(store.Open(t.Context(), store.Config{URL: cfg.Database, Seal: box}))
	defer db.Close()
	storetest.Order(t, db, "PO-1", 10)
	storetest.Make(t, db, storetest.Birth(t, "PO-1", "s", "SN-1"))
	j := &backupJob{cfg: cfg, db: db, box: box, logKey: "x", now: time.Now, log: newLogger(os.Stderr, "error")}
	var last *backupResult
	for range 3 {
		r, err := j.make(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last = r
	}
	if files, _ := os.ReadDir(cfg.Backup.Directory); len(files) != 2 {
		t.Errorf("%d files are kept, not 2", len(files))
	}
	good := must(os.ReadFile(last.File))
	check := func(b []byte, box *seal.Box, ids ...age.Identity) string {
		_, err := checkBackup(t.Context(), bytes.NewReader(b), ids, box)
		if err == nil {
			return ""
		}
		return fault.From(err).Code
	}
	if c := check(good, box, id); c != "" {
		t.Fatalf("the backup itself: %s", c)
	}
	for i := 0; i < len(good); i += len(good)/40 + 1 {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if c := check(bad, box, id); c == "" {
			t.Errorf("octet %d changed and taken", i)
		}
		if c := check(good[:i], box, id); c == "" {
			t.Errorf("cut to %d and taken", i)
		}
	}
	if c := check(good, box, must(age.GenerateX25519Identity())); c != "backup-identity" {
		t.Errorf("another identity: %s", c)
	}
	other := must(seal.Create(filepath.Join(dir, "other.key")))
	if c := check(good, other, id); c != "backup-master-key" {
		t.Errorf("another master key: %s", c)
	}
	// Whoever knows the public key makes a backup of his own.
	var forged bytes.Buffer
	fw := must(newBackupWriter(&forged, []age.Recipient{id.Recipient()}))
	var m *backupManifest
	m, err := readBackup(t.Context(), bytes.NewReader(good), []age.Identity{id}, func(name string, data []byte) error {
		if strings.HasPrefix(name, tablesDir+"orders/") {
			return nil
		}
		return fw.put(name, data)
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Parts = fw.parts
	delete(m.Rows, "orders")
	if err := fw.put(manifestPart, must(json.Marshal(m))); err != nil {
		t.Fatal(err)
	}
	if err := fw.close(); err != nil {
		t.Fatal(err)
	}
	if c := check(forged.Bytes(), box, id); c != "backup-forged" {
		t.Errorf("a forged one: %q", c)
	}
}

func TestWithoutSecrets_A26(t *testing.T) {
	out := string(withoutSecrets([]byte("database: postgres://h:hunter2@db/h # hunter2\nx: {password: hunter2, key: 'pkcs11:object=a?pin-value=hunter2'}\nproduction: true\n")))
	if strings.Contains(out, "hunter2") || !strings.Contains(out, "production: true") || !strings.Contains(out, "db/h") {
		t.Error(out)
	}
}

// S36: two approvers of the configuration, in production always.
func TestStatement_NeedsTwoPeople_S36(t *testing.T) {
	s := &statement{Action: "accept", Disable: []string{}}
	one := productionConfig(t, goodProduction+approvedBy(t))
	if _, err := s.agreed(one, ""); fault.From(err).Code != "restore-statement" || !strings.Contains(err.Error(), "0 of 2") {
		t.Errorf("production with one approver: %v", err)
	}
	one.Production = false
	one.Approvers = nil
	if by, err := s.agreed(one, ""); err != nil || len(by) != 0 {
		t.Errorf("development without approvers: %v %v", by, err)
	}
}
