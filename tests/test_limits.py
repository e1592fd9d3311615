"""The caps that peers, files and operators rely on: to change one is a decision, not a slip.

The numbers are written a second time here. The others, which only tune a node, are free to change.
"""

from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.limits import Quota

KIB, MIB = 2**10, 2**20


class LimitCase(SynchronousTestCase):
    """Compares."""

    def check(self, **expected):
        """Compare the limits of these names."""
        found = {name: getattr(limits, name) for name in expected}
        self.assertEqual(found, expected)


class UnitTests(LimitCase):
    """What sizes and times are counted in."""

    def test_units(self):
        """Sizes are powers of two, times microseconds."""
        self.check(
            KIB=1024,
            MIB=1024**2,
            GIB=1024**3,
            MICROSECONDS=10**6,
            UINT32_MAX=0xFFFF_FFFF,
            UINT64_MAX=0xFFFF_FFFF_FFFF_FFFF,
            UUID_SIZE=16,
        )


class FormatTests(LimitCase):
    """What files and frames of other versions hold: a smaller cap would refuse what was good."""

    def test_entries(self):
        """Of entries, and of the batches in them."""
        self.check(
            ENTRY_HEADER_SIZE=64,
            PAYLOAD_SIZE_MAX=8 * MIB,
            ENTRY_SIZE_MAX=8 * MIB + 64,
            RECORD_SIZE_MAX=MIB,
            ZSTD_WINDOW_SIZE_MAX=8 * MIB,
            ZSTD_BLOCKS_MAX=65_536,
            RECORDS_PER_BATCH_MAX=131_072,
            HEADERS_PER_RECORD_MAX=65_536,
        )

    def test_state(self):
        """Of what each node of a cluster must hold alike."""
        self.check(
            PRODUCERS_MAX=4096,
            PRODUCER_BATCHES_MAX=64,
            CURSORS_MAX=4096,
            CURSOR_NAME_SIZE_MAX=127,
            CURSOR_HOLDER_SIZE_MAX=127,
            CURSORS_SHOWN_MAX=64,
            LEASE_SECONDS_MIN=1.0,
            LEASE_SECONDS_MAX=600.0,
            WAITING_PER_CURSOR_MAX=64,
            WAITING_MAX=4096,
            MEMBERS_MAX=64,
            VOTERS_MAX=5,
            REMOVED_MAX=1024,
            NAME_SIZE_MAX=63,
            SUBJECT_SIZE_MAX=255,
            STATE_SIZE_MAX=10 * MIB,
            LOGS_MAX=10_000,
            CATALOGUE_NODES_MAX=256,
            REPLICAS_PER_LOG_MAX=5,
            TOMBSTONES_MAX=10_000,
            CATALOGUE_RECORD_SIZE_MAX=16 * MIB,
            LOG_TAGS_MAX=8,
            LOG_TAG_SIZE_MAX=63,
            TAGS_MAX=16,
            ADDRESS_SIZE_MAX=255 + 1 + 5,
        )

    def test_files(self):
        """Of files."""
        self.check(
            SEGMENT_SIZE_DEFAULT=64 * MIB,
            SEGMENT_SIZE_FIRST=MIB,
            SEGMENT_SIZE_MIN=64 * KIB,
            INDEX_ENTRY_SIZE=12,
            STORE_HEADER_SIZE=4096,
            RESERVE_SIZE_DEFAULT=16 * MIB,
            CONTROL_SIZE_KEPT=4096,
            CONTROL_SEGMENT_SIZE=64 * KIB,
            ADDRESS_BOOK_SIZE_MAX=64 * KIB,
            LOG_FILE_SIZE_MAX=10 * MIB,
            LOG_FILES_MAX=10,
            IOV_MAX=1024,
            SCRUB_RATE_DEFAULT=4 * MIB,
        )

    def test_frames(self):
        """Of frames, each large enough for the largest thing that it may hold."""
        self.check(
            LINK_HEADER_SIZE=16,
            HELLO_SIZE_MAX=4 * KIB,
            CONTROL_SIZE_MAX=8 * KIB,
            UNKNOWN_SIZE_MAX=64 * KIB,
            GOSSIP_SIZE_MAX=64 * KIB,
            PUSH_PULL_SIZE_MAX=256 * KIB,
            TEXT_SIZE_MAX=2 * KIB,
            FAILURE_DETAILS_MAX=8,
            LOGS_PER_DESCRIBE_MAX=1024,
            DESCRIBE_SIZE_MAX=256 * KIB,
            PRODUCE_SIZE_MAX=8 * MIB + 64,
            FORWARD_SIZE_MAX=8 * MIB + 64 + 255,
            ENTRIES_REPLY_SIZE_MAX=8 * MIB + 64 + 64,
            FETCH_REPLY_SIZE_MAX=8 * MIB + 64 + 64,
            LEADS_SIZE_MAX=128 * KIB,
            GRPC_MESSAGE_SIZE_MAX=8 * MIB + 64 * KIB,
            GRPC_FRAMES_SIZE_MAX=4 * MIB - 4 * KIB,
        )


class PeerTests(LimitCase):
    """What clients and other nodes are told in documents, or notice."""

    def test_requests(self):
        """Of requests."""
        self.check(
            FETCH_SIZE_DEFAULT=512 * KIB,
            FETCH_SIZE_MAX=2 * MIB,
            FILTER_TERMS_MAX=16,
            FILTER_SIZE_MAX=4 * KIB,
            READ_SCAN_SIZE_MAX=16 * MIB,
            READ_WAIT_MILLISECONDS_MAX=30_000,
            REQUESTS_PER_CONNECTION_MAX=256,
            FOLLOWS_PER_CONNECTION_MAX=256,
            FOLLOW_CREDIT_MAX=64 * MIB,
            REQUESTS_SIZE_MAX=16 * MIB,
            APPEND_COST=KIB,
            READ_COST=64 * KIB,
            GRPC_STREAMS_PER_CONNECTION_MAX=256,
            GRPC_METADATA_SIZE_MAX=16 * KIB,
            GRPC_CALLS_MAX=4096,
            PIPELINE_MAX=256,
            PIPELINE_SIZE_MAX=16 * MIB,
            READERS_SIZE_MAX=32 * MIB,
            READER_SIZE_MIN=64 * KIB,
            WAITERS_MAX=16_384,
            PROPOSALS_MAX=16_384,
            PROPOSALS_SIZE_MAX=64 * MIB,
            REGISTRATIONS_AT_ONCE_MAX=256,
            REGISTRATION_SECONDS=2,
            UNREPORTED_BATCHES_MAX=1024,
            WAITING_APPENDS_MAX=4096,
            WAITING_SIZE_MAX=64 * MIB,
            RATES_MAX=4096,
            LOGS_PER_PAGE_DEFAULT=500,
            LOGS_PER_PAGE_MAX=1000,
            JOINED_SIZE_MAX=64 * KIB,
            SHARE_SIZE_MAX=16 * KIB,
        )

    def test_shares(self):
        """Of what one subject may have, and all together."""
        self.check(
            FOLLOWERS=Quota("followers", 16_384, 8192),
            CALLS=Quota("calls", 4096, 2048),
            BODIES=Quota("bytes of unfinished requests", 256 * MIB, 64 * MIB),
            ANSWERS=Quota("bytes of answers not taken", 128 * MIB, 32 * MIB),
            LOG_LINES=Quota("lines a minute about peers", 300, 60),
            HOLDING_FREE=16 * KIB,
            HOLDING_STEP=256 * KIB,
        )

    def test_connections(self):
        """Of connections."""
        self.check(
            CONNECTIONS_MAX=4096,
            CONNECTIONS_PER_ADDRESS_MAX=2560,
            CONNECTIONS_PER_CLIENT_MAX=2048,
            CONNECTIONS_WITHOUT_RULE_MAX=4,
            CONNECTIONS_OF_NODES_MAX=4 * 64,
            CONNECTIONS_PER_NODE_MAX=4,
            STRANGERS_MAX=256,
            STRANGERS_PER_ADDRESS_MAX=64,
            ADDRESSES_KNOWN_MAX=1024,
            CLIENT_HELLO_SIZE_MAX=16 * KIB,
            QUIET_SIZE_MAX=40 * KIB,
            PEER_QUEUE_SIZE_MAX=16 * MIB,
            PEER_QUEUE_MAX=4096,
            PEER_ADDRESSES_MAX=2,
            SOCKET_BUFFER_SIZE=512 * KIB,
        )

    def test_deadlines(self):
        """Of what a peer may take its time for, in seconds."""
        self.check(
            CLIENT_HELLO_SECONDS=5,
            GREETING_SECONDS=10,
            FRAME_SECONDS=10,
            FRAME_BYTES_PER_SECOND_MIN=64 * KIB,
            SILENCE_SECONDS=30,
            SILENCE_SECONDS_MAX=60,
            STUCK_SECONDS_MAX=60,
            HALF_CLOSED_SECONDS_MAX=30,
            QUIET_SECONDS_MAX=5,
            MESSAGE_SECONDS=60,
        )

    def test_forwarding(self):
        """Of what nodes pass on to the leader, and do for each other."""
        self.check(
            FORWARDS_SIZE_MAX=32 * MIB,
            FORWARDS_MAX=4096,
            FORWARDS_REMEMBERED_MAX=4096,
            FORWARD_SECONDS=10,
            FORWARD_GRACE_SECONDS=1,
            FORWARD_READ_SECONDS=5,
            FORWARD_WAIT_SECONDS=5,
            FORWARD_RETRY_SECONDS=1,
            FORWARDED_READS_SIZE_MAX=8 * MIB,
            FORWARDED_READS_SERVED_SIZE_MAX=32 * MIB,
            LEADERS_MAX=10_000,
            LEADER_SECONDS_MAX=5,
            MEND_SIZE_MAX=MIB,
            ENTRIES_SERVED_MAX=8,
        )

    def test_gossip(self):
        """Of membership."""
        self.check(
            GOSSIP_MEMBERS_MAX=256,
            GOSSIP_STRANGERS_MAX=64,
            GOSSIP_STRANGERS_PER_NAME_MAX=2,
            GOSSIP_BROADCASTS_MAX=32,
            GOSSIP_RELAYS_MAX=256,
            GOSSIP_OUTBOX_MAX=4096,
            TWINS_MAX=64,
            STRANGERS_DOUBTED_MAX=64,
            INCARNATION_RESERVE=16,
            INCARNATION_JUMP_MAX=2**20,
            INCARNATION_HEARSAY_MAX=2**48,
            INCARNATION_MAX=2**63,
        )

    def test_identities(self):
        """Of certificates, identities and policies."""
        self.check(
            CERTIFICATE_FILE_SIZE_MAX=256 * KIB,
            CERTIFICATE_SIZE_MAX=6 * KIB,
            CERTIFICATES_SHOWN_SIZE_MAX=8 * KIB,
            RSA_KEY_BITS_MIN=2048,
            RSA_KEY_BITS_MAX=8192,
            IDENTITIES_MAX=1024,
            POLICY_SIZE_MAX=256 * KIB,
            POLICY_RULES_MAX=1000,
            DECISIONS_MAX=4096,
            LASTING_LINES_MAX=1024,
            LOG_TEXT_SIZE_MAX=256,
        )
