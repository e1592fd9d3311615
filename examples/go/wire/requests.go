package wire

import "encoding/binary"

var be = binary.BigEndian

// Request is what a client sends.
type Request interface {
	Kind() uint16
	append(body []byte) []byte
}

// Encode returns the frame of a request.
func Encode(request Request, group, stream uint32) []byte {
	return Frame{Kind: request.Kind(), Group: group, Stream: stream, Body: request.append(nil)}.Bytes()
}

// Produce appends a batch. BatchCRC and ExpectOffset are nil when they are not given.
type Produce struct {
	Batch            Hex     `json:"batch"`
	RecordCount      uint32  `json:"record_count"`
	Attributes       uint16  `json:"attributes"`
	BatchCRC         *uint32 `json:"batch_crc"`
	ExpectOffset     *uint64 `json:"expect_offset"`
	ProducerID       uint64  `json:"producer_id"`
	ProducerSequence uint32  `json:"producer_sequence"`
	TimeoutMillis    uint32  `json:"timeout_milliseconds"`
}

type (
	Fetch struct {
		Offset  uint64 `json:"offset"`
		SizeMax uint32 `json:"size_max"`
	}
	Follow struct {
		Offset uint64 `json:"offset"`
		Credit uint32 `json:"credit"`
	}
	Credit struct {
		Credit uint32 `json:"credit"`
	}
	Cancel           struct{}
	Describe         struct{}
	Bounds           struct{}
	RegisterProducer struct{}
	FindOffset       struct {
		Timestamp uint64 `json:"timestamp"`
	}
	Ping struct {
		Token uint64 `json:"token"`
	}
	Pong struct {
		Token uint64 `json:"token"`
	}
	Goodbye struct {
		Reason string `json:"reason"`
	}
)

func (Produce) Kind() uint16          { return 0x0301 }
func (Fetch) Kind() uint16            { return 0x0303 }
func (Follow) Kind() uint16           { return 0x0305 }
func (Credit) Kind() uint16           { return 0x0307 }
func (Cancel) Kind() uint16           { return 0x0308 }
func (Describe) Kind() uint16         { return 0x0309 }
func (Bounds) Kind() uint16           { return 0x030B }
func (FindOffset) Kind() uint16       { return 0x030D }
func (RegisterProducer) Kind() uint16 { return 0x0310 }
func (Ping) Kind() uint16             { return 0x0002 }
func (Pong) Kind() uint16             { return 0x0003 }
func (Goodbye) Kind() uint16          { return 0x0005 }
func (Hello) Kind() uint16            { return 0x0001 }

func (p Produce) append(b []byte) []byte {
	var given byte
	var crc uint32
	var expect uint64
	if p.BatchCRC != nil {
		given, crc = given|1, *p.BatchCRC
	}
	if p.ExpectOffset != nil {
		given, expect = given|2, *p.ExpectOffset
	}
	b = be.AppendUint16(append(b, given), p.Attributes)
	b = be.AppendUint32(be.AppendUint32(b, p.RecordCount), crc)
	b = be.AppendUint64(be.AppendUint64(b, expect), p.ProducerID)
	b = be.AppendUint32(be.AppendUint32(b, p.ProducerSequence), p.TimeoutMillis)
	return append(b, p.Batch...)
}

func (f Fetch) append(b []byte) []byte {
	return be.AppendUint32(be.AppendUint64(b, f.Offset), f.SizeMax)
}

func (f Follow) append(b []byte) []byte {
	return be.AppendUint32(be.AppendUint64(b, f.Offset), f.Credit)
}

func (c Credit) append(b []byte) []byte         { return be.AppendUint32(b, c.Credit) }
func (Cancel) append(b []byte) []byte           { return b }
func (Describe) append(b []byte) []byte         { return b }
func (Bounds) append(b []byte) []byte           { return b }
func (RegisterProducer) append(b []byte) []byte { return b }
func (f FindOffset) append(b []byte) []byte     { return be.AppendUint64(b, f.Timestamp) }
func (p Ping) append(b []byte) []byte           { return be.AppendUint64(b, p.Token) }
func (p Pong) append(b []byte) []byte           { return be.AppendUint64(b, p.Token) }
func (g Goodbye) append(b []byte) []byte {
	return append(be.AppendUint16(b, uint16(len(g.Reason))), g.Reason...)
}

func (h Hello) append(b []byte) []byte {
	b = be.AppendUint32(b, magic)
	b = be.AppendUint16(be.AppendUint16(b, h.VersionMin), h.VersionMax)
	b = be.AppendUint64(append(b, h.Role), h.Capabilities)
	b = append(append(b, h.ClusterUUID[:]...), h.DiskUUID[:]...)
	for _, text := range []string{h.ClusterName, h.NodeName, h.Software, string(h.EntryKinds)} {
		b = append(append(b, byte(len(text))), text...)
	}
	return b
}
