package bootstrap

import (
	"sync"
	"time"
)

// Transactions remembers which request an identifier of a protocol's transactions
// belongs to. A node remembers its own; what a second node lets through gets what
// its key has already. The zero value is ready.
type Transactions struct {
	mu   sync.Mutex
	seen map[string]transaction
}

type transaction struct {
	request [32]byte
	at      time.Time
}

// Bounds of what is remembered.
const (
	maxTransactions = 4096
	transactionLife = time.Hour
)

// Begin tells whether the identifier is free, or belongs to this very request.
func (t *Transactions) Begin(id []byte, request [32]byte, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if have, ok := t.seen[string(id)]; ok && now.Sub(have.at) < transactionLife {
		return have.request == request
	}
	if t.seen == nil {
		t.seen = map[string]transaction{}
	}
	if len(t.seen) >= maxTransactions {
		for k, v := range t.seen { // the outdated, and a quarter of the others in no order
			if now.Sub(v.at) >= transactionLife || len(t.seen) > maxTransactions*3/4 {
				delete(t.seen, k)
			}
		}
	}
	t.seen[string(id)] = transaction{request, now}
	return true
}
