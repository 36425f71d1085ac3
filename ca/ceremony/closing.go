package ceremony

import (
	"slices"
	"strings"

	"hallmark/hsm"
)

// Closing verifies a sealed transcript for a custodian who is to sign it: the
// script, the octets to sign, and what was found. Signatures may be missing.
func Closing(data []byte) (a *Agenda, of []byte, v *Verification, err error) {
	if v, err = verifyRun(data, RunTrust{}); err != nil {
		return nil, nil, v, err
	}
	if v.state.seal == nil {
		return nil, nil, v, v.state.finished()
	}
	return v.state.agenda, v.state.seal.line, v, nil
}

// Custodian finds a custodian of a ceremony by name, or the stand-in of one.
func (v *Verification) Custodian(name string) (Custodian, bool) { return v.state.person(name) }

// Custodian finds a custodian of a script by name.
func (a *Agenda) Custodian(name string) (Custodian, bool) { return a.custodian(name) }

// Anchor adds what a witness signed, a note over the checkpoint, to a sealed
// transcript and gives the longer transcript.
func Anchor(data []byte, note string) ([]byte, error) {
	v, err := verifyRun(data, RunTrust{})
	if err != nil {
		return nil, err
	}
	if err := v.state.finished(); err != nil {
		return nil, err
	}
	seen, err := checkWitness(note, v.Checkpoint, v.state.agenda.Witnesses)
	if err != nil {
		return nil, ErrWitness.Wrap(err, "%s.", err)
	}
	l := &line{Schema: RunSchema, Kind: lineWitness, At: v.state.witnessedAt(seen), Text: note, Previous: hexSum(v.state.prev)}
	raw, err := canonical(l)
	if err != nil {
		return nil, ErrRequest.Wrap(err, "The line cannot be written.")
	}
	if err := v.state.apply(raw); err != nil {
		return nil, err
	}
	return append(append(slices.Clone(data), raw...), '\n'), nil
}

// IsRun tells whether a file is the transcript of a whole ceremony rather than
// of one step.
func IsRun(data []byte) bool {
	first, _, _ := strings.Cut(string(data[:min(len(data), maxLine)]), "\n")
	_, err := parseLine([]byte(first))
	return err == nil
}

// KeyOfToken finds the key of a script that is in a token, for who asks for its
// PIN; "" if none is, or more than one with different PINs.
func (a *Agenda) KeyOfToken(id hsm.TokenID) (string, AgendaKey) {
	found := ""
	for name, k := range a.Keys {
		u, err := hsm.ParseURI(k.URI)
		if err != nil || u.Token != "" && u.Token != id.Label || u.Serial != "" && u.Serial != id.Serial {
			continue
		}
		if found != "" && (a.Keys[found].PIN != k.PIN || a.Keys[found].PINShares != k.PINShares) {
			return "", AgendaKey{}
		}
		if found == "" || name < found {
			found = name
		}
	}
	return found, a.Keys[found]
}
