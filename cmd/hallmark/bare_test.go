package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"hallmark/access"
)

// TestCommands_TakeNoNumberThatWasNotGiven: a command that reads, without any flag, asks
// for nothing that the service's contract refuses, such as a window of 0 seconds.
func TestCommands_TakeNoNumberThatWasNotGiven(t *testing.T) {
	c := newCLI(t)
	reads := map[string]bool{"list": true, "due": true, "search": true, "show": true, "history": true, "timeline": true, "members": true, "report": true, "using": true, "things": true, "principals": true}
	n := 0
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		for _, sub := range cmd.Commands() {
			walk(sub, append(path[:len(path):len(path)], sub.Name()))
		}
		if !reads[cmd.Name()] || !cmd.Runnable() {
			return
		}
		var args []string
		for cmd.Args != nil && cmd.Args(cmd, args) != nil && len(args) < 3 {
			args = append(args, "1")
		}
		n++
		for _, role := range []access.Role{access.Auditor, access.FleetOperator} {
			_, _, errOut := c.run(role, "", append(path[:len(path):len(path)], args...)...)
			if strings.Contains(errOut, "is less than") {
				t.Errorf("%s %s: %s", strings.Join(path, " "), strings.Join(args, " "), errOut)
			}
		}
	}
	walk(newRootCmd(&globals{}), nil)
	if n < 30 {
		t.Errorf("only %d commands were tried", n)
	}
	code, out, errOut := c.run(access.Auditor, "", "rotation", "due", "--json")
	if code != 0 || !strings.Contains(out, "LMP-1") {
		t.Errorf("%d %s %s", code, out, errOut)
	}
}
