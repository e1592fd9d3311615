"""One life of a process that also dials: the reactor of a whole production node."""

from __future__ import annotations

from typing import Any, Protocol

from loghouse.testing.life import Life, Powered


class Wired(Powered, Protocol):
    """A machine that others can reach."""

    is_on: bool

    @property
    def life(self) -> NodeLife | None:
        """Its process, as it runs now, or ran last."""

    def accept(self, transport: Any) -> None:
        """Take a connection that another machine dialled."""


class NodeLife(Life):
    """A `Life` that is also as much of an `IReactorTCP` as links use."""

    host: Wired

    def connectTCP(  # noqa: N802
        self, host: str, port: int, factory: Any, timeout: float
    ) -> Any:
        """Dial another machine."""
        return self.host.cluster.network.dial(self, f"{host}:{port}", factory, timeout)
