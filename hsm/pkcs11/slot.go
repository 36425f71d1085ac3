//go:build cgo

package pkcs11

import (
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// slot is a place where a token is.
type slot struct {
	number   uint
	flags    uint
	sessions int // most that the token allows, 0 = not said
	id       token.ID
}

// slots lists the present tokens that match u.
func (v visit) slots(u token.URI) ([]slot, error) {
	ids, err := v.ctx.slots()
	if err != nil {
		return nil, err
	}
	var found []slot
	for _, id := range ids {
		info, err := v.ctx.tokenInfo(id)
		if err != nil {
			continue // another token's trouble, or ours: then it is not found
		}
		if info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		s := slot{number: id, flags: info.Flags, id: token.ID{
			Label:        trim(info.Label),
			Manufacturer: trim(info.ManufacturerID),
			Model:        trim(info.Model),
			Serial:       trim(info.SerialNumber),
			Firmware:     fmt.Sprintf("%d.%d", info.FirmwareVersion.Major, info.FirmwareVersion.Minor),
		}}
		if info.MaxSessionCount > 0 && info.MaxSessionCount < 1<<16 {
			s.sessions = int(info.MaxSessionCount)
		}
		if match(u.Token, s.id.Label) && match(u.Serial, s.id.Serial) &&
			match(u.Model, s.id.Model) && match(u.Manufacturer, s.id.Manufacturer) {
			found = append(found, s)
		}
	}
	return found, nil
}

// one is the only token that matches u.
func (v visit) one(u token.URI) (slot, error) {
	found, err := v.slots(u)
	switch {
	case err != nil:
		return slot{}, err
	case len(found) == 0:
		return slot{}, errNoToken
	case len(found) > 1:
		return slot{}, token.ErrKeyAmbiguous.New("%d tokens match; name the serial.", len(found))
	}
	return found[0], nil
}

func match(want, got string) bool { return want == "" || want == got }

// trim removes the padding of PKCS #11 fixed-length texts.
func trim(s string) string {
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == 0) {
		s = s[:len(s)-1]
	}
	return s
}
