package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"loghouse.example/go/wire"
)

const (
	defaultGroup  = 1
	greetingMax   = 10 * time.Second
	silence       = 30 * time.Second // then a Ping, and as long again until the connection is lost
	creditMax     = 1 << 20
	smallestFrame = 64 // of the frames that credit counts
)

// errLost: the connection ended; of every open request nobody knows what became of it (as with code 20).
var errLost = errors.New("the connection is lost")

// errLeaving: the node said Goodbye, and takes nothing new; certainly nothing was done (as with code 19).
var errLeaving = errors.New("the node is leaving")

// answer is what came on a stream: a message of wire, or a *wire.Failure or an error as Err.
type answer struct {
	message any
	err     error
}

// connection is one connection with a node, from its Hello on.
type connection struct {
	node *wire.Hello

	tls     *tls.Conn
	in      *bufio.Reader
	mutex   sync.Mutex
	next    uint32              // the last stream's number
	open    map[uint32]*pending // what was asked and is not over
	leaving bool                // the node said Goodbye
	leader  string              // whom the node named last
	lost    error               // why the connection is over
}

// pending is a request that is not over.
type pending struct {
	kind    uint16 // its own; that of its reply is one more
	answers chan answer
}

// tell hands on an answer; false when there is no room for it.
func (p *pending) tell(told answer) bool {
	select {
	case p.answers <- told:
		return true
	default:
		return false
	}
}

// dial connects, and greets.
func dial(ctx context.Context, address string, config *tls.Config) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, greetingMax)
	defer cancel()
	dialer := tls.Dialer{Config: config}
	plain, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &connection{tls: plain.(*tls.Conn), in: bufio.NewReaderSize(plain, 64<<10), open: map[uint32]*pending{}}
	if err := c.greet(); err != nil {
		c.tls.Close()
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	go c.receive()
	return c, nil
}

func (c *connection) greet() error {
	if protocol := c.tls.ConnectionState().NegotiatedProtocol; protocol != "loghouse/1" {
		return fmt.Errorf("ALPN chose %q", protocol)
	}
	hello := wire.Hello{Role: 2, VersionMin: 1, VersionMax: 1, EntryKinds: []byte{1, 2, 3, 4, 5}, Software: "go example"}
	if _, err := c.tls.Write(wire.Encode(hello, 0, 0)); err != nil {
		return err
	}
	c.tls.SetReadDeadline(time.Now().Add(greetingMax))
	message, err := c.read()
	if err != nil {
		return err
	}
	switch message := message.(type) {
	case *wire.Hello:
		if message.Role != 1 || message.VersionMin > 1 {
			return errors.New("this is no node, or not of version 1")
		}
		if message.ClusterUUID == (wire.UUID{}) {
			return errors.New("the node is in no cluster yet")
		}
		c.node = message
		return nil
	case *wire.Failure:
		return message
	}
	return errors.New("the node's first frame is no Hello")
}

func (c *connection) read() (any, error) {
	frame, err := wire.Read(c.in)
	if err != nil {
		return nil, err
	}
	return wire.Decode(frame)
}

// receive takes what comes until the connection is over; then it tells all who wait.
func (c *connection) receive() {
	err := c.receiveAll()
	c.tls.Close()
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.lost = fmt.Errorf("%w: %v", errLost, err)
	for stream, asked := range c.open {
		if !asked.tell(answer{err: c.lost}) {
			close(asked.answers)
		}
		delete(c.open, stream)
	}
}

func (c *connection) receiveAll() error {
	pinged := false
	for {
		c.tls.SetReadDeadline(time.Now().Add(silence))
		if _, err := c.in.Peek(1); err != nil {
			var timeout net.Error
			if pinged || !errors.As(err, &timeout) || !timeout.Timeout() {
				return err
			}
			pinged = true
			if err := c.write(wire.Ping{Token: 1}, 0, 0); err != nil {
				return err
			}
			continue
		}
		pinged = false
		c.tls.SetReadDeadline(time.Now().Add(silence))
		frame, err := wire.Read(c.in)
		if err != nil {
			return err
		}
		message, err := wire.Decode(frame)
		if err != nil {
			return err
		}
		switch message := message.(type) {
		case nil, *wire.Pong:
		case *wire.Ping:
			err = c.write(wire.Pong{Token: message.Token}, 0, 0)
		case *wire.LeaderHint:
			c.mutex.Lock()
			c.leader = message.Name
			c.mutex.Unlock()
		case *wire.Goodbye:
			c.mutex.Lock()
			c.leaving = true
			c.mutex.Unlock()
		default:
			if failure, isFailure := message.(*wire.Failure); isFailure && frame.Kind == 0x0004 {
				return failure
			}
			err = c.deliver(frame, message)
		}
		if err != nil {
			return err
		}
	}
}

// deliver hands an answer to who asked. An answer of a stream that is over was under way when it was cancelled.
func (c *connection) deliver(frame wire.Frame, message any) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	asked, isOpen := c.open[frame.Stream]
	if !isOpen {
		if frame.Stream == 0 || frame.Stream > c.next {
			return fmt.Errorf("an answer on stream %d, which was never opened", frame.Stream)
		}
		return nil
	}
	told := answer{message: message}
	failure, isFailure := message.(*wire.Failure)
	if isFailure {
		told = answer{err: failure}
	} else if frame.Kind != asked.kind+1 {
		return fmt.Errorf("kind %#04x in answer to %#04x", frame.Kind, asked.kind)
	}
	if !asked.tell(told) {
		return errors.New("the node sends more than it has credit for")
	}
	if isFailure || asked.kind != (wire.Follow{}).Kind() {
		delete(c.open, frame.Stream) // one answer ends a stream, but not a Follow's
	}
	return nil
}

func (c *connection) write(request wire.Request, group, stream uint32) error {
	_, err := c.tls.Write(wire.Encode(request, group, stream))
	return err
}

// ask sends a request; its answer, or answers, come out of the channel.
func (c *connection) ask(request wire.Request) (stream uint32, answers chan answer, err error) {
	c.mutex.Lock()
	defer c.mutex.Unlock() // also while writing: numbers must go out in order
	if c.lost != nil {
		return 0, nil, c.lost
	}
	if c.leaving {
		return 0, nil, errLeaving
	}
	room := 1
	if follow, isFollow := request.(wire.Follow); isFollow {
		room = int(follow.Credit)/smallestFrame + 2 // so that nobody who follows can hold up the others
	}
	c.next++
	answers = make(chan answer, room)
	c.open[c.next] = &pending{request.Kind(), answers}
	if err := c.write(request, defaultGroup, c.next); err != nil {
		c.tls.Close()
		return 0, nil, fmt.Errorf("%w: %v", errLost, err)
	}
	return c.next, answers, nil
}

// call asks, and waits for the one answer.
func (c *connection) call(ctx context.Context, request wire.Request) (any, error) {
	stream, answers, err := c.ask(request)
	if err != nil {
		return nil, err
	}
	select {
	case told := <-answers:
		return told.message, told.err
	case <-ctx.Done():
		c.cancel(stream)
		return nil, ctx.Err()
	}
}

// cancel ends a stream; what still comes on it is dropped.
func (c *connection) cancel(stream uint32) {
	c.mutex.Lock()
	_, isOpen := c.open[stream]
	delete(c.open, stream)
	c.mutex.Unlock()
	if isOpen {
		c.write(wire.Cancel{}, 0, stream)
	}
}

// leaderNamed is the leader as this node last named it, or empty.
func (c *connection) leaderNamed() string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.leader
}

// close says Goodbye, and ends the connection when nothing is open any more.
func (c *connection) close() {
	c.mutex.Lock()
	for stream := range c.open {
		delete(c.open, stream)
		c.write(wire.Cancel{}, 0, stream)
	}
	c.mutex.Unlock()
	c.write(wire.Goodbye{}, 0, 0)
	c.tls.Close()
}
