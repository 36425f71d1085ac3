package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"hallmark/internal/strictjson"
)

// The statuses that a device gives a job.
const (
	inProgress = "IN_PROGRESS"
	succeeded  = "SUCCEEDED"
	failed     = "FAILED"
	rejected   = "REJECTED"
)

// maxDetail is the longest value of a detail, as the service's.
const maxDetail = 1024

// document is what a job asks for. Members that other devices understand pass.
type document struct {
	Operation string   `json:"operation"`
	Command   []string `json:"command"`
	Message   string   `json:"message"`
}

// outcome is how a job ended, or what comes next.
type outcome struct {
	status  string
	details map[string]string
	reboot  bool // first; the status comes after it
}

func refuse(reason string, args ...any) outcome {
	return outcome{status: rejected, details: map[string]string{"reason": short(fmt.Sprintf(reason, args...))}}
}

// operation is one thing that a job can ask for.
type operation struct {
	// restartable: harmless to do again after it was cut off.
	restartable bool
	do          func(ctx context.Context) outcome
}

// plan decides what a document means here, before anything is done.
func plan(raw json.RawMessage, list []Command, grace time.Duration) (operation, outcome, bool) {
	var d document
	if err := strictjson.Decode(raw, &d, strictjson.AllowUnknownFields()); err != nil {
		return operation{}, refuse("the document cannot be read: %v", err), false
	}
	switch d.Operation {
	case "echo":
		return operation{true, func(context.Context) outcome {
			return outcome{status: succeeded, details: map[string]string{"echo": short(d.Message)}}
		}}, outcome{}, true
	case "reboot-simulated":
		return operation{true, func(context.Context) outcome { return outcome{reboot: true} }}, outcome{}, true
	case "command":
		c := allowed(list, d.Command)
		if c == nil {
			return operation{}, refuse("the command %s is not allowed on this device", short(strings.Join(d.Command, " "))), false
		}
		return operation{c.Restartable, func(ctx context.Context) outcome { return execute(ctx, c, grace) }}, outcome{}, true
	case "":
		return operation{}, refuse("the document names no operation"), false
	}
	return operation{}, refuse("the operation %s is not known to this device", short(d.Operation)), false
}

// execute runs an allowed command, without a shell and with nothing of the
// agent's own environment, and keeps the end of what it said.
func execute(ctx context.Context, c *Command, grace time.Duration) outcome {
	ctx, cancel := context.WithTimeout(ctx, c.limit())
	defer cancel()
	var said tail
	cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = &said, &said
	// The whole group ends, not the first process alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	err := cmd.Run()
	if cmd.Process != nil && ctx.Err() != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what ignored the first signal
	}
	out := outcome{status: succeeded, details: map[string]string{"exit_code": "0"}}
	if s := said.String(); s != "" {
		out.details["output"] = s
	}
	if err == nil {
		return out
	}
	out.status = failed
	out.details["exit_code"] = "-1"
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		out.details["exit_code"] = fmt.Sprint(exit.ExitCode())
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		out.details["reason"] = fmt.Sprintf("it ran longer than %v", c.limit())
	case ctx.Err() != nil:
		out.details["reason"] = "the agent was stopped"
	case exit == nil:
		out.details["reason"] = short(err.Error())
	}
	return out
}

// tail keeps the last octets that were written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[max(0, len(p)-maxDetail):]...)
	if n := len(t.b) - maxDetail; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return short(string(t.b)) }

// short makes text fit into a detail: valid, without control characters but
// line ends, and not too long.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	for len(s) > maxDetail {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.TrimSpace(s)
}
