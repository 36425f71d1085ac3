package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hallmark/access"
	"hallmark/fleet"
)

// ID is the thing's id on the wire, a UUID (RFC 9562, Section 5.8) that another
// thing of the same name, made later, does not have.
func (t *Thing) ID() string {
	sum := sha256.Sum256([]byte("thing\x00" + t.Tenant + "\x00" + t.Name.Fold() + "\x00" + strconv.FormatInt(t.CreatedAt.UnixMilli(), 10)))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	h := hex.EncodeToString(sum[:16])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// exact finds a thing in its exact spelling.
func (r *Registry) exact(ctx context.Context, s access.Scope, name fleet.ThingName) (Thing, error) {
	t, err := r.store.Thing(ctx, s, name.Fold())
	if err == nil && t.Name != name {
		return Thing{}, ErrThingUnknown.New("%q is known in another spelling.", name)
	}
	return t, err
}

// CreateThing makes a thing by hand. The same again changes nothing; a thing of
// that name with other content is ErrThingExists.
func (r *Registry) CreateThing(ctx context.Context, t Thing) (out Thing, err error) {
	if _, err := fleet.ParseThingName(string(t.Name)); err != nil {
		return t, err
	}
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		have, err := r.store.Thing(ctx, access.Scope{Tenant: t.Tenant}, t.Name.Fold())
		if err == nil {
			switch out = have; {
			case have.Name != t.Name:
				return ErrThingCase.New("")
			case have.Type != t.Type || have.BillingGroup != t.BillingGroup || !maps.Equal(have.Attributes, t.Attributes):
				return ErrThingExists.New("")
			}
			return nil
		}
		if !errors.Is(err, ErrThingUnknown) {
			return err
		}
		out = t
		out.Holder, out.RegisteredBy = strings.ToLower(t.Holder), ""
		out.CreatedAt, out.Version = r.stamp(), 1
		out.UpdatedAt = out.CreatedAt
		if err := r.checkThing(ctx, nil, &out, false); err != nil {
			return err
		}
		return r.store.PutThing(ctx, out, 0)
	})
	return out, err
}

// checkThing checks what a thing has and whom it names. lenient makes the groups
// and types that are missing, as first boot did before they were things of
// their own; was is the thing as it is, nil for a new one.
func (r *Registry) checkThing(ctx context.Context, was, t *Thing, lenient bool) error {
	s := access.Scope{Tenant: t.Tenant}
	limit := MaxAttributes
	if t.Type == "" && !lenient {
		limit = MaxFreeAttributes
	}
	if was == nil || !maps.Equal(was.Attributes, t.Attributes) || was.Type != t.Type {
		if err := checkAttributes(t.Attributes, limit); err != nil {
			return err
		}
	}
	if t.Type != "" && (was == nil || was.Type != t.Type) {
		typ, err := r.thingType(ctx, s, t.Type)
		if lenient && errors.Is(err, ErrTypeUnknown) {
			typ, err = r.CreateType(ctx, Type{Tenant: t.Tenant, Name: t.Type})
		}
		if err == nil && !typ.Deprecated.IsZero() {
			err = ErrTypeDeprecated.New("")
		}
		if err != nil {
			return err
		}
	}
	need := func(c GroupClass, name string) error {
		g, err := r.group(ctx, s, c, name)
		if lenient && errors.Is(err, ErrGroupUnknown) {
			g, err = r.CreateGroup(ctx, Group{Tenant: t.Tenant, Class: c, Name: name})
		}
		if err == nil && g.Query != "" {
			err = ErrGroupInvalid.New("The members of a dynamic group are those that its query finds.")
		}
		return err
	}
	if t.BillingGroup != "" && (was == nil || was.BillingGroup != t.BillingGroup) {
		if err := need(BillingGroup, t.BillingGroup); err != nil {
			return err
		}
	}
	if len(t.Groups) > MaxThingGroups {
		return ErrGroupLimit.New("The thing would be in %d groups.", len(t.Groups))
	}
	for _, g := range t.Groups {
		if was == nil || !slices.Contains(was.Groups, g) {
			if err := need(ThingGroup, g); err != nil {
				return err
			}
		}
	}
	return nil
}

// changeThing decides about one thing and writes it if it differs.
func (r *Registry) changeThing(ctx context.Context, s access.Scope, name fleet.ThingName, decide func(ctx context.Context, t *Thing) error) (out Thing, err error) {
	for range maxTries {
		err = r.store.Atomic(ctx, func(ctx context.Context) error {
			have, err := r.exact(ctx, s, name)
			if err != nil {
				return err
			}
			t := have
			if err := decide(ctx, &t); err != nil {
				return err
			}
			out = have
			if same(&have, &t) {
				return nil
			}
			if err := r.checkThing(ctx, &have, &t, false); err != nil {
				return err
			}
			t.Version, t.UpdatedAt = have.Version+1, r.stamp()
			out = t
			return r.store.PutThing(ctx, t, have.Version)
		})
		if !errors.Is(err, ErrThingChanged) {
			break
		}
	}
	return out, err
}

// ThingChange is what may change of a thing; nil leaves it.
type ThingChange struct {
	Attributes map[string]string // an empty value removes the attribute
	Merge      bool              // keep the attributes that are not named
	Type       *string           // "" takes the type away
	// ExpectedVersion refuses the change of another version; 0 takes any.
	ExpectedVersion int64
}

// UpdateThing changes a thing by hand.
func (r *Registry) UpdateThing(ctx context.Context, s access.Scope, name fleet.ThingName, ch ThingChange) (Thing, error) {
	return r.changeThing(ctx, s, name, func(_ context.Context, t *Thing) error {
		if ch.ExpectedVersion != 0 && ch.ExpectedVersion != t.Version {
			return ErrVersion.New("It has the version %d.", t.Version)
		}
		if ch.Type != nil {
			t.Type = *ch.Type
		}
		if ch.Attributes != nil {
			next := map[string]string{}
			if ch.Merge {
				maps.Copy(next, t.Attributes)
			}
			for k, v := range ch.Attributes {
				if next[k] = v; v == "" {
					delete(next, k)
				}
			}
			t.Attributes = next
		}
		return nil
	})
}

// DropThing removes a thing that has no certificate, what the index has of it, its
// shadows and what is known of its connections: who gets the name next gets none of
// it (S43). Its executions are the jobs' to remove.
func (r *Registry) DropThing(ctx context.Context, s access.Scope, name fleet.ThingName, expectedVersion int64) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		t, err := r.exact(ctx, s, name)
		if err != nil {
			return err
		}
		if expectedVersion != 0 && expectedVersion != t.Version {
			return ErrVersion.New("It has the version %d.", t.Version)
		}
		principals, err := r.store.ThingPrincipals(ctx, s, name.Fold())
		if err == nil && len(principals) > 0 {
			err = ErrThingInUse.New("")
		}
		if err != nil {
			return err
		}
		return r.store.DropThing(ctx, s.Tenant, name.Fold(), t.Version)
	})
}
