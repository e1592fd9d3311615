"""Spans of requests, by OpenTelemetry (`loghouse[otel]`). Nothing here is imported while nobody traces.

See `docs/tracing.md`. Only this package imports OpenTelemetry. The rooms above have subclasses of what is on
an append's way, and take them instead when they are given a `Tracer`.
"""
