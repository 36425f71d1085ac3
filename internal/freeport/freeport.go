// Package freeport hands out TCP ports of loopback to servers that are started
// later, by another program or after a configuration file has been written.
//
// Asking the system for port 0 and closing the listener again is not enough: until
// the server listens, the system gives the same port to whoever asks next, as the
// near end of a connection too. These ports are below those, and belong to one
// process at a time.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The ports are first ≤ p < last, in blocks. Linux gives 32768 and higher to
// connections (ip_local_port_range).
const (
	first = 20_000
	last  = 32_000
	block = 100
)

var mu sync.Mutex

// blocks are those of this process; who listens at the first port of a block owns
// it. The last one has used ports that were handed out.
var (
	blocks []net.Listener
	used   int
)

// Errors of the package.
var (
	errNone = errors.New("no free port between " + strconv.Itoa(first) + " and " + strconv.Itoa(last-1) + " on 127.0.0.1: end programs that listen there")
	errMany = errors.New("a block has " + strconv.Itoa(block-1) + " ports to give: ask for fewer in a row")
)

// Take returns n ports in a row (1 ≤ n < 100), of which it returns the first. Nobody listened at
// them a moment ago, and no other call, in this or another process, gets them while
// this process lives.
func Take(n int) (int, error) {
	mu.Lock()
	defer mu.Unlock()
	for n < block {
		if len(blocks) == 0 || used+n > block {
			if err := claim(); err != nil {
				return 0, err
			}
		}
		start := port(blocks[len(blocks)-1]) + used
		free := 0
		for free < n && silent(start+free) {
			free++
		}
		used += free
		if free == n {
			return start, nil
		}
		used++ // the one that is taken
	}
	return 0, errMany
}

// claim adds a block that no process has.
func claim() error {
	const all = (last - first) / block
	from := rand.IntN(all)
	for i := range all {
		l, err := net.Listen("tcp", address(first+(from+i)%all*block))
		if err == nil {
			blocks, used = append(blocks, l), 1
			return nil
		}
	}
	return errNone
}

func silent(port int) bool {
	l, err := net.Listen("tcp", address(port))
	return err == nil && l.Close() == nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
