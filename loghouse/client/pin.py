"""Which cluster a client talks to: told, or learnt from the first server, and from then on the only one.

Several clusters may have one CA. A server's certificate says whose node it is, in a URI
`loghouse://<cluster>/node/<name>`, and so before anything is sent to it whether it may be asked at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from loghouse.errors import IdentityError, InvalidRequestError
from loghouse.limits import NAME_SIZE_MAX

_NAME: Final = rf"[a-z0-9](?:[a-z0-9-]{{0,{NAME_SIZE_MAX - 2}}}[a-z0-9])?"
_NODE_URI: Final = re.compile(rf"loghouse://({_NAME})/node/({_NAME})")


class CertifiedServer(NamedTuple):
    """Whose certificate a server showed."""

    cluster: str
    node: str


class ClusterPin:
    """The cluster of one client.

    Args:
        cluster: Its name; empty when the first server tells.
    """

    def __init__(self, cluster: str = "") -> None:
        if cluster and not re.fullmatch(_NAME, cluster):
            raise InvalidRequestError(
                "cluster", f"{cluster!r} is no cluster's name; it is in every node.yaml"
            )
        self.cluster = cluster
        self._learnt_from = ""
        self._is_certified = False

    def check_certificate(self, certificate: Mapping[str, Any], address: str) -> CertifiedServer:
        """Return whose certificate it is; of a node of the one cluster.

        Args:
            certificate: As `ssl` gives one that it has verified.

        Raises:
            IdentityError: It is of no node, or of another cluster.
        """
        names = certificate.get("subjectAltName", ())
        uris = [value for kind, value in names if kind == "URI"]
        match = _NODE_URI.fullmatch(uris[0]) if len(uris) == 1 else None
        if match is None:
            raise IdentityError(f"{address}: its certificate is of no Loghouse node: its URIs are {uris}")
        certified = CertifiedServer(match[1], match[2])
        self._is_certified = True
        self._check(certified.cluster, f"{address} is node {certified.node!r} of", address)
        return certified

    def check_hello(self, cluster: str, node: str, certified: CertifiedServer | None, address: str) -> None:
        """Check what a server says of itself; without TLS there is no more to go by.

        Raises:
            IdentityError: It is another one than its certificate says, or of another cluster.
        """
        if certified is not None and certified != (cluster, node):
            raise IdentityError(
                f"{address} says that it is node {node!r} of cluster {cluster!r}, but its certificate is of "
                f"node {certified.node!r} of cluster {certified.cluster!r}"
            )
        self._check(cluster, f"{address} is node {node!r} of", address)

    def check_view(self, cluster: str, address: str) -> None:
        """Raise IdentityError when a server tells of another cluster, and no certificate said more."""
        if not self._is_certified:
            self._check(cluster, f"{address} tells of", address)

    def _check(self, cluster: str, who: str, address: str) -> None:
        if not cluster:
            return  # told by a server of an older version, which does not say
        if not self.cluster:
            self.cluster, self._learnt_from = cluster, address
        elif cluster != self.cluster:
            source = f", as {self._learnt_from} is" if self._learnt_from else ""
            raise IdentityError(
                f"{who} cluster {cluster!r}, but this client talks to cluster {self.cluster!r}{source}; "
                "check the addresses, and `cluster` (--cluster)"
            )
