package hsmtest

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hallmark/hsm/pkcs11"
)

//go:embed testdata/faulty.c
var faultySource []byte

// FaultyToken is a SoftHSM token behind a library that fails on command.
type FaultyToken struct {
	Token
	command, logins string
}

// Faulty makes a token whose library is testdata/faulty.c before SoftHSM's.
func Faulty(t testing.TB) *FaultyToken {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		Missing(t, "a C compiler is missing: apt-get install gcc libc6-dev")
	}
	f := &FaultyToken{Token: SoftHSM(t)}
	f.command, f.logins = filepath.Join(f.Dir, "command"), filepath.Join(f.Dir, "logins")
	source, file := filepath.Join(f.Dir, "faulty.c"), filepath.Join(f.Dir, "faulty.so")
	if err := os.WriteFile(source, faultySource, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(cc, "-shared", "-fPIC", "-O1", "-Wall", `-DREAL="`+f.Module+`"`, `-DCOMMAND="`+f.command+`"`, `-DLOGINS="`+f.logins+`"`, "-o", file, source, "-ldl").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.Module = file
	if err := pkcs11.SetModuleEnv(file, "SOFTHSM2_CONF", f.Conf); err != nil {
		t.Fatal(err)
	}
	return f
}

// Next says what happens at the next signature ("sign-…") or login ("login-…"):
// crash, abort, exit, hang, stop (as by SIGSTOP) or minute (it takes one).
func (f *FaultyToken) Next(what string) {
	f.t.Helper()
	// Made elsewhere and moved, so that nobody reads half of it.
	if err := os.WriteFile(f.command+".new", []byte(what), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.command+".new", f.command); err != nil {
		f.t.Fatal(err)
	}
}

// Taken says whether what Next said has begun to happen.
func (f *FaultyToken) Taken() bool {
	_, err := os.Stat(f.command)
	return os.IsNotExist(err)
}

// Logins is how often the library was asked to log in.
func (f *FaultyToken) Logins() int {
	b, err := os.ReadFile(f.logins)
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return len(b)
}

// Processes are the processes that serve a module for the process parent.
func Processes(t testing.TB, parent int, module string) []int {
	t.Helper()
	dir, err := os.ReadDir("/proc")
	if err != nil {
		Missing(t, err.Error())
	}
	var found []int
	for _, e := range dir {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !strings.HasSuffix(string(line), "\x00"+module+"\x00") {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// The name in parentheses may have spaces; the parent is the second after it.
		fields := strings.Fields(string(stat)[strings.LastIndex(string(stat), ")")+1:])
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) && fields[0] != "Z" {
			found = append(found, pid)
		}
	}
	return found
}
