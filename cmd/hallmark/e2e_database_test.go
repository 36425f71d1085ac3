package main

import (
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// savedFiles is a copy of a directory that no service uses.
type savedFiles struct {
	dir   string
	files map[string][]byte
}

func saveFiles(t testing.TB, dir string) savedFiles {
	t.Helper()
	s := savedFiles{dir, map[string][]byte{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		s.files[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// restore makes the directory what it was.
func (s savedFiles) restore(t testing.TB) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || s.files[path] != nil {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, b := range s.files {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// intruder is somebody who can write to the SQLite file, and nothing else (S32).
type intruder struct {
	t  testing.TB
	db *sql.DB
}

// intrude opens the database beside or without the service.
func intrude(t testing.TB, file string) *intruder {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &intruder{t, db}
}

// exec changes rows; nothing changed is a broken test.
func (i *intruder) exec(query string, args ...any) {
	i.t.Helper()
	r, err := i.db.Exec(query, args...)
	if err != nil {
		i.t.Fatalf("%s: %v", query, err)
	}
	if n, _ := r.RowsAffected(); n == 0 {
		i.t.Fatalf("%s: no row", query)
	}
}

// column of a table.
type column struct {
	name         string
	key, notNull bool
}

// tables lists the tables with rows and their columns.
func (i *intruder) tables() (names []string, columns map[string][]column) {
	i.t.Helper()
	columns = map[string][]column{}
	rows, err := i.db.Query(`SELECT m.name, p.name, p.pk > 0, p."notnull" > 0 FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' ORDER BY m.name, p.cid`)
	if err != nil {
		i.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		var c column
		if err := rows.Scan(&table, &c.name, &c.key, &c.notNull); err != nil {
			i.t.Fatal(err)
		}
		if columns[table] == nil {
			names = append(names, table)
		}
		columns[table] = append(columns[table], c)
	}
	if err := rows.Err(); err != nil {
		i.t.Fatal(err)
	}
	return names, columns
}

func (i *intruder) count(table string) (n int) {
	i.t.Helper()
	if err := i.db.QueryRow(`SELECT COUNT(*) FROM ` + table).Scan(&n); err != nil {
		i.t.Fatal(err)
	}
	return n
}

// pick reads n different random rows.
func (i *intruder) pick(table string, cols []column, n int) (out [][]any) {
	i.t.Helper()
	total := i.count(table)
	var at []int
	for len(at) < n {
		b, err := rand.Int(rand.Reader, big.NewInt(int64(total)))
		if err != nil {
			i.t.Fatal(err)
		}
		if k := int(b.Int64()); !slices.Contains(at, k) {
			at = append(at, k)
		}
	}
	for _, k := range at {
		row, into := make([]any, len(cols)), make([]any, len(cols))
		for j := range row {
			into[j] = &row[j]
		}
		if err := i.db.QueryRow(`SELECT * FROM ` + table + ` LIMIT 1 OFFSET ` + fmt.Sprint(k)).Scan(into...); err != nil {
			i.t.Fatal(err)
		}
		for j := range row {
			if b, ok := row[j].([]byte); (ok && b == nil || row[j] == nil) && cols[j].notNull {
				row[j] = []byte{} // the driver gives an empty value as nil and takes nil as NULL
			}
		}
		out = append(out, row)
	}
	return out
}

// where is the condition that finds a row by its key.
func where(cols []column, row []any) (cond string, args []any) {
	var parts []string
	for j, c := range cols {
		if c.key {
			parts = append(parts, c.name+" = ?")
			args = append(args, row[j])
		}
	}
	return strings.Join(parts, " AND "), args
}

func (i *intruder) delete(table string, cols []column, row []any) {
	i.t.Helper()
	cond, args := where(cols, row)
	i.exec(`DELETE FROM `+table+` WHERE `+cond, args...)
}

// alter changes one value a little.
func (i *intruder) alter(table string, cols []column, row []any, at int) {
	i.t.Helper()
	var v any
	switch old := row[at].(type) {
	case nil:
		v = []byte{1}
	case int64:
		if v = old + 1; cols[at].key {
			v = old + 100_000
		}
	case float64:
		v = old + 1
	case string:
		v = old + "x"
	case []byte:
		v = append(slices.Clone(old), 1)
		if len(old) > 0 {
			v = slices.Clone(old)
			v.([]byte)[len(old)/2] ^= 1
		}
	default:
		i.t.Fatalf("%s.%s is a %T", table, cols[at].name, old)
	}
	cond, args := where(cols, row)
	i.exec(`UPDATE `+table+` SET `+cols[at].name+` = ? WHERE `+cond, append([]any{v}, args...)...)
}

// swap gives each of two rows the other's key.
func (i *intruder) swap(table string, cols []column, a, b []any) {
	i.t.Helper()
	i.delete(table, cols, a)
	i.delete(table, cols, b)
	x, y := slices.Clone(a), slices.Clone(b)
	for j, c := range cols {
		if c.key {
			x[j], y[j] = b[j], a[j]
		}
	}
	marks := strings.TrimSuffix(strings.Repeat("?,", len(cols)), ",")
	for _, row := range [][]any{x, y} {
		i.exec(`INSERT INTO `+table+` VALUES (`+marks+`)`, row...)
	}
}

// onlyRow are the tables of one row, which a finding names by what they are.
var onlyRow = map[string]string{"log_head": "transparency log", "log_checkpoint": "transparency log", "clock_high": "clock mark"}

// rowNamed tells whether a finding names a row: by one of its values.
func rowNamed(found []string, table string, row []any) bool {
	for _, f := range found {
		f = strings.ToLower(f)
		if what := onlyRow[table]; what != "" && strings.Contains(f, what) {
			return true
		}
		for _, v := range row {
			var text string
			switch v := v.(type) {
			case string:
				text = v
			case []byte:
				text = hex.EncodeToString(v)
				if c, err := x509.ParseCertificate(v); err == nil { // is named by its serial number
					text = hex.EncodeToString(c.SerialNumber.FillBytes(make([]byte, 20)))
				}
			case int64:
				text = fmt.Sprint(v)
			}
			if text != "" && strings.Contains(f, strings.ToLower(text)) {
				return true
			}
		}
	}
	return false
}
