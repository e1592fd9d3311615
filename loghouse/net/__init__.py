"""The one TLS port: peers, binary clients, and the way to gRPC."""
