package device

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"strings"
	"time"

	"hallmark/api/deviceapi"
	"hallmark/ca/csr"
	"hallmark/device/mqtt"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

// rotateDocument is a job that asks for a new key and certificate, or for the way
// back to the one before.
type rotateDocument struct {
	Operation string `json:"operation"`
	Version   int    `json:"version"`
	Campaign  string `json:"campaign"`
	Undo      bool   `json:"undo"`
	Key       struct {
		Algorithm string `json:"algorithm"`
	} `json:"key"`
	Renew struct {
		HTTPS string `json:"https"`
	} `json:"renew"`
	Connect struct {
		Attempts int `json:"attempts"`
		Seconds  int `json:"seconds"`
	} `json:"connect"`
}

const (
	opRotate     = "rotate-certificate"
	trialTries   = 5 // where the service says nothing
	trialSeconds = 300
)

// readRotate tells whether a job is one of these.
func readRotate(raw json.RawMessage) (d rotateDocument, ok bool) {
	err := strictjson.Decode(raw, &d, strictjson.AllowUnknownFields())
	if d.Connect.Attempts < 1 || d.Connect.Attempts > 100 {
		d.Connect.Attempts = trialTries
	}
	if d.Connect.Seconds < 1 || d.Connect.Seconds > 7*24*3600 {
		d.Connect.Seconds = trialSeconds
	}
	return d, err == nil && d.Operation == opRotate
}

// rotate does the job, from where the last life left it:
//
//  1. issue: key B is on disk, its CSR goes out over the connection of A, the
//     certificate is checked and stored, and the service told;
//  2. trial: the connection ends and the next one is made with B;
//  3. connected: B is in use, the service is told over B's connection;
//     fallback: B was not let in, the service is told over A's.
func (r *runner) rotate(ctx context.Context, s *session, e execution, d rotateDocument) error {
	r.event(Event{Event: EventJobStarted, Job: e.Job, Details: e.Details})
	if _, ok := algorithms[d.Key.Algorithm]; !ok || d.Version > 1 {
		return r.finish(ctx, s, e, refuse("version %d with the algorithm %s is not known to this device", d.Version, short(d.Key.Algorithm)))
	}
	if err := r.adopt(e, d); err != nil {
		return err
	}
	t := r.turning()
	if t == nil || t.Job != e.Job || t.Execution != e.Number { // an undo of nothing
		return r.finish(ctx, s, e, outcome{status: succeeded, details: map[string]string{"step": "undone", "certificateId": certificateID(r.current().Raw)}})
	}
	switch t.Step {
	case stepIssue:
		if err := r.certify(ctx, s, t, d.Renew.HTTPS, &e); err != nil {
			return err
		}
		if t = r.turning(); t == nil { // the job is gone
			return nil
		}
		if t.Step != stepTrial {
			return r.settle(ctx, s, e)
		}
		fallthrough
	case stepTrial:
		nudge(r.turn)
		return errTurn
	}
	return r.settle(ctx, s, e)
}

// adopt makes the change of keys that is on disk the one for this job.
func (r *runner) adopt(e execution, d rotateDocument) error {
	h, err := r.open()
	if err != nil {
		return err
	}
	defer h.close()
	used, err := h.active()
	if err != nil || used == nil {
		return ErrDir.Wrap(err, "No certificate is in use.")
	}
	r.rotationMu.Lock()
	defer r.rotationMu.Unlock()
	t := r.rotation
	if t != nil && t.Job == e.Job && t.Execution == e.Number {
		if t.Step == stepDone { // its report was lost, or the service asks again
			return r.put(func(t *rotation) {
				if t.Step = stepConnected; t.Code != "" {
					t.Step = stepFallback
				}
			})
		}
		return nil
	}
	if d.Undo {
		return r.takeBack(h, used, e, d)
	}
	// What is under way already is this job's from now on, with the key that it has.
	if t != nil && (t.Step == stepIssue || t.Step == stepTrial) && !t.Undo && t.Algorithm == d.Key.Algorithm {
		return r.put(func(t *rotation) {
			t.Job, t.Execution, t.Campaign, t.Attempts, t.Seconds = e.Job, e.Number, d.Campaign, d.Connect.Attempts, d.Connect.Seconds
		})
	}
	return r.beginRotation(h, used, rotation{Job: e.Job, Execution: e.Number, Campaign: d.Campaign, Algorithm: d.Key.Algorithm, Attempts: d.Connect.Attempts, Seconds: d.Connect.Seconds})
}

// beginRotation puts a new change on disk. A key that is left in the other slot is
// used again, so that the service sees one new certificate and not two; but not
// one that the service refused, and not one of another kind.
func (r *runner) beginRotation(h *home, used *pair, next rotation) error {
	if err := r.cfg.step("rotate-begin"); err != nil {
		return err
	}
	next.From, next.To, next.Step = used.slot, other(used.slot), stepIssue
	if t := r.rotation; t != nil && t.To == next.To && (t.Refused || t.Algorithm != next.Algorithm) && h.waiting(used.slot) != "" {
		if err := h.write(h.path(next.To, retiredFile), nil, 0o644); err != nil {
			return ErrRotation.Wrap(err, "")
		}
	}
	return r.put(func(t *rotation) { *t = next })
}

// takeBack answers an undo: back to the certificate before, if this device changed
// for the campaign and the old one is still good; connecting proves it.
func (r *runner) takeBack(h *home, used *pair, e execution, d rotateDocument) error {
	t := r.rotation
	if t == nil || t.Campaign != d.Campaign || t.Undo {
		return nil // it is somebody else's
	}
	if used.slot != t.To { // B is not in use: there is only something to forget
		if t.Step == stepDone {
			return nil
		}
		return r.put(func(t *rotation) { t.Step, t.Code = stepDone, "undone" })
	}
	next := rotation{Job: e.Job, Execution: e.Number, Campaign: d.Campaign, Undo: true, From: used.slot, To: t.From, Attempts: d.Connect.Attempts, Seconds: d.Connect.Seconds, Step: stepTrial}
	before := h.load(next.To)
	if before == nil || !r.now().Before(before.Leaf.NotAfter) {
		next.Step, next.Code = stepFallback, "agent-no-way-back"
	} else {
		next.CertificateID = certificateID(before.Leaf.Raw)
	}
	return r.put(func(t *rotation) { *t = next })
}

// forget drops what was begun for a job that the service does not have any more.
// A trial is decided by the connections first.
func (r *runner) forget() error {
	t := r.turning()
	if t == nil || t.Job == "" || t.Step == stepTrial {
		return nil
	}
	r.event(Event{Event: EventJobDiscarded, Job: t.Job, Code: "job-gone"})
	return r.change(func(t *rotation) { t.Step = stepDone })
}

// settle tells the service how the change ended.
func (r *runner) settle(ctx context.Context, s *session, e execution) error {
	t := r.turning()
	if t == nil {
		return nil
	}
	if now := r.session.Load(); now != nil {
		s = now
	}
	out := outcome{status: succeeded, details: map[string]string{"step": "connected"}}
	id := certificateID(r.current().Raw)
	switch {
	case t.Step == stepConnected && t.Undo:
		out.details["step"] = "undone"
	case t.Step == stepFallback && !t.Undo && s.slot == t.To:
		// The way back did not let it in, and a first boot brought it to B all the same.
	case t.Step == stepFallback:
		out = outcome{status: failed, details: map[string]string{"step": "fallback", "code": short(t.Code)}}
		if t.Undo {
			out.details["step"] = "undo"
		} else if t.CertificateID == "" {
			out.details["step"] = "renew"
		}
	}
	out.details["certificateId"] = id // in use now
	if err := r.cfg.step("rotate-report"); err != nil {
		return err
	}
	if err := r.ended(ctx, s, e, out); err != nil {
		return err
	}
	if err := r.cfg.step("rotate-forget"); err != nil {
		return err
	}
	return r.change(func(t *rotation) { t.Step = stepDone })
}

// current is the certificate of the newest connection.
func (r *runner) current() *x509.Certificate {
	r.eventMu.Lock()
	defer r.eventMu.Unlock()
	return r.leaf
}

// certify is the step "issue": a key, its certificate, and both on disk.
func (r *runner) certify(ctx context.Context, s *session, t *rotation, service string, e *execution) error {
	if wait := r.notBefore.Load() - r.now().UnixMilli(); wait > 0 {
		return ErrServer.New("The service asked to wait.").After(time.Duration(wait) * time.Millisecond)
	}
	h, err := r.open()
	if err != nil {
		return err
	}
	defer h.close()
	h.algorithm = t.Algorithm
	used, err := h.active()
	if err != nil || used == nil {
		return ErrDir.Wrap(err, "No certificate is in use.")
	}
	if used.slot == t.To { // a first boot came between: A had expired, or the clock said so
		return r.change(func(t *rotation) { t.Step, t.CertificateID = stepConnected, certificateID(used.Leaf.Raw) })
	}
	fresh := h.waiting(used.slot) == ""
	next, err := r.obtain(ctx, s, h, used, t, service, fresh)
	if !fresh && dead(err) { // the key that was left over; once, with a new one
		next, err = r.obtain(ctx, s, h, used, t, service, true)
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrRefused), errors.Is(err, mqtt.ErrRejected) && !passing(err):
		code := codeOf(err)
		if c, _ := fault.From(err).Members["code"].(string); c != "" {
			code = c
		}
		r.event(Event{Event: EventFallback, Job: t.Job, Slot: t.From, Code: code, Reason: wordsOf(err)})
		return r.change(func(t *rotation) { t.Step, t.Code = stepFallback, code })
	default:
		if f := fault.From(err); f.RetryAfter > 0 {
			r.notBefore.Store(r.now().Add(laterBy(err, 0)).UnixMilli())
		}
		return err
	}
	id := certificateID(next.Leaf.Raw)
	if err := r.cfg.step("rotate-issued"); err != nil {
		return err
	}
	if e != nil {
		if err := r.update(ctx, s, *e, inProgress, map[string]string{"step": "issued", "certificateId": id}); err != nil {
			if err := r.discard(*e, err); err != nil {
				return err
			}
			return r.change(func(t *rotation) { t.Step, t.Code = stepDone, "job-gone" })
		}
	}
	if err := r.cfg.step("rotate-stored"); err != nil {
		return err
	}
	return r.change(func(t *rotation) { t.Step, t.CertificateID, t.Failed, t.Since = stepTrial, id, 0, r.now() })
}

// obtain makes the key, or takes the one that is there, and asks for its certificate.
func (r *runner) obtain(ctx context.Context, s *session, h *home, used *pair, t *rotation, service string, fresh bool) (*pair, error) {
	if err := r.cfg.step("rotate-key"); err != nil {
		return nil, err
	}
	key, err := h.key(t.To, fresh)
	if err != nil {
		return nil, err
	}
	if r.cfg.Renewal == "" {
		next, err := r.overMQTT(ctx, s, h, used, t, key)
		if err == nil || errors.Is(err, ErrCertificate) || errors.Is(err, ErrDir) || ctx.Err() != nil || s.conn.Err() != nil {
			return next, err
		}
		// A broker that does not answer that, or a refusal: HTTPS says it exactly.
		if r.door(service) == "" || fault.From(err).RetryAfter > 0 {
			return nil, err
		}
	}
	cfg := r.base()
	cfg.Server = r.door(service)
	a, err := newAgent(cfg)
	if err != nil {
		return nil, err
	}
	a.h = h
	if r.cfg.Renewal == "est" {
		return a.reenrol(ctx, used, t.To, key)
	}
	birth, err := h.birth()
	if err != nil {
		birth = used // a device that came without one
	}
	next, err := a.enrol(ctx, used, t.To, key, used)
	if birth != used && strings.HasPrefix(refusal(err), "device-") {
		next, err = a.enrol(ctx, birth, t.To, key, birth)
	}
	return next, err
}

// door is the service's device listener: the one that was set up, else the one of
// the job, which has to show a certificate of the device's own roots like any.
func (r *runner) door(service string) string {
	if at := r.base().Server; at != "" {
		return at
	}
	if u, err := url.Parse(service); err == nil && u.Scheme == "https" && u.Host != "" {
		return "https://" + u.Host
	}
	return ""
}

// overMQTT asks over the connection of the certificate in use.
func (r *runner) overMQTT(ctx context.Context, s *session, h *home, used *pair, t *rotation, key crypto.Signer) (*pair, error) {
	request, err := csr.Create(key, used.Leaf.Subject.CommonName, "") // the key proves itself by connecting
	if err != nil {
		return nil, err
	}
	topic := "$hallmark/things/" + s.thing + "/certificate/renew"
	// Some services answer without being asked to, and refuse to be asked.
	if err := s.conn.Subscribe(ctx, mqtt.Subscription{Filter: topic + "/accepted", QoS: 1}, mqtt.Subscription{Filter: topic + "/rejected", QoS: 1}); err != nil && !errors.Is(err, mqtt.ErrSubscribe) {
		return nil, err
	}
	if err := r.cfg.step("rotate-ask"); err != nil {
		return nil, err
	}
	ask, cancel := context.WithTimeout(ctx, r.timeout())
	defer cancel()
	raw, err := r.requests.Do(ask, s.conn, topic, map[string]any{"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}))})
	if err != nil {
		return nil, err
	}
	if err := r.cfg.step("rotate-answered"); err != nil {
		return nil, err
	}
	var answer struct {
		Certificate string          `json:"certificatePem"`
		Chain       string          `json:"chainPem"`
		Renew       json.RawMessage `json:"renew"`
	}
	if err := readMessage(raw, &answer); err != nil {
		return nil, ErrCertificate.Wrap(err, "The answer cannot be read.")
	}
	chain := append(dersOf(answer.Certificate), dersOf(answer.Chain)...)
	if len(chain) == 0 {
		return nil, ErrCertificate.New("The answer has none.")
	}
	a := &agent{cfg: r.base(), now: r.now, log: r.log, h: h}
	return a.keep(used, t.To, key, chain, answer.Renew)
}

func (r *runner) timeout() time.Duration {
	if r.cfg.Timeout > 0 {
		return r.cfg.Timeout
	}
	return 30 * time.Second
}

// keep checks a certificate that came without a registration of its own, and
// stores it with that of the certificate before.
func (a *agent) keep(used *pair, slot string, key crypto.Signer, chain [][]byte, window json.RawMessage) (*pair, error) {
	raw, err := os.ReadFile(a.h.path(used.slot, answerFile))
	if err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	var registration deviceapi.Registration
	members := map[string]json.RawMessage{}
	if err = readMessage(raw, &registration); err == nil {
		err = json.Unmarshal(raw, &members)
	}
	if err != nil {
		return nil, ErrDir.Wrap(err, "The slot's registration cannot be read.")
	}
	registration.Certificate, registration.Chain = chain[0], chain[1:]
	if err := a.check(&registration, key); err != nil {
		return nil, err
	}
	if err := a.cfg.step("store"); err != nil {
		return nil, err
	}
	members["certificate"], _ = json.Marshal(chain[0])
	members["chain"], _ = json.Marshal(chain[1:])
	delete(members, "renew")
	if len(window) > 0 {
		members["renew"] = window
	}
	answer, err := json.MarshalIndent(members, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := a.h.store(slot, chain, answer); err != nil {
		return nil, err
	}
	if next := a.h.load(slot); next != nil {
		return next, nil
	}
	return nil, ErrDir.New("The slot cannot be read back.")
}

// dersOf reads certificates in PEM.
func dersOf(text string) (out [][]byte) {
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
	}
	return out
}

// passing tells whether a rejection over MQTT may be another one later.
func passing(err error) bool {
	code, _ := fault.From(err).Members["code"].(string)
	for _, word := range []string{"5", "429", "Throttl", "Unavailable", "Internal", "unavailable", "internal", "busy", "too-many"} {
		if strings.HasPrefix(code, word) || len(word) > 3 && strings.Contains(code, word) {
			return true
		}
	}
	return fault.From(err).RetryAfter > 0
}
