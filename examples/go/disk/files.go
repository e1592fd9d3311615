package main

import (
	"bytes"
	"encoding/binary"

	"loghouse.example/go/format"
)

const blockSize = 4096 // of a store's header

var be = binary.BigEndian

// sealed checks the checksum, the magic and the version of a file, and returns what is between them.
func sealed(data []byte, magic string, seed uint32) (*format.Reader, error) {
	end := len(data) - 4
	if end < 10 || format.Checksum(seed, data[:end]) != be.Uint32(data[end:]) {
		return nil, format.Damaged("crc", "damaged, or of another log")
	}
	if string(data[:8]) != magic {
		return nil, format.Damaged("magic", "not "+magic)
	}
	if version := be.Uint16(data[8:]); version != 1 {
		return nil, format.Newer("version", version)
	}
	return &format.Reader{Data: data[10:end]}, nil
}

// node is whose directory it is.
type node struct {
	cluster, disk     [16]byte
	clusterName, name string
}

func decodeNode(data []byte) (n node, err error) {
	r, err := sealed(data, "LOGHNODE", 0)
	if err != nil {
		return n, err
	}
	copy(n.cluster[:], r.Take(16))
	copy(n.disk[:], r.Take(16))
	n.clusterName, n.name = r.Name(), r.Name()
	if !r.Done() {
		err = format.Damaged("node_name", "the file is cut")
	}
	return n, err
}

// state is the replicated state before an entry: of `start`, or of a state file.
type state struct {
	flags uint16
	place format.Place
	said  format.Control
}

func decodeState(data []byte, magic string, seed uint32) (s state, err error) {
	whole, err := sealed(data, magic, seed)
	if err != nil {
		return s, err
	}
	s.flags = whole.U16()
	r := &format.Reader{Data: whole.Take(int(whole.U32()))}
	s.place = format.Place{Index: r.U64(), Term: r.U64(), Timestamp: r.U64(), NextOffset: r.U64()}
	s.said.LowestOffset = r.U64()
	r.U64() // where the configuration was written
	configuration := r.Take(int(r.U32()))
	producers := &format.Reader{Data: r.Take(int(r.U32()))}
	s.said.Producers = map[uint64]string{}
	for len(producers.Data) > 0 && !producers.Failed {
		id, subject := producers.U64(), producers.Name()
		producers.Take(int(producers.U8()) * 24) // its last batches
		s.said.Producers[id] = subject
	}
	var cursors []byte
	if len(r.Data) > 0 { // a birth: where and when, and its payload; all zero when there are cursors alone
		born := r.U64()
		r.Take(8)
		size := r.U32()
		r.Take(int(size))
		if born == 0 && (size > 0 || len(r.Data) == 0) {
			return s, format.Damaged("birth", "a birth of no entry")
		}
	}
	if len(r.Data) > 0 {
		cursors = r.Take(int(r.U32()))
	}
	if !whole.Done() || !r.Done() || producers.Failed {
		return s, format.Damaged("length", "the state does not fill the file")
	}
	if cursors != nil {
		if err := format.SkipCursors(cursors); err != nil {
			return s, err
		}
	}
	s.said.Members, err = format.DecodeConfiguration(configuration)
	return s, err
}

// header is what a store says of itself.
type header struct {
	cluster  [16]byte
	group    uint32
	base     uint64
	previous format.Place // the end of the store before; its time is not known
}

func decodeHeader(block []byte) (h header, err error) {
	if len(block) < 60 {
		return h, format.Damaged("crc", "the header is cut")
	}
	r, err := sealed(block[:60], "LOGHOUSE", 0)
	if err != nil {
		return h, err
	}
	r.U16() // reserved
	h.group = r.U32()
	copy(h.cluster[:], r.Take(16))
	h.base = r.U64()
	h.previous = format.Place{Index: h.base - 1, NextOffset: r.U64(), Term: r.U64()}
	return h, nil
}

// watermark is how far a store was durable, and what was known to be committed then.
type watermark struct {
	counter, durableIndex, durableTerm, position, commitIndex uint64
}

func decodeWatermark(slot []byte, seed uint32) (w watermark, good bool) {
	if len(slot) < 44 || format.Checksum(seed, slot[:40]) != be.Uint32(slot[40:]) {
		return w, false
	}
	r := &format.Reader{Data: slot}
	return watermark{r.U64(), r.U64(), r.U64(), r.U64(), r.U64()}, true
}

// newest is the valid watermark of a header block with the highest counter.
func newest(block []byte, seed uint32) (found watermark, good bool) {
	for _, at := range []int{1024, 2048} {
		if w, valid := decodeWatermark(block[at:], seed); valid && (!good || w.counter > found.counter) {
			found, good = w, true
		}
	}
	return found, good
}

// slot is one of the two places of a log's term and vote.
type slot struct {
	counter, term uint64
	vote          uint32
}

func decodeSlot(data []byte, seed uint32) (s slot, good bool) {
	if len(data) < 32 || format.Checksum(seed, data[:28]) != be.Uint32(data[28:]) {
		return s, false
	}
	r := &format.Reader{Data: data[8:]}
	return slot{r.U64(), r.U64(), r.U32()}, bytes.HasPrefix(data, []byte("LOGHTERM"))
}

// pair is the last entry that a log held: of `held` and `damage`, whose one flag is `flag`.
type pair struct {
	flag        bool
	index, term uint64
}

func decodePair(data []byte, magic string, seed uint32) (p pair, err error) {
	r, err := sealed(data, magic, seed)
	if err != nil {
		return p, err
	}
	flags := r.U16()
	p = pair{flags == 1, r.U64(), r.U64()}
	if magic == "LOGHHELD" {
		r.Take(8 + 4) // term and vote
	}
	if flags > 1 || !r.Done() {
		err = format.Damaged("flags", "a flag that is not known, or a wrong size")
	}
	return p, err
}
