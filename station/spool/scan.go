package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
)

const (
	magic      = "HMKSPOOL"
	version    = 1
	headerSize = len(magic) + 4 + 16 + 4 // magic, version, random id, CRC of those
	frameSize  = 12

	// MaxRecord bounds a payload: a chain of ten certificates of 8 KiB in base64.
	MaxRecord = 256 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func header(id [16]byte) []byte {
	b := append([]byte(magic), 0, 0, 0, version)
	b = append(b, id[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// checkHeader returns the first link of the chain.
func checkHeader(b []byte) ([32]byte, error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return [32]byte{}, ErrBroken.New("It does not begin as a journal does.")
	}
	b = b[:headerSize]
	if crc32.Checksum(b[:headerSize-4], castagnoli) != binary.BigEndian.Uint32(b[headerSize-4:]) {
		return [32]byte{}, ErrBroken.New("Its first line is damaged.")
	}
	if v := binary.BigEndian.Uint32(b[len(magic):]); v != version {
		return [32]byte{}, ErrVersion.New("It has version %d, this software knows %d.", v, version)
	}
	return sha256.Sum256(b), nil
}

func frame(payload []byte) []byte {
	b := make([]byte, frameSize, frameSize+len(payload))
	binary.BigEndian.PutUint32(b, uint32(len(payload)))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(payload, castagnoli))
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	return append(b, payload...)
}

// takeFrame cuts the first frame off b. ok is false for anything but a whole one.
func takeFrame(b []byte) (payload []byte, size int, ok bool) {
	if len(b) < frameSize || crc32.Checksum(b[:8], castagnoli) != binary.BigEndian.Uint32(b[8:]) {
		return nil, 0, false
	}
	n := int(binary.BigEndian.Uint32(b))
	if n == 0 || n > MaxRecord || n > len(b)-frameSize {
		return nil, 0, false
	}
	payload = b[frameSize : frameSize+n]
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return nil, 0, false
	}
	return payload, frameSize + n, true
}

// journal is the state of a file that was read.
type journal struct {
	last [32]byte // SHA-256 of the last payload, or of the header
	seq  uint64   // of the last record
	end  int      // where the whole records end
}

// scan reads a journal and calls each for every record. What follows
// journal.end is the torn tail; anything worse is ErrBroken.
func scan(b []byte, each func(*Record)) (journal, error) {
	link, err := checkHeader(b)
	if err != nil {
		return journal{}, err
	}
	j := journal{last: link, end: headerSize}
	for j.end < len(b) {
		payload, size, ok := takeFrame(b[j.end:])
		if !ok {
			return j, j.tail(b[j.end:])
		}
		r, err := j.decode(payload)
		if err != nil {
			return j, err
		}
		each(r)
		j.last, j.seq = sha256.Sum256(payload), r.Seq
		j.end += size
	}
	return j, nil
}

// decode reads a payload and checks its place in the chain. Its checksum was
// right, so a mistake here was not made by a power cut.
func (j *journal) decode(payload []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, ErrBroken.Wrap(err, "Record %d cannot be read.", j.seq+1)
	}
	switch {
	case r.Seq != j.seq+1 || !bytes.Equal(r.Prev, j.last[:]):
		return nil, ErrBroken.New("Record %d does not follow record %d; a record was removed, swapped or added by hand.", r.Seq, j.seq)
	case r.Job == "" || !r.State.known():
		return nil, ErrBroken.New("Record %d has state %q, which this version does not know.", r.Seq, string(r.State))
	}
	return &r, nil
}

// tail decides whether b, which is no whole frame, is a last record that a
// power cut tore. It is not if it is longer than one record can be, or if a
// whole record begins anywhere in it: then the middle is broken, and cutting
// there would lose what follows.
func (j *journal) tail(b []byte) error {
	if len(b) > frameSize+MaxRecord {
		return ErrBroken.New("It is damaged after record %d, with %d octets following.", j.seq, len(b))
	}
	for i := 1; i+frameSize < len(b); i++ {
		if _, _, ok := takeFrame(b[i:]); ok {
			return ErrBroken.New("It is damaged after record %d, and whole records follow.", j.seq)
		}
	}
	return nil
}
