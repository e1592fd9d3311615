"""The one TLS port: peers, raw clients, and the way to gRPC."""
