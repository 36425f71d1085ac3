package main

import (
	"os/exec"
	"strings"
	"testing"
)

// levels is the picture of docs/architecture.md: a package may import packages
// of its own level and of lower ones. A key that ends in / stands for everything
// below it. A package that no row names fails the test until it has a place.
var levels = map[string]int{
	"internal/": 0, "migrations": 0, "api": 0, "api/": 0, // words, files, octets; no I/O of ours above them
	"ca/profile": 0, "ca/lint": 0, "ca/csr": 0, "ca/keycheck": 0, "ca/tlog": 0, "ca/tlog/witness": 0,
	"provisioner/template": 0, "provisioner/hook": 0, "fleet/policy": 0, "fleet/rollout": 0,
	"access": 1, "hsm": 1, "hsm/": 1, // who, with which key
	"ca": 2, "ca/ceremony": 2, "fleet": 2, // what exists
	"crl": 3, "crl/filter": 0, "fleet/registry": 3, "fleet/shadow": 3, "fleet/jobs": 3, "fleet/presence": 3, "broker": 3, "fabric": 3, "station/spool": 3, // what became of it
	"fleet/campaign": 4, "fleet/ownership": 4, "fleet/rotation": 5, "fleet/trust": 5, "fleet/ota": 5, "fleet/ota/manifest": 0, // what is to become of many of them
	"provisioner": 5, "provisioner/declare": 5, // what may be made
	"station/uplink": 6, "station/uplink/server": 6, "bootstrap": 6, // who may come in
	"station": 7, "station/": 7, "device": 7, "device/": 7, "web": 7, "web/": 7, "bootstrap/": 7, // edges
	"store": 7, "store/blobs": 7, // persists for the domains
	"cmd/": 8, // wires
}

// helper tells whether a package serves tests: its name ends in test, or it is
// below one that does. It may import anything; nothing but tests imports it.
func helper(pkg string) bool { return strings.Contains(pkg+"/", "test/") }

// never lists what must not be reached, not even through others.
var never = map[string][]string{
	"station": {"store", "provisioner", "web"},
	"device":  {"store", "provisioner", "web"},
	"ca":      {"store", "provisioner", "fleet"},
	"fleet":   {"store", "bootstrap"},
	"store":   {"hsm", "web", "station"},
	"web":     {"store"},
}

// TestArrows_NoImportPointsUp holds the code to the picture.
func TestArrows_NoImportPointsUp(t *testing.T) {
	out, err := exec.Command("go", "list", "-e", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "hallmark/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		var own []string
		for _, p := range strings.Fields(line) {
			if rest, ok := strings.CutPrefix(p, "hallmark/"); ok {
				own = append(own, rest)
			}
		}
		imports[own[0]] = own[1:]
	}
	if len(imports) < 20 {
		t.Fatalf("go list names only %d packages", len(imports))
	}
	for from, list := range imports {
		if helper(from) {
			continue
		}
		level, ok := levelOf(from)
		if !ok {
			t.Errorf("package %s has no level: give it its place in levels and in docs/architecture.md", from)
		}
		for _, to := range list {
			l, _ := levelOf(to)
			switch {
			case helper(to):
				t.Errorf("%s imports %s, which is for tests", from, to)
			case l > level:
				t.Errorf("%s (level %d) imports %s (level %d): an arrow points up", from, level, to, l)
			case to == "store" && !strings.HasPrefix(from, "cmd/"):
				t.Errorf("%s imports store; only cmd does", from)
			}
		}
		for _, no := range never[from] {
			if way := path(imports, from, no); way != nil {
				t.Errorf("%s must not reach %s: %s", from, no, strings.Join(way, " → "))
			}
		}
	}
}

// levelOf finds a package's row, else the longest row above it.
func levelOf(pkg string) (int, bool) {
	if l, ok := levels[pkg]; ok {
		return l, true
	}
	for i := len(pkg) - 1; i > 0; i-- {
		if pkg[i] == '/' {
			if l, ok := levels[pkg[:i+1]]; ok {
				return l, true
			}
		}
	}
	return 0, false
}

// path is one way of imports from a package to another, nil if there is none.
func path(imports map[string][]string, from, to string) []string {
	seen := map[string]bool{}
	var walk func(p string) []string
	walk = func(p string) []string {
		if p == to {
			return []string{p}
		}
		if seen[p] {
			return nil
		}
		seen[p] = true
		for _, next := range imports[p] {
			if rest := walk(next); rest != nil {
				return append([]string{p}, rest...)
			}
		}
		return nil
	}
	return walk(from)
}
