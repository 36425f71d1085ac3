package ceremony

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hallmark/hsm"
	"hallmark/internal/durable"
)

// Room is how a ceremony speaks with the people around the table.
type Room interface {
	// Show shows text to all.
	Show(text string)
	// Confirm asks for a yes and says how it was given, for example "typed yes";
	// anything else is [ErrNotConfirmed].
	Confirm(ctx context.Context, question string) (how string, err error)
	// Ask asks for a line that people type.
	Ask(ctx context.Context, question string) (answer string, err error)
}

// CustodianKey is the key of a custodian who is in the room.
type CustodianKey struct {
	Name string
	URI  string
}

// RunConfig is a ceremony to be run.
type RunConfig struct {
	Script []byte
	// Read reads a file that the script names, from beside the script.
	Read func(name string) ([]byte, error)
	Dir  string // for what is made, and for the transcript
	Keys Keys
	// Fresh opens the tokens anew, to see whether a destroyed key is gone.
	Fresh func() (keys Keys, end func(), err error)
	// Custodians in the room; the others approve by file.
	Custodians []CustodianKey
	// People opens the keys of custodians, anew for each signature: cards go
	// from hand to hand, and may share a reader.
	People func() (keys Keys, end func(), err error)
	// Release is called when Keys are not needed any more, before the custodians
	// sign the seal; may be nil.
	Release   func()
	Approvals [][]byte // statements that were made elsewhere, about script or transcript
	Room      Room
	// ClockRead is what a person read from another clock; "" = the room is asked.
	ClockRead string
	Rehearsal *Rehearsal // nil: this is no rehearsal
	Log       *slog.Logger
	Now       func() time.Time
	Random    io.Reader
}

// RunResult is what a ceremony left.
type RunResult struct {
	Transcript string // file
	Data       []byte
	Files      []string
	Verified   *Verification
}

// TranscriptName is the file of a ceremony's transcript.
func TranscriptName(id string) string { return id + ".ceremony.jsonl" }

// maxSkew is how far the machine's clock may be from the one on the wall (S38).
const maxSkew = 5 * time.Minute

// Run carries a script out, or goes on with it where it was interrupted:
//
//  1. open: the script is checked and shown, somebody reads a clock;
//  2. approve: M of N custodians sign the script's hash;
//  3. steps: each is planned, shown, confirmed, announced on the disk, done;
//  4. seal: the keys sign the hashes of all lines;
//  5. close: M of N custodians sign the seal;
//  6. verify: as anybody else would.
//
// A refused PIN ends the run with [hsm.ErrPINRefused] and loses nothing: a
// person starts it again. Nothing is ever tried again by itself.
func Run(ctx context.Context, cfg RunConfig) (*RunResult, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Keys == nil || cfg.Room == nil || cfg.Read == nil {
		return nil, ErrRequest.New("There are no keys, no room or no files.")
	}
	a, err := ParseAgenda(cfg.Script)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(cfg.Dir, TranscriptName(a.ID))
	if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) { // else it may be done, or have little left
		if err := a.Current(cfg.Now()); err != nil {
			return nil, err
		}
	}
	j, torn, err := openJournal(name)
	if err != nil {
		return nil, err
	}
	defer j.close()
	r := &run{cfg: cfg, a: a, j: j, st: newReplay(nil), now: cfg.Now}
	for _, f := range []func(context.Context, int) error{r.open, r.approve, r.tasks, r.sealAll, r.close} {
		if err := f(ctx, torn); err != nil {
			return nil, err
		}
	}
	v, err := VerifyRun(j.data(), RunTrust{})
	if err != nil {
		return nil, err
	}
	cfg.Log.InfoContext(ctx, "ceremony done", "ceremony", a.ID, "steps", len(a.Steps), "transcript", hexSum(j.data()))
	return &RunResult{Transcript: name, Data: j.data(), Files: r.files, Verified: v}, nil
}

// run is a ceremony while it runs.
type run struct {
	cfg   RunConfig
	a     *Agenda
	j     *journal
	st    *replay
	now   func() time.Time
	clock string
	files []string
}

// write puts a line on the disk and takes it in. What the replay refuses was
// written by a fault of this program; it stops here, and the line shows why.
func (r *run) write(l *line) error {
	if l.At == "" {
		l.At = stamp(r.now())
	}
	raw, err := r.j.append(l)
	if err != nil {
		return err
	}
	return r.st.apply(raw)
}

// open starts a transcript, or reads one that is there.
func (r *run) open(ctx context.Context, torn int) error {
	program, err := program()
	if err != nil {
		return ErrRequest.Wrap(err, "The program cannot read its own file, so the transcript could not name it.")
	}
	if len(r.j.raw) == 0 {
		r.cfg.Room.Show(r.a.Describe(r.cfg.Script))
		if err := r.readClock(ctx); err != nil {
			return err
		}
		o := &openLine{
			Script: string(r.cfg.Script), SHA256: hexSum(r.cfg.Script), Words: WordsOf(r.cfg.Script),
			ClockRead: r.clock, Host: hostFacts(), Program: program, StandIns: standIns{Custodians: []Custodian{}, Roots: []standInRoot{}},
		}
		if r.cfg.Rehearsal != nil {
			o.Rehearsal, o.StandIns = true, r.cfg.Rehearsal.standIns
		}
		return r.write(&line{Kind: lineOpen, Open: o})
	}
	for _, raw := range slices.Clone(r.j.raw) {
		if err := r.st.apply(raw); err != nil {
			return err
		}
	}
	if !bytes.Equal(r.st.script, r.cfg.Script) || r.st.open.Rehearsal != (r.cfg.Rehearsal != nil) {
		return ErrDiffers.New("%s is of the script %s.", r.j.name, short(r.st.open.SHA256))
	}
	for _, d := range r.st.done {
		if err := r.keep(d); err != nil {
			return err
		}
	}
	if r.now().Before(r.st.last) {
		return ErrClock.New("The last line is of %s, this clock says %s.", stamp(r.st.last), stamp(r.now()))
	}
	if r.st.seal != nil {
		return nil // only signatures are missing; they carry their own time
	}
	r.cfg.Room.Show(r.progress())
	if err := r.readClock(ctx); err != nil {
		return err
	}
	return r.write(&line{Kind: lineResume, Resume: &resumeLine{ClockRead: r.clock, Host: hostFacts(), Program: program, Torn: torn}})
}

func (r *run) progress() string {
	var b strings.Builder
	b.WriteString("The ceremony goes on.\n")
	for i, t := range r.a.Steps {
		mark := "to do"
		if i < r.st.next {
			mark = "done"
		} else if i == r.st.next && r.st.signed != nil {
			mark = "the key signed its end; what is left is to destroy it"
		} else if i == r.st.next && len(r.st.intents) > 0 {
			mark = "interrupted after the key may have signed; it is done anew, the octets stay in the transcript"
		}
		b.WriteString("  " + t.Step + ": " + mark + "\n")
	}
	return b.String()
}

// readClock asks for the time on another clock and holds the machine's to it. A
// reading that came with the command is good while it is fresh.
func (r *run) readClock(ctx context.Context) error {
	if r.cfg.ClockRead != "" {
		if err := r.takeClock(r.cfg.ClockRead); err == nil || is(err, ErrReading) || r.clock == "" && len(r.j.raw) == 0 {
			return err
		}
	}
	text, err := r.cfg.Room.Ask(ctx, "Read the time from a clock that is not this machine's, and type it in UTC as YYYY-MM-DD HH:MM: ")
	if err != nil {
		return err
	}
	return r.takeClock(text)
}

func (r *run) takeClock(text string) error {
	text = strings.TrimSuffix(strings.TrimSpace(text), "Z")
	at, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		return ErrReading.Wrap(err, "It is %.40q.", text)
	}
	// The person reads minutes, so up to one of them is not a difference.
	if d := r.now().Sub(at); d < -maxSkew || d > maxSkew+time.Minute {
		return ErrClock.New("The clock on the wall says %s, this machine %s, UTC.", text, r.now().UTC().Format("2006-01-02 15:04"))
	}
	r.clock = text + " UTC"
	return nil
}

// brought are the approvals that came as files, about the script or the seal.
func (r *run) brought(about string, of []byte, said []string) [][]byte {
	var out [][]byte
	for _, f := range r.cfg.Approvals {
		s, err := ReadStatement(f)
		if err == nil && s.About == about && s.SHA256 == hexSum(of) && !slices.Contains(said, s.Custodian) {
			out = append(out, f)
		}
	}
	return out
}

func (r *run) approve(ctx context.Context, _ int) error {
	if r.st.next > 0 || r.st.seal != nil || r.st.quorum() == nil {
		return nil
	}
	for _, f := range r.cfg.Approvals {
		if _, err := ReadStatement(f); err != nil {
			return err
		}
	}
	for _, f := range r.brought(AboutScript, r.cfg.Script, r.st.approved) {
		if err := r.check(AboutScript, f, r.cfg.Script, r.st.approved); err != nil {
			return err
		}
		if err := r.write(&line{Kind: lineApproval, Envelope: f}); err != nil {
			return err
		}
	}
	for _, c := range r.cfg.Custodians {
		if r.st.quorum() == nil {
			break
		}
		f, err := r.ask(ctx, c, AboutScript, r.cfg.Script, r.st.approved, "approve the script with the words\n  "+WordsOf(r.cfg.Script))
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		if err := r.write(&line{Kind: lineApproval, Envelope: f}); err != nil {
			return err
		}
	}
	return r.st.quorum()
}

// check refuses a statement before it becomes a line.
func (r *run) check(about string, f, of []byte, said []string) error {
	_, err := r.st.statement(f, about, of, said)
	return err
}

// ask has a custodian in the room sign; nil if this one did already.
func (r *run) ask(ctx context.Context, c CustodianKey, about string, of []byte, said []string, what string) ([]byte, error) {
	if slices.Contains(said, c.Name) {
		return nil, nil
	}
	person, ok := r.st.person(c.Name)
	if !ok {
		return nil, ErrApproval.New("%.64q is no custodian of this script.", c.Name)
	}
	if _, err := r.cfg.Room.Confirm(ctx, c.Name+", do you "+what+"\n"); err != nil {
		return nil, err
	}
	if r.cfg.People == nil {
		return nil, ErrRequest.New("There is nothing to open the key of %s with.", c.Name)
	}
	keys, end, err := r.cfg.People()
	if err != nil {
		return nil, err
	}
	defer end()
	f, err := Approve(ctx, ApproveRequest{
		Keys: keys, KeyURI: c.URI, Custodian: person, Ceremony: r.a.ID, About: about, Of: of,
		AcceptFirmware: r.a.AcceptFirmware, Now: r.now,
	})
	if err != nil {
		return nil, err
	}
	return f, r.check(about, f, of, said)
}

func (r *run) tasks(ctx context.Context, _ int) error {
	for r.st.next < len(r.a.Steps) {
		task := &r.a.Steps[r.st.next]
		if err := r.do(ctx, task); err != nil {
			if errors.Is(err, hsm.ErrPINRefused) {
				if werr := r.write(&line{Kind: lineRefused, Step: task.Step, Text: detail(err)}); werr != nil {
					return errors.Join(werr, err)
				}
			}
			return err
		}
	}
	return nil
}

func (r *run) sealAll(ctx context.Context, _ int) error {
	if r.st.seal != nil {
		return nil
	}
	if err := r.readClock(ctx); err != nil {
		return err
	}
	lines, err := sealLines(r.j.raw)
	if err != nil {
		return ErrRequest.Wrap(err, "The transcript cannot be sealed.")
	}
	var keys []hsm.Signer
	for _, n := range r.st.signers() {
		k, err := r.cfg.Keys.Signer(ctx, r.uri(n))
		if err != nil {
			return err
		}
		keys = append(keys, k)
	}
	finished := stamp(r.now())
	e, err := makeSeal(ctx, sealBody{
		Schema: sealSchema, Ceremony: r.a.ID, Script: r.st.open.SHA256, Finished: finished, ClockRead: r.clock, Lines: lines,
	}, keys...)
	if err != nil {
		return err
	}
	return r.write(&line{Kind: lineSeal, At: finished, Envelope: e})
}

// close has the custodians sign the seal.
func (r *run) close(ctx context.Context, _ int) error {
	if r.cfg.Release != nil {
		r.cfg.Release()
	}
	of := r.st.seal.line
	need := r.a.Custodians.Threshold
	for _, f := range r.brought(AboutTranscript, of, r.st.closed) {
		if len(r.st.closed) >= need {
			break
		}
		if err := r.check(AboutTranscript, f, of, r.st.closed); err != nil {
			return err
		}
		if err := r.sign(f); err != nil {
			return err
		}
	}
	for _, c := range r.cfg.Custodians {
		if len(r.st.closed) >= need {
			break
		}
		f, err := r.ask(ctx, c, AboutTranscript, of, r.st.closed, "sign the transcript with the words\n  "+WordsOf(of))
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		if err := r.sign(f); err != nil {
			return err
		}
	}
	if len(r.st.closed) < need {
		return ErrQuorum.New("The steps are done and sealed. %d of %d custodians signed the transcript; the others run hallmark ceremony approve %s.", len(r.st.closed), need, filepath.Base(r.j.name))
	}
	return nil
}

// sign adds a custodian's signature of the seal, with its own time.
func (r *run) sign(f []byte) error {
	s, err := ReadStatement(f)
	if err != nil {
		return err
	}
	return r.write(&line{Kind: lineCustodian, At: s.At, Envelope: f})
}

// uri is where a key of the script is, or its stand-in.
func (r *run) uri(name string) string {
	if r.cfg.Rehearsal != nil {
		return r.cfg.Rehearsal.uri(name)
	}
	return r.a.Keys[name].URI
}

// keep writes the files of a step for those who use them. The transcript holds
// all of it, so a file that is missing after an interruption is written again.
func (r *run) keep(d doneStep) error {
	base := d.t.Script.Authority
	if d.t.Kind == KindList {
		base = d.t.Script.Root + "-" + d.t.Script.ListNumber
	}
	out := map[string][]byte{base + "." + string(d.t.Kind) + ".transcript.json": d.raw}
	for _, o := range d.t.Objects {
		switch {
		case !o.Made:
		case o.Role == RoleList:
			out[base+".crl"], out[base+".crl.pem"] = o.DER, toPEM("X509 CRL", o.DER)
		default:
			out[base+".cer"], out[base+".pem"] = o.DER, toPEM("CERTIFICATE", o.DER)
		}
	}
	names := make([]string, 0, len(out))
	for n := range out {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		name := filepath.Join(r.cfg.Dir, n)
		have, err := os.ReadFile(name)
		switch {
		case err == nil && bytes.Equal(have, out[n]):
		case err == nil:
			return ErrFileExists.New("%s.", name)
		case !errors.Is(err, os.ErrNotExist):
			return ErrInput.Wrap(err, "%s cannot be read.", name)
		default:
			if err := durable.WriteFile(name, out[n], 0o644); err != nil {
				return ErrOutput.Wrap(err, "%s cannot be written; the transcript holds it.", name)
			}
		}
		r.files = append(r.files, name)
	}
	return nil
}
