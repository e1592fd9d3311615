// Package wire has the frames and messages of docs/wire_format.md that a client sends and gets.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

const headerSize = 16

// Frame is one frame of a connection.
type Frame struct {
	Kind, Flags   uint16
	Group, Stream uint32
	Body          []byte
}

// RuleError says which rule of the wire bytes break; Code is that of a LinkError.
type RuleError struct {
	Code    uint16
	Problem string
}

func (e *RuleError) Error() string { return e.Problem }

func broken(code uint16, text string, args ...any) error {
	return &RuleError{code, fmt.Sprintf(text, args...)}
}

// sizeMax is how many bytes a body may have (wire_format.md 2).
func sizeMax(kind uint16) uint32 {
	const kib, mib = 1 << 10, 1 << 20
	switch kind {
	case 0x0001:
		return 4 * kib
	case 0x0103:
		return 9*mib + 72
	case 0x0107:
		return 10*mib + 80
	case 0x0120:
		return 8*mib + 319
	case 0x0127:
		return 8*mib + 463
	case 0x0126, 0x0205, 0x0206, 0x030A, 0x0321:
		return 256 * kib
	case 0x0301:
		return 8*mib + 64
	case 0x0322:
		return 8*mib + 208
	case 0x01A1, 0x0304, 0x0306:
		return 8*mib + 128
	}
	switch {
	case kind >= 0x0101 && kind <= 0x010A, kind == 0x0180:
		return 80
	case kind >= 0x0002 && kind <= 0x0005, kind >= 0x0121 && kind <= 0x0125, kind >= 0x0302 && kind <= 0x0311,
		kind == 0x0190, kind == 0x0191, kind == 0x01A0, kind == 0x0320, kind == 0x0380:
		return 8 * kib
	}
	return 64 * kib // gossip, and what this client does not know
}

// Read returns the next frame. Its size and flags are checked before any byte of its body is read.
func Read(from io.Reader) (Frame, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return Frame{}, err
	}
	be := binary.BigEndian
	length := be.Uint32(head[:])
	frame := Frame{be.Uint16(head[4:]), be.Uint16(head[6:]), be.Uint32(head[8:]), be.Uint32(head[12:]), nil}
	if length > sizeMax(frame.Kind) {
		return frame, broken(2, "kind %#04x announces %d bytes", frame.Kind, length)
	}
	if frame.Flags&0xFF != 0 {
		return frame, broken(1, "kind %#04x has flags %#04x", frame.Kind, frame.Flags)
	}
	frame.Body = make([]byte, length)
	_, err := io.ReadFull(from, frame.Body)
	return frame, err
}

// Bytes of a frame, to be written at once.
func (f Frame) Bytes() []byte {
	be := binary.BigEndian
	data := make([]byte, 0, headerSize+len(f.Body))
	data = be.AppendUint32(data, uint32(len(f.Body)))
	data = be.AppendUint16(data, f.Kind)
	data = be.AppendUint16(data, f.Flags)
	data = be.AppendUint32(data, f.Group)
	data = be.AppendUint32(data, f.Stream)
	return append(data, f.Body...)
}
