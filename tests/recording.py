"""`Metrics` that remember: for tests of what is counted."""

from collections import Counter

from loghouse.metrics import Metrics


class RecordingMetrics(Metrics):
    """Keeps every event in `events`: its method's name, then what it was told."""

    def __init__(self):
        self.events = []

    def count(self, name, *values):
        """Return how often an event came; with `values`, only those whose first values these are."""
        wanted = (name, *values)
        return sum(event[: len(wanted)] == wanted for event in self.events)

    def counts(self, name):
        """Return how often an event came with each first value."""
        return Counter(event[1] for event in self.events if event[0] == name)

    def last(self, name):
        """Return what the last such event was told; None when there is none."""
        return next((event[1:] for event in reversed(self.events) if event[0] == name), None)


def events_of(metrics):
    """Return the names of all events."""
    return [name for name in vars(metrics) if callable(vars(metrics)[name]) and not name.startswith("_")]


def _recording(name):
    def record(self, *values):
        getattr(Metrics, name)(self, *values)  # it takes just that many
        self.events.append((name, *values))

    return record


for _name in events_of(Metrics):
    setattr(RecordingMetrics, _name, _recording(_name))
