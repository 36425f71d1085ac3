package device

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hallmark/internal/strictjson"
)

// Command is a command line that a job may run on this device.
type Command struct {
	Command     []string `json:"command"`               // program by absolute path, and all its arguments
	Seconds     int      `json:"seconds,omitempty"`     // it may run; 0 = 60
	Restartable bool     `json:"restartable,omitempty"` // harmless to run again after it was cut off
}

func (c *Command) limit() time.Duration {
	if c.Seconds == 0 {
		return time.Minute
	}
	return time.Duration(c.Seconds) * time.Second
}

// LoadAllowList reads the commands that jobs may run. Whoever can change the
// file can run anything on the device, so only its owner may be able to.
func LoadAllowList(name string) ([]Command, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, ErrAllowList.Wrap(err, "")
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, ErrAllowList.New("Others than its owner can change %s.", filepath.Base(name))
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, ErrAllowList.Wrap(err, "")
	}
	var file struct {
		Commands []Command `json:"commands"`
	}
	if err := strictjson.Decode(raw, &file); err != nil {
		return nil, ErrAllowList.Wrap(err, "%v", err)
	}
	for i, c := range file.Commands {
		switch {
		case len(c.Command) == 0 || !filepath.IsAbs(c.Command[0]):
			return nil, ErrAllowList.New("Entry %d has no program with an absolute path.", i+1)
		case slices.ContainsFunc(c.Command, func(s string) bool { return strings.ContainsRune(s, 0) }):
			return nil, ErrAllowList.New("Entry %d has a zero octet.", i+1)
		case c.Seconds < 0 || c.Seconds > 7*24*3600:
			return nil, ErrAllowList.New("Entry %d: seconds are 1 to 604800.", i+1)
		}
	}
	return file.Commands, nil
}

// allowed finds a command line in the list. It must be there word for word: no
// patterns, no shell.
func allowed(list []Command, argv []string) *Command {
	for i := range list {
		if slices.Equal(list[i].Command, argv) {
			return &list[i]
		}
	}
	return nil
}
