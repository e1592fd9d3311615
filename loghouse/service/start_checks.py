"""What a start checks before it writes anything, made of what the start itself uses, for `config check`.

A node that already runs with these settings holds its data directory and its ports: they are not tried then.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from loghouse.auth.policy import Authorizer
from loghouse.config.settings import NodeConfig
from loghouse.config.values import Address
from loghouse.errors import ConfigError, DirectoryInUseError, LoghouseError
from loghouse.net.one_port import take_address
from loghouse.service.proving import credentials_of
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import OsFiles


@dataclass(frozen=True, slots=True)
class StartCheck:
    """`problems` would each end a start. `is_running`: a node runs on the data directory."""

    problems: tuple[str, ...]
    is_running: bool


def read_policy(config: NodeConfig) -> Authorizer:
    """Read the policy that a node.yaml names.

    Raises:
        ConfigError: Lists what is wrong with it.
    """
    return Authorizer(config.acl.model, config.acl.policy)


def check_start(config: NodeConfig) -> StartCheck:
    """Find everything that would end a start with these settings; changes nothing."""
    problems: list[str] = []
    is_running = False
    for read in (read_policy, credentials_of, _check_directory):
        try:
            read(config)
        except DirectoryInUseError:
            is_running = True
        except LoghouseError as error:
            problems += error.problems if isinstance(error, ConfigError) else [str(error)]
    for address in filter(None, (config.listen, config.grpc_listen, config.http_listen)):
        try:
            _check_address(address, is_running=is_running)
        except ConfigError as error:
            problems += error.problems
    return StartCheck(tuple(problems), is_running)


def _check_directory(config: NodeConfig) -> None:
    path = str(config.data_dir)
    claimed = DataDirectory.claim(OsFiles(), path, cluster_name=config.cluster, node_name=config.name)
    if claimed is not None:
        claimed.close()
    # A start takes its lock and makes the rest: it needs a place that it may write to.
    place = path if os.path.exists(path) else os.path.dirname(path)
    if not os.path.isdir(place):
        raise ConfigError([f"data_dir: {place} does not exist; make it, {path} itself is made by the start"])
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError([f"data_dir: this user may not write to {place}; check its owner and mode"])


def _check_address(address: Address, *, is_running: bool) -> None:
    take_address(address.host, 0 if is_running else address.port).close()
