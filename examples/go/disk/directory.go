package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"loghouse.example/go/format"
)

// report is what one look at a log found.
type report struct {
	first, last         uint64 // entries that are good
	final               uint64 // the last of them that nothing can replace
	records, nextOffset uint64
	lowestOffset        uint64
}

// errBusy: the node writes, and the directory changed under the reader. Look again.
var errBusy = errors.New("the directory changed meanwhile")

// visit gets every entry that is good, in order, and whether it is final.
type visit func(entry *format.Entry, isFinal bool) error

// readLog reads a log from its start, and checks every byte of it that counts (disk_format.md 9).
func readLog(folder string, cluster [16]byte, group uint32, see visit) (found report, err error) {
	seed := format.Seed(cluster, group)
	start, err := readStart(folder, seed)
	if err != nil {
		return found, err
	}
	stores, err := storesOf(folder, start.place.Index+1)
	if err != nil {
		return found, err
	}
	scan := &scan{seed: seed, place: start.place, said: start.said, see: see}
	scan.found.first = start.place.Index + 1
	for _, base := range stores { // what is committed is known before the first entry is shown
		block, err := readBlock(folder, base)
		if err != nil {
			return found, err
		}
		if mark, good := newest(block, seed); good {
			scan.commitIndex = max(scan.commitIndex, mark.commitIndex)
		}
	}
	for i, base := range stores {
		end := uint64(0)
		if i+1 < len(stores) {
			end = stores[i+1] - 1
		}
		if err := scan.store(folder, cluster, group, base, end); err != nil {
			return scan.found, fmt.Errorf("%s: %w", storeName(base), err)
		}
	}
	if again, err := readStart(folder, seed); err != nil || again.place.Index != start.place.Index {
		return scan.found, errBusy // trimmed, or replaced
	}
	return scan.found, nil
}

func readStart(folder string, seed uint32) (state, error) {
	data, err := os.ReadFile(filepath.Join(folder, "start"))
	if err != nil {
		return state{}, err
	}
	start, err := decodeState(data, "LOGHSTRT", seed)
	if err == nil && start.flags&1 != 0 {
		return start, fmt.Errorf("start is being installed: %w", errBusy)
	}
	if err != nil {
		return start, fmt.Errorf("start: %w", err)
	}
	return start, nil
}

func storeName(base uint64) string { return fmt.Sprintf("%020d.store", base) }

// storesOf lists the stores that count, by their first index.
func storesOf(folder string, first uint64) ([]uint64, error) {
	names, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var bases []uint64
	for _, entry := range names {
		digits, isStore := strings.CutSuffix(entry.Name(), ".store")
		base, err := strconv.ParseUint(digits, 10, 64)
		if isStore && len(digits) == 20 && err == nil && base >= first {
			bases = append(bases, base)
		}
	}
	sort.Slice(bases, func(i, j int) bool { return bases[i] < bases[j] })
	if len(bases) == 0 || bases[0] != first {
		return nil, format.Damaged("stores", fmt.Sprintf("%s is not there", storeName(first)))
	}
	return bases, nil
}

func readBlock(folder string, base uint64) ([]byte, error) {
	file, err := os.Open(filepath.Join(folder, storeName(base)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errBusy // trimmed, or cut
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	block := make([]byte, blockSize)
	_, err = io.ReadFull(file, block)
	return block, err
}

// scan goes over the entries of a log.
type scan struct {
	seed        uint32
	place       format.Place
	said        format.Control
	commitIndex uint64
	see         visit
	found       report
}

// store reads one store: up to entry `end`, or, when that is 0, to where the log ends.
func (s *scan) store(folder string, cluster [16]byte, group uint32, base, end uint64) error {
	block, err := readBlock(folder, base)
	if err != nil {
		return err
	}
	h, err := decodeHeader(block)
	switch {
	case err != nil:
		return err
	case h.cluster != cluster || h.group != group || h.base != base:
		return format.Damaged("header", "the store is of another log, or under another's name")
	case h.previous.Index != s.place.Index || h.previous.Term != s.place.Term ||
		h.previous.NextOffset != s.place.NextOffset:
		return format.Damaged("header", "the store does not join what is before it")
	}
	mark, good := newest(block, s.seed)
	if !good && end == 0 {
		return format.Damaged("watermark", "no slot is valid")
	}
	file, err := os.Open(filepath.Join(folder, storeName(base)))
	if err != nil {
		return errBusy
	}
	defer file.Close()
	if _, err := file.Seek(blockSize, io.SeekStart); err != nil {
		return err
	}
	from, position := bufio.NewReaderSize(file, 1<<20), uint64(blockSize)
	for s.place.Index != end || end == 0 {
		size, err := s.entry(from, mark.durableIndex)
		if err == io.EOF && end == 0 && position >= mark.position {
			return nil // zeroes: the end
		}
		var refusal *format.Refusal
		switch {
		case err == nil:
		case errors.As(err, &refusal) && refusal.Newer:
			return err
		case refusal != nil && end == 0 && position >= mark.position:
			return nil // being written, or torn: it was never acknowledged
		case err == io.EOF:
			return format.Damaged("entry", fmt.Sprintf("entries behind %d are missing", s.place.Index))
		default:
			return fmt.Errorf("at byte %d: %w", position, err)
		}
		position += uint64(size)
	}
	return nil
}

// entry reads and checks the next entry; io.EOF where zeroes say that there is none.
func (s *scan) entry(from *bufio.Reader, durableIndex uint64) (int, error) {
	head, err := from.Peek(format.HeaderSize)
	if allZero(head) && (err == nil || err == io.EOF) {
		return 0, io.EOF
	}
	length, err := format.Length(s.seed, head)
	if err != nil {
		return 0, err
	}
	frame := make([]byte, length)
	if n, err := io.ReadFull(from, frame); err == io.ErrUnexpectedEOF {
		frame = frame[:n] // Decode says what is wrong with that
	} else if err != nil {
		return 0, err
	}
	entry, err := format.Decode(s.seed, frame)
	if err == nil {
		err = s.place.Join(&entry)
	}
	if err == nil {
		err = s.said.Apply(&entry)
	}
	if err != nil {
		return 0, err
	}
	isFinal := entry.Index <= s.commitIndex || (entry.Index <= durableIndex && s.voters() == 1)
	s.found.last, s.found.nextOffset = entry.Index, s.place.NextOffset
	s.found.records += uint64(entry.RecordCount)
	s.found.lowestOffset = s.said.LowestOffset
	if isFinal {
		s.found.final = entry.Index
	}
	return length, s.see(&entry, isFinal)
}

func (s *scan) voters() (count int) {
	for _, member := range s.said.Members {
		if member.Role == 1 {
			count++
		}
	}
	return count
}

func allZero(data []byte) bool {
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}
