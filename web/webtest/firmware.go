package webtest

import (
	"context"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

func (f *Fake) firmware() []adminapi.Firmware {
	return []adminapi.Firmware{{Class: "lamp", Version: "1.4.0", State: "released", Digest: strings.Repeat("ab", 32), Size: 1000, Hash: strings.Repeat("cd", 32), Floor: "1.2", Hardware: []string{"rev-a"}, ExpiresAt: f.Now(), CreatedBy: "ann", CreatedAt: f.Now()}}
}

// UploadFirmware implements [web.Firmware].
func (f *Fake) UploadFirmware(_ context.Context, _ access.Actor, _ string, r adminapi.FirmwarePart) (adminapi.FirmwareUpload, error) {
	return adminapi.FirmwareUpload{Have: r.Offset + int64(len(r.Octets)), Size: r.Size}, nil
}

// PublishFirmware implements [web.Firmware].
func (f *Fake) PublishFirmware(_ context.Context, by access.Actor, _ adminapi.FirmwareRequest) (adminapi.Firmware, error) {
	return f.Firmware(context.Background(), by.Scope(), "lamp", "1.4.0")
}

// FirmwareList implements [web.Firmware].
func (f *Fake) FirmwareList(_ context.Context, s access.Scope, _ string, p web.Page) ([]adminapi.Firmware, string, error) {
	return cut(s, f.firmware(), p)
}

// Firmware implements [web.Firmware].
func (f *Fake) Firmware(_ context.Context, s access.Scope, class, version string) (adminapi.Firmware, error) {
	return pick(s, f.firmware(), func(a *adminapi.Firmware) bool { return a.Class == class && a.Version == version })
}

// WithdrawFirmware implements [web.Firmware].
func (f *Fake) WithdrawFirmware(ctx context.Context, by access.Actor, class, version string) (adminapi.Firmware, error) {
	return f.Firmware(ctx, by.Scope(), class, version)
}
