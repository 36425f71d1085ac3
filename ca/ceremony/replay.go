package ceremony

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/fault"
)

// replay is what the lines of a ceremony say so far. The run itself and who
// verifies it years later come to it by the same way: line after line, each
// checked against the script and against all before it.
type replay struct {
	agenda   *Agenda
	script   []byte
	open     *openLine
	approved []string
	makers   []*x509.Certificate // roots of makers of tokens

	next    int // the task to be done
	begin   *beginLine
	intents []intentLine    // since begin: more than one after an interruption
	signed  *signedLine     // with destroy: the key signed its end and may be gone
	absent  map[string]bool // keys of which a begin line says that they were not there
	keys    map[string]*KeyFacts
	gone    map[string]bool
	roots   map[string]*x509.Certificate
	newest  map[string][]byte // root → newest transcript of it
	done    []doneStep

	seal    *sealed
	closed  []string
	anchors []witnessed

	prev  []byte // line before
	count int
	last  time.Time
	steps []Step
}

// doneStep is a step that was done.
type doneStep struct {
	task *Task
	t    *Transcript
	raw  []byte
	line *doneLine
}

// sealed is the seal as it was read.
type sealed struct {
	line []byte
	body sealBody
}

func newReplay(makers []*x509.Certificate) *replay {
	return &replay{
		makers: makers, absent: map[string]bool{}, keys: map[string]*KeyFacts{}, gone: map[string]bool{},
		roots: map[string]*x509.Certificate{}, newest: map[string][]byte{},
	}
}

func (r *replay) say(what, found string, args ...any) {
	r.steps = append(r.steps, Step{what, fmt.Sprintf(found, args...)})
}

// badLine is a transcript fault that names the step.
func badLine(step, part string, cause error, text string, args ...any) error {
	f := ErrTranscript.New(text, args...)
	if part != "" {
		f.Detail = "Part " + part + ": " + f.Detail
	}
	f.Detail = "Step " + step + ": " + f.Detail
	f.Cause = cause
	return f.With("step", step).With("part", part)
}

// stepOf is what a line is called in messages.
func stepOf(kind lineKind, step string) string {
	if step != "" {
		return step
	}
	return string(kind)
}

// expected is what a line that cannot be read is most likely about.
func (r *replay) expected() string {
	switch {
	case r.open == nil:
		return string(lineOpen)
	case r.quorum() != nil:
		return string(lineApproval)
	case r.next < len(r.agenda.Steps):
		return r.agenda.Steps[r.next].Step
	case r.seal == nil:
		return string(lineSeal)
	}
	return string(lineCustodian)
}

// apply checks a line and takes it in.
func (r *replay) apply(raw []byte) error {
	l, err := parseLine(raw)
	if err != nil {
		return badLine(r.expected(), "form", err, "Line %d does not read as a line of a transcript.", r.count+1)
	}
	name := stepOf(l.Kind, l.Step)
	bad := func(part string, cause error, text string, args ...any) error {
		return badLine(name, part, cause, text, args...)
	}
	want := ""
	if r.prev != nil {
		want = hexSum(r.prev)
	}
	if l.Previous != want {
		return bad("previous", nil, "It does not name the line before it.")
	}
	at, err := clock("at", l.At)
	// After the seal a line has the time of what it carries, which others made.
	if err != nil || at.Before(r.last) && r.seal == nil {
		return bad("at", err, "Its time is malformed or before that of the line before.")
	}
	if (l.Step != "") != (l.Kind == lineBegin || l.Kind == lineIntent || l.Kind == lineSigned || l.Kind == lineDone || l.Kind == lineRefused) {
		return bad("step", nil, "A line %s does not belong to a step, or has to.", l.Kind)
	}
	if (r.open == nil) != (l.Kind == lineOpen) {
		return bad("kind", nil, "A transcript starts with its script, once.")
	}
	if after := l.Kind == lineCustodian || l.Kind == lineWitness; after != (r.seal != nil) && !(l.Kind == lineResume && r.seal == nil) {
		return bad("kind", nil, "A line %s is not in its place before or after the seal.", l.Kind)
	}
	if l.Step != "" && (r.next >= len(r.agenda.Steps) || r.agenda.Steps[r.next].Step != l.Step) {
		return bad("order", nil, "It is not the step that the script has here.")
	}
	switch l.Kind {
	case lineOpen:
		err = r.applyOpen(l)
	case lineApproval:
		err = r.applyApproval(l)
	case lineResume:
		if r.signed == nil {
			r.begin = nil // what had begun starts again; what may have been signed stays named
		}
		r.say("resume", "the program was started again at %s, SHA-256 %s, clock read %q", l.At, l.Resume.Program.SHA256, graphic(l.Resume.ClockRead))
		if l.Resume.Torn > 0 {
			r.say("resume", "%d octets of a half written line were dropped", l.Resume.Torn)
		}
	case lineRefused:
		r.say(l.Step, "a token refused a PIN: %s", graphic(l.Text))
	case lineBegin:
		err = r.applyBegin(l)
	case lineIntent:
		if r.begin == nil {
			return bad("order", nil, "It was not begun.")
		}
		if r.signed != nil {
			return bad("order", nil, "The key signed its end before.")
		}
		r.intents = append(r.intents, *l.Intent)
	case lineSigned:
		err = r.applySigned(l)
	case lineDone:
		err = r.applyDone(l)
	case lineSeal:
		err = r.applySeal(raw, l)
	case lineCustodian:
		err = r.applyClosing(l)
	case lineWitness:
		err = r.applyWitness(l)
	default:
		err = bad("kind", nil, "There is no line %.20q.", l.Kind)
	}
	if err != nil {
		return err
	}
	r.prev = raw
	if r.seal == nil {
		r.last = at
	}
	r.count++
	return nil
}

func (r *replay) applyOpen(l *line) error {
	o := l.Open
	a, err := ParseAgenda([]byte(o.Script))
	if err != nil {
		return badLine("open", "script", err, "%s", detail(err))
	}
	if hexSum([]byte(o.Script)) != o.SHA256 || WordsOf([]byte(o.Script)) != o.Words {
		return badLine("open", "sha256", nil, "Hash or words are not those of the script.")
	}
	if !isHash(o.Program.SHA256) || o.ClockRead == "" {
		return badLine("open", "program", nil, "The program's hash or the clock reading is missing.")
	}
	if !o.Rehearsal && len(o.StandIns.Custodians)+len(o.StandIns.Roots) > 0 {
		return badLine("open", "stand_ins", nil, "Only a rehearsal has stand-ins.")
	}
	r.agenda, r.script, r.open = a, []byte(o.Script), o
	for _, s := range o.StandIns.Roots {
		if r.roots[s.Name], err = x509.ParseCertificate(s.DER); err != nil {
			return badLine("open", "stand_ins", err, "A stand-in does not parse.")
		}
	}
	r.say("script", "%s, SHA-256 %s, %d steps, %s mode: %s", a.ID, o.SHA256, len(a.Steps), a.Mode, graphic(a.Title))
	r.say("words", "%s", o.Words)
	r.say("program", "SHA-256 %s on %s, clock read %q at %s by the machine", o.Program.SHA256, graphic(o.Host.Name), graphic(o.ClockRead), l.At)
	if o.Rehearsal {
		r.say("REHEARSAL", "keys, custodians and roots are stand-ins on a throw-away token; nothing here is real")
	}
	return nil
}

// person finds a custodian, or the stand-in of a rehearsal.
func (r *replay) person(name string) (Custodian, bool) {
	if r.open.Rehearsal {
		i := slices.IndexFunc(r.open.StandIns.Custodians, func(c Custodian) bool { return c.Name == name })
		if _, ok := r.agenda.custodian(name); i < 0 || !ok {
			return Custodian{}, false
		}
		return r.open.StandIns.Custodians[i], true
	}
	return r.agenda.custodian(name)
}

// statement checks a custodian's statement and that this person said it first now.
func (r *replay) statement(envelope []byte, about string, of []byte, said []string) (*Statement, error) {
	s, err := ReadStatement(envelope)
	if err != nil {
		return nil, err
	}
	c, ok := r.person(s.Custodian)
	if !ok {
		return nil, ErrApproval.New("%.64q is no custodian of this script.", s.Custodian)
	}
	if err := s.fits(r.agenda.ID, about, of, c); err != nil {
		return nil, err
	}
	if slices.Contains(said, s.Custodian) {
		return nil, ErrApproval.New("%s approved before.", s.Custodian)
	}
	if len(s.Exceptions) > 0 && !r.agenda.AcceptFirmware && r.agenda.Production() {
		return nil, ErrApproval.New("%s uses a card with an exception that the script does not accept.", s.Custodian)
	}
	return s, nil
}

func (r *replay) applyApproval(l *line) error {
	s, err := r.statement(l.Envelope, AboutScript, r.script, r.approved)
	if err != nil {
		return badLine("approval", "statement", err, "%s", detail(err))
	}
	// The plan that is approved is the plan before anything is done.
	if r.next > 0 || r.begin != nil {
		return badLine("approval", "order", nil, "%s approved after the first step.", s.Custodian)
	}
	end, err := r.agenda.end()
	if err != nil || s.At > stamp(end) {
		return badLine("approval", "at", err, "%s approved after %s.", s.Custodian, r.agenda.RunUntil)
	}
	r.approved = append(r.approved, s.Custodian)
	r.say("approval", "%s approved the script at %s with %s", graphic(s.Custodian), s.At, keyText(&s.Key))
	r.sayStatement(s)
	return nil
}

func (r *replay) sayStatement(s *Statement) {
	for _, e := range s.Exceptions {
		r.say("EXCEPTION", "%s: %s", graphic(s.Custodian), graphic(e))
	}
	if len(s.Attestation) > 0 {
		if found, err := checkAttestation(s.Attestation, &s.Key, r.makers); err == nil {
			r.say("attestation", "%s: %s", graphic(s.Custodian), found)
		}
	}
}

func (r *replay) quorum() error {
	if n := len(r.approved); n < r.agenda.Custodians.Threshold {
		return ErrQuorum.New("%d of %d that are needed approved the script.", n, r.agenda.Custodians.Threshold)
	}
	return nil
}

func (r *replay) applyBegin(l *line) error {
	bad := func(part string, cause error, text string, args ...any) error {
		return badLine(l.Step, part, cause, text, args...)
	}
	if err := r.quorum(); err != nil {
		return bad("quorum", err, "%s", detail(err))
	}
	if end, err := r.agenda.end(); err != nil || l.At > stamp(end) {
		return bad("at", err, "The approvals were good until %s.", r.agenda.RunUntil)
	}
	task := &r.agenda.Steps[r.next]
	names := map[string]bool{}
	for _, b := range l.Begin.Brought {
		if hexSum(b.Data) != b.SHA256 || WordsOf(b.Data) != b.Words || names[b.File] {
			return bad("brought", nil, "Hash or words are not those of the file %s, or it is there twice.", graphic(b.File))
		}
		names[b.File] = true
	}
	for _, f := range []*AgendaFile{task.CSR, task.PreviousList} {
		if f == nil {
			continue
		}
		if !names[f.File] {
			return bad("brought", nil, "The file %s is missing.", f.File)
		}
		if f.SHA256 != "" && f.SHA256 != hexSum(l.Begin.file(f.File)) {
			return bad("brought", nil, "The file %s has another hash than the script says.", f.File)
		}
	}
	if !r.open.Rehearsal {
		if err := r.takeRoots(task, l.Begin); err != nil {
			return bad("brought", err, "%s", detail(err))
		}
	}
	key := r.agenda.keyOf(task)
	if l.Begin.Absent {
		if r.keys[key] != nil {
			return bad("absent", nil, "The key %s was used before.", key)
		}
		r.absent[key] = true
	} else if r.agenda.Keys[key].Generate != "" && r.keys[key] == nil && !r.absent[key] {
		return bad("absent", nil, "The key %s was there although the script makes it.", key)
	}
	r.begin = l.Begin
	return nil
}

func (b *beginLine) file(name string) []byte {
	for _, x := range b.Brought {
		if x.File == name {
			return x.Data
		}
	}
	return nil
}

// takeRoots reads the roots that existed before and that a task is about.
func (r *replay) takeRoots(task *Task, b *beginLine) error {
	for _, name := range r.rootsOf(task) {
		x, ok := r.agenda.Roots[name]
		if !ok || r.roots[name] != nil {
			continue
		}
		root, err := parseRoot(b.file(x.Certificate))
		if err != nil {
			return err
		}
		if hexSum(root.Raw) != x.SHA256 {
			return ErrInput.New("%s is another certificate than the script names for %s.", x.Certificate, name)
		}
		r.roots[name] = root
		if x.Previous != "" {
			r.newest[name] = b.file(x.Previous)
		}
	}
	return nil
}

// rootsOf names the roots that a task is about.
func (r *replay) rootsOf(task *Task) []string {
	var out []string
	for _, n := range []string{task.Root, task.Other} {
		if n != "" {
			out = append(out, n)
		}
	}
	if task.Do == DoDestroy {
		if n := r.rootWith(task.Key); n != "" {
			out = append(out, n)
		}
	}
	return out
}

// rootWith is the root whose key it is, "" for none.
func (r *replay) rootWith(key string) string {
	for i := range r.agenda.Steps {
		if s := &r.agenda.Steps[i]; s.Do == DoCreateRoot && s.Key == key {
			return s.Name
		}
	}
	for n, x := range r.agenda.Roots {
		if x.Key == key {
			return n
		}
	}
	return ""
}

func (r *replay) rootList() []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range r.roots {
		out = append(out, c)
	}
	return out
}

var kindOf = map[string]Kind{DoCreateRoot: KindRoot, DoIssue: KindSign, DoCrossSign: KindCross, DoSignList: KindList, DoDestroy: KindDestroy}

// applySigned takes a key's last words in. They are verified with the line that says
// that the key is gone.
func (r *replay) applySigned(l *line) error {
	task := &r.agenda.Steps[r.next]
	if task.Do != DoDestroy || r.begin == nil || len(r.intents) == 0 || r.signed != nil {
		return badLine(task.Step, "order", nil, "Only a key that is to be destroyed signs its end, once, after people agreed.")
	}
	r.signed = l.Signed
	r.say(task.Step, "the key signed its end at %s; people destroyed it after that", l.At)
	return nil
}

func (r *replay) applyDone(l *line) error {
	task := &r.agenda.Steps[r.next]
	bad := func(part string, cause error, text string, args ...any) error {
		return badLine(task.Step, part, cause, text, args...)
	}
	if r.begin == nil || len(r.intents) == 0 {
		return bad("order", nil, "It was not begun, or nobody agreed to it.")
	}
	if s := r.signed; s != nil && (!bytes.Equal(s.Transcript, l.Done.Transcript) || s.CounterAfter != l.Done.CounterAfter) {
		return bad("signed", nil, "It is not what the key signed at its end.")
	}
	var trusted []*x509.Certificate
	if task.Do != DoCreateRoot {
		trusted = r.rootList()
	}
	t, steps, err := Open(l.Done.Transcript, trusted...)
	for _, s := range steps {
		if task.Do == DoCreateRoot && s.What == "root" {
			continue // a new root is compared with the given ones at the end
		}
		r.steps = append(r.steps, Step{task.Step + " " + s.What, s.Found})
	}
	if err != nil {
		part, _ := fault.From(err).Members["part"].(string)
		return bad(part, err, "%s", detail(err))
	}
	intent := r.intents[len(r.intents)-1]
	if t.Shown != intent.Shown || t.Confirmed != intent.Confirmed || !bytes.Equal(tbsOf(t), intent.TBS) {
		return bad("intent", nil, "What was signed is not what was announced and agreed to.")
	}
	if n := len(r.intents) - 1; n > 0 {
		r.say(task.Step, "%d earlier attempts were interrupted after the key may have signed; their octets are in the transcript", n)
	}
	if err := r.matchKey(task, t); err != nil {
		return bad("key", err, "%s.", err)
	}
	if err := r.matchTask(task, t); err != nil {
		return bad("script", err, "It is not what the script says: %s.", err)
	}
	if err := r.matchCounter(t, l.Done); err != nil {
		return bad("counter", err, "%s.", err)
	}
	k := r.agenda.Keys[r.agenda.keyOf(task)]
	if len(l.Done.Attestation) > 0 {
		found, err := checkAttestation(l.Done.Attestation, &t.Key, r.makers)
		if err != nil {
			return bad("attestation", err, "%s.", err)
		}
		r.say(task.Step+" attestation", "%s", found)
	} else if k.Attestation == "required" && !r.open.Rehearsal {
		return bad("attestation", nil, "The script requires one.")
	}
	if (task.Do == DoDestroy) != (l.Done.Gone != "") {
		return bad("gone", nil, "Only a destroyed key is gone, and it has to be.")
	}
	key := r.agenda.keyOf(task)
	facts := t.Key
	r.keys[key] = &facts
	if task.Do == DoDestroy {
		r.gone[key] = true
		r.say(task.Step, "the key is gone: %s", graphic(l.Done.Gone))
	}
	if root := r.chainOf(task); root != "" {
		r.newest[root] = l.Done.Transcript
	}
	r.done = append(r.done, doneStep{task, t, l.Done.Transcript, l.Done})
	r.begin, r.intents, r.signed = nil, nil, nil
	r.next++
	return nil
}

// chainOf is the root in whose chain of transcripts a task's stands.
func (r *replay) chainOf(task *Task) string {
	switch task.Do {
	case DoCreateRoot:
		return task.Name
	case DoDestroy:
		return r.rootWith(task.Key)
	}
	return task.Root
}

// tbsOf is the part of the made object that was signed.
func tbsOf(t *Transcript) []byte {
	for _, o := range t.Objects {
		if !o.Made {
			continue
		}
		if o.Role == RoleList {
			if l, err := x509.ParseRevocationList(o.DER); err == nil {
				return l.RawTBSRevocationList
			}
		} else if c, err := x509.ParseCertificate(o.DER); err == nil {
			return c.RawTBSCertificate
		}
	}
	return nil
}

// matchKey holds the key of a step to the script and to the steps before.
func (r *replay) matchKey(task *Task, t *Transcript) error {
	name := r.agenda.keyOf(task)
	k := r.agenda.Keys[name]
	if before := r.keys[name]; before != nil {
		if before.SHA256 != t.Key.SHA256 || before.Token != t.Key.Token {
			return fmt.Errorf("the key %s or its token was another one in the steps before", name)
		}
	} else if k.Generate != "" {
		if !t.Key.Generated && !r.absent[name] {
			return fmt.Errorf("the key %s was not made here", name)
		}
		if t.Key.Algorithm != k.Generate {
			return fmt.Errorf("the key %s is %s, not %s", name, t.Key.Algorithm, k.Generate)
		}
	}
	for other, f := range r.keys {
		if other != name && f.SHA256 == t.Key.SHA256 {
			return fmt.Errorf("the keys %s and %s are one", name, other)
		}
	}
	if t.Mode == "development" && r.agenda.Production() && !r.open.Rehearsal {
		return errors.New("it was made in development mode")
	}
	if r.open.Rehearsal {
		return nil
	}
	return sameURI(k.URI, t.Key.URI)
}

// sameURI tells whether a key is the one that the script's URI names; the key
// itself may be named more exactly.
func sameURI(script, key string) error {
	a, err := hsm.ParseURI(script)
	if err != nil {
		return err
	}
	b, err := hsm.ParseURI(key)
	if err != nil {
		return err
	}
	fits := func(want, have string) bool { return want == "" || want == have }
	if a.Scheme != b.Scheme || !fits(a.Token, b.Token) || !fits(a.Serial, b.Serial) || !fits(a.Object, b.Object) || !fits(string(a.ID), string(b.ID)) || a.Slot != b.Slot || a.Path != b.Path {
		return fmt.Errorf("the key is %s", graphic(key))
	}
	return nil
}

func (r *replay) matchCounter(t *Transcript, d *doneLine) error {
	if d.CounterAfter == "" && r.begin.CounterBefore == "" {
		return nil
	}
	before, err1 := strconv.ParseUint(r.begin.CounterBefore, 10, 64)
	after, err2 := strconv.ParseUint(d.CounterAfter, 10, 64)
	made := uint64(1) // the transcript
	if t.Kind != KindDestroy {
		made++
	}
	if err1 != nil || err2 != nil || after < before || after-before < made {
		return fmt.Errorf("the signature counter went from %.20q to %.20q, but at least %d were made", r.begin.CounterBefore, d.CounterAfter, made)
	}
	r.say("counter", "the token counted %d signatures, from %d to %d", after-before, before, after)
	return nil
}

// matchTask holds what a step made to what the script says.
func (r *replay) matchTask(task *Task, t *Transcript) error {
	s := t.Script
	if t.Kind != kindOf[task.Do] {
		return fmt.Errorf("the step was %q", t.Kind)
	}
	if want := r.newest[r.chainOf(task)]; want != nil && t.Previous != hexSum(want) || want == nil && t.Previous != "" {
		return errors.New("it names another step before it")
	}
	if end, err := ParseEnd(task.NotAfter); err != nil || !end.IsZero() && s.NotAfter != stamp(end) {
		return fmt.Errorf("it ends at %s", s.NotAfter)
	}
	if task.Root != "" && (s.Root != task.Root || s.BaseURL != r.agenda.baseURL(task.Root)) {
		return fmt.Errorf("it is of the root %s at %s", s.Root, s.BaseURL)
	}
	if task.Root != "" && !bytes.Equal(t.Object(RoleRoot), r.roots[task.Root].Raw) {
		return errors.New("it is of another root")
	}
	if task.Subject != nil && profile.Subject(s.Subject) != task.Subject.profile() {
		return fmt.Errorf("the subject is %q", s.Subject.CommonName)
	}
	switch task.Do {
	case DoCreateRoot:
		if s.Authority != task.Name || s.BaseURL != task.BaseURL {
			return fmt.Errorf("it is %s at %s", s.Authority, s.BaseURL)
		}
		root, err := x509.ParseCertificate(t.Object(RoleRoot))
		if err != nil {
			return err
		}
		r.roots[task.Name] = root
	case DoIssue:
		return r.matchIssue(task, t)
	case DoCrossSign:
		if s.Authority != task.Name || !bytes.Equal(t.Object(RoleOtherRoot), r.roots[task.Other].Raw) {
			return errors.New("it certifies another root")
		}
		if !s.constraints().Equal(task.constraints()) {
			return errors.New("it has other constraints")
		}
	case DoSignList:
		return r.matchList(task, t)
	}
	return nil
}

func (r *replay) matchIssue(task *Task, t *Transcript) error {
	if t.Script.Authority != task.Name || t.Script.Profile != string(profileOf(profile.Duty(task.Duty)).Name) {
		return fmt.Errorf("it is %s of the profile %s", t.Script.Authority, t.Script.Profile)
	}
	if !t.Script.constraints().Equal(task.constraints()) {
		return errors.New("it has other constraints")
	}
	file := r.begin.file(task.CSR.File)
	if raw := t.Object(RoleRequest); raw != nil {
		if !bytes.Equal(raw, file) {
			return errors.New("the CSR's transcript is not the file that was brought")
		}
		return nil
	}
	req, err := csr.Parse(file)
	if err != nil || !bytes.Equal(req.Raw, t.Object(RoleCSR)) {
		return errors.New("the CSR is not the file that was brought")
	}
	return nil
}

func (r *replay) matchList(task *Task, t *Transcript) error {
	if r.open.Rehearsal {
		return nil // its list before is a stand-in
	}
	s := t.Script
	old := t.Object(RolePreviousList)
	if task.First != (old == nil) {
		return errors.New("the list before is there although this is the first, or is missing")
	}
	before := map[string]bool{}
	if old != nil {
		file, err := ReadObject(r.begin.file(task.PreviousList.File), "X509 CRL")
		if err != nil || !bytes.Equal(file, old) {
			return errors.New("the list before is not the file that was brought")
		}
		l, err := x509.ParseRevocationList(old)
		if err != nil {
			return err
		}
		for _, e := range revokedOf(l) {
			before[e.SerialNumber] = true
		}
	}
	want := map[string]int{}
	for _, v := range task.Revoke {
		n, err := ca.ParseSerial(v.SerialNumber)
		if err != nil {
			return err
		}
		code, err := Reason(v.Reason)
		if err != nil {
			return err
		}
		want[strings.TrimLeft(n.String(), "0")] = code
	}
	for _, e := range s.Revoked {
		if before[e.SerialNumber] {
			continue
		}
		n := strings.TrimLeft(e.SerialNumber, "0")
		if code, ok := want[n]; !ok || code != e.Reason {
			return fmt.Errorf("it lists %s, which the script does not, or for another reason", e.SerialNumber)
		}
		delete(want, n)
	}
	if len(want) > 0 {
		return fmt.Errorf("%d certificates of the script are not on it", len(want))
	}
	from, err1 := clock("not_before", s.NotBefore)
	to, err2 := clock("not_after", s.NotAfter)
	root := r.roots[task.Root]
	if life := task.life(); err1 != nil || err2 != nil || to.Sub(from) != life && !to.Equal(root.NotAfter) {
		return fmt.Errorf("it runs from %s to %s", s.NotBefore, s.NotAfter)
	}
	return nil
}

// life is how long a list of the task runs.
func (s *Task) life() time.Duration {
	if s.Days == 0 {
		return defaultListLife
	}
	return time.Duration(s.Days) * 24 * time.Hour
}
