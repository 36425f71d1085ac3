package ceremony

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"hallmark/internal/durable"
	"hallmark/internal/strictjson"
)

// RunSchema names this form of a ceremony's transcript: lines of canonical JSON
// that each name the line before by its hash. A line is on the disk before what
// it announces is done, so the file is the journal from which an interrupted
// ceremony goes on, and, once it is sealed, the transcript.
const RunSchema = "hallmark.ceremony-run/v1"

const (
	// MaxRun bounds the transcript of a whole ceremony.
	MaxRun   = 32 << 20
	maxLine  = 4 << 20
	maxLines = 4096
)

type lineKind string

const (
	lineOpen      lineKind = "open"      // script, machine, program, clock
	lineApproval  lineKind = "approval"  // a custodian agreed to the script
	lineResume    lineKind = "resume"    // the program was started again
	lineBegin     lineKind = "begin"     // a step starts; what was brought to it
	lineRefused   lineKind = "refused"   // a token refused a PIN
	lineIntent    lineKind = "intent"    // these octets may be signed from now on
	lineSigned    lineKind = "signed"    // with destroy: the key signed its end, and may be gone from now on
	lineDone      lineKind = "done"      // what the step made
	lineSeal      lineKind = "seal"      // the hashes of all lines, signed by the keys
	lineCustodian lineKind = "custodian" // a custodian signed the seal
	lineWitness   lineKind = "witness"   // a witness cosigned the checkpoint
)

// line is one line. Exactly the member of its kind is there.
type line struct {
	Schema   string   `json:"schema"`
	Kind     lineKind `json:"kind"`
	Previous string   `json:"previous"`
	At       string   `json:"at"`
	Step     string   `json:"step"`

	Open     *openLine   `json:"open,omitempty"`
	Resume   *resumeLine `json:"resume,omitempty"`
	Begin    *beginLine  `json:"begin,omitempty"`
	Intent   *intentLine `json:"intent,omitempty"`
	Signed   *signedLine `json:"signed,omitempty"`
	Done     *doneLine   `json:"done,omitempty"`
	Envelope []byte      `json:"envelope,omitempty"` // approval, seal, custodian
	Text     string      `json:"text,omitempty"`     // refused, witness
}

type openLine struct {
	Script    string   `json:"script"`
	SHA256    string   `json:"sha256"`
	Words     string   `json:"words"`
	Rehearsal bool     `json:"rehearsal"`
	ClockRead string   `json:"clock_read"`
	Host      Host     `json:"host"`
	Program   Program  `json:"program"`
	StandIns  standIns `json:"stand_ins"` // empty but in a rehearsal
}

// standIns replace people and roots in a rehearsal.
type standIns struct {
	Custodians []Custodian   `json:"custodians"`
	Roots      []standInRoot `json:"roots"`
}

type standInRoot struct {
	Name string `json:"name"`
	DER  []byte `json:"der"`
}

type resumeLine struct {
	ClockRead string  `json:"clock_read"`
	Host      Host    `json:"host"`
	Program   Program `json:"program"`
	// Torn is how many octets of a half written line were dropped.
	Torn int `json:"torn"`
}

type beginLine struct {
	// Absent says that the token had no key of that name before.
	Absent        bool      `json:"absent"`
	CounterBefore string    `json:"counter_before"` // "" where it is not known
	Brought       []brought `json:"brought"`
}

// brought is a file that came with the script.
type brought struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Words  string `json:"words"`
	Data   []byte `json:"data"`
}

type intentLine struct {
	TBS       []byte `json:"tbs"` // empty with destroy
	Shown     string `json:"shown"`
	Confirmed string `json:"confirmed"`
}

// signedLine keeps what a key said last: after it, nothing can be asked of the key.
type signedLine struct {
	Transcript   []byte `json:"transcript"` // as in the done line
	CounterAfter string `json:"counter_after"`
}

type doneLine struct {
	Transcript   []byte   `json:"transcript"` // file of the step, [Transcript] in its envelope
	CounterAfter string   `json:"counter_after"`
	Attestation  [][]byte `json:"attestation"`
	Gone         string   `json:"gone"` // with destroy: what the token says of the key afterwards
}

// parseLine reads one line and takes no other form of it.
func parseLine(data []byte) (*line, error) {
	l := new(line)
	if err := strictjson.Decode(data, l, strictjson.WithLimits(strictjson.Limits{Size: maxLine, Values: 16384})); err != nil {
		return nil, err
	}
	if again, err := canonical(l); err != nil || !bytes.Equal(again, data) {
		return nil, errors.New("it is not in the canonical form")
	}
	if l.Schema != RunSchema {
		return nil, fmt.Errorf("it has the schema %.40q, not %s", l.Schema, RunSchema)
	}
	n := 0
	for _, has := range []bool{l.Open != nil, l.Resume != nil, l.Begin != nil, l.Intent != nil, l.Signed != nil, l.Done != nil, l.Envelope != nil, l.Text != ""} {
		if has {
			n++
		}
	}
	fits := map[lineKind]bool{
		lineOpen: l.Open != nil, lineResume: l.Resume != nil, lineBegin: l.Begin != nil, lineIntent: l.Intent != nil, lineSigned: l.Signed != nil, lineDone: l.Done != nil,
		lineApproval: l.Envelope != nil, lineSeal: l.Envelope != nil, lineCustodian: l.Envelope != nil, lineRefused: l.Text != "", lineWitness: l.Text != "",
	}
	if n != 1 || !fits[l.Kind] {
		return nil, fmt.Errorf("a line %.20q has not the members of its kind", l.Kind)
	}
	return l, nil
}

// splitRun cuts a file into lines; torn is what follows the last line end.
func splitRun(data []byte) (lines [][]byte, torn []byte, err error) {
	if len(data) > MaxRun {
		return nil, nil, broken("file", nil, "It has %d octets; at most %d are read.", len(data), MaxRun)
	}
	for len(data) > 0 {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return lines, data, nil
		}
		if len(lines) == maxLines {
			return nil, nil, broken("file", nil, "It has more than %d lines.", maxLines)
		}
		lines, data = append(lines, data[:i]), data[i+1:]
	}
	return lines, nil, nil
}

// journal is the file of a run.
type journal struct {
	name string
	raw  [][]byte
	f    *os.File
}

// openJournal reads a journal, drops a half written line, and is ready to append.
func openJournal(name string) (j *journal, torn int, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, 0, ErrInput.Wrap(err, "%s cannot be opened.", name)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := lockFile(f); err != nil {
		return nil, 0, ErrInput.Wrap(err, "Another program uses %s.", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxRun+1))
	if err != nil {
		return nil, 0, ErrInput.Wrap(err, "%s cannot be read.", name)
	}
	lines, rest, err := splitRun(data)
	if err != nil {
		return nil, 0, err
	}
	if len(rest) > 0 {
		if err := f.Truncate(int64(len(data) - len(rest))); err != nil {
			return nil, 0, ErrInput.Wrap(err, "%s cannot be repaired.", name)
		}
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, 0, ErrInput.Wrap(err, "%s cannot be read.", name)
	}
	j = &journal{name: name, raw: lines, f: f}
	if err := errors.Join(f.Sync(), durable.SyncDir(dirOf(name))); err != nil {
		return nil, 0, ErrOutput.Wrap(err, "%s cannot be written.", name)
	}
	return j, len(rest), nil
}

// append puts a line on the disk; when it returns, the line stays.
func (j *journal) append(l *line) ([]byte, error) {
	l.Schema = RunSchema
	if n := len(j.raw); n > 0 {
		l.Previous = hexSum(j.raw[n-1])
	}
	b, err := canonical(l)
	if err != nil {
		return nil, ErrRequest.Wrap(err, "The line cannot be written.")
	}
	if len(b) > maxLine {
		return nil, ErrRequest.New("A line of %d octets is too long.", len(b))
	}
	if _, err := j.f.Write(append(bytes.Clone(b), '\n')); err != nil {
		return nil, ErrOutput.Wrap(err, "%s cannot be written; nothing more is done.", j.name)
	}
	if err := j.f.Sync(); err != nil {
		return nil, ErrOutput.Wrap(err, "%s cannot be written; nothing more is done.", j.name)
	}
	j.raw = append(j.raw, b)
	return b, nil
}

func (j *journal) close() error { return j.f.Close() }

// data is the whole file.
func (j *journal) data() []byte {
	var b []byte
	for _, l := range j.raw {
		b = append(append(b, l...), '\n')
	}
	return b
}
