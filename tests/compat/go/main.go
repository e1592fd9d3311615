// A client of the Go original, made from its own log.proto: it does every call it knows against a cluster
// of Loghouse nodes, and writes what it saw as JSON lines for tests/compat/test_compat.py to judge.
//
//	client -addresses A,B,C -certs DIR -name TEXT
//
// When it wants the leader killed it writes {"step": "kill", ...} and goes on; "killed" on stdin says that
// it happened.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"

	api "loghouse.test/compat/api/v1"
)

const (
	callSeconds  = 20 * time.Second
	streamLength = 100
)

type facts map[string]any

var output = json.NewEncoder(os.Stdout)

func tell(step string, seen facts) {
	seen["step"] = step
	must(output.Encode(seen))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func taken[T any](value T, err error) T {
	must(err)
	return value
}

// one is what a client holds for one node.
type one struct {
	address string
	log     api.LogClient
}

func credentialsOf(certs, name string) credentials.TransportCredentials {
	pair := taken(tls.LoadX509KeyPair(filepath.Join(certs, name+".pem"), filepath.Join(certs, name+".key")))
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(taken(os.ReadFile(filepath.Join(certs, "ca.pem")))) {
		must(fmt.Errorf("%s/ca.pem holds no certificate", certs))
	}
	// As the original's TLS: one CA, a client certificate, one fixed name that every server must have.
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "127.0.0.1",
	})
}

func dial(address string, credentials credentials.TransportCredentials) one {
	connection := taken(grpc.NewClient(address, grpc.WithTransportCredentials(credentials)))
	return one{address, api.NewLogClient(connection)}
}

func limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callSeconds)
}

func serversOf(log api.LogClient) ([]facts, error) {
	ctx, cancel := limited()
	defer cancel()
	reply, err := log.GetServers(ctx, &api.GetServersRequest{})
	if err != nil {
		return nil, err
	}
	var servers []facts
	for _, server := range reply.Servers {
		servers = append(servers, facts{"id": server.Id, "rpc_addr": server.RpcAddr, "is_leader": server.IsLeader})
	}
	return servers, nil
}

// awaitServers asks until the node tells of one leader and where everybody is: a node that was just started
// may have to hear of it.
func awaitServers(log api.LogClient) []facts {
	deadline := time.Now().Add(callSeconds)
	for {
		servers := taken(serversOf(log))
		leaders, isWhole := 0, true
		for _, server := range servers {
			if server["is_leader"] == true {
				leaders++
			}
			isWhole = isWhole && server["rpc_addr"] != ""
		}
		if leaders == 1 && isWhole {
			return servers
		}
		if time.Now().After(deadline) {
			must(fmt.Errorf("no one leader, or a server without address: %v", servers))
		}
		time.Sleep(pause)
	}
}

func produce(log api.LogClient, record *api.Record, options ...grpc.CallOption) (uint64, error) {
	ctx, cancel := limited()
	defer cancel()
	reply, err := log.Produce(ctx, &api.ProduceRequest{Record: record}, options...)
	return reply.GetOffset(), err
}

func consume(log api.LogClient, offset uint64, options ...grpc.CallOption) (*api.Record, error) {
	ctx, cancel := limited()
	defer cancel()
	reply, err := log.Consume(ctx, &api.ConsumeRequest{Offset: offset}, options...)
	return reply.GetRecord(), err
}

func factsOf(record *api.Record, from string) facts {
	return facts{
		"from": from, "offset": record.Offset, "value": string(record.Value),
		"term": record.Term, "type": record.Type,
	}
}

// failure is how a refused call looks to a Go program.
func failure(err error) facts {
	told := status.Convert(err)
	seen := facts{"code": uint32(told.Code()), "message": told.Message()}
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			seen["reason"], seen["metadata"] = detail.Reason, detail.Metadata
		case *errdetails.LocalizedMessage:
			seen["locale"], seen["localized"] = detail.Locale, detail.Message
		}
	}
	return seen
}

func unaryCalls(nodes []one, name string) (offsets []uint64) {
	seen := facts{}
	for _, node := range nodes {
		seen[node.address] = awaitServers(node.log)
	}
	tell("servers", facts{"of": seen})
	for number, node := range nodes {
		record := &api.Record{Value: fmt.Appendf(nil, "%s/unary/%d", name, number), Offset: 999, Term: 7, Type: 3}
		offsets = append(offsets, taken(produce(node.log, record)))
	}
	tell("produce", facts{"offsets": offsets})
	var records []facts
	for _, node := range nodes {
		for _, offset := range offsets {
			records = append(records, factsOf(taken(consume(node.log, offset)), node.address))
		}
	}
	tell("consume", facts{"records": records})
	return offsets
}

func streamCalls(nodes []one, name string, first uint64) (last uint64) {
	ctx, cancel := limited()
	defer cancel()
	stream := taken(nodes[0].log.ProduceStream(ctx))
	for number := range streamLength {
		record := &api.Record{Value: fmt.Appendf(nil, "%s/stream/%d", name, number)}
		must(stream.Send(&api.ProduceRequest{Record: record}))
	}
	must(stream.CloseSend())
	var offsets []uint64
	for {
		reply, err := stream.Recv()
		if err == io.EOF {
			break
		}
		must(err)
		offsets = append(offsets, reply.Offset)
		last = reply.Offset
	}
	tell("produce_stream", facts{"offsets": offsets})
	seen := facts{}
	for _, node := range nodes {
		seen[node.address] = readStream(node, first, last)
	}
	tell("consume_stream", facts{"of": seen})
	return last
}

func readStream(node one, first, last uint64) (records []facts) {
	ctx, cancel := limited()
	defer cancel()
	stream := taken(node.log.ConsumeStream(ctx, &api.ConsumeRequest{Offset: first}))
	for offset := first; offset <= last; offset++ {
		records = append(records, factsOf(taken(stream.Recv()).Record, node.address))
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		must(fmt.Errorf("a cancelled stream ended with %v", err))
	}
	return records
}

func refusedCalls(nodes []one, stranger one, next uint64) {
	for _, node := range nodes {
		_, err := consume(node.log, next)
		tell("out_of_range", failure(err))
	}
	_, err := produce(nodes[0].log, nil)
	tell("empty_produce", failure(err))
	_, err = produce(stranger.log, &api.Record{Value: []byte("no")})
	tell("denied", failure(err))
}

// balancedCalls goes through the original's resolver and picker; where each call went is what counts.
func balancedCalls(nodes []one, credentials credentials.TransportCredentials, name string) {
	leader := leaderOf(nodes)
	connection := taken(dialBalanced(nodes[0].address, credentials))
	defer connection.Close()
	log := api.NewLogClient(connection)
	var produced, consumed []string
	var server peer.Peer
	for number := range 4 {
		record := &api.Record{Value: fmt.Appendf(nil, "%s/balanced/%d", name, number)}
		offset := taken(produce(log, record, grpc.Peer(&server)))
		produced = append(produced, server.Addr.String())
		must(awaitFollowers(log, offset, nodes[leader].address, &server, &consumed))
	}
	tell("balanced", facts{"leader": nodes[leader].address, "produced": produced, "consumed": consumed})
}

// awaitFollowers reads a record until both followers answered once: the picker knows a follower only once
// its connection stands, and before it knows one it goes to the leader; that does not count.
func awaitFollowers(
	log api.LogClient, offset uint64, leader string, server *peer.Peer, consumed *[]string,
) error {
	found := map[string]bool{}
	deadline := time.Now().Add(callSeconds)
	for len(found) < 2 {
		if time.Now().After(deadline) {
			return fmt.Errorf("the picker never came to a second follower: %v", found)
		}
		if _, err := consume(log, offset, grpc.Peer(server)); err != nil {
			return err
		}
		address := server.Addr.String()
		if address == leader && len(*consumed) == 0 {
			continue
		}
		found[address] = true
		*consumed = append(*consumed, address)
	}
	return nil
}

func describe() {
	file := protodesc.ToFileDescriptorProto(api.File_api_v1_log_proto)
	taken(os.Stdout.Write(taken(proto.Marshal(file))))
}

func main() {
	addresses := flag.String("addresses", "", "host:port of every node, with commas between")
	certs := flag.String("certs", "", "folder with ca.pem, root.pem, root.key, nobody.pem, nobody.key")
	name := flag.String("name", "go", "part of every value")
	descriptor := flag.Bool("descriptor", false, "write the serialized description of log.proto, do nothing else")
	flag.Parse()
	if *descriptor {
		describe()
		return
	}
	root := credentialsOf(*certs, "root")
	var nodes []one
	for _, address := range strings.Split(*addresses, ",") {
		nodes = append(nodes, dial(address, root))
	}
	offsets := unaryCalls(nodes, *name)
	last := streamCalls(nodes, *name, offsets[0])
	refusedCalls(nodes, dial(nodes[0].address, credentialsOf(*certs, "nobody")), last+1)
	balancedCalls(nodes, root, *name)
	failover(nodes, *name)
}
