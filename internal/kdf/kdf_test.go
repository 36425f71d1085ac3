package kdf

import (
	"crypto/sha1"
	"encoding/hex"
	"testing"
)

// TestPBKDF2_IsTheStandards is a test vector of RFC 6070.
func TestPBKDF2_IsTheStandards(t *testing.T) {
	key, err := PBKDF2(sha1.New, "passwordPASSWORDpassword", []byte("saltSALTsaltSALTsaltSALTsaltSALTsalt"), 4096, 25)
	if got := hex.EncodeToString(key); err != nil || got != "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038" {
		t.Errorf("%s %v", got, err)
	}
}
