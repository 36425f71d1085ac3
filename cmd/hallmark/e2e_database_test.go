package main

import (
	"os"
	"testing"
)

// savedDatabase is a copy of a SQLite database whose service does not run.
type savedDatabase struct {
	file  string
	parts map[string][]byte
}

var databaseParts = []string{"", "-wal", "-shm"}

func saveDatabase(t testing.TB, file string) savedDatabase {
	t.Helper()
	s := savedDatabase{file, map[string][]byte{}}
	for _, p := range databaseParts {
		b, err := os.ReadFile(file + p)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		s.parts[p] = b
	}
	return s
}

func (s savedDatabase) restore(t testing.TB) {
	t.Helper()
	for _, p := range databaseParts {
		if err := os.Remove(s.file + p); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if b, ok := s.parts[p]; ok {
			if err := os.WriteFile(s.file+p, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
