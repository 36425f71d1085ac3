package acme

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"hallmark/bootstrap/acme/state"
)

// nonceLife is how long a nonce is good.
const nonceLife = time.Hour

// nonces are signed with a key that all nodes have, and not stored: whoever asks
// for many costs nothing. What is stored is that one was used, so that it is good
// once on all nodes together (A43).
type nonces struct {
	key   []byte
	store state.Store
	now   func() time.Time
}

const (
	nonceTime   = 8
	nonceRandom = 16
	nonceMAC    = 16
	nonceSize   = nonceTime + nonceRandom + nonceMAC
)

func (n *nonces) mac(b []byte) []byte {
	m := hmac.New(sha256.New, n.key)
	m.Write(b)
	return m.Sum(nil)[:nonceMAC]
}

func (n *nonces) make() string {
	b := make([]byte, nonceTime+nonceRandom, nonceSize)
	binary.BigEndian.PutUint64(b, uint64(n.now().UnixMilli()))
	rand.Read(b[nonceTime:])
	return encode(append(b, n.mac(b)...))
}

func (n *nonces) spend(ctx context.Context, text string) error {
	b, err := decode(text)
	if err != nil || len(b) != nonceSize || !hmac.Equal(b[nonceTime+nonceRandom:], n.mac(b[:nonceTime+nonceRandom])) {
		return state.ErrNonceSpent.New("")
	}
	now, end := n.now(), time.UnixMilli(int64(binary.BigEndian.Uint64(b))).Add(nonceLife)
	if !now.Before(end) {
		return state.ErrNonceSpent.New("")
	}
	// A node whose clock is behind sweeps late, never early.
	return n.store.SpendNonce(ctx, b[:nonceTime+nonceRandom], now.Add(-nonceLife), end)
}
