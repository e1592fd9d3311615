package format

// Actions of a cursor entry.
const (
	Acquire uint8 = iota + 1
	Advance
	Release
	Set
	Delete
)

const (
	cursorsMax      = 4096
	cursorTextMax   = 127 // of a name and of a holder, in bytes
	flagWithRecords = 2
)

// checkCursor says what is wrong with the payload of a cursor entry. A reader of records needs no more of it.
func checkCursor(payload []byte) error {
	r := Reader{Data: payload}
	action, flags := r.U8(), r.U8()
	name, holder, subject := r.Name(), r.Name(), r.Name()
	epoch, position, lease := r.U64(), r.U64(), r.U32()
	isAcquire, isAdvance, isSet := action == Acquire, action == Advance, action == Set
	switch {
	case !r.Done() || name == "" || len(name) > cursorTextMax || len(holder) > cursorTextMax:
		return refuse("cursor", "the payload is no cursor")
	case action < Acquire || action > Delete:
		return refuse("cursor", "action %d", action)
	case flags > flagWithRecords || flags != 0 && !isAdvance:
		return refuse("cursor", "flags %d of action %d", flags, action)
	case isAcquire != (holder != "") || lease != 0 && !isAcquire || subject != "" && !isAcquire && !isSet,
		epoch != 0 && !isAdvance && action != Release, position != 0 && !isAdvance && !isSet:
		return refuse("cursor", "a field that action %d does not have, or none that it needs", action)
	}
	return nil
}

// SkipCursors goes over the cursors of a state, or says what is wrong with them.
func SkipCursors(data []byte) error {
	r := Reader{Data: data}
	r.U64() // the last entry that changed one
	count := r.U32()
	if count > cursorsMax {
		return refuse("cursors", "%d, at most %d", count, cursorsMax)
	}
	names := map[string]bool{}
	for ; count > 0 && !r.Failed; count-- {
		names[r.Name()] = true
		r.Name()          // its holder
		r.Name()          // its owner
		r.Take(8 + 8 + 4) // epoch, position, lease
		r.Take(8 + 8 + 4) // the records of the last advance: entry, offset, count
	}
	awaited := r.Name() // one that moves on with the records of the next entry
	if awaited != "" {
		r.Take(8 + 8)
	}
	if !r.Done() || awaited != "" && !names[awaited] {
		return Damaged("cursors", "they do not fill their part of the state")
	}
	return nil
}
