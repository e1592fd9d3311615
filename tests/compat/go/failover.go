package main

// Consumers that stream, and a producer, while the leader is killed.

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	api "loghouse.test/compat/api/v1"
)

const (
	beforeKill = 50
	afterKill  = 50
	pause      = 50 * time.Millisecond
)

type entry struct {
	Offset uint64 `json:"offset"`
	Value  string `json:"value"`
}

// consumer streams from `nodes[at]` on, and from the next node where it stopped whenever a stream breaks.
type consumer struct {
	nodes  []one
	at     int
	target *atomic.Int64 // the offset to stop after; below 0 while nobody knows it
	seen   atomic.Int64  // records so far
	breaks []string      // why each broken stream broke
	read   []entry
}

func (c *consumer) run(next uint64, done chan<- struct{}) {
	defer close(done)
	for !c.isDone(next) {
		if err := c.stream(&next); err != nil {
			c.breaks = append(c.breaks, err.Error())
			c.at = (c.at + 1) % len(c.nodes)
			time.Sleep(pause)
		}
	}
}

func (c *consumer) isDone(next uint64) bool {
	target := c.target.Load()
	return target >= 0 && next > uint64(target)
}

func (c *consumer) stream(next *uint64) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := c.nodes[c.at].log.ConsumeStream(ctx, &api.ConsumeRequest{Offset: *next})
	if err != nil {
		return err
	}
	for !c.isDone(*next) {
		reply, err := stream.Recv()
		if err != nil {
			return err
		}
		c.read = append(c.read, entry{reply.Record.Offset, string(reply.Record.Value)})
		*next = reply.Record.Offset + 1
		c.seen.Add(1)
	}
	return nil
}

// producer sends each value to the leader until one is acknowledged, as clients of the original do: what
// was sent twice may be in the log twice.
type producer struct {
	nodes   []one
	at      int
	name    string
	number  int
	acked   []entry
	retried []string
}

func (p *producer) step() {
	value := fmt.Sprintf("%s/failover/%d", p.name, p.number)
	p.number++
	for {
		offset, err := produce(p.nodes[p.at].log, &api.Record{Value: []byte(value)})
		if err == nil {
			p.acked = append(p.acked, entry{offset, value})
			return
		}
		p.retried = append(p.retried, value)
		time.Sleep(pause)
		p.at = leaderOf(p.nodes)
	}
}

// leaderOf returns the place of the leader, as the first node that answers and knows one tells it.
func leaderOf(nodes []one) int {
	deadline := time.Now().Add(callSeconds)
	for time.Now().Before(deadline) {
		for _, node := range nodes {
			servers, err := serversOf(node.log)
			if err != nil {
				continue
			}
			for _, server := range servers {
				for place, other := range nodes {
					if server["is_leader"] == true && server["rpc_addr"] == other.address {
						return place
					}
				}
			}
		}
		time.Sleep(pause)
	}
	must(fmt.Errorf("nobody knows a leader"))
	return 0
}

func allSee(consumers []*consumer) bool {
	for _, consumer := range consumers {
		if consumer.seen.Load() == 0 {
			return false
		}
	}
	return true
}

// waitKilled returns a channel that is closed once stdin says so.
func waitKilled() <-chan struct{} {
	killed := make(chan struct{})
	go func() {
		line := taken(bufio.NewReader(os.Stdin).ReadString('\n'))
		if strings.TrimSpace(line) != "killed" {
			must(fmt.Errorf("unexpected %q on stdin", line))
		}
		close(killed)
	}()
	return killed
}

func failover(nodes []one, name string) {
	producer := producer{nodes: nodes, at: leaderOf(nodes), name: name}
	producer.step()
	first := producer.acked[0].Offset
	var target atomic.Int64
	target.Store(-1)
	var consumers []*consumer
	var done []chan struct{}
	for place := range nodes {
		consumers = append(consumers, &consumer{nodes: nodes, at: place, target: &target, breaks: []string{}})
		done = append(done, make(chan struct{}))
		go consumers[place].run(first, done[place])
	}
	// All stream before the leader dies.
	for producer.number < beforeKill || !allSee(consumers) {
		producer.step()
	}
	leader := leaderOf(nodes)
	tell("kill", facts{"address": nodes[leader].address})
	killed := waitKilled()
	for more := -1; more < afterKill; {
		producer.step()
		select {
		case <-killed:
			more++
		default:
		}
	}
	acked := producer.acked
	last := acked[len(acked)-1].Offset
	target.Store(int64(last))
	producer.step() // a consumer that waits at the tail learns of the target with this record
	streams, servers := facts{}, facts{}
	for place, node := range nodes {
		<-done[place]
		seen := consumers[place]
		streams[node.address] = facts{"breaks": seen.breaks, "records": seen.read}
		if place != leader {
			servers[node.address] = awaitServers(node.log)
		}
	}
	tell("failover", facts{
		"first": first, "last": last, "acked": acked, "retried": producer.retried,
		"servers": servers, "streams": streams,
	})
}
