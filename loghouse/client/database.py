"""A consumer's position in a program's own database: moved in the transaction that its work is in.

The database decides then what is done, and the cursor only who is at work: its epoch stands in the same row,
so that whoever was replaced cannot commit anything any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from loghouse.client.fields import text_of
from loghouse.client.records import Batch
from loghouse.errors import CursorFencedError, InvalidRequestError, PositionTakenError

TABLE: Final = "loghouse_positions"
_MARKS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}


class DatabaseConnection(Protocol):
    """A connection by PEP 249, of `sqlite3`, `psycopg` and others, that is not in autocommit mode."""

    def cursor(self) -> Any:
        """Return what statements are executed with."""

    def commit(self) -> Any:
        """End the transaction; it is durable."""

    def rollback(self) -> Any:
        """End the transaction as if it had not been."""


class DatabasePosition:
    """A position in a database: a row of the table `loghouse_positions`, which is made when it is not there.

    `AsyncConsumer.process` moves it. Its methods wait for the database.

    Args:
        connection: By PEP 249, and not in autocommit mode.
        name: The row's; each consumer of the database has one of its own.
        paramstyle: How statements show where a value goes, as the driver's `paramstyle` says.
    """

    def __init__(self, connection: DatabaseConnection, name: str, *, paramstyle: str = "qmark") -> None:
        if paramstyle not in _MARKS:
            allowed = ", ".join(_MARKS)
            raise InvalidRequestError("paramstyle", f"{paramstyle!r} is unknown; allowed: {allowed}")
        self._connection = connection
        self._mark = _MARKS[paramstyle]
        self.name = text_of("name", name)

    def claim(self, epoch: int, position: int, source: str) -> int:
        """Let nobody with an older epoch move the row, and return its position.

        Args:
            epoch: Of the cursor, as it was acquired.
            position: Where a row begins that is new.
            source: What the position counts, and whose epoch that is. It stays in the row.

        Raises:
            PositionTakenError: The row is another source's, whose positions and epochs mean something else.
            CursorFencedError: Somebody with a newer epoch was here already.
        """
        try:
            self._execute(
                f"CREATE TABLE IF NOT EXISTS {TABLE} (name VARCHAR(127) PRIMARY KEY, "
                "epoch BIGINT NOT NULL, position BIGINT NOT NULL, source VARCHAR(511) NOT NULL)"
            )
            self._execute(
                f"UPDATE {TABLE} SET epoch = ? WHERE name = ? AND source = ? AND epoch <= ?",
                *(epoch, self.name, source, epoch),
            )
            row = self._row()
            if row is None:
                self._execute(f"INSERT INTO {TABLE} VALUES (?, ?, ?, ?)", self.name, epoch, position, source)
                row = epoch, position, source
            if row[2] != source:
                raise PositionTakenError(self.name, row[2], source)
            if row[0] != epoch:
                raise CursorFencedError(epoch, row[0], self.name)
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise
        return row[1]

    def move(self, epoch: int, position: int) -> None:
        """Move the row, in the transaction that is open; it counts with what else that one does.

        Raises:
            CursorFencedError: Somebody else claimed it since: roll back.
        """
        moved = self._execute(
            f"UPDATE {TABLE} SET position = ? WHERE name = ? AND epoch = ?", position, self.name, epoch
        )
        if moved.rowcount != 1:
            row = self._row()
            raise CursorFencedError(epoch, row[0] if row is not None else 0, self.name)

    def handle(self, handler: Callable[[Batch], object], batch: Batch, epoch: int) -> None:
        """Call a handler, and move the row behind its batch, in one transaction; its error rolls back.

        Raises:
            CursorFencedError: As `move`.
        """
        try:
            handler(batch)
            self.move(epoch, batch.next_offset)
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise

    def _row(self) -> tuple[int, int, str] | None:
        """Return the epoch, the position and the source; None: there is no row."""
        asked = f"SELECT epoch, position, source FROM {TABLE} WHERE name = ?"
        found = self._execute(asked, self.name).fetchone()
        return None if found is None else (int(found[0]), int(found[1]), str(found[2]))

    def _execute(self, statement: str, *values: Any) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(statement.replace("?", self._mark), values)
        return cursor
