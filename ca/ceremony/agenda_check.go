package ceremony

import (
	"encoding/hex"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"hallmark/ca"
	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/hsm"
)

var stepName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// check holds a script to everything that can be known before the room.
func (p *Agenda) check() error {
	switch {
	case p.Schema != AgendaSchema:
		return ErrScript.New("The schema is %.40q, not %s.", p.Schema, AgendaSchema)
	case ca.ValidName(p.ID) != nil:
		return ErrScript.New("The id %q is not 1 to 32 characters of a-z, 0-9 and -.", p.ID)
	case p.Title == "" || utf8.RuneCountInString(p.Title) > 200:
		return ErrScript.New("The title is empty or longer than 200 characters.")
	case p.Mode != "production" && p.Mode != "development":
		return ErrScript.New("The mode is %.20q, not production or development.", p.Mode)
	case len(p.Steps) == 0 || len(p.Steps) > maxSteps:
		return ErrScript.New("There are %d steps, not 1 to %d.", len(p.Steps), maxSteps)
	case len(p.Keys) > maxSteps || len(p.Roots) > maxSteps || len(p.Witnesses) > maxCustodians:
		return ErrScript.New("There are too many keys, roots or witnesses.")
	}
	if _, err := p.end(); err != nil {
		return ErrScript.Wrap(err, "run_until is %.20q, not YYYY-MM-DD.", p.RunUntil)
	}
	for _, f := range []func() error{p.checkCustodians, p.checkKeys, p.checkRoots, p.checkSteps} {
		if err := f(); err != nil {
			return err
		}
	}
	for _, w := range p.Witnesses {
		if _, err := parseWitness(w); err != nil {
			return ErrScript.Wrap(err, "The witness %.60q is not a verifier key.", w)
		}
	}
	return nil
}

// Current refuses a script whose approvals would not be good any more. Its form is
// checked by [ParseAgenda] alone, because a transcript is verified years later.
func (p *Agenda) Current(now time.Time) error {
	end, err := p.end()
	if err != nil {
		return ErrScript.Wrap(err, "run_until is %.20q, not YYYY-MM-DD.", p.RunUntil)
	}
	if now.After(end) {
		return ErrScript.New("Its approvals are good until %s (run_until), and this clock says %s.", p.RunUntil, stamp(now))
	}
	return nil
}

func (p *Agenda) checkCustodians() error {
	c := p.Custodians
	if c.Threshold < 1 || c.Threshold > len(c.People) || len(c.People) > maxCustodians {
		return ErrScript.New("%d of %d custodians is not possible.", c.Threshold, len(c.People))
	}
	if p.Production() && c.Threshold < 2 {
		return ErrScript.New("In production at least two custodians must agree.")
	}
	names, keys := map[string]bool{}, map[string]bool{}
	for _, x := range c.People {
		if x.Name == "" || len(x.Name) > 64 || strings.ContainsAny(x.Name, "=,\n") || names[strings.ToLower(x.Name)] {
			return ErrScript.New("The custodian %.64q has no name, a bad one, or one that is taken.", x.Name)
		}
		spki, err := x.spki()
		if err != nil {
			return ErrScript.Wrap(err, "The key of %s is not base64.", x.Name)
		}
		pub, err := keycheck.ParseSPKI(spki)
		if err == nil {
			err = keycheck.Check(pub)
		}
		if err != nil {
			return ErrScript.Wrap(err, "The key of %s is not one to sign with.", x.Name)
		}
		// One person with two names is one person.
		if keys[x.Key] {
			return ErrScript.New("Two custodians have the key of %s.", x.Name)
		}
		names[strings.ToLower(x.Name)], keys[x.Key] = true, true
	}
	return nil
}

func (p *Agenda) checkKeys() error {
	uris := map[string]string{}
	for name, k := range p.Keys {
		if !stepName.MatchString(name) {
			return ErrScript.New("The key name %.40q is not of a-z, 0-9 and -.", name)
		}
		u, err := hsm.ParseURI(k.URI)
		switch {
		case err != nil:
			return ErrScript.Wrap(err, "The URI of the key %s: %s", name, detail(err))
		case !u.PINValue.Empty():
			return ErrScript.New("The URI of the key %s holds a PIN; a script is read by many.", name)
		case p.Production() && u.Scheme == "file":
			return ErrScript.New("The key %s is a file, which production does not take.", name)
		case k.Generate != "" && !hsm.Algorithm(k.Generate).Valid():
			return ErrScript.New("The key %s cannot be made as %.20q.", name, k.Generate)
		case k.PIN != "" && k.PIN != "prompt" && k.PIN != "shares":
			return ErrScript.New("The PIN of the key %s is prompt or shares, not %.20q.", name, k.PIN)
		case (k.PIN == "shares") != (k.PINShares > 0) || k.PINShares == 1 || k.PINShares > maxCustodians:
			return ErrScript.New("The key %s: pin_shares is how many parts make the PIN, two or more, and goes with pin: shares.", name)
		case k.PINShares > len(p.Custodians.People):
			return ErrScript.New("The key %s: its PIN needs %d parts (pin_shares), but there are %d custodians to bring one.", name, k.PINShares, len(p.Custodians.People))
		case k.PIN == "shares" && u.PINSource != "":
			return ErrScript.New("The key %s has a PIN source and parts of a PIN.", name)
		case k.Counter != "" && k.Counter != "read":
			return ErrScript.New("The counter of the key %s is read, or left out, not %.20q.", name, k.Counter)
		case k.Attestation != "" && k.Attestation != "required":
			return ErrScript.New("The attestation of the key %s is required, or left out, not %.20q.", name, k.Attestation)
		}
		if other, taken := uris[u.Key()]; taken {
			return ErrScript.New("The keys %s and %s are one.", name, other)
		}
		uris[u.Key()] = name
	}
	return nil
}

func (p *Agenda) checkRoots() error {
	for name, r := range p.Roots {
		if err := ca.ValidName(name); err != nil {
			return ErrScript.Wrap(err, "The root %.40q has a bad name.", name)
		}
		if err := fileName(r.Certificate); err != nil {
			return err
		}
		if r.Previous != "" {
			if err := fileName(r.Previous); err != nil {
				return err
			}
		}
		// A root is known by all its octets (A12), so the script names them.
		if !isHash(r.SHA256) {
			return ErrScript.New("The root %s needs sha256, the hash of its certificate in DER.", name)
		}
		if _, ok := p.Keys[r.Key]; r.Key != "" && !ok {
			return ErrScript.New("The root %s has the key %.40q, which is not among the keys.", name, r.Key)
		}
		if p.Keys[r.Key].Generate != "" {
			return ErrScript.New("The root %s exists, so its key %s is not made here.", name, r.Key)
		}
		if r.Key != "" && r.BaseURL == "" {
			return ErrScript.New("The root %s signs here and needs its base_url.", name)
		}
	}
	return nil
}

func isHash(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 64 && strings.ToLower(s) == s
}

// fileName takes names beside the script only: a script is carried on a stick.
func fileName(s string) error {
	if s == "" || len(s) > 128 || s != filepath.Base(s) || strings.HasPrefix(s, ".") || strings.ContainsAny(s, `/\:`) {
		return ErrScript.New("%.60q is not the name of a file beside the script.", s)
	}
	return nil
}

// members says which members a kind of step has: + must be there, ? may.
var members = map[string]string{
	DoCreateRoot: "+name +key +base_url +subject ?not_after",
	DoRotate:     "+name +key +base_url +subject ?not_after +root",
	DoIssue:      "+root +name +duty +csr +subject ?not_after ?constraints",
	DoCrossSign:  "+root +other +name ?not_after ?constraints",
	DoSignList:   "+root ?first ?previous_list ?days ?revoke",
	DoDestroy:    "+key +how",
}

func (s *Task) has() map[string]bool {
	return map[string]bool{
		"name": s.Name != "", "key": s.Key != "", "base_url": s.BaseURL != "", "subject": s.Subject != nil, "not_after": s.NotAfter != "",
		"root": s.Root != "", "duty": s.Duty != "", "csr": s.CSR != nil, "other": s.Other != "", "first": s.First,
		"previous_list": s.PreviousList != nil, "days": s.Days != 0, "revoke": len(s.Revoke) > 0, "how": s.How != "", "constraints": s.Constraints != nil,
	}
}

func (p *Agenda) checkSteps() error {
	roots, keys, names, steps, made, gone := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]string{}, map[string]bool{}
	for r := range p.Roots {
		roots[r] = true
		names[r] = true
	}
	lists := map[string]bool{}
	for i := range p.Steps {
		s := &p.Steps[i]
		if !stepName.MatchString(s.Step) || steps[s.Step] {
			return ErrScript.New("Step %d has the name %.40q, which is not of a-z, 0-9 and -, or is taken.", i+1, s.Step)
		}
		steps[s.Step] = true
		if err := p.checkStep(s); err != nil {
			return err
		}
		wrong := func(text string, args ...any) error {
			f := ErrScript.New(text, args...)
			f.Detail = "Step " + s.Step + ": " + f.Detail
			return f.With("step", s.Step)
		}
		for _, r := range []string{s.Root, s.Other} {
			if r != "" && !roots[r] {
				return wrong("There is no root %q at that point.", r)
			}
		}
		key := p.keyOf(s)
		k, ok := p.Keys[key]
		switch {
		case !ok:
			return wrong("There is no key %q to sign with.", key)
		case gone[key]:
			return wrong("The key %s was destroyed before.", key)
		case s.Do == DoDestroy && k.Generate != "" && !keys[key]:
			return wrong("The key %s was not made yet.", key)
		}
		switch s.Do {
		case DoCreateRoot, DoRotate:
			if made[key] != "" || names[s.Name] {
				return wrong("The name %s or the key %s is taken.", s.Name, key)
			}
			for r, x := range p.Roots {
				if x.Key == key {
					return wrong("The key %s is that of the root %s.", key, r)
				}
			}
			made[key] = s.Name
			roots[s.Name] = true
			if s.Do == DoRotate { // the old root signs too
				old := p.keyOf(&Task{Do: DoCrossSign, Root: s.Root})
				switch k, ok := p.Keys[old]; {
				case !ok:
					return wrong("There is no key %q to sign with.", old)
				case gone[old]:
					return wrong("The key %s was destroyed before.", old)
				case k.Generate != "" && !keys[old]:
					return wrong("The key %s was not made yet.", old)
				}
				keys[old] = true
			}
		case DoIssue, DoCrossSign:
			if k.Generate != "" && !keys[key] {
				return wrong("The key %s was not made yet.", key)
			}
			if names[s.Name] {
				return wrong("The name %s is taken.", s.Name)
			}
		case DoSignList:
			if lists[s.Root] {
				return wrong("The list of %s is signed twice in one ceremony.", s.Root)
			}
			lists[s.Root] = true
			if s.First == (s.PreviousList != nil) {
				return wrong("Give previous_list, or say first: true.")
			}
		case DoDestroy:
			gone[key] = true
		}
		if s.Name != "" {
			names[s.Name] = true
		}
		keys[key] = true
	}
	for k := range p.Keys {
		if !keys[k] {
			return ErrScript.New("No step uses the key %s.", k)
		}
	}
	return nil
}

func (p *Agenda) checkStep(s *Task) error {
	wrong := func(text string, args ...any) error {
		f := ErrScript.New(text, args...)
		f.Detail = "Step " + s.Step + ": " + f.Detail
		return f.With("step", s.Step)
	}
	want, ok := members[s.Do]
	if !ok {
		return wrong("There is nothing called %.30q to do.", s.Do)
	}
	have := s.has()
	for _, m := range strings.Fields(want) {
		if m[0] == '+' && !have[m[1:]] {
			return wrong("%s needs %s.", s.Do, m[1:])
		}
		delete(have, m[1:])
	}
	for m, there := range have {
		if there {
			return wrong("%s takes no %s.", s.Do, m)
		}
	}
	if s.Name != "" && ca.ValidName(s.Name) != nil {
		return wrong("The name %.40q is not 1 to 32 characters of a-z, 0-9 and -.", s.Name)
	}
	if s.BaseURL != "" {
		if err := ca.ValidBaseURL(s.BaseURL, p.Production()); err != nil {
			return wrong("%s", detail(err))
		}
	}
	if s.Subject != nil && s.Subject.CommonName == "" {
		return wrong("The subject needs a common name.")
	}
	if _, err := ParseEnd(s.NotAfter); err != nil {
		return wrong("%s", detail(err))
	}
	if s.Duty != "" && s.Duty != string(profile.DutyDevice) && s.Duty != string(profile.DutyInfrastructure) {
		return wrong("The duty is device or infrastructure, not %.30q.", s.Duty)
	}
	p0, _ := profile.Get(profile.CrossRoot)
	if s.Duty != "" {
		p0 = profileOf(profile.Duty(s.Duty))
		if err := serves(profile.Duty(s.Duty), s.constraints().Purposes); err != nil {
			return wrong("%s", detail(err))
		}
	}
	if _, err := p0.Constrained(s.constraints()); err != nil {
		return wrong("Constraints: %s.", err)
	}
	for _, f := range []*AgendaFile{s.CSR, s.PreviousList} {
		if f == nil {
			continue
		}
		if err := fileName(f.File); err != nil {
			return wrong("%s", detail(err))
		}
		if f.SHA256 != "" && !isHash(f.SHA256) {
			return wrong("sha256 of %s is not a hash.", f.File)
		}
	}
	if s.Days < 0 || s.Days > int(maxListLife.Hours()/24) {
		return wrong("A list does not run for %d days.", s.Days)
	}
	for _, r := range s.Revoke {
		if _, err := ca.ParseSerial(r.SerialNumber); err != nil {
			return wrong("The serial number %.60q is none of ours.", r.SerialNumber)
		}
		if _, err := Reason(r.Reason); err != nil {
			return wrong("%s", detail(err))
		}
	}
	if len(s.How) > 1000 {
		return wrong("how is longer than 1000 octets.")
	}
	return nil
}

// witnessKey is a witness's name and Ed25519 key; cosigns tells of the form of
// its signatures.
type witnessKey struct {
	name    string
	hash    uint32
	pub     []byte
	cosigns bool // cosignature/v1 instead of a plain signature
}

// parseWitness reads a verifier key in note form: name+hash+base64(type‖key),
// of the type 1 (plain Ed25519) or 4 (C2SP tlog-cosignature, cosignature/v1).
func parseWitness(vkey string) (witnessKey, error) {
	var w witnessKey
	name, rest, ok := strings.Cut(vkey, "+")
	if !ok || !strings.Contains(rest, "+") || strings.ContainsAny(name, " \n") || name == "" {
		return w, ErrScript.New("It has not the form NAME+HASH+KEY.")
	}
	_, k, _ := strings.Cut(rest, "+")
	raw, err := decode64(k)
	if err != nil || len(raw) != 33 || raw[0] != 1 && raw[0] != 4 {
		return w, ErrScript.Wrap(err, "Its key is not Ed25519 of the type 1 or 4.")
	}
	w = witnessKey{name: name, hash: noteHash(name, raw), pub: raw[1:], cosigns: raw[0] == 4}
	if _, err := note.NewVerifier(vkey); err != nil && !w.cosigns {
		return w, err
	}
	if want := hexHash(w.hash); !strings.EqualFold(rest[:strings.IndexByte(rest, '+')], want) {
		return w, ErrScript.New("Its hash is not %s.", want)
	}
	return w, nil
}
