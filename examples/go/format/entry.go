// Package format reads entries and batches, as docs/disk_format.md 2 has them: on a disk and in answers.
package format

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	HeaderSize   = 64
	EntrySizeMax = HeaderSize + 8<<20
)

// Kinds of entries.
const (
	Records uint8 = iota + 1
	NoOp
	Configuration
	Trim
	Producer
	Birth
	Cursor
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is crc32c(data, seed).
func Checksum(seed uint32, data []byte) uint32 { return crc32.Update(seed, castagnoli, data) }

// Seed binds the frames of a log to its cluster and group.
func Seed(cluster [16]byte, group uint32) uint32 {
	return Checksum(0, binary.BigEndian.AppendUint32(cluster[:], group))
}

// Refusal says why bytes are not taken. Newer: their checksums are good, but this reader is too old for them.
type Refusal struct {
	Place, Problem string
	Newer          bool
}

func (r *Refusal) Error() string { return r.Place + ": " + r.Problem }

func refuse(place, problem string, args ...any) error {
	return &Refusal{Place: place, Problem: fmt.Sprintf(problem, args...)}
}

// Newer refuses what a later version wrote.
func Newer(place string, value any) error {
	return &Refusal{Place: place, Problem: fmt.Sprintf("%v is not known to this reader", value), Newer: true}
}

// Damaged refuses what is not what it was.
func Damaged(place, problem string) error { return &Refusal{Place: place, Problem: problem} }

// Entry is one unit of the log. Payload is a part of the bytes that it was read from.
type Entry struct {
	Kind             uint8
	Codec            uint16
	RecordCount      uint32
	Index            uint64
	Term             uint64
	BaseOffset       uint64
	Timestamp        uint64 // microseconds since the epoch
	ProducerID       uint64
	ProducerSequence uint32
	Payload          []byte
}

// Size of the whole frame, in bytes.
func (e *Entry) Size() int { return HeaderSize + len(e.Payload) }

// Length of the frame that begins here, as its header says, once that is checked.
func Length(seed uint32, head []byte) (int, error) {
	if len(head) < HeaderSize {
		return 0, refuse("header_crc", "%d bytes are no header", len(head))
	}
	be := binary.BigEndian
	if Checksum(seed, head[4:HeaderSize]) != be.Uint32(head) {
		return 0, refuse("header_crc", "damaged, or of another log")
	}
	if head[8] != 1 {
		return 0, Newer("version", head[8])
	}
	if kind := head[9]; kind < Records || kind > Cursor {
		return 0, Newer("kind", kind)
	}
	if attributes := be.Uint16(head[10:]); attributes > 7 {
		return 0, Newer("attributes", attributes)
	}
	length := be.Uint32(head[4:])
	if length < HeaderSize || length > EntrySizeMax {
		return 0, refuse("length", "%d", length)
	}
	return int(length), nil
}

// Decode returns the entry at the beginning of data, with both checksums checked.
func Decode(seed uint32, data []byte) (Entry, error) {
	length, err := Length(seed, data)
	if err != nil {
		return Entry{}, err
	}
	be := binary.BigEndian
	e := Entry{
		Kind:             data[9],
		Codec:            be.Uint16(data[10:]),
		RecordCount:      be.Uint32(data[12:]),
		Index:            be.Uint64(data[16:]),
		Term:             be.Uint64(data[24:]),
		BaseOffset:       be.Uint64(data[32:]),
		Timestamp:        be.Uint64(data[40:]),
		ProducerID:       be.Uint64(data[48:]),
		ProducerSequence: be.Uint32(data[56:]),
	}
	switch {
	case (e.Kind == Records) != (e.RecordCount > 0):
		return e, refuse("record_count", "%d in an entry of kind %d", e.RecordCount, e.Kind)
	case e.Index == 0:
		return e, refuse("index", "0")
	case e.Term == 0:
		return e, refuse("term", "0")
	case len(data) < length:
		return e, refuse("length", "%d bytes of %d", len(data), length)
	}
	e.Payload = data[HeaderSize:length]
	if Checksum(0, e.Payload) != be.Uint32(data[60:]) {
		return e, refuse("payload_crc", "entry %d is damaged", e.Index)
	}
	return e, nil
}

// Place is the end of a log so far: of its last entry, and the offset of its next record.
type Place struct {
	Index, Term, NextOffset, Timestamp uint64
}

// Join goes on to the next entry, or says why that is not the next one.
func (p *Place) Join(e *Entry) error {
	switch {
	case e.Index != p.Index+1:
		return refuse("index", "%d behind %d", e.Index, p.Index)
	case e.Term < p.Term:
		return refuse("term", "%d behind %d", e.Term, p.Term)
	case e.BaseOffset != p.NextOffset:
		return refuse("base_offset", "%d where %d belongs", e.BaseOffset, p.NextOffset)
	case e.Timestamp < p.Timestamp:
		return refuse("timestamp", "entry %d goes back in time", e.Index)
	}
	*p = Place{e.Index, e.Term, e.BaseOffset + uint64(e.RecordCount), e.Timestamp}
	return nil
}
