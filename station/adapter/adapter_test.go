package adapter

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/ca/csr"
	"hallmark/internal/fault"
	"hallmark/station/stationtest"
	"hallmark/station/uplink"
)

var ctx = context.Background()

func open(t *testing.T, spec string, log *slog.Logger) Adapter {
	t.Helper()
	a, err := Open(spec, Config{Nest: 3, Log: log, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// certify signs a certificate for the CSR.
func certify(t *testing.T, request []byte) (*x509.Certificate, [][]byte) {
	t.Helper()
	req, err := csr.Parse(request)
	if err != nil {
		t.Fatal(err)
	}
	root := stationtest.NewAuthority(t, "Root", nil)
	ca := stationtest.NewAuthority(t, "CA", &root)
	der := stationtest.Sign(t, ca, req.PublicKey, func(c *x509.Certificate) { c.Subject.CommonName = "SN-1" })
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, [][]byte{ca.Cert.Raw, root.Cert.Raw}
}

// exercise takes a device through everything; it is what any adapter must do.
func exercise(t *testing.T, a Adapter, d Device) {
	t.Helper()
	if err := a.Connect(ctx, d); err != nil {
		t.Fatal(err)
	}
	first, err := a.KeyAndCSR(ctx, d, false)
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.KeyAndCSR(ctx, d, false)
	if err != nil {
		t.Fatal(err)
	}
	one, err := csr.Parse(first)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := csr.Parse(second); err != nil || two.SPKIHash != one.SPKIHash {
		t.Fatalf("asked again, another key came: %v", err)
	}
	if got, err := a.ReadBack(ctx, d); err != nil || len(got) != 0 {
		t.Fatalf("a new device holds %d octets, %v", len(got), err)
	}
	cert, chain := certify(t, first)
	d.Unit = "SN-1"
	for range 2 { // safe to repeat
		if err := a.Install(ctx, d, cert.Raw, chain); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := a.ReadBack(ctx, d); err != nil || !bytes.Equal(got, cert.Raw) {
		t.Fatalf("read back %d octets, %v", len(got), err)
	}
	msg := uplink.CommitMessage([]byte("nonce"), "SN-1", cert.Raw)
	sig, err := a.Challenge(ctx, d, msg)
	if err != nil {
		t.Fatal(err)
	}
	if err := uplink.VerifyCommit(cert.PublicKey, msg, sig); err != nil {
		t.Fatal(err)
	}
	fresh, err := a.KeyAndCSR(ctx, d, true)
	if err != nil {
		t.Fatal(err)
	}
	if three, err := csr.Parse(fresh); err != nil || three.SPKIHash == one.SPKIHash {
		t.Fatalf("a fresh key is the old one: %v", err)
	}
}

func TestSimulate_IsADevice(t *testing.T) {
	for algorithm := range algorithms {
		t.Run(algorithm, func(t *testing.T) {
			dir := t.TempDir()
			exercise(t, open(t, "simulate:"+dir+"?algorithm="+algorithm, nil), Device{Label: "SN-1", Unit: "SN-1"})
			info, err := os.Stat(filepath.Join(dir, "SN-1", KeyFile))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v %v", info, err)
			}
		})
	}
	t.Run("allocated", func(t *testing.T) {
		dir := t.TempDir()
		exercise(t, open(t, "simulate:"+dir, nil), Device{Label: "new-1"})
		if entries, _ := os.ReadDir(dir); len(entries) != 1 || entries[0].Name() != "SN-1" {
			t.Errorf("the device did not get its name: %v", entries)
		}
	})
}

func TestSimulate_KeepsTheChainWithoutTheRoot(t *testing.T) {
	dir := t.TempDir()
	a, d := open(t, "simulate:"+dir, nil), Device{Label: "SN-1", Unit: "SN-1"}
	if err := a.Connect(ctx, d); err != nil {
		t.Fatal(err)
	}
	request, err := a.KeyAndCSR(ctx, d, false)
	if err != nil {
		t.Fatal(err)
	}
	cert, chain := certify(t, request)
	if err := a.Install(ctx, d, cert.Raw, chain); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(dir, "SN-1", CertificateFile))
	var ders [][]byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		ders = append(ders, block.Bytes)
	}
	if len(ders) != 2 || !bytes.Equal(ders[0], cert.Raw) || !bytes.Equal(ders[1], chain[0]) {
		t.Errorf("%d certificates", len(ders))
	}
}

func TestSimulate_MisbehavesWhenToldTo(t *testing.T) {
	d := Device{Label: "SN-1", Unit: "SN-1"}
	t.Run("key-fault", func(t *testing.T) {
		a := open(t, "simulate:"+t.TempDir()+"?fail=key-fault", nil)
		a.Connect(ctx, d)
		if _, err := a.KeyAndCSR(ctx, d, false); !errors.Is(err, ErrKeyFault) {
			t.Errorf("got %v", err)
		}
		if _, err := a.KeyAndCSR(ctx, d, false); err != nil {
			t.Errorf("the second try: %v", err)
		}
	})
	t.Run("slow", func(t *testing.T) {
		a := open(t, "simulate:"+t.TempDir()+"?slow=1h", nil)
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		if err := a.Connect(ctx, d); !errors.Is(err, ErrSlow) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("only", func(t *testing.T) {
		a := open(t, "simulate:"+t.TempDir()+"?fail=absent&only=SN-2", nil)
		if err := a.Connect(ctx, d); err != nil {
			t.Error(err)
		}
		if err := a.Connect(ctx, Device{Label: "SN-2", Unit: "SN-2"}); !errors.Is(err, ErrAbsent) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOpen_RefusesWhatItDoesNotKnow(t *testing.T) {
	dir := t.TempDir()
	for _, spec := range []string{"", "usb:1", "simulate:", "simulate:" + dir + "?fail=x", "simulate:" + dir + "?color=red", "simulate:" + dir + "?slow=-1s",
		"simulate:" + dir + "?algorithm=dsa", "command:", "command:/no/such/program", `command:"open`} {
		if _, err := Open(spec, Config{}); !errors.Is(err, ErrSpec) {
			t.Errorf("%q: %v", spec, err)
		}
	}
	a := open(t, "simulate:"+dir, nil)
	for _, name := range []string{"..", ".", "../x", "a/b", ".hidden", ""} { // never outside its directory
		if err := a.Connect(ctx, Device{Label: name, Unit: name}); !errors.Is(err, ErrDevice) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSplitWords(t *testing.T) {
	got, err := splitWords(`"/opt/my line/reach"  --port 'COM 3' ""`)
	if err != nil || strings.Join(got, "|") != "/opt/my line/reach|--port|COM 3|" {
		t.Errorf("%q %v", got, err)
	}
}

// program writes the example of the manual, which is what customers start from.
func program(t *testing.T) (python, script string) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: apt-get install python3")
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: apt-get install openssl")
	}
	manual, err := os.ReadFile(filepath.Join("..", "..", "docs", "station.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(manual), "```python\n")
	code, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("the manual has no Python example")
	}
	script = filepath.Join(t.TempDir(), "reach.py")
	if err := os.WriteFile(script, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	return python, script
}

func TestCommand_TheManualsProgramIsADevice(t *testing.T) {
	python, script := program(t)
	exercise(t, open(t, "command:"+python+" "+script+" "+t.TempDir(), nil), Device{Label: "SN-1", Unit: "SN-1"})
}

// logs collects what is logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(b) }
func (l *logs) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// script writes a Python program that is given each request as r.
func script(t *testing.T, body string) string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: apt-get install python3")
	}
	head := "import sys,json,os,time\nsys.stderr.write('nest '+os.environ['HALLMARK_NEST']+'\\n'); sys.stderr.flush()\n" +
		"def say(o):\n    sys.stdout.write(json.dumps(o)+'\\n'); sys.stdout.flush()\n" +
		"for line in sys.stdin:\n    r=json.loads(line)\n"
	for _, l := range strings.Split(body, "\n") {
		head += "    " + l + "\n"
	}
	name := filepath.Join(t.TempDir(), "p.py")
	if err := os.WriteFile(name, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	return "command:" + python + " " + name
}

func TestCommand_ItsDeathIsNamedAndTheNextUnitStartsItAgain(t *testing.T) {
	var said logs
	a := open(t, script(t, "if r['unit']=='BAD':\n    sys.stderr.write('bus error 17\\n'); sys.exit(3)\nsay({'id':r['id']})"), slog.New(slog.NewTextHandler(&said, nil)))
	if err := a.Connect(ctx, Device{Label: "SN-1", Unit: "SN-1"}); err != nil {
		t.Fatal(err)
	}
	err := a.Connect(ctx, Device{Label: "BAD", Unit: "BAD"})
	if f := fault.From(err); !errors.Is(err, ErrProgram) || !strings.Contains(f.Detail, "exit status 3") || !strings.Contains(f.Detail, "bus error 17") {
		t.Errorf("got %v", err)
	}
	if err := a.Connect(ctx, Device{Label: "SN-2", Unit: "SN-2"}); err != nil {
		t.Errorf("it was not started again: %v", err)
	}
	a.Close() // its end has read all that the programs said
	if s := said.String(); !strings.Contains(s, "bus error 17") || strings.Count(s, "nest 3") != 2 {
		t.Errorf("the log has %q", s)
	}
}

func TestCommand_OutOfStepIsRefused(t *testing.T) {
	d := Device{Label: "SN-1", Unit: "SN-1"}
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"no JSON":         {"print('hello', flush=True)", ErrProtocol},
		"another id":      {"say({'id':r['id']+1})", ErrProtocol},
		"no CSR":          {"say({'id':r['id']})", ErrProtocol},
		"not base64":      {"say({'id':r['id'],'csr':'***'})", ErrProtocol},
		"a flood":         {"sys.stdout.write('x'*(3<<20)); sys.stdout.flush(); time.sleep(60)", ErrProtocol},
		"key fault":       {"say({'id':r['id'],'error':{'code':'key-fault','message':'ECC'}})", ErrKeyFault},
		"absent":          {"say({'id':r['id'],'error':{'code':'absent','message':'no board'}})", ErrAbsent},
		"its own failure": {"say({'id':r['id'],'error':{'code':'E42','message':'locked\\x1b[2J'}})", ErrDevice},
		"output closed":   {"os.close(1); time.sleep(60)", ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, script(t, c.body), nil)
			_, err := a.KeyAndCSR(ctx, d, false)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if strings.Contains(fault.From(err).Detail, "\x1b") {
				t.Error("the program's control characters reach the terminal")
			}
		})
	}
}

func TestCommand_ASlowProgramIsKilledWithItsChildren(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "pid")
	a := open(t, script(t, "import subprocess\np=subprocess.Popen(['sleep','600']); open('"+mark+"','w').write(str(p.pid)); p.wait()"), nil)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := a.Connect(ctx, Device{Label: "SN-1", Unit: "SN-1"}); !errors.Is(err, ErrSlow) {
		t.Fatalf("got %v", err)
	}
	b, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(string(b))
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("its child lives: %s", stat)
	}
}
