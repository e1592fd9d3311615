"""`agree`: each reason why two Hellos do not fit, in words; and the version that both speak."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import IdentityError, VersionError
from loghouse.protocol.greeting import Agreement, Certified, agree
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.message import NO_UUID

UUID, OTHER = b"u" * 16, b"v" * 16
A = Hello(role=LinkRole.NODE, cluster_name="logs", cluster_uuid=UUID, node_name="a", disk_uuid=b"a" * 16)
B = replace(A, node_name="b", disk_uuid=b"b" * 16)
CLIENT = Hello(role=LinkRole.CLIENT)
OF_A = Certified(subject="node:a", node="a", cluster="logs")


class AgreeTests(SynchronousTestCase):
    """Node b, and sometimes a client, looks at whoever is at the other end."""

    def refused(self, text, own, theirs, error=IdentityError, **fields):
        with self.assertRaises(error) as caught:
            agree(own, theirs, **{"is_dialler": False, "certified": None, **fields})
        self.assertEqual(str(caught.exception), text)

    def test_versions(self):
        """The highest that both speak counts; ranges that do not meet are told."""
        for own, theirs, version in [
            ((1, 1), (1, 1), 1),
            ((1, 5), (2, 9), 5),
            ((2, 9), (1, 5), 5),
            ((1, 3), (3, 4), 3),
            ((3, 4), (1, 3), 3),
            ((1, 2), (3, 4), None),
            ((3, 4), (1, 2), None),
        ]:
            mine = replace(B, version_min=own[0], version_max=own[1])
            other = replace(A, version_min=theirs[0], version_max=theirs[1])
            if version is None:
                text = (
                    f"no common protocol version: this side speaks {own[0]} to {own[1]},"
                    f" the peer {theirs[0]} to {theirs[1]}"
                )
                self.refused(text, mine, other, VersionError)
            else:
                found = agree(mine, other, is_dialler=False, certified=None)
                self.assertEqual(found, Agreement(version=version, is_restricted=False))

    def test_certificates(self):
        """A node's certificate names it and its cluster."""
        claim = "node 'a' of cluster 'logs'"
        agree(B, A, is_dialler=False, certified=OF_A)
        self.refused(
            f"'root' says it is {claim}, but its certificate names no node",
            B,
            A,
            certified=Certified(subject="root"),
        )
        for node, cluster in (("c", "logs"), ("a", "other")):
            self.refused(
                f"the peer says it is {claim}, but its certificate is of node {node!r}"
                f" of cluster {cluster!r}",
                B,
                A,
                certified=Certified(subject="x", node=node, cluster=cluster),
            )

    def test_who_was_dialled(self):
        """Whoever dials knows whom it wants: a node, maybe a certain one, and not itself."""
        agree(B, A, is_dialler=True, certified=None, expected_node="a")
        agree(B, A, is_dialler=True, certified=None)
        self.refused(
            "dialled node 'c', but node 'a' of cluster 'logs' answered; check the addresses",
            B,
            A,
            is_dialler=True,
            expected_node="c",
        )
        self.refused("dialled a node, but a client answered", B, CLIENT, is_dialler=True)
        agree(B, CLIENT, is_dialler=False, certified=None)
        self.refused("the peer has this node's own name, 'b'", B, replace(A, node_name="b"))
        # A client has no name that a node could share.
        agree(replace(CLIENT, node_name="a"), A, is_dialler=True, certified=None)

    def test_clusters(self):
        """Nodes are of one cluster by name and uuid; a client may leave out either."""
        for own, theirs in [(B, A), (B, CLIENT), (CLIENT, A), (replace(CLIENT, cluster_name="logs"), A)]:
            self.assertFalse(agree(own, theirs, is_dialler=False, certified=None).is_restricted)
        for own, theirs in [
            (B, replace(A, cluster_name="other")),
            (B, replace(CLIENT, cluster_name="other")),
            (replace(CLIENT, cluster_name="other"), A),
            (B, replace(A, cluster_name="")),
        ]:
            text = f"the peer is of cluster {theirs.cluster_name!r}, this side of {own.cluster_name!r}"
            self.refused(text, own, theirs)
        for own, theirs in [
            (B, replace(A, cluster_uuid=OTHER)),
            (B, replace(CLIENT, cluster_uuid=OTHER)),
            (replace(CLIENT, cluster_uuid=OTHER), A),
        ]:
            text = (
                f"the peer's cluster has uuid {theirs.cluster_uuid.hex()}, this side's "
                f"{own.cluster_uuid.hex()}: two different clusters of one name"
            )
            self.refused(text, own, theirs)

    def test_restricted(self):
        """While one of two nodes belongs to no cluster they may only describe; a client always may all."""
        joiner = replace(A, cluster_uuid=NO_UUID)
        for own, theirs, is_restricted in [
            (B, A, False),
            (B, joiner, True),
            (replace(B, cluster_uuid=NO_UUID), A, True),
            (replace(B, cluster_uuid=NO_UUID), joiner, True),
            (replace(B, cluster_uuid=NO_UUID), CLIENT, False),
            (CLIENT, joiner, False),
        ]:
            found = agree(own, theirs, is_dialler=False, certified=None)
            self.assertIs(found.is_restricted, is_restricted)
