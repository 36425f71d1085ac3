package device

import (
	"context"
	"net"
	"os"
)

// Hooks stand between the agent and what can fail it: power, disk and network. A
// simulation spoils them; a real device has none. What is nil is the real thing.
type Hooks struct {
	// Step is called before each step that can be cut off. Its error ends the run
	// there, as a power cut does, if the run's context ends too.
	Step func(name string) error
	// Write replaces a file as one step.
	Write func(name string, data []byte, perm os.FileMode) error
	// Dial opens a stream.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// hook puts the hooks in the places of the real things.
func (c *Config) hook() {
	if h := c.Hooks; h != nil {
		if h.Step != nil {
			c.step = h.Step
		}
		if h.Write != nil {
			c.write = h.Write
		}
		if h.Dial != nil {
			c.dial = h.Dial
		}
	}
}
