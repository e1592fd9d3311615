package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"loghouse.example/go/format"
	"loghouse.example/go/wire"
)

const (
	window        = 16 // batches on their way, at most 64
	staleMax      = 5 * time.Second
	answerMax     = 10 * time.Second
	batchMax      = 100 // records of one batch of this example
	firstSequence = 0
)

// errUnknown: a batch may be in the log, and nobody can tell any more.
var errUnknown = errors.New("nobody knows whether the records were appended")

// batch is a part of the chain of a producer. Its bytes and its place in the chain never change.
type batch struct {
	values   [][]byte
	bytes    []byte
	sequence uint32
	isUnsure bool // a copy may be in the log, or on its way there
	answers  chan answer
}

// producer appends batches exactly once and in order (wire_client.md 5).
type producer struct {
	cluster       *cluster
	id            uint64 // 0: to be registered
	next          uint64 // the next batch's sequence
	chain         []*batch
	disownedSince time.Time
	acknowledged  func(b *batch, baseOffset uint64)
}

// run appends all lines. It returns when all are acknowledged, or when one cannot be.
func (p *producer) run(ctx context.Context, lines <-chan []byte) error {
	var pause backoff
	for {
		isMore, err := p.attempt(ctx, &lines, &pause)
		if err == nil && !isMore {
			return nil
		}
		if err == nil {
			continue
		}
		switch p.cluster.judge(err) {
		case refused:
			return err
		case disowned:
			if err := p.disowned(err); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "again, %d batches: %v\n", len(p.chain), err)
		p.cluster.drop() // whatever is under way there: no late answer can be mistaken
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// attempt sends the whole chain on one connection, then what comes, until something fails or all is done.
// isMore: all is well, but another node leads, and the chain is empty.
func (p *producer) attempt(ctx context.Context, lines *<-chan []byte, pause *backoff) (isMore bool, err error) {
	connected, err := p.cluster.connect(ctx, true)
	if err != nil {
		return true, err
	}
	if p.id == 0 {
		told, err := connected.call(ctx, wire.RegisterProducer{})
		if err != nil {
			return true, err
		}
		p.id, p.next = told.(*wire.RegisterProducerReply).ProducerID, firstSequence
		for _, b := range p.chain {
			p.number(b)
		}
	}
	sent := 0
	for {
		for ; sent < len(p.chain); sent++ {
			if err := p.send(connected, p.chain[sent]); err != nil {
				p.doubt(0, sent+1)
				return true, err
			}
		}
		named := connected.leaderNamed()
		isElsewhere := named != "" && named != connected.node.NodeName
		input := *lines
		if len(p.chain) == window || isElsewhere || p.next > math.MaxUint32 {
			input = nil // first what is on its way
		}
		var answers chan answer
		if len(p.chain) > 0 {
			answers = p.chain[0].answers
		} else if p.next > math.MaxUint32 {
			p.id = 0
			return true, nil
		} else if isElsewhere || *lines == nil {
			return *lines != nil, nil
		}
		select {
		case line, isLine := <-input:
			if !isLine {
				*lines = nil
				break
			}
			b := &batch{values: gather(line, input)}
			b.bytes = format.EncodeBatch(b.values)
			p.number(b)
			p.chain = append(p.chain, b)
		case told := <-answers:
			if told.err != nil {
				first := 1 // the oldest was answered; a copy of the others may get there once it is in the log
				if p.cluster.judge(told.err) == unknown {
					first = 0
				}
				p.doubt(first, sent)
				return true, told.err
			}
			p.settle(told.message.(*wire.ProduceReply))
			pause.reset()
			sent--
		case <-time.After(answerMax):
			p.doubt(0, sent)
			return true, errLost
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// gather takes the lines that are there by now into one batch.
func gather(line []byte, lines <-chan []byte) [][]byte {
	values := [][]byte{line}
	for len(values) < batchMax {
		select {
		case line, isLine := <-lines:
			if !isLine {
				return values // seen again by the caller
			}
			values = append(values, line)
		default:
			return values
		}
	}
	return values
}

func (p *producer) number(b *batch) {
	b.sequence = uint32(p.next)
	p.next++
}

func (p *producer) send(connected *connection, b *batch) (err error) {
	crc := format.Checksum(0, b.bytes)
	_, b.answers, err = connected.ask(wire.Produce{
		Batch:            b.bytes,
		RecordCount:      uint32(len(b.values)),
		BatchCRC:         &crc,
		ProducerID:       p.id,
		ProducerSequence: b.sequence,
	})
	return err
}

// doubt notes that batches of the chain were sent, and that nobody knows what becomes of them.
func (p *producer) doubt(first, end int) {
	for i := first; i < end; i++ {
		p.chain[i].isUnsure = true
	}
}

// disowned: the node does not know the producer, or not its batches before these.
func (p *producer) disowned(err error) error {
	if len(p.chain) == 0 || !p.chain[0].isUnsure {
		p.id = 0 // nothing of the chain is in the log, or can get there: number all anew
		for _, b := range p.chain {
			b.isUnsure = false
		}
		return nil
	}
	if p.disownedSince.IsZero() {
		p.disownedSince = time.Now()
	}
	if time.Since(p.disownedSince) > staleMax {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return nil
}

func (p *producer) settle(reply *wire.ProduceReply) {
	p.acknowledged(p.chain[0], reply.BaseOffset)
	p.chain = p.chain[1:]
	p.disownedSince = time.Time{}
}
