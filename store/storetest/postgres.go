// Package storetest proves that a database keeps the contract of the store: one
// suite, run on SQLite and on a real PostgreSQL that it starts itself.
//
// Start reading at suite.go.
package storetest

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
)

// cluster is the PostgreSQL of this test process.
type cluster struct {
	dir string
	cmd *exec.Cmd
	err error
}

var (
	once    sync.Once
	running cluster
	serial  int
	mu      sync.Mutex
	stops   bool // Main is there to stop the cluster
)

// Main runs a package's tests and stops the PostgreSQL that they started. Call
// it from TestMain.
func Main(m *testing.M) {
	stops = true
	code := m.Run()
	if running.cmd != nil {
		running.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
		running.cmd.Wait()
		os.RemoveAll(running.dir)
	}
	os.Exit(code)
}

// Postgres gives the URL of a new, empty database in a PostgreSQL that only this
// test process uses. The package's TestMain must be [Main].
func Postgres(t testing.TB) string {
	t.Helper()
	if !stops {
		t.Fatal("the package's TestMain is not storetest.Main: the PostgreSQL would outlive its tests")
	}
	once.Do(start)
	if running.err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("HALLMARK_CI") == "1" {
			t.Fatal(running.err)
		}
		t.Skip(running.err)
	}
	mu.Lock()
	serial++
	name := "t" + strconv.Itoa(serial)
	mu.Unlock()
	db, err := sql.Open("pgx", url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	return url(name)
}

func url(db string) string {
	return fmt.Sprintf("postgres://postgres@/%s?host=%s", db, running.dir)
}

// start makes a cluster on a unix socket: no port, no other user of it.
func start() {
	running.err = func() error {
		bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
		if len(bins) == 0 {
			return fmt.Errorf("PostgreSQL is not installed: apt-get install postgresql")
		}
		bin := bins[len(bins)-1]
		dir, err := os.MkdirTemp("", "hallmark-pg-")
		if err != nil {
			return err
		}
		running.dir = dir
		attr := &syscall.SysProcAttr{}
		if os.Getuid() == 0 { // PostgreSQL refuses to run as root
			u, err := user.Lookup("postgres")
			if err != nil {
				return err
			}
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
			if err := os.Chown(dir, uid, gid); err != nil {
				return err
			}
		}
		initdb := exec.Command(filepath.Join(bin, "initdb"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D", filepath.Join(dir, "data"))
		initdb.SysProcAttr, initdb.Dir = attr, dir
		if out, err := initdb.CombinedOutput(); err != nil {
			return fmt.Errorf("initdb: %w: %s", err, out)
		}
		var log bytes.Buffer
		cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data"), "-c", "listen_addresses=", "-c", "unix_socket_directories="+dir, "-c", "max_connections=200")
		cmd.SysProcAttr, cmd.Dir = attr, dir
		cmd.Stdout, cmd.Stderr = &log, &log
		if err := cmd.Start(); err != nil {
			return err
		}
		running.cmd = cmd
		db, err := sql.Open("pgx", url("postgres"))
		if err != nil {
			return err
		}
		defer db.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for {
			if err = db.PingContext(ctx); err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("PostgreSQL did not start: %w: %s", err, strings.TrimSpace(log.String()))
			case <-time.After(50 * time.Millisecond): // its own start-up, polled
			}
		}
	}()
}
