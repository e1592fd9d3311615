package format

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"
)

// Member of the group, as a configuration entry has it. Role 1 votes.
type Member struct {
	ID   uint32
	Role uint8
	Disk [16]byte
	Name string
}

// Control is what the entries that hold no records say of the log, one after the other.
type Control struct {
	Members      []Member
	LowestOffset uint64
	Producers    map[uint64]string // subject by id
}

// Apply takes the next entry's word, or says what is wrong with it.
func (c *Control) Apply(e *Entry) error {
	r := Reader{Data: e.Payload}
	switch e.Kind {
	case Records:
		if _, known := c.Producers[e.ProducerID]; e.ProducerID != 0 && !known {
			return refuse("producer_id", "%d was not registered", e.ProducerID)
		}
		return nil
	case NoOp:
		return nil
	case Configuration:
		members, err := DecodeConfiguration(e.Payload)
		if err == nil {
			c.Members = members
		}
		return err
	case Trim:
		lowest := r.U64()
		if !r.Done() {
			return refuse("lowest_offset", "%d bytes are no trim", len(e.Payload))
		}
		c.LowestOffset = max(c.LowestOffset, lowest)
	case Producer:
		subject := r.Name()
		if !r.Done() {
			return refuse("subject", "the payload is no producer")
		}
		if c.Producers == nil {
			c.Producers = map[uint64]string{}
		}
		c.Producers[e.Index] = subject
	case Birth:
		return checkBirth(e.Payload)
	case Cursor:
		return checkCursor(e.Payload)
	}
	return nil
}

// checkBirth says what is wrong with the payload of a birth: another group, and who its founders are.
func checkBirth(payload []byte) error {
	if len(payload) < 4 || binary.BigEndian.Uint32(payload) == 0 {
		return refuse("group", "a birth of no group")
	}
	founders, err := DecodeConfiguration(payload[4:])
	if err == nil && !slices.ContainsFunc(founders, func(m Member) bool { return m.Role == 1 }) {
		return refuse("members", "a group without a voter")
	}
	return err
}

// DecodeConfiguration returns the members that the payload of a configuration entry names.
func DecodeConfiguration(payload []byte) ([]Member, error) {
	r := Reader{Data: payload}
	count := r.U32()
	if count > 64 {
		return nil, refuse("members", "%d, at most 64", count)
	}
	members := make([]Member, count)
	for i := range members {
		members[i].ID, members[i].Role = r.U32(), r.U8()
		copy(members[i].Disk[:], r.Take(16))
		members[i].Name = r.Name()
	}
	for removed := r.U32(); removed > 0 && !r.Failed; removed-- {
		r.Name()
	}
	r.Take(4 + 8 + 8) // the next member's id, and how much is kept
	if !r.Done() {
		return nil, refuse("payload", "the payload is no configuration")
	}
	for _, member := range members {
		if member.Role < 1 || member.Role > 3 {
			return nil, refuse("role", "%d", member.Role)
		}
	}
	return members, nil
}

// Reader takes integers and texts off bytes. Behind their end it gives zeroes, and has Failed.
type Reader struct {
	Data   []byte
	Failed bool
}

// Take takes so many bytes.
func (r *Reader) Take(size int) []byte {
	if size > len(r.Data) {
		r.Failed = true
		return make([]byte, min(size, 16)) // enough for every fixed field
	}
	taken := r.Data[:size]
	r.Data = r.Data[size:]
	return taken
}

// Done says whether all was taken, and nothing more than there was.
func (r *Reader) Done() bool { return !r.Failed && len(r.Data) == 0 }

func (r *Reader) U8() uint8   { return r.Take(1)[0] }
func (r *Reader) U16() uint16 { return binary.BigEndian.Uint16(r.Take(2)) }
func (r *Reader) U32() uint32 { return binary.BigEndian.Uint32(r.Take(4)) }
func (r *Reader) U64() uint64 { return binary.BigEndian.Uint64(r.Take(8)) }

// Name takes UTF-8 text behind its length of one byte.
func (r *Reader) Name() string { return r.Text(int(r.U8())) }

// Text takes UTF-8 text of so many bytes.
func (r *Reader) Text(size int) string {
	taken := r.Take(size)
	if r.Failed || !utf8.Valid(taken) {
		r.Failed = true
		return ""
	}
	return string(taken)
}
