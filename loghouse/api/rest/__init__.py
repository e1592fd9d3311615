"""The JSON API below `/api/v1`: plain requests in, plain responses out; an HTTP server is set before it."""
