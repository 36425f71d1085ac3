package ceremony

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
)

// hostFacts asks the kernel only; it sends nothing anywhere.
func hostFacts() Host {
	h := Host{System: runtime.GOOS + "/" + runtime.GOARCH, NetworkUp: NetworkUp()}
	h.Name, _ = os.Hostname() // "" is what the machine says of itself then
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		h.Kernel = strings.TrimSpace(string(b))
	}
	return h
}

// NetworkUp lists the network interfaces that are up, besides loopback.
func NetworkUp() []string {
	up := []string{}
	list, err := net.Interfaces()
	if err != nil {
		return append(up, "unknown: the interfaces cannot be listed")
	}
	for _, i := range list {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			up = append(up, i.Name)
		}
	}
	return up
}

// program hashes the running binary, once.
var program = sync.OnceValues(func() (Program, error) {
	p := Program{Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				p.Revision = s.Value
			}
		}
	}
	name, err := os.Executable()
	if err != nil {
		return p, fmt.Errorf("ceremony: find the program: %w", err)
	}
	f, err := os.Open(name)
	if err != nil {
		return p, fmt.Errorf("ceremony: open the program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return p, fmt.Errorf("ceremony: read the program: %w", err)
	}
	p.SHA256 = hex.EncodeToString(h.Sum(nil))
	return p, nil
})
