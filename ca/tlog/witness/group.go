package witness

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallmark/ca/tlog"
	"hallmark/internal/fault"
)

// Remote is a witness elsewhere.
type Remote struct {
	URL string // submission prefix, to which /add-checkpoint is added
	Key string // verifier key
}

// Prover makes consistency proofs; [tlog.Log] does.
type Prover interface {
	ConsistencyProof(ctx context.Context, older, newer int64) ([]tlog.Hash, error)
}

// GroupConfig makes a Group.
type GroupConfig struct {
	Log       string // the log's verifier key
	Witnesses []Remote
	Quorum    int           // of them must sign; 0 = all
	Timeout   time.Duration // of one witness; 0 = 5 s
	Client    *http.Client  // nil = a plain one
	Now       func() time.Time
	Logger    *slog.Logger // nil = discard
}

// Group is the witnesses of one log. It is safe for concurrent use.
type Group struct {
	cfg     GroupConfig
	members []*member
	policy  tlog.Policy
}

type member struct {
	Remote
	name string

	mu       sync.Mutex // one request at a time; they would overtake each other
	size     int64      // that it signed last, as far as is known here
	signedAt time.Time
	failures int64
	err      error // of the last request
}

// MemberState is how a witness stands.
type MemberState struct {
	Name     string
	URL      string
	Size     int64     // that it signed last
	SignedAt time.Time // by our clock
	Failures int64
	Err      error // of the last request; nil after a success
}

// NewGroup makes a Group. It does no I/O.
func NewGroup(c GroupConfig) (*Group, error) {
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Client == nil {
		c.Client = &http.Client{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Quorum == 0 {
		c.Quorum = len(c.Witnesses)
	}
	if c.Quorum < 0 || c.Quorum > len(c.Witnesses) {
		return nil, ErrConfig.New("%d of %d witnesses cannot sign.", c.Quorum, len(c.Witnesses))
	}
	g := &Group{cfg: c, policy: tlog.Policy{Log: c.Log, Quorum: c.Quorum}}
	names := map[string]bool{}
	for _, r := range c.Witnesses {
		name, err := tlog.CosignerName(r.Key)
		if err != nil {
			return nil, err
		}
		if names[name] || !strings.HasPrefix(r.URL, "http://") && !strings.HasPrefix(r.URL, "https://") {
			return nil, ErrConfig.New("The witness %s is named twice, or %q is not its URL.", name, r.URL)
		}
		names[name] = true
		r.URL = strings.TrimSuffix(r.URL, "/")
		g.members = append(g.members, &member{Remote: r, name: name})
		g.policy.Witnesses = append(g.policy.Witnesses, r.Key)
	}
	return g, nil
}

// Policy is what a checkpoint must carry to have a quorum.
func (g *Group) Policy() tlog.Policy { return g.policy }

// State lists how the witnesses stand.
func (g *Group) State() (out []MemberState) {
	for _, m := range g.members {
		m.mu.Lock()
		out = append(out, MemberState{m.name, m.URL, m.size, m.signedAt, m.failures, m.err})
		m.mu.Unlock()
	}
	return out
}

// Cosign asks all witnesses at once and returns the note with what they signed.
// The error says why a quorum is missing; [tlog.ErrBehind] and [tlog.ErrForked]
// come first, since one honest witness is enough to know it.
func (g *Group) Cosign(ctx context.Context, log Prover, c tlog.Checkpoint) (signed []byte, err error) {
	lines := make([][]byte, len(g.members))
	errs := make([]error, len(g.members))
	var wg sync.WaitGroup
	for i, m := range g.members {
		wg.Go(func() { lines[i], errs[i] = g.ask(ctx, m, log, c) })
	}
	wg.Wait()
	signed = c.Note
	for i, m := range g.members {
		if errs[i] == nil {
			if signed, err = tlog.AddCosignature(signed, lines[i], m.Key); err != nil {
				return c.Note, err
			}
		}
	}
	all := errors.Join(errs...)
	for _, worst := range []error{tlog.ErrForked, tlog.ErrBehind} {
		for _, err := range errs {
			if errors.Is(err, worst) {
				return signed, err
			}
		}
	}
	if _, _, err := g.policy.Open(signed); err != nil {
		return signed, tlog.ErrQuorum.Wrap(all, "%s", fault.From(err).Detail)
	}
	return signed, nil
}

// ask gets the signature of one witness.
func (g *Group) ask(ctx context.Context, m *member, log Prover, c tlog.Checkpoint) (line []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
	defer cancel()
	defer func() {
		if m.err = err; err == nil {
			m.size, m.signedAt = c.Size, g.cfg.Now()
			return
		}
		m.failures++
		g.cfg.Logger.WarnContext(ctx, "witness did not sign", "witness", m.name, "size", c.Size, "error", err)
	}()
	old := min(m.size, c.Size)
	for range 4 { // other nodes of this service may be asking too
		var proof []tlog.Hash
		if proof, err = log.ConsistencyProof(ctx, old, c.Size); err != nil {
			return nil, err
		}
		status, body, err := g.post(ctx, m, encodeRequest(old, proof, c.Note))
		if err != nil {
			return nil, err
		}
		switch status {
		case http.StatusOK:
			// What counts is the signature, not the status.
			if _, err := tlog.AddCosignature(c.Note, body, m.Key); err != nil {
				return nil, err
			}
			return body, nil
		case http.StatusUnprocessableEntity:
			return nil, tlog.ErrForked.New("The witness %s signed %d leaves that this log's %d do not begin with.", m.name, old, c.Size)
		case http.StatusConflict:
			text := strings.TrimSuffix(string(body), "\n")
			size, err := strconv.ParseInt(text, 10, 64)
			switch {
			case err != nil || size < 0:
				return nil, ErrUnreachable.New("The witness %s answers 409 without a size.", m.name)
			case size > c.Size:
				m.size = size
				return nil, tlog.ErrBehind.New("The witness %s signed a checkpoint for %d leaves, this one has %d.", m.name, size, c.Size).With("witness", m.name).With("witnessed", size).With("size", c.Size)
			case size == old && size == c.Size:
				return nil, tlog.ErrForked.New("The witness %s signed another tree of %d leaves.", m.name, size)
			case size == old:
				return nil, ErrUnreachable.New("The witness %s asks for the size that it got.", m.name)
			}
			old = size
		default:
			return nil, ErrUnreachable.New("The witness %s answers with status %d: %.200s.", m.name, status, bytes.TrimSpace(body))
		}
	}
	return nil, ErrUnreachable.New("The witness %s names a new size each time.", m.name)
}

func (g *Group) post(ctx context.Context, m *member, body []byte) (status int, answer []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.URL+"/add-checkpoint", bytes.NewReader(body))
	if err != nil {
		return 0, nil, ErrUnreachable.Wrap(err, "")
	}
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	a, err := g.cfg.Client.Do(r)
	if err != nil {
		return 0, nil, ErrUnreachable.Wrap(err, "The witness %s.", m.name)
	}
	defer a.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(a.Body, maxRequest))
	if err != nil {
		return 0, nil, ErrUnreachable.Wrap(err, "The witness %s.", m.name)
	}
	return a.StatusCode, answer, nil
}

// Check compares the log with what the witnesses signed (S34), before anything
// is issued. A witness that does not answer is logged and not waited for: what
// is refused is a log that is known to be behind or forked. current may give
// [tlog.Log.Newest] for a log without a checkpoint: a database that was emptied is
// behind too.
func (g *Group) Check(ctx context.Context, log Prover, current func(context.Context) (tlog.Checkpoint, error)) error {
	for try := 0; ; try++ {
		c, err := current(ctx)
		if err != nil {
			return err
		}
		_, err = g.Cosign(ctx, log, c)
		switch {
		case errors.Is(err, tlog.ErrBehind) && try < 3:
			// Another node may have gone on since the checkpoint was read.
			if now, nerr := current(ctx); nerr == nil && now.Size > c.Size {
				continue
			}
			return err
		case errors.Is(err, tlog.ErrBehind), errors.Is(err, tlog.ErrForked):
			return err
		case err != nil:
			g.cfg.Logger.WarnContext(ctx, "not all witnesses could be asked at the start", "error", err)
		}
		return nil
	}
}
