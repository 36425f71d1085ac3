package crl

import (
	"context"
	"strings"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

// batch is how many answers are signed without a pause; after each the others
// have the processor for as long.
const batch = 64

// Run signs answers before they are asked for, until ctx ends: the newest
// certificates' once, and those that are kept before they have to be signed anew.
// A revocation is not waited for; it takes an answer away at once.
func (o *OCSP) Run(ctx context.Context) {
	every := max(o.cfg.Validity/48, time.Second)
	for first := true; ; first = false {
		for _, a := range o.cfg.CA.Authorities() {
			if a.Duty == profile.DutyRoot || o.cfg.Newest == nil || !first {
				continue
			}
			serials, err := o.cfg.Newest(ctx, a.Name, o.cfg.Presign)
			if err == nil {
				_, err = o.PresignSerials(ctx, a.Name, serials)
			}
			if err != nil && ctx.Err() == nil {
				o.log.ErrorContext(ctx, "answers not signed beforehand", "authority", a.Name, "error", err)
			}
		}
		if err := o.Renew(ctx, every); err != nil && ctx.Err() == nil {
			o.log.ErrorContext(ctx, "answers not signed anew", "error", err)
		}
		if !sleep(ctx, every) {
			return
		}
	}
}

// PresignSerials signs the answers about certificates of an authority in batches,
// for requests in the common form: identifiers by SHA-1 (RFC 5019, Section 2.1.1).
// It tells how many are kept now.
func (o *OCSP) PresignSerials(ctx context.Context, authority string, serials []ca.Serial) (n int, err error) {
	a, err := o.cfg.CA.Authority(authority)
	if err != nil {
		return 0, err
	}
	ids, err := o.issuer(a)
	if err != nil {
		return 0, err
	}
	front := der.Sequence(nil, func(b []byte) []byte { return der.AppendNull(oidSHA1.Append(b)) })
	front = der.AppendOctetString(front, ids.nameSHA1[:])
	front = der.AppendOctetString(front, ids.keySHA1[:])
	return o.each(ctx, len(serials), func(i int) (bool, error) {
		raw := der.Sequence(nil, func(b []byte) []byte { return der.AppendUint(append(b, front...), serials[i][:]) })
		return o.presign(ctx, a, ids, raw, true)
	})
}

// Renew signs kept answers anew that would have to be in the given time.
func (o *OCSP) Renew(ctx context.Context, within time.Duration) error {
	keys := o.cache.due(o.now().Add(within))
	_, err := o.each(ctx, len(keys), func(i int) (bool, error) {
		authority, raw, _ := strings.Cut(keys[i], "\x00")
		a, err := o.cfg.CA.Authority(authority)
		if err != nil {
			return false, nil // it is gone
		}
		ids, err := o.issuer(a)
		if err != nil {
			return false, err
		}
		return o.presign(ctx, a, ids, []byte(raw), false)
	})
	return err
}

// each runs f for 0 to n-1 in batches with pauses.
func (o *OCSP) each(ctx context.Context, n int, f func(i int) (bool, error)) (kept int, err error) {
	began := time.Now()
	for i := range n {
		if err := ctx.Err(); err != nil {
			return kept, err
		}
		ok, err := f(i)
		if err != nil {
			return kept, err
		}
		if ok {
			kept++
		}
		if i%batch == batch-1 {
			if !sleep(ctx, time.Since(began)) {
				return kept, ctx.Err()
			}
			began = time.Now()
		}
	}
	return kept, nil
}

// presign makes one answer and keeps it. What is unknown now may be issued any
// moment, so nothing is kept about it.
func (o *OCSP) presign(ctx context.Context, a ca.Info, ids *issuerIDs, raw []byte, fresh bool) (bool, error) {
	if !o.cfg.Set.Loaded() { // A28
		return false, ErrNotLoaded.New("")
	}
	id, rest, err := parseCertID(raw)
	if err != nil || len(rest) > 0 || !ids.match(&id) {
		return false, err
	}
	now := o.now()
	key := a.Name + "\x00" + string(raw)
	if fresh {
		if _, ok := o.cache.get([]byte(key), now); ok {
			return true, nil
		}
	}
	r, err := o.responder(ctx, a, now)
	if err != nil {
		return false, err
	}
	generation := o.cache.generation()
	st, err := o.status(ctx, a.Name, &id)
	if err != nil || st.kind == statusUnknown {
		return false, err
	}
	out := answer{this: now.Add(-time.Minute).UTC().Truncate(time.Second)}
	out.until = out.this.Add(o.cfg.Validity)
	if r.cert.NotAfter.Before(out.until) {
		out.until = r.cert.NotAfter
	}
	if out.der, err = r.sign([]certID{id}, []certStatus{st}, now, out.this, out.until, nil); err != nil {
		return false, err
	}
	out.headers()
	o.Stats.Presigned.Add(1)
	serial, _ := id.ours()
	o.cache.put(key, cached{answer: out, status: st.kind, renew: out.this.Add(out.until.Sub(out.this) / 2)}, serial, generation)
	return true, nil
}
