// A client of the binary protocol, as docs/wire_format.md and docs/wire_client.md say: mTLS, exactly once through the
// death of a leader, reads that check every byte. Go's own library is all it needs.
//
//	go run ./client -addresses a:8400,b:8400 -ca ca.pem -cert root.pem -key root.key produce < lines
//	go run ./client ... fetch 0 | follow 0 | describe | bounds
//	go run ./client -vectors ../../tests/vectors
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"loghouse.example/go/format"
	"loghouse.example/go/wire"
)

var errStop = errors.New("enough")

func main() {
	addresses := flag.String("addresses", "localhost:8400", "of some nodes, HOST:PORT, with commas")
	ca := flag.String("ca", "certs/ca.pem", "who signs certificates")
	certificate := flag.String("cert", "certs/root.pem", "who this client is")
	key := flag.String("key", "certs/root.key", "its key")
	count := flag.Uint64("count", 0, "follow: stop after so many records")
	vectors := flag.String("vectors", "", "check the test vectors in this folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := errStop
	if *vectors != "" {
		err = checkVectors(*vectors)
	} else if config, problem := tlsConfig(*ca, *certificate, *key); problem != nil {
		err = problem
	} else {
		nodes := &cluster{config: config, given: strings.Split(*addresses, ",")}
		err = run(ctx, nodes, flag.Arg(0), flag.Arg(1), *count)
		nodes.drop()
	}
	if err != nil && !errors.Is(err, errStop) {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func tlsConfig(ca, certificate, key string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	bundle, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("%s holds no certificate", ca)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      roots,
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"loghouse/1"},
	}, nil
}

func run(ctx context.Context, nodes *cluster, action, argument string, count uint64) error {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	show := func(offset uint64, record *format.Record) error {
		fmt.Fprintf(out, "%d\t%s\n", offset, record.Value)
		if count--; count == 0 {
			return errStop
		}
		return out.Flush()
	}
	switch action {
	case "describe", "bounds":
		requests := map[string]wire.Request{"describe": wire.Describe{}, "bounds": wire.Bounds{}}
		told, err := nodes.call(ctx, requests[action])
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(told)
	case "fetch", "follow":
		offset, err := strconv.ParseUint(argument, 10, 64)
		if err != nil {
			return err
		}
		if action == "fetch" {
			return fetch(ctx, nodes, offset, show)
		}
		return follow(ctx, nodes, offset, show)
	case "produce":
		lines := make(chan []byte)
		go readLines(lines)
		appending := producer{cluster: nodes, acknowledged: func(b *batch, baseOffset uint64) {
			for i, value := range b.values {
				fmt.Fprintf(out, "%d\t%s\n", baseOffset+uint64(i), value)
			}
			out.Flush()
		}}
		return appending.run(ctx, lines)
	}
	return fmt.Errorf("%q is none of produce, fetch, follow, describe, bounds", action)
}

func readLines(lines chan<- []byte) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		lines <- append([]byte(nil), in.Bytes()...)
	}
	close(lines)
}
