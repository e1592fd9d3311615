package main

// The original's own way to spread calls: a resolver that asks one node for the servers, and a picker that
// sends Produce to the leader and Consume to the followers in turn (to the leader when there are none).

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	api "loghouse.test/compat/api/v1"
)

const scheme = "loghouse"

type leaderKey struct{}

// serversResolver resolves `loghouse:///host:port` to what that node's GetServers tells.
type serversResolver struct {
	target    string
	tls       credentials.TransportCredentials
	clientCon resolver.ClientConn
	asked     *grpc.ClientConn
}

type resolverBuilder struct {
	tls credentials.TransportCredentials
}

func (b resolverBuilder) Scheme() string { return scheme }

func (b resolverBuilder) Build(
	target resolver.Target, clientCon resolver.ClientConn, _ resolver.BuildOptions,
) (resolver.Resolver, error) {
	asked, err := grpc.NewClient(target.Endpoint(), grpc.WithTransportCredentials(b.tls))
	if err != nil {
		return nil, err
	}
	found := &serversResolver{target: target.Endpoint(), tls: b.tls, clientCon: clientCon, asked: asked}
	found.ResolveNow(resolver.ResolveNowOptions{})
	return found, nil
}

func (r *serversResolver) ResolveNow(resolver.ResolveNowOptions) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	reply, err := api.NewLogClient(r.asked).GetServers(ctx, &api.GetServersRequest{})
	if err != nil {
		r.clientCon.ReportError(err)
		return
	}
	var addresses []resolver.Address
	for _, server := range reply.Servers {
		addresses = append(addresses, resolver.Address{
			Addr:       server.RpcAddr,
			Attributes: attributes.New(leaderKey{}, server.IsLeader),
		})
	}
	_ = r.clientCon.UpdateState(resolver.State{
		Addresses:     addresses,
		ServiceConfig: r.clientCon.ParseServiceConfig(`{"loadBalancingConfig":[{"` + scheme + `":{}}]}`),
	})
}

func (r *serversResolver) Close() { _ = r.asked.Close() }

type pickerBuilder struct{}

func (pickerBuilder) Build(ready base.PickerBuildInfo) balancer.Picker {
	picker := &picker{}
	for connection, about := range ready.ReadySCs {
		if isLeader, _ := about.Address.Attributes.Value(leaderKey{}).(bool); isLeader {
			picker.leader = connection
		} else {
			picker.followers = append(picker.followers, connection)
		}
	}
	return picker
}

type picker struct {
	leader    balancer.SubConn
	followers []balancer.SubConn
	turn      atomic.Uint64
}

func (p *picker) Pick(call balancer.PickInfo) (balancer.PickResult, error) {
	var picked balancer.SubConn
	switch {
	case strings.Contains(call.FullMethodName, "Produce") || len(p.followers) == 0:
		picked = p.leader
	case strings.Contains(call.FullMethodName, "Consume"):
		picked = p.followers[p.turn.Add(1)%uint64(len(p.followers))]
	}
	if picked == nil {
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	return balancer.PickResult{SubConn: picked}, nil
}

func init() {
	balancer.Register(base.NewBalancerBuilder(scheme, pickerBuilder{}, base.Config{}))
}

// dialBalanced connects to the cluster that the node at `address` belongs to.
func dialBalanced(address string, tls credentials.TransportCredentials) (*grpc.ClientConn, error) {
	if address == "" {
		return nil, errors.New("no address")
	}
	return grpc.NewClient(
		scheme+":///"+address,
		grpc.WithTransportCredentials(tls),
		grpc.WithResolvers(resolverBuilder{tls}),
	)
}
