// Package softhsm makes SoftHSM tokens for tests and for the demo. SoftHSM
// keeps its keys in files: it shows how an HSM is used and protects nothing.
//
// Start reading at [Init].
package softhsm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"hallmark/hsm/pkcs11"
	"hallmark/internal/durable"
)

// Hint is how to get what this package needs.
const Hint = "apt-get install -y --no-install-recommends softhsm2"

var modules = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// Module is where SoftHSM is installed.
func Module() (string, error) {
	for _, m := range modules {
		if _, err := os.Stat(m); err == nil {
			return m, nil
		}
	}
	return "", fmt.Errorf("softhsm: not installed; %s", Hint)
}

// Available is nil if SoftHSM and its tool are installed.
func Available() error {
	if _, err := Module(); err != nil {
		return err
	}
	if _, err := exec.LookPath("softhsm2-util"); err != nil {
		return fmt.Errorf("softhsm: no softhsm2-util; %s", Hint)
	}
	return nil
}

// Init makes dir/softhsm2.conf, dir/tokens and in it a token with the label and
// PIN. This process uses that configuration whenever it loads modulePath; child
// processes need SOFTHSM2_CONF=conf. If the token exists already, it is kept.
func Init(dir, label, pin string) (modulePath, conf string, err error) {
	module, err := Module()
	if err != nil {
		return "", "", err
	}
	conf, err = Create(dir, label, pin)
	if err != nil {
		return "", "", err
	}
	return module, conf, pkcs11.SetModuleEnv(module, "SOFTHSM2_CONF", conf)
}

// Create is Init without choosing a module.
func Create(dir, label, pin string) (conf string, err error) {
	if err := Available(); err != nil {
		return "", err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return "", fmt.Errorf("softhsm: %w", err)
	}
	conf = filepath.Join(dir, "softhsm2.conf")
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	if err := durable.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", err
	}
	out, err := tool(conf, "--show-slots")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Label:"); ok && strings.TrimSpace(name) == label {
			return conf, nil
		}
	}
	_, err = tool(conf, "--init-token", "--free", "--label", label, "--so-pin", pin+pin, "--pin", pin)
	return conf, err
}

func tool(conf string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "softhsm2-util", args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("softhsm: softhsm2-util %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
