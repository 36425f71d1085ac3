package ceremony

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/hsm"
)

// do carries one step out.
func (r *run) do(ctx context.Context, task *Task) error {
	if r.st.signed != nil {
		return r.destroyed(ctx, task) // there may be no key any more to look at
	}
	b, err := r.begin(ctx, task)
	if err != nil {
		return err
	}
	if err := r.write(&line{Kind: lineBegin, Step: task.Step, Begin: b}); err != nil {
		return err
	}
	if task.Do == DoDestroy {
		return r.destroy(ctx, task)
	}
	step, err := r.ceremony(task)
	if err != nil {
		return err
	}
	p, err := r.plan(ctx, step, task, b)
	if err != nil {
		return err
	}
	r.cfg.Room.Show("Step " + task.Step + " of " + r.a.ID + ".\n" + p.Describe())
	how, err := r.cfg.Room.Confirm(ctx, "Do this? ")
	if err != nil {
		return err
	}
	if r.cfg.Rehearsal != nil {
		how = "REHEARSAL: " + how
	}
	// From here on the key may have signed, whatever happens to this machine.
	if err := r.write(&line{Kind: lineIntent, Step: task.Step, Intent: &intentLine{TBS: p.TBS(), Shown: p.Describe(), Confirmed: how}}); err != nil {
		return err
	}
	res, err := step.Execute(ctx, p, how)
	if err != nil {
		return err
	}
	count, err := r.counter(ctx, task, "after", 2)
	if err != nil {
		return err
	}
	return r.finish(ctx, task, res, count, "")
}

// finish records what a step made and writes its files.
func (r *run) finish(ctx context.Context, task *Task, res *Result, count, gone string) error {
	d := &doneLine{Transcript: res.TranscriptJSON, CounterAfter: count, Attestation: [][]byte{}, Gone: gone}
	key := r.a.keyOf(task)
	if gone == "" {
		chain, err := attestation(ctx, r.cfg.Keys, r.uri(key))
		if err != nil {
			return err
		}
		if chain != nil {
			d.Attestation = chain
		}
		if len(chain) == 0 && r.a.Keys[key].Attestation == "required" && r.cfg.Rehearsal == nil {
			return ErrAttestation.New("The key is %s.", key)
		}
	}
	if err := r.write(&line{Kind: lineDone, Step: task.Step, Done: d}); err != nil {
		return err
	}
	r.cfg.Room.Show("Done: " + task.Step + ". The words of the step's transcript are\n  " + res.TranscriptWords + "\n")
	return r.keep(r.st.done[len(r.st.done)-1])
}

// begin looks at the key and gathers the files that a step needs.
func (r *run) begin(ctx context.Context, task *Task) (*beginLine, error) {
	b := &beginLine{Brought: []brought{}}
	for _, name := range r.filesOf(task) {
		data, err := r.cfg.Read(name)
		if err != nil {
			return nil, err
		}
		if len(data) > MaxFile {
			return nil, ErrInput.New("%s is larger than %d octets.", name, MaxFile)
		}
		b.Brought = append(b.Brought, brought{File: name, SHA256: hexSum(data), Words: WordsOf(data), Data: data})
	}
	if f := task.CSR; f != nil && f.SHA256 != "" && f.SHA256 != hexSum(b.file(f.File)) {
		return nil, ErrInput.New("%s has another hash than the script says.", f.File)
	} else if f != nil && f.SHA256 == "" {
		// The script could not know the hash, so people compare the words.
		question := "Compare aloud with the sender: the words of " + f.File + " are\n  " + WordsOf(b.file(f.File)) + "\nAre they the same? "
		if _, err := r.cfg.Room.Confirm(ctx, question); err != nil {
			return nil, err
		}
	}
	if f := task.PreviousList; f != nil && f.SHA256 != "" && f.SHA256 != hexSum(b.file(f.File)) {
		return nil, ErrInput.New("%s has another hash than the script says.", f.File)
	}
	if r.cfg.Rehearsal == nil {
		if err := r.st.takeRoots(task, b); err != nil {
			return nil, err
		}
	}
	name := r.a.keyOf(task)
	if k := r.a.Keys[name]; k.Generate != "" && r.st.keys[name] == nil {
		_, err := r.cfg.Keys.Signer(ctx, r.uri(name))
		switch {
		case errors.Is(err, hsm.ErrKeyNotFound):
			b.Absent = true
		case err != nil:
			return nil, err
		case !r.st.absent[name]:
			return nil, hsm.ErrKeyExists.New("The script makes the key %s, but the token has one already.", name)
		}
	}
	var err error
	b.CounterBefore, err = r.counter(ctx, task, "before", 0)
	return b, err
}

func (r *run) filesOf(task *Task) []string {
	var out []string
	for _, f := range []*AgendaFile{task.CSR, task.PreviousList} {
		if f != nil {
			out = append(out, f.File)
		}
	}
	if r.cfg.Rehearsal != nil {
		return out
	}
	for _, n := range r.st.rootsOf(task) {
		if x, ok := r.a.Roots[n]; ok && r.st.roots[n] == nil {
			out = append(out, x.Certificate)
			if x.Previous != "" {
				out = append(out, x.Previous)
			}
		}
	}
	return out
}

// counter is the signature counter of a token: as the token tells, or as a
// person reads it off the token; "" where there is none. made is how many
// signatures it must have counted since the step began.
func (r *run) counter(ctx context.Context, task *Task, when string, made uint64) (string, error) {
	name := r.a.keyOf(task)
	if c, ok := r.cfg.Keys.(Counter); ok && (r.st.keys[name] != nil || when == "after") {
		n, known, err := c.SignatureCount(ctx, r.uri(name))
		if err != nil {
			return "", err
		}
		if known {
			return strconv.FormatUint(n, 10), nil
		}
	}
	if r.a.Keys[name].Counter != "read" || r.cfg.Rehearsal != nil {
		return "", nil
	}
	for {
		text, err := r.cfg.Room.Ask(ctx, "Read the signature counter of the token of "+name+" "+when+" the step "+task.Step+": ")
		if err != nil {
			return "", err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 63)
		least := uint64(0)
		if made > 0 {
			if before, err := strconv.ParseUint(r.st.begin.CounterBefore, 10, 64); err == nil {
				least = before + made
			}
		}
		if err == nil && n >= least {
			return strconv.FormatUint(n, 10), nil
		}
		r.cfg.Room.Show(fmt.Sprintf("That is not a number of at least %d. Read it again.\n", least))
	}
}

// ceremony is the maker of a single step, after the newest one of its root.
func (r *run) ceremony(task *Task) (*Ceremony, error) {
	return New(Config{
		Keys: r.cfg.Keys, Development: !r.a.Production(), AcceptFirmware: r.a.AcceptFirmware, rehearsal: r.cfg.Rehearsal != nil,
		ClockRead: r.clock, Witnesses: r.st.approved, Previous: r.st.newest[r.st.chainOf(task)],
		Log: r.cfg.Log, Now: r.now, Random: r.cfg.Random,
	})
}

func (r *run) plan(ctx context.Context, step *Ceremony, task *Task, b *beginLine) (*Plan, error) {
	end, err := ParseEnd(task.NotAfter)
	if err != nil {
		return nil, err
	}
	name := r.a.keyOf(task)
	key := r.a.Keys[name]
	uri := r.uri(name)
	switch task.Do {
	case DoCreateRoot:
		return step.PlanRoot(ctx, RootRequest{
			Name: task.Name, BaseURL: task.BaseURL, KeyURI: uri, Generate: b.Absent, Algorithm: hsm.Algorithm(key.Generate),
			Subject: task.Subject.profile(), NotAfter: end,
		})
	case DoIssue:
		narrow := task.constraints()
		return step.PlanIntermediate(ctx, SignRequest{
			RootCert: r.st.roots[task.Root].Raw, KeyURI: uri, CSR: b.file(task.CSR.File), Name: task.Name, Duty: profile.Duty(task.Duty),
			Subject: task.Subject.profile(), NotAfter: end, RootName: task.Root, BaseURL: r.a.baseURL(task.Root),
			Constraints: &narrow,
		})
	case DoCrossSign:
		return step.PlanCross(ctx, CrossRequest{
			RootCert: r.st.roots[task.Root].Raw, KeyURI: uri, RootName: task.Root, BaseURL: r.a.baseURL(task.Root),
			Other: r.st.roots[task.Other].Raw, Name: task.Name, NotAfter: end, Constraints: task.constraints(),
		})
	case DoSignList:
		req := ListRequest{
			RootCert: r.st.roots[task.Root].Raw, KeyURI: uri, RootName: task.Root, BaseURL: r.a.baseURL(task.Root),
			First: task.First, Life: task.life(),
		}
		if task.PreviousList != nil {
			req.Previous = b.file(task.PreviousList.File)
		}
		if r.cfg.Rehearsal != nil && !task.First {
			req.First, req.Previous = true, nil
		}
		for _, v := range task.Revoke {
			n, err := ca.ParseSerial(v.SerialNumber)
			if err != nil {
				return nil, err
			}
			code, err := Reason(v.Reason)
			if err != nil {
				return nil, err
			}
			req.Revoke = append(req.Revoke, Revocation{Serial: n, Reason: code})
		}
		return step.PlanRootCRL(ctx, req)
	}
	return nil, ErrScript.New("There is nothing called %s to do.", task.Do)
}

// destroy has the key sign its end, waits for people to destroy it with the
// token's own tool, and looks whether it is gone.
func (r *run) destroy(ctx context.Context, task *Task) error {
	name := r.a.keyOf(task)
	uri := r.uri(name)
	step, err := r.ceremony(task)
	if err != nil {
		return err
	}
	req := DestroyRequest{Name: name, KeyURI: uri}
	if root := r.st.rootWith(name); root != "" {
		c := r.st.roots[root]
		req.Name, req.RootName, req.RootCert = root, root, c.Raw
	}
	facts, err := r.cfg.Keys.Attributes(ctx, uri)
	if err != nil {
		return err
	}
	shown := fmt.Sprintf("This will end the key %q for ever.\n  Key       %s, %s\n            SHA-256 %s\n            %s\n  Token     %s, serial %s\n  How       %s\n",
		name, facts.URI, facts.Algorithm, hexSum(facts.SPKI), WordsOf(facts.SPKI), graphic(facts.Token.Label), graphic(facts.Token.Serial), graphic(task.How))
	r.cfg.Room.Show("Step " + task.Step + " of " + r.a.ID + ".\n" + shown)
	how, err := r.cfg.Room.Confirm(ctx, "Shall the key sign its end and then be destroyed? ")
	if err != nil {
		return err
	}
	if r.cfg.Rehearsal != nil {
		how = "REHEARSAL: " + how
	}
	if err := r.write(&line{Kind: lineIntent, Step: task.Step, Intent: &intentLine{TBS: []byte{}, Shown: shown, Confirmed: how}}); err != nil {
		return err
	}
	res, err := step.LastWords(ctx, req, shown, how)
	if err != nil {
		return err
	}
	count := ""
	if r.cfg.Rehearsal == nil {
		if count, err = r.counter(ctx, task, "after", 1); err != nil {
			return err
		}
	}
	// From here on the key may be gone, whatever happens to this machine, so what it
	// said is kept before anybody is told to destroy it.
	if err := r.write(&line{Kind: lineSigned, Step: task.Step, Signed: &signedLine{Transcript: res.TranscriptJSON, CounterAfter: count}}); err != nil {
		return err
	}
	return r.destroyed(ctx, task)
}

// destroyed waits until a key that signed its end is gone.
func (r *run) destroyed(ctx context.Context, task *Task) error {
	said := r.st.signed
	res := &Result{TranscriptJSON: said.Transcript, TranscriptWords: WordsOf(said.Transcript)}
	if r.cfg.Rehearsal != nil {
		return r.finish(ctx, task, res, said.CounterAfter, "REHEARSAL: the stand-in ends with its token")
	}
	for {
		if _, err := r.cfg.Room.Confirm(ctx, "Destroy the key now: "+graphic(task.How)+"\nIs it destroyed? "); err != nil {
			return err
		}
		gone, err := r.isGone(ctx, r.uri(r.a.keyOf(task)))
		if err != nil {
			return err
		}
		if gone != "" {
			return r.finish(ctx, task, res, said.CounterAfter, gone)
		}
		r.cfg.Room.Show(ErrNotGone.What + " " + ErrNotGone.Next + "\n")
	}
}

// isGone opens the token anew and looks for the key; "" if it is there.
func (r *run) isGone(ctx context.Context, uri string) (string, error) {
	if r.cfg.Fresh == nil {
		return "", ErrRequest.New("There is nothing to open the token anew with.")
	}
	keys, end, err := r.cfg.Fresh()
	if err != nil {
		return "", err
	}
	defer end()
	_, err = keys.Signer(ctx, uri)
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, hsm.ErrKeyNotFound):
		return "the token reports no such key", nil
	case errors.Is(err, hsm.ErrTokenDown):
		return "the token does not answer any more, as people destroyed it", nil
	}
	return "", err
}

// Describe says in words what a script would do.
func (a *Agenda) Describe(script []byte) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-14s %s\n", name, graphic(fmt.Sprintf(format, args...)))
	}
	fmt.Fprintf(&b, "Ceremony %s: %s\n", a.ID, graphic(a.Title))
	line("Script", "SHA-256 %s", hexSum(script))
	line("", "%s", WordsOf(script))
	line("Mode", "%s, approvals are good until %s", a.Mode, a.RunUntil)
	if a.AcceptFirmware {
		line("EXCEPTION", "cards whose firmware leaks EC keys are accepted")
	}
	people := make([]string, len(a.Custodians.People))
	for i, c := range a.Custodians.People {
		people[i] = c.Name
	}
	line("Custodians", "%d of %d: %s", a.Custodians.Threshold, len(people), strings.Join(people, ", "))
	if len(a.Witnesses) > 0 {
		line("Witnesses", "%s", strings.Join(a.Witnesses, " "))
	}
	for i := range a.Steps {
		s := &a.Steps[i]
		fmt.Fprintf(&b, "%d. %s\n", i+1, s.Step)
		k := a.Keys[a.keyOf(s)]
		line("Key", "%s", k.URI)
		until := "as long as its profile allows"
		switch s.NotAfter {
		case "":
		case "never":
			until = "without an end"
		default:
			until = "until " + s.NotAfter
		}
		switch s.Do {
		case DoCreateRoot:
			line("Create", "the root %s, %s, %s", s.Name, s.Subject.text(), until)
			line("Base URL", "%s, for everything below it and for ever", s.BaseURL)
			if k.Generate != "" {
				line("New key", "%s, never to leave its token and without a backup", k.Generate)
			}
		case DoIssue:
			line("Issue", "to the %s authority %s, %s, %s", s.Duty, s.Name, s.Subject.text(), until)
			line("Signed by", "the root %s", s.Root)
			line("Key from", "the CSR %s, of which nothing else is used", s.CSR.text())
			s.describeConstraints(line)
		case DoCrossSign:
			line("Certify", "the root %s by the root %s, %s", s.Other, s.Root, until)
			s.describeConstraints(line)
		case DoSignList:
			line("Sign", "the list of the root %s for %d days", s.Root, int(s.life().Hours()/24))
			if s.PreviousList != nil {
				line("After", "the list %s; all its entries stay", s.PreviousList.text())
			} else {
				line("After", "none: it is the first")
			}
			for _, v := range s.Revoke {
				line("Revoke", "%s, %s", v.SerialNumber, v.Reason)
			}
		case DoDestroy:
			line("Destroy", "the key %s, for ever: %s", s.Key, s.How)
		}
	}
	return b.String()
}

func (s *AgendaSubject) text() string {
	var out []string
	for _, p := range [][2]string{{"C", s.Country}, {"O", s.Organization}, {"OU", s.OrganizationalUnit}, {"CN", s.CommonName}} {
		if p[1] != "" {
			out = append(out, p[0]+"="+p[1])
		}
	}
	return strings.Join(out, ", ")
}

func (f *AgendaFile) text() string {
	if f.SHA256 == "" {
		return f.File + " (its words are compared in the room)"
	}
	return f.File + ", SHA-256 " + f.SHA256
}

func (s *Task) describeConstraints(line func(name, format string, args ...any)) {
	n := s.constraints()
	if n.PathLength != nil {
		line("Path length", "%d", *n.PathLength)
	}
	for _, x := range []struct {
		name string
		list []string
	}{{"Permitted", n.Permitted}, {"Excluded", n.Excluded}, {"Purposes", n.Purposes}} {
		if len(x.list) > 0 {
			line(x.name, "%s", strings.Join(x.list, " "))
		}
	}
}
