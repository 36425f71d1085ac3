package ceremony

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"hallmark/hsm"
	"hallmark/internal/strictjson"
)

const (
	sealSchema = "hallmark.ceremony-seal/v1"
	sealType   = "application/vnd.hallmark.ceremony-seal+json"
)

// sealBody is what the keys sign at the end: the hash of every line, with the
// name by which a changed line is called.
type sealBody struct {
	Schema    string     `json:"schema"`
	Ceremony  string     `json:"ceremony"`
	Script    string     `json:"script"` // SHA-256
	Finished  string     `json:"finished"`
	ClockRead string     `json:"clock_read"`
	Lines     []sealLine `json:"lines"`
}

type sealLine struct {
	Step   string `json:"step"`
	Kind   string `json:"kind"`
	SHA256 string `json:"sha256"`
}

// sealLines lists the lines of a journal.
func sealLines(raw [][]byte) ([]sealLine, error) {
	out := []sealLine{}
	for _, b := range raw {
		l, err := parseLine(b)
		if err != nil {
			return nil, err
		}
		out = append(out, sealLine{stepOf(l.Kind, l.Step), string(l.Kind), hexSum(b)})
	}
	return out, nil
}

// signers names the keys that sign the seal: all that were used and still are.
func (r *replay) signers() []string {
	var out []string
	for k := range r.keys {
		if !r.gone[k] {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// makeSeal has the keys sign the hashes of all lines.
func makeSeal(ctx context.Context, b sealBody, keys ...hsm.Signer) ([]byte, error) {
	payload, err := canonical(b)
	if err != nil {
		return nil, ErrRequest.Wrap(err, "The seal cannot be written.")
	}
	return sealAs(ctx, sealType, payload, keys...)
}

// readSeal reads the form of a seal.
func readSeal(data []byte) (*envelope, []byte, *sealBody, error) {
	e, payload, err := openAs(data, sealType)
	if err != nil {
		return nil, nil, nil, err
	}
	b := new(sealBody)
	if err := strictjson.Decode(payload, b, strictjson.WithLimits(strictjson.Limits{Size: maxLine, Values: 4 * maxLines})); err != nil {
		return nil, nil, nil, err
	}
	if again, err := canonical(b); err != nil || !bytes.Equal(again, payload) || b.Schema != sealSchema {
		return nil, nil, nil, errors.New("it is not in the canonical form, or of another schema")
	}
	return e, payload, b, nil
}

func (r *replay) applySeal(raw []byte, l *line) error {
	bad := func(part string, cause error, text string, args ...any) error {
		return badLine("seal", part, cause, text, args...)
	}
	if r.next != len(r.agenda.Steps) {
		return bad("order", nil, "There are steps left to do.")
	}
	e, payload, b, err := readSeal(l.Envelope)
	if err != nil {
		return bad("form", err, "It does not read as a seal: %s.", err)
	}
	if b.Ceremony != r.agenda.ID || b.Script != r.open.SHA256 || len(b.Lines) != r.count || b.Lines[r.count-1].SHA256 != hexSum(r.prev) {
		return bad("lines", nil, "It is of another ceremony or of other lines.")
	}
	if _, err := clock("finished", b.Finished); err != nil || b.ClockRead == "" || b.Finished != l.At {
		return bad("finished", err, "Its time is malformed or its clock reading is missing.")
	}
	names := r.signers()
	if len(e.Signatures) != len(names) {
		return bad("signatures", nil, "There are %d, not one of each of %d keys.", len(e.Signatures), len(names))
	}
	for i, n := range names {
		if !e.good(i, payload, r.keys[n].SPKI) {
			return bad("signature", nil, "It is not by the key %s.", n)
		}
		r.say("seal", "%d lines are signed by the key %s, %s", len(b.Lines), n, short(r.keys[n].SHA256))
	}
	if len(names) == 0 {
		r.say("seal", "no key is left to sign the %d lines; the custodians do", len(b.Lines))
	}
	r.say("seal", "finished at %s, clock read %q; words %s", b.Finished, graphic(b.ClockRead), WordsOf(raw))
	r.seal = &sealed{line: raw, body: *b}
	return nil
}

func (r *replay) applyClosing(l *line) error {
	s, err := r.statement(l.Envelope, AboutTranscript, r.seal.line, r.closed)
	if err != nil {
		return badLine("custodian", "statement", err, "%s", detail(err))
	}
	// Nothing after the seal is sealed, so each octet must be signed otherwise.
	if l.At != s.At {
		return badLine("custodian", "at", nil, "%s signed at %s.", s.Custodian, s.At)
	}
	r.closed = append(r.closed, s.Custodian)
	r.say("custodian", "%s signed the transcript at %s", graphic(s.Custodian), s.At)
	r.sayStatement(s)
	return nil
}

func (r *replay) applyWitness(l *line) error {
	seen, err := checkWitness(l.Text, r.checkpoint(), r.agenda.Witnesses)
	if err != nil {
		return badLine("witness", "note", err, "%s.", err)
	}
	if l.At != r.witnessedAt(seen) {
		return badLine("witness", "at", nil, "It was signed at %s.", r.witnessedAt(seen))
	}
	for _, w := range seen {
		if slices.ContainsFunc(r.anchors, func(x witnessed) bool { return x.name == w.name }) {
			return badLine("witness", "note", nil, "%s signed twice.", w.name)
		}
		r.anchors = append(r.anchors, w)
		when := "at a time that it does not tell"
		if !w.at.IsZero() {
			when = "at " + stamp(w.at)
		}
		r.say("witness", "%s saw this transcript %s", graphic(w.name), when)
	}
	return nil
}

// witnessedAt is the time of a witness line: the first that a signature carries,
// or that of the seal.
func (r *replay) witnessedAt(seen []witnessed) string {
	for _, w := range seen {
		if !w.at.IsZero() {
			return stamp(w.at)
		}
	}
	return r.seal.body.Finished
}

// checkpoint is what a witness signs of a sealed transcript: the lines that the
// seal names, by their hashes, and the seal.
func (r *replay) checkpoint() string {
	var leaves [][]byte
	for _, l := range r.seal.body.Lines {
		leaves = append(leaves, []byte(l.SHA256))
	}
	return checkpointOf(r.agenda.ID, append(leaves, []byte(hexSum(r.seal.line))))
}

// finished says what is missing, nil if nothing is.
func (r *replay) finished() error {
	switch {
	case r.open == nil:
		return ErrUnfinished.New("It holds nothing.")
	case r.next < len(r.agenda.Steps):
		return ErrUnfinished.New("Step %s is not done.", r.agenda.Steps[r.next].Step).With("step", r.agenda.Steps[r.next].Step)
	case r.seal == nil:
		return ErrUnfinished.New("It is not sealed.").With("step", "seal")
	case len(r.closed) < r.agenda.Custodians.Threshold:
		return ErrUnfinished.New("%d of %d custodians signed the transcript.", len(r.closed), r.agenda.Custodians.Threshold).With("step", "custodian")
	}
	return nil
}

// Verification is what was found of a transcript of a whole ceremony.
type Verification struct {
	ID         string `json:"id"`
	Rehearsal  bool   `json:"rehearsal"`
	Anchored   int    `json:"anchored"`
	Checkpoint string `json:"checkpoint"`
	Steps      []Step `json:"steps"`
	state      *replay
}

// RunTrust is what a verifier brings along.
type RunTrust struct {
	Roots  []*x509.Certificate // one of the ceremony's roots must be among them; none = compare words
	Makers []*x509.Certificate // roots in which attestations of tokens must end; none = not compared
}

// VerifyRun checks the transcript of a whole ceremony: each line, each
// signature, each certificate and list, and all of it against the script that
// the custodians approved. One changed bit fails, and the fault names the step.
func VerifyRun(data []byte, trust RunTrust) (*Verification, error) {
	v, err := verifyRun(data, trust)
	if err == nil {
		err = v.state.finished()
	}
	return v, err
}

func verifyRun(data []byte, trust RunTrust) (*Verification, error) {
	lines, torn, err := splitRun(data)
	if err != nil {
		return &Verification{}, err
	}
	if len(torn) > 0 {
		lines = append(lines, torn)
	}
	if err := locate(lines); err != nil {
		return &Verification{}, err
	}
	r := newReplay(trust.Makers)
	v := &Verification{state: r}
	for _, raw := range lines {
		if err := r.apply(raw); err != nil {
			v.Steps = r.steps
			return v, err
		}
	}
	if len(torn) > 0 {
		return v, badLine("line "+fmt.Sprint(len(lines)), "form", nil, "It has no end.")
	}
	if err := r.trusted(trust.Roots); err != nil {
		v.Steps = r.steps
		return v, err
	}
	v.Steps = r.steps
	if r.open != nil {
		v.ID, v.Rehearsal, v.Anchored = r.agenda.ID, r.open.Rehearsal, len(r.anchors)
	}
	if r.seal != nil {
		v.Checkpoint = r.checkpoint()
		if len(r.agenda.Witnesses) > 0 && len(r.anchors) == 0 {
			r.say("witness", "NOT anchored yet: none of the %d witnesses of the script signed", len(r.agenda.Witnesses))
			v.Steps = r.steps
		}
	}
	return v, nil
}

// locate finds a changed line by the hashes in the seal, so that the fault
// names the step even if the line cannot be read any more.
func locate(lines [][]byte) error {
	for i, raw := range lines {
		if !bytes.Contains(raw, []byte(`"kind":"seal"`)) {
			continue
		}
		l, err := parseLine(raw)
		if err != nil || l.Kind != lineSeal {
			continue
		}
		_, _, b, err := readSeal(l.Envelope)
		if err != nil {
			return nil // the seal itself; the replay will say so
		}
		for j, s := range b.Lines {
			if j < len(lines) && hexSum(lines[j]) == s.SHA256 {
				continue
			}
			// A changed seal must not blame a good line: the line after it
			// names its hash too.
			if j+1 < len(lines) {
				if next, err := parseLine(lines[j+1]); err == nil && next.Previous == hexSum(lines[j]) {
					return badLine("seal", "lines", nil, "It names another hash of the line %d than the line after that.", j+1)
				}
			}
			return badLine(s.Step, s.Kind, nil, "Line %d is not the one that was sealed.", j+1)
		}
		if i != len(b.Lines) {
			return badLine("seal", "lines", nil, "It is line %d and seals %d lines.", i+1, len(b.Lines))
		}
		return nil
	}
	return nil
}

// trusted compares the roots of the ceremony with given ones.
func (r *replay) trusted(roots []*x509.Certificate) error {
	if len(r.roots) == 0 {
		return nil
	}
	if len(roots) == 0 {
		r.say("root", "NOT compared: no root was given; compare its words")
		return nil
	}
	found := false
	for name, c := range r.roots {
		if slices.ContainsFunc(roots, func(x *x509.Certificate) bool { return bytes.Equal(x.Raw, c.Raw) }) {
			r.say("root", "%s is a given one", name)
			found = true
		} else {
			r.say("root", "%s is NOT a given one, SHA-256 %s", name, hexSum(c.Raw))
		}
	}
	if !found {
		return ErrAnchor.New("None of its %d roots is a given one.", len(r.roots)).With("step", "root").With("part", "root")
	}
	return nil
}
