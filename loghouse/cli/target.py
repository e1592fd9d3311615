"""Which node a command talks to, and as whom.

Asked in this order, each value on its own: the command line, LOGHOUSE_* in the environment, `--config` (or
LOGHOUSE_CONFIG), `./client.yaml`, and the `./dev/client.yaml` that `make run` writes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from loghouse.cli.output import CommandError, ExitCode
from loghouse.client.connection import Connection, Credentials
from loghouse.config import ClientConfig, load_client
from loghouse.config_values import parse_address, parse_seconds

_DEFAULT_FILES = (Path("client.yaml"), Path("dev/client.yaml"))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where to connect."""
    group = parser.add_argument_group(
        "connection", "from here, LOGHOUSE_SERVER etc., or a client.yaml (./client.yaml, ./dev/client.yaml)"
    )
    group.add_argument("--server", metavar="HOST:PORT", help="a node of the cluster")
    group.add_argument("--ca", metavar="FILE", help="PEM of the CA that signs the nodes")
    group.add_argument("--cert", metavar="FILE", help="PEM of your certificate")
    group.add_argument("--key", metavar="FILE", help="PEM of its private key")
    group.add_argument("--config", metavar="FILE", help="a client.yaml with these settings")
    group.add_argument("--plaintext", action="store_true", help="no TLS, for a node with plaintext: true")
    group.add_argument(
        "--timeout", metavar="TIME", type=_seconds, default=10.0, help="how long an answer may take (10s)"
    )
    group.add_argument("--log", default="", metavar="NAME", help="the log's name (default)")


def _seconds(text: str) -> float:
    try:
        seconds = parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} is no time to wait; allowed: more than 0")
    return seconds


def connect(args: argparse.Namespace) -> Connection:
    """Return a connection to the node that the options, the environment or a file name.

    Raises:
        CommandError: Something is missing or wrong; the text says what to give.
        ConfigError: The client.yaml is wrong.
    """
    settings = _settings(args)
    server = args.server or os.environ.get("LOGHOUSE_SERVER") or (str(settings.server) if settings else "")
    if not server:
        raise CommandError(
            "no node to talk to: give --server HOST:PORT, or run where `make run` made ./dev", ExitCode.USAGE
        )
    try:
        address = parse_address(server)
    except ValueError as error:
        raise CommandError(f"--server: {server!r} {error}", ExitCode.USAGE) from None
    return Connection(str(address), _credentials(args, settings), timeout_seconds=args.timeout)


def _settings(args: argparse.Namespace) -> ClientConfig | None:
    named = args.config or os.environ.get("LOGHOUSE_CONFIG")
    if named:
        return load_client(named)
    found = next((path for path in _DEFAULT_FILES if path.is_file()), None)
    return load_client(found) if found else None


def _credentials(args: argparse.Namespace, settings: ClientConfig | None) -> Credentials | None:
    if args.plaintext:
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
    return Credentials(ca_pem=pems[0], certificate_pem=pems[1], key_pem=pems[2])


def _read(option: str, path: str) -> bytes:
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise CommandError(f"{option}: {path}: {error.strerror}", ExitCode.USAGE) from None
    if b"-----BEGIN " not in pem:
        raise CommandError(f"{option}: {path} is not a PEM file", ExitCode.USAGE)
    return pem
