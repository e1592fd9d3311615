"""Whose a data directory is: claiming it, locking it, and making an empty one a node's own."""

from __future__ import annotations

from functools import partial

from loghouse.node.options import NodeOptions
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.raft.membership import BOOTSTRAP_TERM, bootstrap_entry
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import Files
from loghouse.storage.log import Log


def claim_directory(files: Files, options: NodeOptions) -> DataDirectory | None:
    """Lock the data directory, if there is one, and check whose it is; changes nothing on the disk.

    Raises:
        StorageError: It is in use, another node's, or cannot be read.
    """
    return DataDirectory.claim(
        files,
        options.data_dir,
        cluster_name=options.cluster_name,
        node_name=options.name,
        segment_size=options.segment_size,
        reserve_size=options.reserve_size,
    )


def lock_directory(files: Files, options: NodeOptions) -> DataDirectory:
    """Lock the data directory, which is made if there is none, and check whose it is.

    Raises:
        StorageError: It is in use, another node's, or cannot be read.
    """
    directory = DataDirectory.lock(
        files,
        options.data_dir,
        segment_size=options.segment_size,
        reserve_size=options.reserve_size,
    )
    if not directory.is_empty:
        try:
            directory.check_names(cluster_name=options.cluster_name, node_name=options.name)
        except BaseException:
            directory.undo()
            raise
    return directory


def create_identity(
    directory: DataDirectory,
    options: NodeOptions,
    *,
    cluster_uuid: bytes,
    disk_uuid: bytes,
    bootstrap_at: int | None,
) -> None:
    """Make an empty data directory a node's.

    Args:
        bootstrap_at: The time (microseconds since the epoch) of the first entry of a new group, whose only
            voter this node is. None: the node belongs to a group that exists.

    Raises:
        StorageError: The disk does not take it.
    """
    identity = DiskIdentity(
        cluster_uuid=cluster_uuid,
        disk_uuid=disk_uuid,
        cluster_name=options.cluster_name,
        node_name=options.name,
    )

    begin = None if bootstrap_at is None else partial(_begin_group, options, disk_uuid, bootstrap_at)
    directory.create(identity, begin=begin)


def _begin_group(options: NodeOptions, disk_uuid: bytes, timestamp: int, log: Log) -> None:
    """Write the first entry of a new group, whose only voter is this node."""
    configuration = Configuration(retention=options.retention)
    configuration = configuration.with_member(options.name, disk_uuid, MemberRole.VOTER)
    log.save_hard_state(term=BOOTSTRAP_TERM, vote=0)
    log.append([bootstrap_entry(log.seed, configuration, timestamp)])
    log.sync(1)
