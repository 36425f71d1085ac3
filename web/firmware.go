package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Firmware is images of firmware with what was signed about them. The service cannot
// sign; that a device may have one, a second person decides.
type Firmware interface {
	UploadFirmware(ctx context.Context, by access.Actor, digest string, r adminapi.FirmwarePart) (adminapi.FirmwareUpload, error)
	PublishFirmware(ctx context.Context, by access.Actor, r adminapi.FirmwareRequest) (adminapi.Firmware, error)
	FirmwareList(ctx context.Context, s access.Scope, class string, p Page) (items []adminapi.Firmware, next string, err error)
	Firmware(ctx context.Context, s access.Scope, class, version string) (adminapi.Firmware, error)
	WithdrawFirmware(ctx context.Context, by access.Actor, class, version string) (adminapi.Firmware, error)
}

func (p *people) uploadFirmware(c *call) (any, error) {
	r, err := body[adminapi.FirmwarePart](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Firmware.UploadFirmware(c.Request().Context(), c.actor, c.Param("digest"), r)
}

func (p *people) publishFirmware(c *call) (any, error) {
	r, err := body[adminapi.FirmwareRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Firmware.PublishFirmware(c.Request().Context(), c.actor, r)
}

func (p *people) listFirmware(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Firmware.FirmwareList(c.Request().Context(), c.scope, c.query.Get("class"), page)
	return adminapi.FirmwarePage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) getFirmware(c *call) (any, error) {
	return p.Backend.Firmware.Firmware(c.Request().Context(), c.scope, c.Param("class"), c.Param("version"))
}

func (p *people) withdrawFirmware(c *call) (any, error) {
	return p.Backend.Firmware.WithdrawFirmware(c.Request().Context(), c.actor, c.Param("class"), c.Param("version"))
}
