package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/internal/fault"
	"hallmark/web"
)

var update = flag.Bool("update", false, "write generated documents anew")

const (
	problemPages = "../../docs/problems"
	background   = "\n## Background\n" // written by hand, kept by -update
)

// TestProblems_EveryCodeHasItsPage holds docs/problems to the faults of the
// program, both ways: the page of a code says its sentence and its next step,
// and no page is about a code that is gone. After a change:
//
//	go test ./cmd/hallmark -run TestProblems -update
func TestProblems_EveryCodeHasItsPage(t *testing.T) {
	codes := map[string]bool{}
	for _, d := range fault.All() {
		codes[d.Code] = true
		file := filepath.Join(problemPages, d.Code+".md")
		old, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		head, story, found := strings.Cut(string(old), background)
		if found {
			story = background + story
		}
		if head == problemPage(d) {
			continue
		}
		if !*update {
			t.Errorf("docs/problems/%s.md does not say what the program says; run the test with -update", d.Code)
			continue
		}
		if err := os.WriteFile(file, []byte(problemPage(d)+story), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pages, err := filepath.Glob(filepath.Join(problemPages, "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages in %s: %v", problemPages, err)
	}
	for _, file := range pages {
		code := strings.TrimSuffix(filepath.Base(file), ".md")
		if codes[code] {
			continue
		}
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !*update || strings.Contains(string(page), background) {
			t.Errorf("docs/problems/%s.md is about no code of the program; codes are stable, was one renamed?", code)
			continue
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProblems_ReadAsSentences checks the words themselves: whoever reads them
// sees them alone, on a station's screen or in a log.
func TestProblems_ReadAsSentences(t *testing.T) {
	for _, d := range fault.All() {
		if d.Code != strings.ToLower(d.Code) || strings.Trim(d.Code, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("code %q is not lower case with hyphens", d.Code)
		}
		if !strings.HasSuffix(d.What, ".") || strings.ToUpper(d.What[:1]) != d.What[:1] {
			t.Errorf("%s: %q is not a sentence", d.Code, d.What)
		}
		if d.Next == "" {
			t.Errorf("%s does not say what to do next", d.Code)
		}
	}
}

// problemPage is the generated part of a page.
func problemPage(d *fault.Definition) string {
	return fmt.Sprintf("# %s\n\n%s\n\n**What to do:** %s\n\n| kind | HTTP status |\n|---|---|\n| %s | %d |\n",
		d.Code, d.What, d.Next, d.Kind, web.Status(d.New("")))
}
