// Package migrations holds the numbered SQL that makes and changes the
// database. A file is one thought, has the same number for both engines, and is
// frozen once released.
package migrations

import (
	"embed"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"
)

//go:embed *.sql
var files embed.FS

// Engine is a database engine's name in the file names.
type Engine string

// The engines.
const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
)

// Migration is one step upward.
type Migration struct {
	Number int
	Name   string
	SQL    string
}

// MinReader is the oldest version of the schema whose program may still work
// on the newest one. It rises only with a migration that an older program
// would misread.
const MinReader = 1

// For lists the steps of one engine in order of their numbers. A number may be left
// out, but none comes twice. A broken set is a programming error that the tests catch.
func For(e Engine) ([]Migration, error) {
	names, err := fs.Glob(files, "*."+string(e)+".sql")
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var out []Migration
	for _, n := range names {
		number, rest, ok := strings.Cut(n, "_")
		i, err := strconv.Atoi(number)
		if !ok || err != nil || len(number) != 4 || i < 1 || len(out) > 0 && i == out[len(out)-1].Number {
			return nil, fmt.Errorf("migrations: %s: a step has a number of its own, 0001 to 9999", n)
		}
		body, err := files.ReadFile(n)
		if err != nil {
			return nil, err
		}
		out = append(out, Migration{Number: i, Name: strings.TrimSuffix(rest, "."+string(e)+".sql"), SQL: string(body)})
	}
	return out, nil
}
