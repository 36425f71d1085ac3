package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	backtick   = regexp.MustCompile("`([^`\n]+)`")
	promiseID  = regexp.MustCompile(`^\| ([AS][0-9]{1,2}) \|`)
	idInName   = regexp.MustCompile(`(?:^Test|_)([AS][0-9]{1,2})(?:_|$)`)
	dueIDs     = regexp.MustCompile(`([AS])([0-9]{1,2})(?: to [AS]([0-9]{1,2}))?`)
	promiseRow = regexp.MustCompile(`(?m)^\|.*\|$`)
)

// TestPromises_NameWhatExists holds docs/promises.md to the code: every file and
// test that it names exists, a test in the row of an id says that id in its name,
// comment or body, and an id in a test's name has a row.
func TestPromises_NameWhatExists(t *testing.T) {
	page, err := os.ReadFile("../../docs/promises.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{} // name → comment and source
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				tests[fn.Name.Name] += strings.ReplaceAll(strings.TrimPrefix(fn.Name.Name, "Test"), "_", " ") + "\n" + fn.Doc.Text() + string(src[fn.Pos()-f.FileStart:fn.End()-f.FileStart])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	text, due, _ := strings.Cut(string(page), "\n## Due later\n")
	ids, checked := map[string]bool{}, 0
	for _, m := range dueIDs.FindAllStringSubmatch(due, -1) {
		first, _ := strconv.Atoi(m[2])
		last, _ := strconv.Atoi(m[3])
		for i := first; i <= max(first, last); i++ {
			ids[m[1]+strconv.Itoa(i)] = true
		}
	}
	rows := map[string]bool{}
	for _, row := range promiseRow.FindAllString(text, -1) {
		id := ""
		if m := promiseID.FindStringSubmatch(row); m != nil {
			if id = m[1]; rows[id] {
				t.Errorf("docs/promises.md has two rows for %s", id)
			}
			rows[id], ids[id] = true, true
		}
		named := false
		for _, m := range backtick.FindAllStringSubmatch(row, -1) {
			switch name := m[1]; {
			case strings.HasPrefix(name, "Test"):
				named = true
				checked++
				src, ok := tests[name]
				if !ok {
					t.Errorf("docs/promises.md names the test %s, which does not exist", name)
				} else if id != "" && !regexp.MustCompile(`(?:^|[^A-Za-z0-9])`+id+`(?:[^0-9]|$)`).MatchString(src) {
					t.Errorf("docs/promises.md names %s for %s, of which the test does not speak", name, id)
				}
			case strings.HasSuffix(name, ".go"):
				checked++
				if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
					t.Errorf("docs/promises.md names the file %s, which does not exist", name)
				}
			}
		}
		if id != "" && !named {
			t.Errorf("docs/promises.md names no test for %s", id)
		}
	}
	for name := range tests {
		for _, m := range idInName.FindAllStringSubmatch(strings.ReplaceAll(name, "_", "__"), -1) {
			if !ids[m[1]] {
				t.Errorf("%s is about %s, of which docs/promises.md does not speak", name, m[1])
			}
		}
	}
	if checked < 200 || len(ids) < 70 {
		t.Errorf("docs/promises.md has %d ids and names only %d files and tests", len(ids), checked)
	}
}
