"""Whose a data directory is: claiming it, locking it, and making an empty one a node's own."""

from __future__ import annotations

import threading

from loghouse.node.options import NodeOptions
from loghouse.replica.bootstrap import beginning
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import Files


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
        guard=threading.Lock(),
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
        guard=threading.Lock(),
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

    begin = None
    if bootstrap_at is not None:
        begin = beginning(options.name, disk_uuid, options.retention, bootstrap_at)
    directory.create(identity, begin=begin)
