package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"time"

	"loghouse.example/go/wire"
)

// cluster finds its nodes: by the addresses that it was given, and by what Describe tells.
type cluster struct {
	config    *tls.Config
	given     []string
	turn      int
	uuid      wire.UUID         // of the first node that was met; all others must have the same
	addresses map[string]string // of nodes, by name
	leader    string            // the node's name, when one was named
	current   *connection
}

// backoff is how long to wait before a request is made again (wire_client.md 4).
type backoff struct{ pause time.Duration }

func (b *backoff) wait(ctx context.Context) error {
	b.pause = min(max(2*b.pause, 20*time.Millisecond), time.Second)
	part := b.pause/2 + time.Duration(rand.Int63n(int64(b.pause/2)))
	select {
	case <-time.After(part):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *backoff) reset() { b.pause = 0 }

// connect returns a connection: any that there is, or with the leader, if it is known; else with the next node.
func (c *cluster) connect(ctx context.Context, toLeader bool) (*connection, error) {
	if c.current != nil {
		if named := c.current.leaderNamed(); named != "" {
			c.leader = named
		}
		if !toLeader || c.leader == "" || c.leader == c.current.node.NodeName {
			return c.current, nil
		}
	}
	address := ""
	if toLeader {
		address = c.addresses[c.leader]
		c.leader = "" // if it cannot be reached, another node knows more
	}
	if address == "" {
		address = c.given[c.turn%len(c.given)]
		c.turn++
	}
	c.drop()
	connected, err := dial(ctx, address, c.config)
	if err != nil {
		return nil, err
	}
	if c.uuid == (wire.UUID{}) {
		c.uuid = connected.node.ClusterUUID
	} else if c.uuid != connected.node.ClusterUUID {
		connected.close()
		return nil, fmt.Errorf("%s is of another cluster", address)
	}
	c.current = connected
	return connected, c.describe(ctx)
}

// describe learns the addresses of all nodes, and who leads.
func (c *cluster) describe(ctx context.Context) error {
	told, err := c.current.call(ctx, wire.Describe{})
	if err != nil {
		return err
	}
	c.addresses = map[string]string{}
	for _, server := range told.(*wire.DescribeReply).Servers {
		c.addresses[server.Name] = server.Address
		if server.IsLeader && c.leader == "" && server.IsAlive {
			c.leader = server.Name
		}
	}
	return nil
}

// drop ends the connection.
func (c *cluster) drop() {
	if c.current != nil {
		c.current.close()
		c.current = nil
	}
}

// outcome is what an error means for the request that it answers (wire_format.md 4).
type outcome int

const (
	refused  outcome = iota // not done, and it will be refused again
	again                   // not done; it may be made again, at another node
	slower                  // not done; it may be made again here, later
	unknown                 // nobody knows
	disowned                // the producer, or its sequence, is not known there
)

func (c *cluster) judge(err error) outcome {
	var failure *wire.Failure
	switch {
	case errors.Is(err, errLeaving):
		return again
	case !errors.As(err, &failure) || failure.Code < 16:
		return unknown // the connection is lost
	}
	switch failure.Code {
	case 18:
		if len(failure.Texts) == 1 {
			c.leader = failure.Texts[0]
		}
		return again
	case 19:
		return again
	case 20:
		return unknown
	case 22, 23:
		return disowned
	case 24, 25:
		return slower
	}
	return refused
}

// call makes a request that may be made again, until it is answered or refused.
func (c *cluster) call(ctx context.Context, request wire.Request) (any, error) {
	var pause backoff
	for {
		connected, err := c.connect(ctx, false)
		if err == nil {
			var told any
			if told, err = connected.call(ctx, request); err == nil {
				return told, nil
			}
			switch c.judge(err) {
			case refused, disowned:
				return nil, err
			case again, unknown:
				c.drop()
			}
		}
		fmt.Fprintln(os.Stderr, "again:", err)
		if err := pause.wait(ctx); err != nil {
			return nil, err
		}
	}
}
