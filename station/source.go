package station

import (
	"bufio"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync"
)

var unitPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

func validUnit(unit string) bool { return unitPattern.MatchString(unit) }

// Source gives the units of a run, one after the other: a serial, or "" to let
// the service allocate one. It ends with io.EOF, and gives up when ctx ends.
// Nests call it one at a time.
type Source func(ctx context.Context) (unit string, err error)

// Allocate is count units whose serials the service chooses.
func Allocate(count int) Source {
	var mu sync.Mutex
	return func(ctx context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if count <= 0 || ctx.Err() != nil {
			return "", io.EOF
		}
		count--
		return "", nil
	}
}

// Lines is one serial a line, as a scanner types them. Empty lines are skipped.
// Nothing is taken ahead of the nest that will work on it, except by r.
func Lines(r io.Reader) Source {
	type line struct {
		text string
		err  error
	}
	lines := make(chan line)
	var begin sync.Once
	read := func() {
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 4096), 4096)
		for s.Scan() {
			text := strings.TrimSpace(strings.TrimPrefix(s.Text(), "\ufeff"))
			if text != "" {
				lines <- line{text: text}
			}
		}
		err := s.Err()
		if errors.Is(err, bufio.ErrTooLong) {
			err = ErrSerial.New("A line is longer than 4096 characters.")
		}
		if err == nil {
			err = io.EOF
		}
		for { // every nest hears of the end
			lines <- line{err: err}
		}
	}
	return func(ctx context.Context) (string, error) {
		// A read of a terminal cannot be interrupted, so it has a goroutine
		// that lives as long as the process.
		begin.Do(func() { go read() })
		select {
		case l := <-lines:
			return l.text, l.err
		case <-ctx.Done():
			return "", io.EOF
		}
	}
}
