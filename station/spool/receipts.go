package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"hallmark/internal/durable"
)

const receiptsName = "receipts.jsonl"

// Receipts keeps the log's receipts of what a station made, one line each beside
// the journal: whoever reads the file and knows the log's key can prove every
// certificate without the service. Its first line names the log's key, which
// never changes afterwards.
type Receipts struct {
	mu   sync.Mutex
	name string
	file *os.File
	end  int64
	key  string
	have map[string]bool
}

type receiptLine struct {
	LogKey  string          `json:"log_key,omitempty"`
	Serial  string          `json:"serial,omitempty"`
	Receipt json.RawMessage `json:"receipt,omitempty"`
}

// OpenReceipts opens the file in the directory of a journal, which the caller
// holds: two processes must not write there. A torn last line is cut off; its
// receipt is fetched again.
func OpenReceipts(dir string) (*Receipts, error) {
	r := &Receipts{name: filepath.Join(dir, receiptsName), have: map[string]bool{}}
	b, err := os.ReadFile(r.name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.WriteFile(r.name, nil, 0o600); err != nil {
			return nil, writeFault(err)
		}
	} else if err != nil {
		return nil, ErrRead.Wrap(err, "")
	}
	for rest := b; ; {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		var l receiptLine
		if !ok || json.Unmarshal(line, &l) != nil {
			break
		}
		if l.LogKey != "" && r.key == "" {
			r.key = l.LogKey
		}
		r.have[l.Serial] = true
		r.end += int64(len(line)) + 1
		rest = after
	}
	if r.file, err = os.OpenFile(r.name, os.O_RDWR, 0); err != nil {
		return nil, ErrRead.Wrap(err, "")
	}
	if err := r.file.Truncate(r.end); err != nil {
		r.file.Close()
		return nil, writeFault(err)
	}
	return r, nil
}

// LogKey is the verifier key that the receipts are kept for, "" before the first.
func (r *Receipts) LogKey() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.key
}

// Has tells whether there is a receipt for a certificate.
func (r *Receipts) Has(serial string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.have[serial]
}

// Count is how many there are.
func (r *Receipts) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.have) - btoi(r.have[""])
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Put keeps receipts, by serial number, durable on return. The first call fixes
// the log's key.
func (r *Receipts) Put(logKey string, receipts map[string][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.key != "" && r.key != logKey {
		return ErrLogKey.New("")
	}
	var b bytes.Buffer
	add := func(l receiptLine) error {
		line, err := json.Marshal(l)
		b.Write(append(line, '\n'))
		return err
	}
	if r.key == "" {
		if err := add(receiptLine{LogKey: logKey}); err != nil {
			return ErrRecord.Wrap(err, "")
		}
	}
	for serial, text := range receipts {
		if r.have[serial] {
			continue
		}
		if err := add(receiptLine{Serial: serial, Receipt: text}); err != nil {
			return ErrRecord.Wrap(err, "")
		}
	}
	if _, err := r.file.WriteAt(b.Bytes(), r.end); err != nil {
		r.file.Truncate(r.end)
		return writeFault(err)
	}
	if err := r.file.Sync(); err != nil {
		return writeFault(err)
	}
	r.end += int64(b.Len())
	r.key = logKey
	for serial := range receipts {
		r.have[serial] = true
	}
	return nil
}

// Close closes the file.
func (r *Receipts) Close() error { return r.file.Close() }

// Made lists the units that reached a certificate and were committed, with
// serial number and fingerprint.
func (s *Spool) Made() (out []Unit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.units {
		if u.State == Committed && u.Serial != "" {
			out = append(out, u)
		}
	}
	return out
}
