package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func fill(t *testing.T, dir string, n int) {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range n {
		if err := s.Append(Record{Job: fmt.Sprintf("unit:O-1:sn%d", i), Unit: fmt.Sprintf("SN%d", i), Order: "O-1", State: Planned}); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, dir string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, journalName), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// frames finds where each record begins; the last entry is the end.
func frames(t *testing.T, b []byte) []int {
	t.Helper()
	at := []int{headerSize}
	for at[len(at)-1] < len(b) {
		_, n, ok := takeFrame(b[at[len(at)-1]:])
		if !ok {
			t.Fatal("the journal is broken before the test broke it")
		}
		at = append(at, at[len(at)-1]+n)
	}
	return at
}

func TestSpool_JoinsTheRecordsOfAUnitOverRestarts(t *testing.T) {
	dir := t.TempDir()
	steps := []Record{
		{State: Planned, Order: "O-1", Unit: "SN1", Nest: 2, Operator: "ann"},
		{State: Requested, Nest: 2, CSR: []byte{1}},
		{State: Issued, Nest: 2, Serial: "40", Certificate: []byte{2}, Chain: [][]byte{{3}}, Nonce: []byte{4}, Fingerprint: []byte{5}},
		{State: Written, Nest: 2},
		{State: Verified, Nest: 2, Signature: []byte{6}},
		{State: Committed, Nest: 2},
	}
	for i, r := range steps {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		r.Job = "j"
		if err := s.Append(r); err != nil {
			t.Fatal(err)
		}
		if u, ok := s.Unit("j"); !ok || u.State != r.State || u.Unit != "SN1" || u.Order != "O-1" || u.Nest != 2 {
			t.Fatalf("after record %d: %+v", i+1, u)
		}
		if open := len(s.Unfinished()); open != 1 && !r.State.Final() || open != 0 && r.State.Final() {
			t.Errorf("%s: %d unfinished", r.State, open)
		}
		s.Close()
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	u, _ := s.Unit("j")
	if u.Serial != "40" || u.Fingerprint[0] != 5 || u.Certificate != nil {
		t.Errorf("what is finished keeps name and fingerprint only: %+v", u)
	}
}

func TestSpool_TornTailIsSetAside(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 3)
	whole := read(t, dir)
	at := frames(t, whole)
	last := at[len(at)-2]
	cut := map[string][]byte{}
	for n := last + 1; n < len(whole); n += 7 { // a power cut anywhere in the last record
		cut[fmt.Sprintf("cut at %d", n-last)] = whole[:n]
	}
	damaged := bytes.Clone(whole)
	damaged[len(damaged)-5] ^= 0x40
	cut["last page lost"] = damaged
	cut["zeros at the end"] = append(bytes.Clone(whole[:last]), make([]byte, 4096)...)
	for name, b := range cut {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, b)
			s, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(s.Unfinished()); got != 2 {
				t.Errorf("%d units survive, want 2", got)
			}
			if err := s.Append(Record{Job: "after", State: Planned}); err != nil {
				t.Fatal(err)
			}
			s.Close()
			kept, _ := filepath.Glob(filepath.Join(dir, "torn-*"))
			if len(kept) != 1 {
				t.Fatalf("%d files with what was cut off", len(kept))
			}
			if k, _ := os.ReadFile(kept[0]); !bytes.Equal(k, b[last:]) {
				t.Error("what was cut off is not what was kept")
			}
			if o, err := Inspect(dir); err != nil || o.Records != 3 || o.Torn != 0 {
				t.Errorf("the journal does not go on: %+v, %v", o, err)
			}
		})
	}
}

func TestSpool_BrokenMiddleRefusesToOpen(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 4)
	whole := read(t, dir)
	at := frames(t, whole)
	second, third, fourth := at[1], at[2], at[3]
	other := t.TempDir()
	fill(t, other, 4)
	foreign := read(t, other)
	flip := func(i int) []byte {
		b := bytes.Clone(whole)
		b[i] ^= 1
		return b
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, b := range map[string][]byte{
		"a payload octet":             flip(second + frameSize + 9),
		"a length":                    flip(second + 3),
		"a length that leads outside": flip(second),
		"a checksum":                  flip(second + 5),
		"the header":                  flip(3),
		"a record removed":            join(whole[:second], whole[third:]),
		"two records swapped":         join(whole[:second], whole[third:fourth], whole[second:third], whole[fourth:]),
		"a record repeated":           join(whole[:third], whole[second:third], whole[third:]),
		"another journal's record":    join(whole[:second], foreign[second:third], whole[third:]),
		"another journal's header":    join(foreign[:headerSize], whole[headerSize:]),
		"a long unknown tail":         join(whole, bytes.Repeat([]byte{7}, MaxRecord+100)),
		"empty":                       {},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, b)
			s, err := Open(dir)
			if !errors.Is(err, ErrBroken) {
				t.Fatalf("got %v, want ErrBroken", err)
			}
			if s != nil {
				t.Error("a journal came back with the error")
			}
			if !bytes.Equal(read(t, dir), b) {
				t.Error("the broken journal was changed")
			}
		})
	}
}

func TestSpool_NewerVersionIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 1)
	b := read(t, dir)
	b[len(magic)+3] = version + 1
	copy(b, reheader(b[:headerSize]))
	write(t, dir, b)
	if _, err := Open(dir); !errors.Is(err, ErrVersion) {
		t.Fatalf("got %v", err)
	}
}

func TestSpool_TwoProcessesNeverShareIt(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	s.Close()
	s, err = Open(dir)
	if err != nil {
		t.Fatalf("the lock outlives its holder: %v", err)
	}
	s.Close()
}

// disk is a file whose writes or syncs fail on demand.
type disk struct {
	file
	room    int // octets that still fit; negative = no limit
	syncErr error
}

func (d *disk) WriteAt(b []byte, off int64) (int, error) {
	if d.room >= 0 && len(b) > d.room {
		n, _ := d.file.WriteAt(b[:d.room], off)
		return n, &os.PathError{Op: "write", Err: syscall.ENOSPC}
	}
	return d.file.WriteAt(b, off)
}

func (d *disk) Sync() error {
	if d.syncErr != nil {
		return d.syncErr
	}
	return d.file.Sync()
}

func TestSpool_FullDiskLosesNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Append(Record{Job: "a", State: Planned}); err != nil {
		t.Fatal(err)
	}
	before := read(t, dir)
	d := &disk{file: s.file, room: 20}
	s.file = d
	if err := s.Append(Record{Job: "b", State: Planned}); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	if _, ok := s.Unit("b"); ok {
		t.Error("a record that failed is in the table")
	}
	if !bytes.Equal(read(t, dir), before) {
		t.Error("half a record stays in the journal")
	}
	d.room = -1 // somebody made room
	if err := s.Append(Record{Job: "c", State: Planned}); err != nil {
		t.Fatalf("the journal does not go on: %v", err)
	}
	s.Close()
	if o, err := Inspect(dir); err != nil || o.Records != 2 {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestSpool_AFailedSyncEndsIt(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := &disk{file: s.file, room: -1, syncErr: syscall.EIO}
	s.file = d
	if err := s.Append(Record{Job: "a", State: Planned}); !errors.Is(err, ErrWrite) {
		t.Fatalf("got %v", err)
	}
	d.syncErr = nil // the kernel says yes the second time, about other pages
	if err := s.Append(Record{Job: "b", State: Planned}); !errors.Is(err, ErrWrite) {
		t.Errorf("it goes on after a failed sync: %v", err)
	}
}

func TestSpool_TimeNeverRunsBack(t *testing.T) { // S38
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s, err := OpenConfig(Config{Dir: t.TempDir(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Append(Record{Job: "a", State: Planned})
	now = now.AddDate(-5, 0, 0)
	s.Append(Record{Job: "b", State: Planned})
	a, _ := s.Unit("a")
	if b, _ := s.Unit("b"); b.At.Before(a.At) {
		t.Errorf("%v is before %v", b.At, a.At)
	}
}

// reheader repairs the checksum of a header.
func reheader(b []byte) []byte {
	var id [16]byte
	copy(id[:], b[len(magic)+4:])
	h := header(id)
	copy(h[len(magic):], b[len(magic):len(magic)+4])
	return binary.BigEndian.AppendUint32(h[:headerSize-4], crc32.Checksum(h[:headerSize-4], castagnoli))
}

func FuzzScan(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	for _, state := range []State{Planned, Requested, Failed} {
		if err := s.Append(Record{Job: "j", Unit: "SN1", State: state}); err != nil {
			f.Fatal(err)
		}
	}
	s.Close()
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add(b[:headerSize])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := uint64(0)
		j, err := scan(b, func(r *Record) {
			if n++; r.Seq != n {
				t.Errorf("record %d has number %d", n, r.Seq)
			}
		})
		if err == nil && (j.end > len(b) || j.seq != n) {
			t.Errorf("%d records, end %d of %d: %+v", n, j.end, len(b), j)
		}
		if err == nil { // what was accepted is accepted again, with nothing torn
			again, err := scan(b[:j.end], func(*Record) {})
			if err != nil || again != j {
				t.Errorf("the whole part reads otherwise: %+v, %v", again, err)
			}
		}
	})
}
