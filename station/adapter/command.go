package adapter

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"hallmark/internal/fault"
)

// maxLine bounds a line of the program.
const maxLine = 1 << 20

// command runs a program that speaks JSON lines. One program serves one nest.
type command struct {
	argv []string
	cfg  Config
	run  *process // nil when it has to be started
	id   int
}

// request is a line to the program; byte fields are base64 by encoding/json.
type request struct {
	ID          int      `json:"id"`
	Op          string   `json:"op"`
	Device      string   `json:"device"`
	Unit        string   `json:"unit"`
	Fresh       bool     `json:"fresh,omitempty"`
	Certificate []byte   `json:"certificate,omitempty"`
	Chain       [][]byte `json:"chain,omitempty"`
	Message     []byte   `json:"message,omitempty"`
}

// answer is a line from the program.
type answer struct {
	ID          int    `json:"id"`
	CSR         []byte `json:"csr"`
	Certificate []byte `json:"certificate"`
	Signature   []byte `json:"signature"`
	Error       *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// Codes that a program may give; anything else is ErrDevice.
var programFaults = map[string]*fault.Definition{
	"key-fault": ErrKeyFault,
	"absent":    ErrAbsent,
}

func newCommand(line string, cfg Config) (Adapter, error) {
	argv, err := splitWords(line)
	if err != nil {
		return nil, err
	}
	if len(argv) == 0 {
		return nil, ErrSpec.New("command: names no program.")
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return nil, ErrSpec.Wrap(err, "The program %s cannot be run.", argv[0])
	}
	return &command{argv: argv, cfg: cfg}, nil
}

// splitWords splits at spaces outside quotes, so that a path may have some. It
// is no shell: nothing is expanded.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	in, quote := false, rune(0)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, in = r, true
		case quote == 0 && unicode.IsSpace(r):
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quote != 0 {
		return nil, ErrSpec.New("A quote is not closed.")
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

func (c *command) Connect(ctx context.Context, d Device) error {
	_, err := c.call(ctx, request{Op: "connect", Device: d.Label, Unit: d.Unit})
	return err
}

func (c *command) KeyAndCSR(ctx context.Context, d Device, fresh bool) ([]byte, error) {
	a, err := c.call(ctx, request{Op: "csr", Device: d.Label, Unit: d.Unit, Fresh: fresh})
	if err == nil && len(a.CSR) == 0 {
		err = ErrProtocol.New("The answer to csr has no csr.")
	}
	return a.CSR, err
}

func (c *command) Install(ctx context.Context, d Device, certificate []byte, chain [][]byte) error {
	_, err := c.call(ctx, request{Op: "install", Device: d.Label, Unit: d.Unit, Certificate: certificate, Chain: chain})
	return err
}

func (c *command) ReadBack(ctx context.Context, d Device) ([]byte, error) {
	a, err := c.call(ctx, request{Op: "read", Device: d.Label, Unit: d.Unit})
	return a.Certificate, err
}

func (c *command) Challenge(ctx context.Context, d Device, message []byte) ([]byte, error) {
	a, err := c.call(ctx, request{Op: "sign", Device: d.Label, Unit: d.Unit, Message: message})
	if err == nil && len(a.Signature) == 0 {
		err = ErrProtocol.New("The answer to sign has no signature.")
	}
	return a.Signature, err
}

// call sends one line and waits for one. Whatever goes wrong between station
// and program ends the program, because its next line could be the answer to
// this question; the next call starts it again.
func (c *command) call(ctx context.Context, r request) (answer, error) {
	if c.run == nil {
		p, err := start(c.argv, c.cfg)
		if err != nil {
			return answer{}, ErrProgram.Wrap(err, "It cannot be started.")
		}
		c.run = p
	}
	c.id++
	r.ID = c.id
	a, err := c.run.exchange(ctx, r)
	if err != nil {
		c.run.kill()
		c.run = nil
		return answer{}, err
	}
	if a.Error != nil {
		d, ok := programFaults[a.Error.Code]
		if !ok {
			d = ErrDevice
		}
		return answer{}, d.New("%s: %s", r.Op, clip(a.Error.Message, 200)).With("adapter_code", clip(a.Error.Code, 64))
	}
	return a, nil
}

// Close ends the program: its input ends, and if it does not follow it is killed.
func (c *command) Close() error {
	if c.run == nil {
		return nil
	}
	p := c.run
	c.run = nil
	p.in.Close()
	select {
	case <-p.done:
	case <-time.After(c.cfg.Timeout):
		p.kill()
	}
	return nil
}

// process is a running program.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan []byte
	done  chan struct{} // closed when it ended and everything it said was read
	exit  error         // after done

	mu   sync.Mutex
	last string // last line on its standard error
}

func start(argv []string, cfg Config) (*process, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "HALLMARK_NEST="+strconv.Itoa(cfg.Nest), "HALLMARK_ADAPTER_PROTOCOL=1")
	cmd.WaitDelay = time.Second
	ownGroup(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	said, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, in: in, lines: make(chan []byte, 16), done: make(chan struct{})}
	var readers sync.WaitGroup
	readers.Go(func() { p.listen(out) })
	readers.Go(func() { p.note(said, cfg.Log.With("nest", cfg.Nest, "program", argv[0])) })
	go func() {
		readers.Wait() // Wait closes the pipes, so it comes after the readers
		p.exit = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// listen passes the program's lines on. A line that nobody waits for ends the
// conversation: the program is then not in step with us.
func (p *process) listen(out io.Reader) {
	defer close(p.lines)
	r := bufio.NewReaderSize(out, 64<<10)
	for {
		var line []byte
		for {
			part, err := r.ReadSlice('\n')
			line = append(line, part...)
			if err == nil {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) || len(line) > maxLine {
				return
			}
		}
		select {
		case p.lines <- line:
		default:
			return
		}
	}
}

// note logs what the program says on its standard error.
func (p *process) note(said io.Reader, log *slog.Logger) {
	r := bufio.NewReaderSize(said, 8<<10)
	for {
		line, _, err := r.ReadLine()
		if err != nil {
			return
		}
		text := clip(strings.TrimSpace(string(line)), 500)
		if text == "" {
			continue
		}
		p.mu.Lock()
		p.last = text
		p.mu.Unlock()
		log.Info("adapter program says", "text", text)
	}
}

func (p *process) exchange(ctx context.Context, r request) (answer, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return answer{}, ErrProtocol.Wrap(err, "")
	}
	// A program that does not read would block the write when the pipe is
	// full, so the write waits beside the answer.
	wrote := make(chan error, 1)
	go func() {
		_, err := p.in.Write(append(line, '\n'))
		wrote <- err
	}()
	for {
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return answer{}, ErrSlow.New("It was asked to %s.", r.Op)
			}
			return answer{}, ctx.Err()
		case err := <-wrote:
			if err != nil {
				return answer{}, p.ended(r.Op)
			}
			wrote = nil
		case line, ok := <-p.lines:
			if !ok {
				return answer{}, p.ended(r.Op)
			}
			var a answer
			if err := json.Unmarshal(line, &a); err != nil {
				return answer{}, ErrProtocol.Wrap(err, "Its answer to %s is not a JSON object in one line.", r.Op)
			}
			if a.ID != r.ID {
				return answer{}, ErrProtocol.New("It answered request %d when %d was asked.", a.ID, r.ID)
			}
			return a, nil
		}
	}
}

// ended says how the program ended. One that only closed its output, or talks
// out of turn, is ended here.
func (p *process) ended(op string) error {
	select {
	case <-p.done:
	case <-time.After(500 * time.Millisecond):
		p.kill()
		return ErrProtocol.New("It closed its output, or wrote what nobody asked for, during %s.", op)
	}
	how := "exit status 0"
	if p.exit != nil {
		how = p.exit.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	detail := fmt.Sprintf("It ended with %s during %s.", how, op)
	if p.last != "" {
		detail += " Its last words: " + clip(p.last, 200)
	}
	return ErrProgram.New("%s", detail)
}

// kill ends the program and its children and waits until they are gone.
func (p *process) kill() {
	killGroup(p.cmd)
	p.in.Close()
	select {
	case <-p.done:
	case <-time.After(5 * time.Second): // a child that left the group holds the pipe
	}
}

// clip makes foreign text short and printable.
func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}
