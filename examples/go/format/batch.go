package format

import (
	"encoding/binary"
	"errors"
)

// ErrCompressed: a payload is zstd. This example uses Go's own library alone, which has no zstd: its checksums
// are checked, its records are not unpacked. With github.com/klauspost/compress/zstd it is three lines more.
var ErrCompressed = errors.New("codec: zstd is not unpacked by this example")

// Record of a batch (proto/loghouse/api/v1/log.proto).
type Record struct {
	Value, Key []byte
	Timestamp  uint64 // 0: the entry's
	Type       uint32
	Term       uint64
	Headers    []Header
}

// Header of a record.
type Header struct {
	Key   string
	Value []byte
}

// DecodeBatch returns the records of a payload, and checks that there are as many as it is said to have.
func DecodeBatch(payload []byte, codec uint16, count uint32) ([]Record, error) {
	switch {
	case count == 0 || count > 128<<10:
		return nil, refuse("record_count", "%d", count)
	case codec == 1:
		return nil, ErrCompressed
	case codec != 0:
		return nil, refuse("codec", "%d", codec)
	}
	var records []Record
	err := fields(payload, func(number uint64, _ uint64, content []byte) error {
		if number != 1 || content == nil {
			return nil
		}
		record, err := decodeRecord(content)
		records = append(records, record)
		return err
	})
	if err == nil && len(records) != int(count) {
		err = refuse("record_count", "%d, but there are %d", count, len(records))
	}
	return records, err
}

func decodeRecord(content []byte) (record Record, err error) {
	err = fields(content, func(number, value uint64, content []byte) error {
		switch number {
		case 1:
			record.Value = content
		case 3:
			record.Term = value
		case 4:
			record.Type = uint32(value)
		case 5:
			record.Key = content
		case 6:
			var header Header
			record.Headers = append(record.Headers, header)
			return fields(content, func(number, _ uint64, content []byte) error {
				if header := &record.Headers[len(record.Headers)-1]; number == 1 {
					header.Key = string(content)
				} else if number == 2 {
					header.Value = content
				}
				return nil
			})
		case 7:
			record.Timestamp = value
		}
		return nil
	})
	return record, err
}

// fields calls take for each field of a protobuf message: with a number, or with content that is not nil.
func fields(message []byte, take func(number, value uint64, content []byte) error) error {
	bad := refuse("batch", "is no serialized RecordBatch")
	for len(message) > 0 {
		tag, size := binary.Uvarint(message)
		if size <= 0 {
			return bad
		}
		message = message[size:]
		var value uint64
		var content []byte
		switch tag & 7 {
		case 0, 2:
			if value, size = binary.Uvarint(message); size <= 0 {
				return bad
			}
			message = message[size:]
			if tag&7 == 2 {
				if value > uint64(len(message)) {
					return bad
				}
				content, message = message[:value:value], message[value:]
			}
		case 1, 5:
			size = map[uint64]int{1: 8, 5: 4}[tag&7]
			if size > len(message) {
				return bad
			}
			message = message[size:]
		default:
			return bad
		}
		if err := take(tag>>3, value, content); err != nil {
			return err
		}
	}
	return nil
}

// EncodeBatch returns the batch of records that are nothing but values.
func EncodeBatch(values [][]byte) []byte {
	var batch []byte
	for _, value := range values {
		record := append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(value))), value...)
		batch = append(binary.AppendUvarint(append(batch, 1<<3|2), uint64(len(record))), record...)
	}
	return batch
}
