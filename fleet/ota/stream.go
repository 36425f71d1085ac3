package ota

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/ota/manifest"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

// The limits of file streams, as on the wire.
const (
	maxStreamed    = 24 << 20 // octets of a file
	minBlock       = 256
	maxBlock       = 128 << 10
	maxAnswer      = 128 << 10 // octets of all blocks for one request; the rest is asked for again
	maxBlocks      = maxStreamed / minBlock
	maxBitmap      = maxBlocks / 8
	maxStreamToken = 64
	streamVersion  = 1
)

// Campaigns says what a campaign changes.
type Campaigns interface {
	Campaign(ctx context.Context, s access.Scope, id string) (campaign.Campaign, error)
}

// Topics is the row that the broker mounts: file streams.
func (s *Service) Topics() []fleet.Topic {
	return []fleet.Topic{{Filter: "$aws/things/+/streams/#", Handle: s.stream}}
}

// streamRequest is a request in either form; the bitmap is octets.
type streamRequest struct {
	Token   string `cbor:"c,omitempty"`
	Version *int64 `cbor:"s,omitempty"`
	File    *int64 `cbor:"f,omitempty"`
	Length  *int64 `cbor:"l,omitempty"`
	Offset  int64  `cbor:"o,omitempty"`
	Count   *int64 `cbor:"n,omitempty"`
	Bitmap  []byte `cbor:"b,omitempty"`
}

type streamFile struct {
	ID   int64 `json:"f" cbor:"f"`
	Size int64 `json:"z" cbor:"z"`
}

type streamDescription struct {
	Token       string       `json:"c,omitempty" cbor:"c,omitempty"`
	Version     int64        `json:"s" cbor:"s"`
	Description string       `json:"d" cbor:"d"`
	Files       []streamFile `json:"r" cbor:"r"`
}

type streamBlock struct {
	Token  string `json:"c,omitempty" cbor:"c,omitempty"`
	File   int64  `json:"f" cbor:"f"`
	Length int64  `json:"l" cbor:"l"` // of this block
	Number int64  `json:"i" cbor:"i"`
	Octets []byte `json:"p" cbor:"p"`
}

type streamRejection struct {
	Token   string `json:"c,omitempty" cbor:"c,omitempty"`
	Code    string `json:"o" cbor:"o"`
	Message string `json:"m" cbor:"m"`
}

// refusal is an answer to a device: a code of the wire, and words.
type refusal struct{ code, message string }

func (r refusal) Error() string { return r.code + ": " + r.message }

// codec is one of the two forms.
type codec struct {
	name   string
	encode func(v any) ([]byte, error)
	decode func(payload []byte) (streamRequest, error)
}

var (
	plainCBOR, _  = cbor.EncOptions{}.EncMode()
	strictCBOR, _ = cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 16}.DecMode()

	codecs = map[string]codec{"json": {"json", json.Marshal, decodeJSON}, "cbor": {"cbor", plainCBOR.Marshal, decodeCBOR}}
)

func decodeCBOR(payload []byte) (r streamRequest, err error) {
	if len(payload) == 0 {
		return r, nil
	}
	if err := strictCBOR.Unmarshal(payload, &r); err != nil {
		return r, refusal{"InvalidCbor", "The request is no map with the members of a request."}
	}
	return r, nil
}

func decodeJSON(payload []byte) (r streamRequest, err error) {
	if len(bytes.TrimSpace(payload)) == 0 {
		return r, nil
	}
	var in struct {
		Token   string `json:"c"`
		Version *int64 `json:"s"`
		File    *int64 `json:"f"`
		Length  *int64 `json:"l"`
		Offset  int64  `json:"o"`
		Count   *int64 `json:"n"`
		Bitmap  string `json:"b"`
	}
	if err := strictjson.Decode(payload, &in, strictjson.AllowUnknownFields()); err != nil {
		return r, refusal{"InvalidJson", "The request is no object with the members of a request."}
	}
	r = streamRequest{in.Token, in.Version, in.File, in.Length, in.Offset, in.Count, nil}
	if in.Bitmap != "" {
		digits := strings.TrimPrefix(strings.TrimPrefix(in.Bitmap, "0x"), "0X")
		if r.Bitmap, err = hex.DecodeString(digits); err != nil {
			return r, refusal{"InvalidRequest", "The bitmap is not hexadecimal."}
		}
	}
	return r, nil
}

// stream answers $aws/things/T/streams/S/{describe,get}/{json,cbor}, to the connection
// that asked. Who may ask was decided by the topic's policy, and which image a device
// may have by its job.
func (s *Service) stream(ctx context.Context, r fleet.Request) error {
	if len(r.Levels) != 7 {
		return nil
	}
	c, ok := codecs[r.Levels[6]]
	if !ok || r.Levels[5] != "describe" && r.Levels[5] != "get" {
		return nil // there is no form in which to say so
	}
	base := strings.Join(r.Levels[:5], "/")
	in, err := c.decode(r.Payload)
	if err == nil && len(in.Token) > maxStreamToken {
		in.Token, err = "", refusal{"InvalidRequest", "The client token is too long."}
	}
	if err == nil {
		err = s.answer(ctx, r, base, c, &in)
	}
	if err == nil {
		return nil
	}
	no, known := err.(refusal)
	if !known {
		no = refusal{"InternalError", "The service cannot answer now."}
		if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Conflict || kind == fault.Forbidden || kind == fault.Invalid {
			no, err = refusal{"ResourceNotFound", "The device has no such stream."}, nil
		}
	} else {
		err = nil
	}
	if payload, e := c.encode(streamRejection{in.Token, no.code, no.message}); e == nil {
		r.Reply(base+"/rejected/"+c.name, payload)
	}
	return err
}

func (s *Service) answer(ctx context.Context, r fleet.Request, base string, c codec, in *streamRequest) error {
	b, m, err := s.streamed(ctx, r.Tenant, fleet.ThingName(r.Levels[2]), r.Levels[4])
	if err != nil {
		return err
	}
	defer b.Close()
	if r.Levels[5] == "describe" {
		payload, err := c.encode(streamDescription{in.Token, streamVersion, m.Class + " " + string(m.Version), []streamFile{{0, m.Size}}})
		if err == nil {
			r.Reply(base+"/description/"+c.name, payload)
		}
		return err
	}
	numbers, err := in.blocks(m.Size)
	if err != nil {
		return err
	}
	l := *in.Length
	for len(numbers) > 0 {
		// Neighbours are read at once: the store may be far away.
		run := 1
		for run < len(numbers) && numbers[run] == numbers[0]+int64(run) {
			run++
		}
		octets := make([]byte, min(int64(run)*l, m.Size-numbers[0]*l))
		if _, err := b.ReadAt(octets, numbers[0]*l); err != nil {
			return ErrBlob.Wrap(err, "%s %s.", m.Class, m.Version)
		}
		for _, i := range numbers[:run] {
			part := octets[:min(l, int64(len(octets)))]
			octets = octets[len(part):]
			payload, err := c.encode(streamBlock{in.Token, 0, int64(len(part)), i, part})
			if err != nil {
				return err
			}
			r.Reply(base+"/data/"+c.name, payload)
		}
		numbers = numbers[run:]
	}
	return nil
}

// blocks is which blocks a request gets now.
func (in *streamRequest) blocks(size int64) (out []int64, err error) {
	switch {
	case in.File == nil || in.Length == nil:
		return nil, refusal{"InvalidRequest", "It names no file or no length of a block."}
	case in.Version != nil && *in.Version != streamVersion:
		return nil, refusal{"VersionMismatch", "The stream has another version."}
	case *in.File != 0:
		return nil, refusal{"ResourceNotFound", "The stream has one file, 0."}
	case *in.Length < minBlock || *in.Length > maxBlock:
		return nil, refusal{"BlockSizeOutOfBounds", "A block has 256 to 131072 octets."}
	case in.Offset < 0 || in.Offset > math.MaxInt64 / *in.Length || in.Offset**in.Length >= size:
		return nil, refusal{"OffsetOutOfBounds", "The file ends before this block."}
	case in.Count != nil && (*in.Count < 1 || *in.Count > maxBlocks):
		return nil, refusal{"BlockCountLimitExceeded", "The number of blocks is 1 to 98304."}
	case len(in.Bitmap) > maxBitmap:
		return nil, refusal{"BlockBitmapLimitExceeded", "The bitmap has at most 12288 octets."}
	}
	l := *in.Length
	most := maxAnswer / l
	if in.Count != nil {
		most = min(most, *in.Count)
	}
	for i := in.Offset; i*l < size && int64(len(out)) < most; i++ {
		if bit := i - in.Offset; in.Bitmap != nil {
			if bit/8 >= int64(len(in.Bitmap)) {
				break
			}
			if in.Bitmap[bit/8]&(1<<(bit%8)) == 0 {
				continue
			}
		}
		out = append(out, i)
	}
	return out, nil
}

// streamed opens the image of a stream, which has the name of a campaign's job that
// the device has to do.
func (s *Service) streamed(ctx context.Context, tenant string, thing fleet.ThingName, name string) (Blob, *manifest.Manifest, error) {
	scope := access.Scope{Tenant: tenant}
	id, ok := strings.CutPrefix(name, (&campaign.Campaign{}).Job(false))
	if !ok {
		return nil, nil, ErrUnknown.New("")
	}
	e, err := s.cfg.Jobs.Execution(ctx, scope, name, thing, 0)
	if err != nil {
		return nil, nil, err
	}
	if e.Status != jobs.Queued && e.Status != jobs.InProgress {
		return nil, nil, ErrState.New("")
	}
	c, err := s.cfg.Campaigns.Campaign(ctx, scope, id)
	if err != nil {
		return nil, nil, err
	}
	if c.Kind != campaign.Firmware {
		return nil, nil, ErrUnknown.New("")
	}
	p, err := parse(c.Parameters)
	if err != nil {
		return nil, nil, err
	}
	b, m, err := s.open(ctx, tenant, p.Class, p.Version)
	if err == nil && m.Size > maxStreamed {
		b.Close()
		return nil, nil, ErrState.New("")
	}
	return b, m, err
}
