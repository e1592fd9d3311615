"""Messages and stubs generated from `proto/loghouse/api/v1/log.proto`."""
