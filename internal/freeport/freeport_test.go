package freeport

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestMain is also the other process of the test below.
func TestMain(m *testing.M) {
	if os.Getenv("FREEPORT_CHILD") != "" {
		for range 250 {
			p, err := Take(1)
			fmt.Println(p, err)
		}
		os.Stdin.Read(make([]byte, 1)) // the blocks are its own until its input ends
		return
	}
	os.Exit(m.Run())
}

// Two processes that take ports at the same time never get the same one, nor does
// one of them twice.
func TestTake_NeverTwice(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "FREEPORT_CHILD=1")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	note := func(p string) {
		if seen[p] {
			t.Errorf("port %s twice", p)
		}
		seen[p] = true
	}
	for range 250 {
		p, err := Take(1)
		if err != nil {
			t.Fatal(err)
		}
		note(fmt.Sprint(p))
		var theirs, word string
		if _, err := fmt.Fscan(out, &theirs, &word); err != nil || word != "<nil>" {
			t.Fatalf("the other process: %s %s %v", theirs, word, err)
		}
		note(theirs)
	}
	in.Close()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestTake_InARowAndNotWhereSomebodyListens(t *testing.T) {
	p, err := Take(1)
	if err != nil {
		t.Fatal(err)
	}
	// The next call would get the next port; somebody else has it.
	l, err := net.Listen("tcp", address(p+1))
	if err != nil {
		t.Skipf("the port after %d: %v", p, err)
	}
	defer l.Close()
	q, err := Take(3)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if q+i == p+1 {
			t.Errorf("%d, where somebody listens", q+i)
		}
		n, err := net.Listen("tcp", address(q+i))
		if err != nil {
			t.Errorf("port %d of three: %v", i, err)
			continue
		}
		defer n.Close()
	}
	if _, err := Take(block); err == nil || !strings.Contains(err.Error(), "fewer in a row") {
		t.Errorf("more than a block: %v", err)
	}
}
