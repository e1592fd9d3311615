package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"loghouse.example/go/format"
	"loghouse.example/go/wire"
)

// see gets each record, with its offset.
type see func(offset uint64, record *format.Record) error

// fetch reads from an offset to the end of the log.
func fetch(ctx context.Context, c *cluster, offset uint64, see see) error {
	for {
		told, err := c.call(ctx, wire.Fetch{Offset: offset})
		var failure *wire.Failure
		if errors.As(err, &failure) && failure.Code == 17 && len(failure.Numbers) == 3 && offset == failure.Numbers[2] {
			return nil // nothing is behind the last record, the leader says
		}
		if err != nil {
			return err
		}
		if offset, err = take(c.uuid, offset, told.(*wire.Frames), see); err != nil {
			return err
		}
	}
}

// follow reads from an offset on, and goes on as records come, at whichever node is there.
func follow(ctx context.Context, c *cluster, offset uint64, see see) error {
	var pause backoff
	for {
		connected, err := c.connect(ctx, false)
		if err == nil {
			reached := offset
			reached, err = followOn(ctx, connected, c.uuid, offset, see)
			if reached > offset {
				pause.reset()
			}
			offset = reached
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var refusal *format.Refusal
		if errors.As(err, &refusal) || errors.Is(err, errStop) || c.judge(err) == refused {
			return err
		}
		fmt.Fprintf(os.Stderr, "again from %d: %v\n", offset, err)
		c.drop()
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// followOn follows on one connection; it gives back credit as it digests, and returns where to go on.
func followOn(ctx context.Context, connected *connection, cluster wire.UUID, offset uint64, see see) (uint64, error) {
	stream, answers, err := connected.ask(wire.Follow{Offset: offset, Credit: creditMax})
	if err != nil {
		return offset, err
	}
	defer connected.cancel(stream)
	digested := uint32(0)
	for {
		var told answer
		isOpen := true
		select {
		case told, isOpen = <-answers:
		case <-ctx.Done():
			return offset, ctx.Err()
		}
		if !isOpen {
			return offset, errLost
		}
		if told.err != nil {
			return offset, told.err
		}
		frames := told.message.(*wire.Frames)
		if offset, err = take(cluster, offset, frames, see); err != nil {
			return offset, err
		}
		digested += uint32(len(frames.Frames))
		if digested >= creditMax/4 {
			if err := connected.write(wire.Credit{Credit: digested}, 0, stream); err != nil {
				return offset, err
			}
			digested = 0
		}
	}
}

// take checks every entry of an answer, and shows the records from `offset` on. It returns where to go on.
func take(cluster wire.UUID, offset uint64, frames *wire.Frames, see see) (uint64, error) {
	seed := format.Seed(cluster, defaultGroup)
	data := frames.Frames
	var place format.Place
	for len(data) > 0 {
		entry, err := format.Decode(seed, data)
		if err != nil {
			return offset, err
		}
		if place.Index == 0 { // the first one: it joins what this answer does not show
			place = format.Place{Index: entry.Index - 1, Term: entry.Term, NextOffset: entry.BaseOffset, Timestamp: entry.Timestamp}
			if entry.BaseOffset > offset {
				return offset, format.Damaged("base_offset", fmt.Sprintf("%d, but %d was asked for", entry.BaseOffset, offset))
			}
		}
		if err := place.Join(&entry); err != nil {
			return offset, err
		}
		data = data[entry.Size():]
		if entry.Kind != format.Records {
			continue
		}
		records, err := format.DecodeBatch(entry.Payload, entry.Codec, entry.RecordCount)
		if err != nil {
			return offset, fmt.Errorf("entry %d: %w", entry.Index, err)
		}
		for i := range records {
			if at := entry.BaseOffset + uint64(i); at >= offset {
				if err := see(at, &records[i]); err != nil {
					return offset, err
				}
				offset = at + 1
			}
		}
	}
	if offset = max(offset, frames.NextOffset); offset != place.NextOffset {
		return offset, format.Damaged("next_offset", "is not behind the last entry")
	}
	return offset, nil
}
