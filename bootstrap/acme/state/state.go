package state

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
)

// The answers of a store.
var (
	ErrNonceSpent = fault.Define(fault.Invalid, "acme-nonce-refused", "The nonce was used before, has ended, or is not of this service.", "Take the nonce of this answer and sign the request again.")
	ErrNoAccount  = fault.Define(fault.Invalid, "acme-account-unknown", "There is no such account.", "Make an account with newAccount first.")
	ErrNoOrder    = fault.Define(fault.NotFound, "acme-order-unknown", "There is no such order, authorization, challenge or certificate.", "Use the URLs that the service gave.")
	ErrNoKey      = fault.Define(fault.NotFound, "acme-key-unknown", "There is no such external account key.", "List the keys with hallmark enrol acme-key list.")
	ErrKeyBound   = fault.Define(fault.Forbidden, "acme-key-bound", "The external account key was used, revoked or has ended.", "Ask for a new one with hallmark enrol acme-key create.")
	ErrTaken      = fault.Define(fault.Conflict, "acme-account-key-taken", "The key is that of another account.", "Use a key that no account has.")
	ErrChanged    = fault.Define(fault.Conflict, "acme-changed", "The account or order was changed by another request at the same time.", "Read it again.")
)

// Name is one thing that a key allows: an identifier, and for a device the unit
// that it stands for.
type Name struct {
	Identifier string `json:"identifier"`
	Unit       string `json:"unit,omitempty"` // "" is the identifier itself
}

// Key is an external account key (RFC 8555, Section 7.3.4): who has it may make
// one account, which gets certificates of one profile for the names. Its secret
// is made from the id and is stored nowhere (S39).
type Key struct {
	Tenant    string
	ID        string
	Profile   profile.Name
	Order     string // that a birth certificate counts on
	Names     []Name
	CreatedBy string
	CreatedAt time.Time
	ExpiresAt time.Time // for making the account
	Account   string    // that was made with it
	BoundAt   time.Time
	RevokedAt time.Time
	RevokedBy string
}

// Find looks up an identifier; names of hosts may begin with a dot, which allows
// everything below.
func (k *Key) Find(identifier string) (Name, bool) {
	i := slices.IndexFunc(k.Names, func(n Name) bool {
		return n.Identifier == identifier || strings.HasPrefix(n.Identifier, ".") && strings.HasSuffix(identifier, n.Identifier)
	})
	if i < 0 {
		return Name{}, false
	}
	return k.Names[i], true
}

// Account is somebody with a key.
type Account struct {
	Tenant    string
	ID        string
	Key       string // the id of its external account key, "" without one
	JWK       json.RawMessage
	Print     string // thumbprint of JWK (RFC 7638); unique
	Contact   []string
	Status    string
	CreatedAt time.Time
	Revision  int64
}

// Order is an order with its authorizations, their challenges, and at its end
// the certificate.
type Order struct {
	Tenant         string
	ID             string
	Account        string
	Status         string
	Authorizations []Authorization
	Problem        json.RawMessage `json:",omitempty"` // why it is invalid
	Authority      string          // of the certificate
	Serial         ca.Serial       // of the certificate
	Leaf           []byte          // DER; nil before there is one
	Chain          [][]byte
	CreatedAt      time.Time
	ExpiresAt      time.Time
	KeptUntil      time.Time
	Revision       int64
}

// Authorization is the proof, or its lack, of one identifier.
type Authorization struct {
	Type, Value string
	Wildcard    bool `json:",omitempty"`
	Status      string
	Fingerprint string `json:",omitempty"` // of the attested key
	Challenges  []Challenge
}

// Challenge is one way to prove it.
type Challenge struct {
	Type, Token, Status string
	ValidatedAt         string          `json:",omitempty"`
	Problem             json.RawMessage `json:",omitempty"`
}

// Store keeps it. Contract:
//
//   - Durable, and the same for every node of the service.
//   - SpendNonce is true once for a nonce, whoever comes with it where; a spent one
//     is remembered until it would have ended anyway.
//   - CreateAccount binds the external account key in the same transaction, once.
//   - The updates are refused with [ErrChanged] unless the row has still the
//     revision that was read.
//   - OrderBySerial prefers the order of the account, of several that led to one
//     certificate.
//   - Rows are protected against other writers (S32).
//   - Look-ups that find nothing return the ErrNo of their kind.
type Store interface {
	SpendNonce(ctx context.Context, nonce []byte, now, until time.Time) error

	CreateKey(ctx context.Context, k Key) error
	Key(ctx context.Context, tenant, id string) (Key, error)
	Keys(ctx context.Context, tenant string) ([]Key, error)
	RevokeKey(ctx context.Context, tenant, id, by string, now time.Time) (Key, error)

	CreateAccount(ctx context.Context, a Account) error
	Account(ctx context.Context, tenant, id string) (Account, error)
	AccountByPrint(ctx context.Context, tenant, print string) (Account, error)
	UpdateAccount(ctx context.Context, a *Account) error

	CreateOrder(ctx context.Context, o Order) error
	Order(ctx context.Context, tenant, id string) (Order, error)
	OrderBySerial(ctx context.Context, tenant, account string, serial ca.Serial) (Order, error)
	Orders(ctx context.Context, tenant, account string, limit int) ([]string, error)
	UpdateOrder(ctx context.Context, o *Order) error
}
