package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/catest"
	"hallmark/ca/tlog"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/internal/fault"
	"hallmark/internal/seal"
	"hallmark/store"
	"hallmark/store/storetest"
)

// stopped is the place of a service that does not run, with a log and two approvers.
type stopped struct {
	t   *testing.T
	dir string
	box *seal.Box
	n   int // units made
}

func newStopped(t *testing.T, more string) *stopped {
	t.Helper()
	s := &stopped{t: t, dir: t.TempDir()}
	if err := os.Mkdir(s.path("state"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.box = must(seal.Create(s.path("state", "seal.key")))
	must(vault{s.path("state", "keys"), s.box}.ed25519Key("log"))
	text := "state: state\nserver_names: [127.0.0.1]\napprovers:\n"
	for _, name := range []string{"ana", "bo"} {
		spki := must(x509.MarshalPKIXPublicKey(s.person(name).Public()))
		s.write(name+".pub.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
		text += "  - {name: " + name + ", key: " + name + ".pub.pem}\n"
	}
	s.write("elsewhere", nil)
	s.write("hallmark.yaml", []byte(text+"log:\n  origin: log.example.com/one\n  checkpoint_files: [elsewhere]\n"+more))
	db := s.open()
	storetest.Order(t, db, "PO-1", 1000)
	s.close(db)
	return s
}

func (s *stopped) path(name ...string) string {
	return filepath.Join(append([]string{s.dir}, name...)...)
}

func (s *stopped) write(name string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// person makes the key of an approver, in an encrypted file that opens quickly.
func (s *stopped) person(name string) *ecdsa.PrivateKey {
	s.t.Helper()
	key := catest.NewKey(s.t)
	s.write(name+".clear", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))}))
	s.write(name+".pin", []byte("1234"))
	if out, err := tool(s.t, nil, "openssl", "pkcs8", "-topk8", "-in", s.path(name+".clear"), "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "1000", "-passout", "pass:1234", "-out", s.path(name+".pem")); err != nil {
		s.t.Fatalf("%v %s", err, out)
	}
	os.Remove(s.path(name + ".clear"))
	return key
}

func (s *stopped) uri(name string) string {
	return "file:" + s.path(name+".pem") + "?passphrase-source=file:" + s.path(name+".pin")
}

func (s *stopped) open() *store.DB {
	s.t.Helper()
	return must(store.Open(s.t.Context(), store.Config{URL: s.path("state", "hallmark.db"), Seal: s.box}))
}

func (s *stopped) close(db *store.DB) {
	s.t.Helper()
	if err := db.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// recovery opens the database as the commands do.
func (s *stopped) recovery(do func(r *recovery)) {
	s.t.Helper()
	r, err := openRecovery(s.t.Context(), &globals{Dir: s.dir, Err: os.Stderr, Now: time.Now}, "", "")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.close()
	do(r)
}

// make issues, and signs the log as a service does: here, and where the configuration
// keeps the newest checkpoint.
func (s *stopped) make(n int) {
	s.t.Helper()
	db := s.open()
	first := s.n
	storetest.Parallel(n, func(i int) {
		storetest.Make(s.t, db, storetest.Birth(s.t, "PO-1", "st-1", fmt.Sprintf("SN-%d", first+i)))
	})
	s.n += n
	s.close(db)
	s.recovery(func(r *recovery) {
		if err := r.hold(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	})
}

// publish makes a copy of the log in a directory, as a CDN has it.
func (s *stopped) publish(dir string) {
	s.t.Helper()
	s.recovery(func(r *recovery) {
		c := must(r.key.log.Integrate(s.t.Context()))
		if _, err := tlog.NewPublisher(tlog.PublisherConfig{Source: r.key.log.Source(), Key: r.key.vkey, Dir: s.path(dir)}).Publish(s.t.Context(), c.Note); err != nil {
			s.t.Fatal(err)
		}
	})
}

// cli runs a command as a person does.
func (s *stopped) cli(args ...string) (out, errOut string, exit int) {
	s.t.Helper()
	var o, e bytes.Buffer
	exit = run(context.Background(), append([]string{"--json", "--dir", s.dir}, args...), strings.NewReader(""), &o, &e)
	return o.String(), e.String(), exit
}

func (s *stopped) fails(code string, args ...string) string {
	s.t.Helper()
	out, errOut, exit := s.cli(args...)
	if exit != exitFault || !strings.Contains(errOut, code) {
		s.t.Fatalf("%v: %d %s%s, want %s", args, exit, out, errOut, code)
	}
	return errOut
}

func (s *stopped) into(v any, args ...string) {
	s.t.Helper()
	out, errOut, exit := s.cli(args...)
	if exit != exitOK {
		s.t.Fatalf("%v: %d %s%s", args, exit, out, errOut)
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		s.t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// agreed runs a command that two people have to agree to; between is called before the
// second one signed.
func (s *stopped) agreed(v any, between func(file string, approved []string), args ...string) {
	s.t.Helper()
	file := s.path("statement.json")
	os.Remove(file)
	s.fails("restore-statement", append(args, "--out", file)...)
	approved := append(args, "--approved", file)
	s.signs("ana", file)
	if between != nil {
		between(file, approved)
	}
	s.signs("bo", file)
	s.into(v, approved...)
}

func (s *stopped) signs(name, file string) {
	s.t.Helper()
	var env adminapi.Envelope
	s.into(&env, "restore", "approve", file, "--yes", "--key", s.uri(name))
}

// entry is the newest entry of an action in the trail.
func (s *stopped) entry(action access.Action) (last access.TrailEntry) {
	s.t.Helper()
	db := s.open()
	defer s.close(db)
	if _, err := db.VerifyTrail(s.t.Context()); err != nil {
		s.t.Error(err)
	}
	rows := must(db.TrailRows(s.t.Context(), access.Scope{Tenant: access.DefaultTenant}, 1, 1000))
	for _, r := range rows {
		if e, _, err := r.Read(); err != nil {
			s.t.Fatal(err)
		} else if e.Action == action {
			last = e
		}
	}
	return last
}

// held says what a start says about the checkpoints that are held elsewhere.
func (s *stopped) held() (err error) {
	s.t.Helper()
	s.recovery(func(r *recovery) { err = r.behind(s.t.Context()) })
	return err
}

// A77 without a backup: the database's file and everything beside it were copied back,
// and only the checkpoint that log.checkpoint_files keeps elsewhere knows. Two people
// take the lost places from a copy of the log, or close it; the trail says who (S34, S36).
func TestRecovery_FilesThatWereCopiedBack_A77_S34_S36(t *testing.T) {
	s := newStopped(t, "")
	s.person("eve")
	s.make(3)
	old := saveFiles(t, s.path("state"))
	s.make(2)
	s.publish("world")
	if err := s.held(); err != nil {
		t.Fatalf("before: %v", err)
	}
	old.restore(t)
	if err := s.held(); err == nil || fault.From(err).Code != "tlog-behind" || fault.From(err).Members["held"] != s.path("elsewhere") {
		t.Fatalf("with the files of before: %v", err)
	}

	// Only the log's tail is taken from the copy.
	var rep struct {
		Lost  int64
		Chain *chain
	}
	s.agreed(&rep, func(file string, approved []string) {
		s.fails("1 of 2", approved...)
		s.signs("ana", file) // the same person again
		s.signs("eve", file) // no approver
		s.fails("1 of 2", approved...)
	}, "log", "recover", "--from-tiles", s.path("world"))
	if rep.Lost != 2 {
		t.Errorf("%d leaves recovered", rep.Lost)
	}
	if err := s.held(); err != nil {
		t.Errorf("after the recovery: %v", err)
	}
	if e := s.entry(access.RecoverLog); e.Outcome != access.TrailDone || e.About["agreed"] != "ana, bo" || !strings.HasPrefix(e.About["log"], "3 ") || !strings.HasPrefix(e.About["since_log"], "5 ") || e.Actor != "service:recovery" {
		t.Errorf("the trail says %+v", e)
	}
	s.fails("restore-nothing", "restore", "accept")

	// Once more, and nobody has a copy of the log: it is closed with the acceptance.
	old.restore(t)
	s.fails("restore-log-behind", "restore", "accept")
	var accepted acceptReport
	s.agreed(&accepted, nil, "restore", "accept", "--new-origin", "log.example.com/two")
	if !strings.HasPrefix(accepted.NewLog, "log.example.com/two+") || strings.Join(accepted.Approvers, " ") != "ana bo" || accepted.Backup != "" {
		t.Errorf("accepted: %+v", accepted)
	}
	if e := s.entry(access.AcceptRestore); e.Outcome != access.TrailDone || e.About["agreed"] != "ana, bo" || e.About["new_origin"] != "log.example.com/two" || e.About["restore"] != accepted.ID || len(e.Body) != 64 {
		t.Errorf("the trail says %+v", e)
	}
	s.closedAs("log.example.com/one", "log.example.com/two", accepted.NewLog)
	s.make(1)

	// The log is closed once more by itself, as when its key was lost.
	s.agreed(&rep, nil, "log", "close", "--new-origin", "log.example.com/three")
	if rep.Chain == nil || rep.Chain.ClosedOrigin != "log.example.com/two" || rep.Chain.Origin != "log.example.com/three" {
		t.Fatalf("closed: %+v", rep.Chain)
	}
	if e := s.entry(access.CloseLog); e.Outcome != access.TrailDone || e.About["new_origin"] != "log.example.com/three" || !strings.HasPrefix(e.About["log"], "4 ") {
		t.Errorf("the trail says %+v", e)
	}
	s.closedAs("log.example.com/two", "log.example.com/three", rep.Chain.Key)
	s.make(1)
	if err := s.held(); err != nil {
		t.Error(err)
	}
}

// A77, A14, S36: what people sign names the published lists or says that there are none,
// so nobody can leave the revocations on them out afterwards.
func TestRecovery_TheListsAreWhatPeopleAgreedTo_A77_A14_S36(t *testing.T) {
	s := newStopped(t, "")
	s.make(3)
	old := saveFiles(t, s.path("state"))
	s.make(1)
	s.publish("world")
	lists := func(dir string, text string) string {
		if err := os.MkdirAll(s.path(dir, "device-1"), 0o700); err != nil {
			t.Fatal(err)
		}
		s.write(filepath.Join(dir, "device-1", "0.crl"), []byte(text))
		return s.path(dir)
	}
	given, other, same := lists("given", "a list"), lists("other", "another list"), lists("same", "a list")
	if err := os.Mkdir(s.path("none"), 0o700); err != nil {
		t.Fatal(err)
	}
	with := func(more ...string) []string {
		return append([]string{"restore", "accept", "--since-log", s.path("world")}, more...)
	}
	old.restore(t)
	if _, errOut, exit := s.cli(with("--since-lists", s.path("none"))...); exit != exitUsage || !strings.Contains(errOut, "no file *.crl") {
		t.Errorf("a directory without lists: %d %s", exit, errOut)
	}
	file := s.path("statement.json")
	s.fails("restore-statement", with("--since-lists", given, "--out", file)...)
	s.signs("ana", file)
	s.signs("bo", file)
	s.fails("restore-other-lists", with("--approved", file)...)
	s.fails("restore-other-lists", with("--since-lists", other, "--approved", file)...)
	var rep acceptReport
	s.into(&rep, with("--since-lists", same, "--approved", file)...)
	if len(rep.Skipped) != 1 || rep.Entered != 0 {
		t.Errorf("%+v", rep)
	}
	if e := s.entry(access.AcceptRestore); !strings.HasPrefix(e.About["since_lists"], "1 ") {
		t.Errorf("the trail says %+v", e)
	}

	// The other way round: people agreed that there are none.
	old.restore(t)
	s.fails("restore-statement", with("--out", file)...)
	var env adminapi.Envelope
	if err := json.Unmarshal(must(os.ReadFile(file)), &env); err != nil || !strings.Contains(string(env.Payload), `"since_lists":"none"`) {
		t.Errorf("%v %s", err, env.Payload)
	}
	s.signs("ana", file)
	s.signs("bo", file)
	s.fails("restore-other-lists", with("--since-lists", given, "--approved", file)...)
	s.into(&rep, with("--approved", file)...)
}

// S42: a break-glass key opens one session, ever, also if the database forgot it.
func TestRecovery_SpendsTheBreakGlassKey_S42(t *testing.T) {
	key, _, _ := access.NewBreakGlassKey()
	s := newStopped(t, "break_glass:\n  key: "+key.String()+"\n")
	s.make(1)
	open := func(id string) error {
		db := s.open()
		defer s.close(db)
		now := time.Now()
		return db.OpenBreakGlass(t.Context(), access.BreakGlassSession{ID: id, Tenant: access.DefaultTenant, KeyID: key.ID(), TokenHash: access.NewToken().Hash(), OpenedAt: now, ExpiresAt: now.Add(time.Hour), Reason: "nobody can sign in", From: "192.0.2.7"})
	}
	old := saveFiles(t, s.path("state"))
	if err := open("01"); err != nil {
		t.Fatal(err)
	}
	s.make(1)
	s.publish("world")
	for i, args := range [][]string{{"restore", "accept", "--since-log", s.path("world")}, {"log", "recover", "--from-tiles", s.path("world")}} {
		old.restore(t)
		s.agreed(&map[string]any{}, nil, args...)
		if err := open(fmt.Sprintf("1%d", i)); err == nil || fault.From(err).Code != "break-glass-spent" {
			t.Errorf("%v: the key opens again: %v", args, err)
		}
	}
	old.restore(t)
	s.fails("restore-statement", "restore", "accept", "--since-log", s.path("world"), "--out", s.path("statement.json"))
	s.signs("ana", s.path("statement.json"))
	s.signs("bo", s.path("statement.json"))
	if out, errOut, exit := s.cli("restore", "accept", "--since-log", s.path("world"), "--approved", s.path("statement.json")); exit != exitOK || !strings.Contains(out, key.ID()) {
		t.Errorf("%d %s%s", exit, out, errOut)
	}
	// It was never open, and the rows are genuine.
	db := s.open()
	defer s.close(db)
	all, err := db.BreakGlassSessions(t.Context())
	if err != nil || len(all) != 1 || all[0].Live(time.Now()) {
		t.Errorf("%+v, %v", all, err)
	}
}

// closedAs changes the configuration as the command says, and looks at what is held.
func (s *stopped) closedAs(from, to, vkey string) {
	s.t.Helper()
	file := s.path("hallmark.yaml")
	s.write("hallmark.yaml", bytes.Replace(must(os.ReadFile(file)), []byte("origin: "+from), []byte("origin: "+to), 1))
	for _, name := range []string{s.path("elsewhere"), s.path("state", "checkpoint")} {
		if c, err := tlog.ParseCheckpoint(must(os.ReadFile(name)), vkey); err != nil || c.Origin != to {
			s.t.Errorf("%s: %v", name, err)
		}
		if kept, _ := filepath.Glob(name + ".before-*"); len(kept) == 0 {
			s.t.Errorf("%s: the old one is gone, and it is evidence", name)
		}
	}
	if err := s.held(); err != nil {
		s.t.Error(err)
	}
}

// S34: the key that signs checkpoints lives in a token, also under the rules of
// production (S44). One that is not Ed25519 is refused.
func TestLogKey_LivesInAToken_S34(t *testing.T) {
	token := hsmtest.SoftHSM(t)
	keys := hsm.Open(hsm.Config{Production: true})
	defer keys.Close()
	for object, alg := range map[string]hsm.Algorithm{"log": hsm.Ed25519, "other": hsm.P256} {
		if _, err := keys.Generate(t.Context(), token.URI(object), hsm.Spec{Algorithm: alg}); err != nil {
			t.Fatal(err)
		}
	}
	s := newStopped(t, "")
	cfg := must(loadConfig(s.path("hallmark.yaml")))
	cfg.Production, cfg.Log.Key = true, token.URI("log")
	db := s.open()
	defer s.close(db)
	storetest.Make(t, db, storetest.Birth(t, "PO-1", "st-1", "SN-1"))
	key, err := openLogKey(t.Context(), cfg, keys, vault{})
	if err != nil {
		t.Fatal(err)
	}
	log := must(tlog.New(tlog.Config{Store: db.Log(), Origin: cfg.Log.Origin, Key: key}))
	c, err := log.Integrate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := tlog.ParseCheckpoint(c.Note, must(tlog.VerifierKey(cfg.Log.Origin, key.Public()))); err != nil || again.Size != 1 {
		t.Errorf("%+v, %v", again, err)
	}
	if own, err := (vault{s.path("state", "keys"), s.box}).load("log"); err != nil || bytes.Contains(c.Note, must(x509.MarshalPKIXPublicKey(own.Public()))) {
		t.Error(err)
	}
	cfg.Log.Key = token.URI("other")
	if _, err := openLogKey(t.Context(), cfg, keys, vault{}); err == nil || !strings.Contains(err.Error(), "not Ed25519") {
		t.Errorf("a P-256 key: %v", err)
	}
}

// A77: a backup that is killed leaves a hidden file and nothing that could be taken for
// a backup; the file is swept later.
func TestBackup_KilledInTheMiddle_A77(t *testing.T) {
	id := must(age.GenerateX25519Identity())
	s := newStopped(t, "backup:\n  directory: backups\n  recipients: ["+id.Recipient().String()+"]\n")
	s.write("identity", []byte(id.String()+"\n"))
	s.make(300) // more than one chunk of the encryption
	all := func(pattern string) []string {
		names, _ := filepath.Glob(s.path("backups", pattern))
		return names
	}
	partial, final := partialPrefix+"*"+partialSuffix, "hallmark-*"+backupSuffix
	at := &site{t: t, stage: stage{dir: s.dir}}
	// At its first sight, and after some of the rows.
	for _, least := range []int64{0, 64 << 10} {
		killed := false
		for try := 0; !killed; try++ {
			if try == 20 {
				t.Fatal("every backup was faster than the kill")
			}
			for _, name := range append(all(partial), all(final)...) {
				os.Remove(name)
			}
			p := at.spawn("backup", "--offline", "--config", s.path("hallmark.yaml"))
			for ended := false; !ended; {
				for _, name := range all(partial) {
					if info, err := os.Stat(name); err == nil && info.Size() >= least {
						p.cmd.Process.Kill()
					}
				}
				select {
				case <-p.done:
					ended = true
				case <-time.After(200 * time.Microsecond):
				}
			}
			status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !status.Signaled() && !status.Exited() || status.Exited() && status.ExitStatus() != exitOK {
				t.Fatalf("it ended by itself: %v %s", p.cmd.ProcessState, p.said.String())
			}
			// It may have been done in the moment of the kill.
			killed = status.Signaled() && len(all(partial)) == 1
			if status.Signaled() && len(all(final)) > 0 {
				killed = false
				s.verify(all(final)[0])
			}
		}
		if left := all("*"); len(left) != 1 { // hidden ones too
			t.Errorf("after the kill: %v", left)
		}
	}
	// Another node may be writing a young one; an old one goes.
	left := all(partial)[0]
	var made adminapi.BackupState
	s.into(&made, "backup", "--offline")
	if _, err := os.Stat(left); err != nil {
		t.Error("a young file of another backup was removed")
	}
	old := time.Now().Add(-2 * partialAge)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	s.into(&made, "backup", "--offline")
	if len(all(partial)) != 0 {
		t.Error("what broke off two days ago is there")
	}
	s.verify(made.File)
}

func (s *stopped) verify(file string) {
	s.t.Helper()
	var v map[string]any
	s.into(&v, "backup", "verify", file, "--identity", s.path("identity"), "--seal-key", s.path("state", "seal.key"))
}
