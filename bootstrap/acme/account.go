package acme

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/mail"
	"strings"

	"hallmark/bootstrap/acme/state"
	"hallmark/internal/strictjson"
)

// The states of accounts, orders, authorizations and challenges (RFC 8555, Section
// 7.1.6).
const (
	pending     = "pending"
	ready       = "ready"
	valid       = "valid"
	invalid     = "invalid"
	deactivated = "deactivated"
)

func decodeJSON(raw []byte, v any) error {
	return strictjson.Decode(raw, v, bounded, strictjson.AllowUnknownFields())
}

type accountRequest struct {
	Contact  []string        `json:"contact"`
	Existing bool            `json:"onlyReturnExisting"`
	External json.RawMessage `json:"externalAccountBinding"`
	Status   string          `json:"status"`
}

const (
	maxContacts = 10
	maxContact  = 254
)

// contacts checks them (RFC 8555, Section 7.3).
func contacts(list []string) error {
	if len(list) > maxContacts {
		return ErrContact.New("There are %d.", len(list))
	}
	for _, c := range list {
		address, ok := strings.CutPrefix(c, "mailto:")
		if !ok {
			if scheme, _, has := strings.Cut(c, ":"); has && scheme != "" {
				return ErrScheme.New("%.20q.", scheme)
			}
			return ErrContact.New("%.80q.", c)
		}
		a, err := mail.ParseAddress(address)
		if err != nil || a.Address != address || len(address) > maxContact || strings.ContainsAny(address, "?,") {
			return ErrContact.New("%.80q.", c)
		}
	}
	return nil
}

// newAccount is RFC 8555, Section 7.3.
func (s *Server) newAccount(c *call) error {
	ctx := c.r.Context()
	var r accountRequest
	if err := c.body(&r); err != nil {
		return err
	}
	a, err := s.cfg.Store.AccountByPrint(ctx, s.cfg.Tenant, c.print)
	switch {
	case err == nil:
		if a.Status != valid {
			return ErrAccountEnded.New("")
		}
		return c.showAccount(http.StatusOK, &a)
	case !errors.Is(err, state.ErrNoAccount):
		return err
	case r.Existing:
		return state.ErrNoAccount.New("")
	}
	if err := contacts(r.Contact); err != nil {
		return err
	}
	if err := s.cfg.Enroller.Take(); err != nil {
		return err
	}
	jwk, err := json.Marshal(c.key)
	if err != nil {
		return err
	}
	a = state.Account{Tenant: s.cfg.Tenant, ID: newID(), JWK: jwk, Print: c.print, Contact: r.Contact, Status: valid, CreatedAt: s.instant()}
	if r.External != nil {
		if a.Key, err = s.external(c, r.External); err != nil {
			return err
		}
	} else if s.cfg.External {
		return ErrExternal.New("")
	}
	err = s.cfg.Store.CreateAccount(ctx, a)
	if errors.Is(err, state.ErrTaken) { // the same request came twice
		if a, err = s.cfg.Store.AccountByPrint(ctx, s.cfg.Tenant, c.print); err != nil {
			return err
		}
		return c.showAccount(http.StatusOK, &a)
	}
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "acme account made", "account", a.ID, "key", a.Key)
	return c.showAccount(http.StatusCreated, &a)
}

// external verifies an external account binding (RFC 8555, Section 7.3.4): a MAC
// with the secret of a key over the account's key. What is wrong with it is not
// told.
func (s *Server) external(c *call, raw json.RawMessage) (key string, err error) {
	m, err := parse(raw)
	if err != nil {
		return "", err
	}
	if m.URL != c.url || m.Nonce != "" || m.JWK != nil || m.KeyID == "" {
		return "", ErrBinding.New("")
	}
	k, err := s.cfg.Store.Key(c.r.Context(), s.cfg.Tenant, m.KeyID)
	if errors.Is(err, state.ErrNoKey) {
		return "", ErrBinding.New("")
	}
	if err != nil {
		return "", err
	}
	if !m.sealedBy(s.secret(k.ID)) || k.Account != "" || !k.RevokedAt.IsZero() || !s.now().Before(k.ExpiresAt) {
		return "", ErrBinding.New("")
	}
	if _, print, err := readKey(m.payload); err != nil || print != c.print {
		return "", ErrBinding.New("")
	}
	return k.ID, nil
}

// mine refuses a resource that names another account.
func (c *call) mine() error {
	if c.id != c.account.ID {
		return ErrNotYours.New("")
	}
	return nil
}

// account is RFC 8555, Sections 7.3.2 and 7.3.6.
func (s *Server) account(c *call) error {
	if err := c.mine(); err != nil {
		return err
	}
	if len(c.payload) > 0 {
		var r accountRequest
		if err := c.body(&r); err != nil {
			return err
		}
		a := *c.account
		switch {
		case r.Status == deactivated:
			a.Status = deactivated
		case r.Status != "" && r.Status != valid:
			return ErrMessage.New("An account can be deactivated, and nothing else.")
		}
		if r.Contact != nil {
			if err := contacts(r.Contact); err != nil {
				return err
			}
			a.Contact = r.Contact
		}
		if a.Status != c.account.Status || r.Contact != nil {
			if err := s.cfg.Store.UpdateAccount(c.r.Context(), &a); err != nil {
				return err
			}
			c.account = &a
		}
	}
	return c.showAccount(http.StatusOK, c.account)
}

func (c *call) showAccount(status int, a *state.Account) error {
	url := c.base + "account/" + a.ID
	c.w.Header().Set("Location", url)
	out := map[string]any{"status": a.Status, "orders": url + "/orders"}
	if len(a.Contact) > 0 {
		out["contact"] = a.Contact
	}
	return c.reply(status, out)
}

// keyChange is RFC 8555, Section 7.3.5: the new key signs that it wants to be this
// account's, and the old one signs that.
func (s *Server) keyChange(c *call) error {
	m, err := parse(c.payload)
	if err != nil {
		return err
	}
	if err := m.known(); err != nil {
		return err
	}
	if m.JWK == nil || m.KeyID != "" || m.Nonce != "" || m.URL != c.url {
		return ErrMessage.New("The inner message has to have the new key as jwk, the same url, and no nonce.")
	}
	key, print, err := readKey(m.JWK)
	if err != nil {
		return err
	}
	if err := m.verify(key.Key); err != nil {
		return err
	}
	var r struct {
		Account string          `json:"account"`
		OldKey  json.RawMessage `json:"oldKey"`
	}
	if err := decodeJSON(m.payload, &r); err != nil {
		return ErrMessage.Wrap(err, "The inner payload is not the JSON object that this takes.")
	}
	_, old, err := readKey(r.OldKey)
	if err != nil {
		return err
	}
	if r.Account != c.base+"account/"+c.account.ID || old != c.print {
		return ErrMessage.New("The inner message is about another account or key.")
	}
	a := *c.account
	a.Print = print
	if a.JWK, err = json.Marshal(key); err != nil {
		return err
	}
	err = s.cfg.Store.UpdateAccount(c.r.Context(), &a)
	if errors.Is(err, state.ErrTaken) {
		if other, err := s.cfg.Store.AccountByPrint(c.r.Context(), s.cfg.Tenant, print); err == nil {
			c.w.Header().Set("Location", c.base+"account/"+other.ID)
		}
	}
	if err != nil {
		return err
	}
	return c.showAccount(http.StatusOK, &a)
}

// maxOrders is how many orders an account is shown.
const maxOrders = 100

// orders is RFC 8555, Section 7.1.2.1.
func (s *Server) orders(c *call) error {
	if err := c.mine(); err != nil {
		return err
	}
	if err := c.get(); err != nil {
		return err
	}
	ids, err := s.cfg.Store.Orders(c.r.Context(), s.cfg.Tenant, c.account.ID, maxOrders)
	if err != nil {
		return err
	}
	urls := []string{}
	for _, id := range ids {
		urls = append(urls, c.base+"order/"+id)
	}
	return c.reply(http.StatusOK, map[string]any{"orders": urls})
}
