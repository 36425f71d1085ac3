package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteFile_ReplacesAndLeavesNoNeighbour(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.pem")
	for _, want := range []string{"one", "two"} {
		if err := WriteFile(name, []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil || string(got) != want {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	fi, _ := os.Stat(name)
	if fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", fi.Mode())
	}
	if es, _ := os.ReadDir(dir); len(es) != 1 {
		t.Errorf("%d entries left", len(es))
	}
}

func TestWriteFile_MissingDirectoryIsAnError(t *testing.T) {
	if err := WriteFile(filepath.Join(t.TempDir(), "no", "a"), nil, 0o600); err == nil {
		t.Error("no error")
	}
}
