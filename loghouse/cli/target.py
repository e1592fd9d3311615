"""Which cluster a command talks to, through which nodes, and as whom.

Asked in this order, each value on its own: the command line, LOGHOUSE_* in the environment, `--config` (or
LOGHOUSE_CONFIG), `./client.yaml`, and the `./dev/client.yaml` that `make run` writes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from loghouse.cli.output import CommandError, ExitCode
from loghouse.client import AsyncClient, Client, Tls, connect_blocking
from loghouse.client import connect as connect_asyncio
from loghouse.client.target import parse_target
from loghouse.client.transport import TRANSPORTS
from loghouse.config.settings import ClientConfig, load_client
from loghouse.config.values import parse_seconds
from loghouse.errors import InvalidRequestError

CONTACT_SECONDS: Final = 3.0
"""How long a command looks for the first node that answers; with one, it tries for its whole --timeout."""

_DEFAULT_FILES = (Path("client.yaml"), Path("dev/client.yaml"))


def add_action(
    actions: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    what: str,
    *,
    names: str = "",
    has_log: bool = True,
) -> Any:
    """Add one of the things that a command does with a cluster, and return its parser.

    Args:
        names: The kind of what it does it to, which has a name: a log, say.
        has_log: As for `add_options`.
    """
    parser = actions.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    if names:
        parser.add_argument("name", metavar="NAME", help=f"the {names}'s name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_options(parser, has_log=has_log)
    parser.set_defaults(run=run)
    return parser


def add_options(parser: argparse.ArgumentParser, *, has_log: bool = True) -> None:
    """Add the options that say where to connect, and to which log unless the command names it itself."""
    group = parser.add_argument_group(
        "connection", "from here, LOGHOUSE_SERVER etc., or a client.yaml (./client.yaml, ./dev/client.yaml)"
    )
    group.add_argument(
        "--server",
        metavar="HOST:PORT,...",
        help="a node of the cluster, or several: one that answers is enough",
    )
    group.add_argument(
        "--cluster",
        metavar="NAME",
        help="the cluster's name: no node of another one is spoken to (as the first node says)",
    )
    group.add_argument("--ca", metavar="FILE", help="PEM of the CA that signs the nodes")
    group.add_argument("--cert", metavar="FILE", help="PEM of your certificate")
    group.add_argument("--key", metavar="FILE", help="PEM of its private key")
    group.add_argument("--config", metavar="FILE", help="a client.yaml with these settings")
    group.add_argument("--plaintext", action="store_true", help="no TLS, for a node with plaintext: true")
    group.add_argument(
        "--timeout", metavar="TIME", type=seconds, default=10.0, help="how long an answer may take (10s)"
    )
    group.add_argument(
        "--direct",
        action="store_true",
        help="call these nodes alone, not those that they name: for forwarded ports, or to ask one of them",
    )
    group.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="binary",
        help="grpc speaks gRPC alone, for doors and proxies that know nothing else (binary)",
    )
    if has_log:
        group.add_argument("--log", default="", metavar="NAME", help="the log's name (default)")
    else:
        parser.set_defaults(log="")


def seconds(text: str) -> float:
    """Read a time to wait on a command line.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        parsed = parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not parsed:
        raise argparse.ArgumentTypeError(f"{text!r} is no time to wait; allowed: more than 0")
    return parsed


def connect(args: argparse.Namespace, *, is_direct: bool = False) -> Client:
    """Return a client of the cluster that the options, the environment or a file name; one node answered.

    Args:
        is_direct: Call no other nodes than those named, as --direct does.

    Raises:
        CommandError: Something is missing or wrong; the text says what to give.
        ConfigError: The client.yaml is wrong.
        DeadlineError: No node answers there.
    """
    target, options = _target(args, is_direct)
    client = connect_blocking(target, **options)
    try:
        client.servers(timeout_seconds=min(args.timeout, CONTACT_SECONDS))
    except BaseException:
        client.close()
        raise
    return client


def connect_async(args: argparse.Namespace) -> AsyncClient:
    """As `connect`, for asyncio; `contact` finds out whether a node answers."""
    target, options = _target(args, is_direct=False)
    return connect_asyncio(target, **options)


async def contact(log: AsyncClient, args: argparse.Namespace) -> None:
    """Find a node that answers; raises DeadlineError when none does."""
    await log.servers(timeout_seconds=min(args.timeout, CONTACT_SECONDS))


def _target(args: argparse.Namespace, is_direct: bool) -> tuple[str, dict[str, Any]]:
    settings = _settings(args)
    return ",".join(_addresses(args, settings)), {
        "tls": _tls(args, settings),
        "log": args.log,
        "timeout_seconds": args.timeout,
        "is_direct": is_direct or args.direct,
        "transport": args.transport,
        "cluster": _cluster(args, settings),
    }


def _cluster(args: argparse.Namespace, settings: ClientConfig | None) -> str:
    """Return the name that the nodes' cluster must have; empty when nobody said it."""
    told = getattr(args, "cluster", None) or os.environ.get("LOGHOUSE_CLUSTER")
    return told or (settings.cluster if settings is not None else "")


def addresses(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the nodes that a command is told to talk to, each `host:port`.

    Raises:
        CommandError, ConfigError: As `connect`.
    """
    return _addresses(args, _settings(args))


def _addresses(args: argparse.Namespace, settings: ClientConfig | None) -> tuple[str, ...]:
    server = args.server or os.environ.get("LOGHOUSE_SERVER")
    if not server and settings is not None:
        return tuple(map(str, settings.server))
    if not server:
        raise CommandError(
            "no node to talk to: give --server HOST:PORT, or run where `make run` made ./dev", ExitCode.USAGE
        )
    try:
        return parse_target(server)
    except InvalidRequestError as error:
        raise CommandError(f"--server: {error.problem}", ExitCode.USAGE) from None


def _settings(args: argparse.Namespace) -> ClientConfig | None:
    named = args.config or os.environ.get("LOGHOUSE_CONFIG")
    if named:
        return load_client(named)
    found = next((path for path in _DEFAULT_FILES if path.is_file()), None)
    return load_client(found) if found else None


def _tls(args: argparse.Namespace, settings: ClientConfig | None) -> Tls | None:
    if args.plaintext:
        given = [option for option in ("ca", "cert", "key") if getattr(args, option)]
        if given:
            raise CommandError(f"--plaintext and --{given[0]} contradict each other", ExitCode.USAGE)
        return None
    tls = settings.tls if settings else None
    names = {
        "--ca": args.ca or os.environ.get("LOGHOUSE_CA") or (tls and tls.ca),
        "--cert": args.cert or os.environ.get("LOGHOUSE_CERT") or (tls and tls.certificate),
        "--key": args.key or os.environ.get("LOGHOUSE_KEY") or (tls and tls.key),
    }
    missing = [option for option, path in names.items() if not path]
    if len(missing) == len(names) and settings is not None:
        return None  # a client.yaml without tls speaks plaintext
    if missing:
        raise CommandError(
            f"{', '.join(missing)} missing: a node asks for a client certificate "
            "(--plaintext when it was configured without)",
            ExitCode.USAGE,
        )
    pems = [_read(option, str(path)) for option, path in names.items()]
    return Tls(ca=pems[0], certificate=pems[1], key=pems[2])


def _read(option: str, path: str) -> bytes:
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise CommandError(f"{option}: {path}: {error.strerror}", ExitCode.USAGE) from None
    if b"-----BEGIN " not in pem:
        raise CommandError(f"{option}: {path} is not a PEM file", ExitCode.USAGE)
    return pem
