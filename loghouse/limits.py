"""Every cap, in one place, with the reason for its size.

Units last. Whatever can grow because of what somebody else does is bounded
here, and a test reaches the bound.
"""

from __future__ import annotations

from typing import Final, NamedTuple

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
MICROSECONDS: Final = 1_000_000  # in a second
UINT32_MAX: Final = 2**32 - 1
UINT64_MAX: Final = 2**64 - 1
UUID_SIZE: Final = 16


class Quota(NamedTuple):
    """How much there is of something that clients hold: in all, and at most for one subject (its share).

    A share is smaller than the total, so that no subject can use up what others need, and large enough that
    one busy client that is alone has most of the node. See `loghouse/shares.py` and docs/operations.md.
    """

    what: str
    total: int
    share: int


# --- entries ------------------------------------------------------------------
ENTRY_HEADER_SIZE: Final = 64
PAYLOAD_SIZE_MAX: Final = 8 * MIB  # one entry must fit a follower's memory many times over
ENTRY_SIZE_MAX: Final = ENTRY_HEADER_SIZE + PAYLOAD_SIZE_MAX
RECORD_SIZE_MAX: Final = 1 * MIB  # default of node.yaml's limits.record_bytes_max
ZSTD_WINDOW_SIZE_MAX: Final = 8 * MIB  # what RFC 8878 asks every decoder to support; many take no more
ZSTD_BLOCKS_MAX: Final = 64 * KIB  # one for each record that is flushed; walked over in Python, 10 ms
RECORDS_PER_BATCH_MAX: Final = 128 * KIB  # empty, they pack into 50 bytes: a check costs 30 ms (ADR 19)
HEADERS_PER_RECORD_MAX: Final = 64 * KIB  # a parse makes as many at once, and cannot be made in parts
FILTER_TERMS_MAX: Final = 16  # keys, their beginnings and headers in a read: each is a search of its own
FILTER_SIZE_MAX: Final = 4 * KIB  # bytes of them all; with their lengths they fit a control frame

# --- replicated state -----------------------------------------------------------
PRODUCERS_MAX: Final = 4096  # 64 batches x 16 bytes x 4096 = 4 MiB in a state file at worst
REGISTRATIONS_AT_ONCE_MAX: Final = 256  # of producers, by one subject on one node: as many clients start
REGISTRATION_SECONDS: Final = 2.0  # and one more each: hours until the idle ids of others are pushed out
RATES_MAX: Final = 4096  # subjects whose rate is remembered before those at rest are forgotten
PRODUCER_BATCHES_MAX: Final = 64  # also the batches a producer may have in flight
MEMBERS_MAX: Final = 64
VOTERS_MAX: Final = 5
REMOVED_MAX: Final = 1024  # names kept out; all of 63 bytes they are 64 KiB of a configuration
NAME_SIZE_MAX: Final = 63  # node and log names; also a DNS label
SUBJECT_SIZE_MAX: Final = 255
STATE_SIZE_MAX: Final = 10 * MIB  # 7.1 of producers and 2.3 of cursors, if all have the longest names

# --- cursors ------------------------------------------------------------------------
CURSORS_MAX: Final = 4096  # of a log; nothing pushes one out, so one more is refused
CURSOR_NAME_SIZE_MAX: Final = 127
CURSOR_HOLDER_SIZE_MAX: Final = 127  # who works on it: a host, a process and a number
CURSORS_PER_PAGE_MAX: Final = 256  # of a list of cursors; with the longest texts each has 540 bytes
CURSORS_LISTED_MAX: Final = 10_000  # of all logs, by one command: some 5 MB here, and more than anybody reads
CURSORS_SIZE_MAX: Final = 256 * KIB  # of such a page on the wire
CURSORS_SHOWN_MAX: Final = 64  # with metrics of their own; with the longest names they are 75 kB of a scrape
LEASE_SECONDS_MIN: Final = 1.0  # shorter ones run out in a long write of a disk
LEASE_SECONDS_MAX: Final = 600.0  # so long the work of a dead holder waits at worst
LEASE_SECONDS_DEFAULT: Final = 10.0
WAIT_SECONDS: Final = 3.0  # so long a leader remembers who was refused a held cursor; ask once a second
WAITING_PER_CURSOR_MAX: Final = 64  # holders that are remembered to wait for one cursor; told by name
WAITING_MAX: Final = 4096  # of all cursors of a log: 1 MiB, in its leader's memory alone
CONSUMER_BUFFER_SIZE: Final = 4 * MIB  # of records emitted and not acknowledged; then a consumer waits
CONSUMER_STEP_SIZE: Final = 1 * MIB  # of what several emits append together; a larger one goes alone

# --- the catalogue ----------------------------------------------------------------
LOGS_MAX: Final = 10_000  # of a cluster; a checkpoint of so many has less than 8 MiB
CATALOGUE_NODES_MAX: Final = 256
REPLICAS_PER_LOG_MAX: Final = VOTERS_MAX
REPLICAS_PER_NODE_DEFAULT: Final = 2000
REPLICA_FILES: Final = 5  # that a replica has open, at most
TOMBSTONES_MAX: Final = 10_000
CHECKPOINT_RECORDS: Final = 1000  # of the catalogue, after which its leader writes what they come to
CATALOGUE_RECORD_SIZE_MAX: Final = 16 * MIB
LOG_TAGS_MAX: Final = 8
LOGS_PER_PAGE_DEFAULT: Final = 500  # of a list of logs; some 300 bytes each
LOGS_PER_PAGE_MAX: Final = 1000
LOG_TAG_SIZE_MAX: Final = 63
LAG_ENTRIES_MAX: Final = 10_000  # that a copy may be behind and still be well: seconds of a busy log

# --- backups ------------------------------------------------------------------------
BACKUP_PART_SIZE: Final = 256 * MIB  # of frames in one file of a backup: what a copy of it may have to repeat
BACKUP_GAP_MAX: Final = 1 << 20  # entries without records between two with; a restore writes each of them
BACKUP_MANIFEST_SIZE_MAX: Final = STATE_SIZE_MAX + 64 * KIB

# --- storage --------------------------------------------------------------------
SEGMENT_SIZE_DEFAULT: Final = 64 * MIB
SEGMENT_SIZE_FIRST: Final = 1 * MIB  # of a log; each next one is twice as large, up to segment_size
SEGMENT_SIZE_MIN: Final = 64 * KIB  # of node.yaml; tests build smaller ones directly
INDEX_ENTRY_SIZE: Final = 12
STORE_HEADER_SIZE: Final = 4 * KIB
IOV_MAX: Final = 1024  # Linux's limit for one pwritev
SYNC_GROUP_SIZE_MAX: Final = 8 * MIB  # bytes in one write and sync: bounds how long a sync can take
RESERVE_SIZE_DEFAULT: Final = 16 * MIB
CONTROL_SIZE_KEPT: Final = 4 * KIB  # free behind the records of a log without a spare segment: 50 trims
CONTROL_SEGMENT_SIZE: Final = 64 * KIB  # a segment for control entries, out of the reserve: 800 trims
SCRUB_RATE_DEFAULT: Final = 4 * MIB  # bytes a second: 337 GiB a day; 1 % of a core for entries of 1 kB
SCRUB_STEP_SIZE: Final = 1 * MIB  # one read of the scrubber: a few milliseconds of a reader thread
MEND_SIZE_MAX: Final = 1 * MIB  # entries given at once to mend another's; at least one, whatever its size
ENTRIES_SERVED_MAX: Final = 8  # such requests of other nodes under way at a time; more are dropped

# --- node -----------------------------------------------------------------------
DISK_THREADS_MAX: Final = 16  # that write: so many logs wait for their syncs at a time, others for them
READER_THREADS_MAX: Final = 4  # that read what may be on a cold disk
PROPOSALS_SIZE_MAX: Final = 64 * MIB  # bytes proposed and not yet committed, of a log and of all of a node
JOINED_SIZE_MAX: Final = 64 * KIB  # small batches share an entry up to here; sixty-four of a kilobyte do
SHARE_SIZE_MAX: Final = 16 * KIB  # a larger batch waits for no company: its bytes cost more than its entry
CACHED_ENTRIES_MAX: Final = 8192  # kept in memory for followers close behind, of one log
CACHED_ENTRY_COST: Final = 1 * KIB  # what the smallest of them takes
CACHES_SIZE_MAX: Final = 64 * MIB  # bytes of them, of all logs of a node: those of four busy ones
PROPOSALS_MAX: Final = 16_384  # the same, counted: single records are small
FORWARDS_SIZE_MAX: Final = 32 * MIB  # bytes passed on to the leader and not answered; twice a peer's queue
FORWARDS_MAX: Final = 4096  # the same, counted; also what a leader does at a time for all other nodes
FORWARD_SECONDS: Final = 10.0  # until the leader's answer: several elections, or one long stall of its disk
FORWARD_GRACE_SECONDS: Final = 1.0  # the same once another node leads: the old one knows soon, or never
FORWARDS_REMEMBERED_MAX: Final = 4096  # ids of one node's last requests: a copy is not done a second time
FORWARD_TRACES_MAX: Final = 1024  # traces that a node holds until their requests come; they come at once
LEADERS_MAX: Final = LOGS_MAX  # logs of which a node remembers who leads them, by what others say
LEADER_SECONDS_MAX: Final = 5.0  # so long after a node last said that it leads a log, that is believed
FORWARDED_READS_SIZE_MAX: Final = 8 * MIB  # answers on their way to a node; half of what a link queues
FORWARDED_READS_SERVED_SIZE_MAX: Final = 32 * MIB  # the same, given to all other nodes at a time
FORWARD_READ_SECONDS: Final = 5.0  # until a node's answer; then another one that has a copy is asked
FORWARD_WAIT_SECONDS: Final = 5.0  # a read that waits is answered by then, and asked for again
FORWARD_RETRY_SECONDS: Final = 1.0  # until those that have a copy are asked anew by who waits for a record
FETCH_SIZE_DEFAULT: Final = 512 * KIB
FETCH_SIZE_MAX: Final = 2 * MIB  # one entry may have more; 8 MiB of small ones held the reactor for 20 ms
READ_SCAN_SIZE_MAX: Final = 16 * MIB  # unpacked, looked through for one answer to a filtered read
READ_SCAN_STEP_SIZE: Final = 1 * MIB  # of these at once on a reader thread: a few milliseconds, then others
READ_WAIT_MILLISECONDS_MAX: Final = 30_000  # for a record to come, within what calls have deadlines of
READ_AHEAD_SIZE: Final = 256 * KIB  # read at once for a follower far behind; a larger entry comes whole
READ_AHEAD_MAX: Final = 8  # such pieces that a leader holds or reads
COLD_READ_RATE_DEFAULT: Final = 32 * MIB  # bytes a second read far behind the end while others append
COLD_READ_SIZE: Final = 64 * KIB  # of these at once: encrypting and sending them takes 0.1 ms of the reactor
COLD_READ_SECONDS_MAX: Final = 1.0  # so long such a read waits at most, however many there are
CATCH_UP_RATE: Final = 64 * MIB  # bytes a second read for followers far behind, of all logs together
WAITERS_MAX: Final = 16_384  # streams waiting at the tail, of all logs together
FOLLOWERS: Final = Quota("followers", WAITERS_MAX, WAITERS_MAX // 2)  # the same by subject; each costs 2 KiB

# --- quotas of node.yaml -------------------------------------------------------------
QUOTA_RULES_MAX: Final = 256  # subjects and patterns
QUOTA_SUBJECTS_MAX: Final = 4096  # that are counted at a time; more than there are connections
QUOTA_SUBJECTS_SHOWN_MAX: Final = 32  # with metrics of their own: the first to come
QUOTA_RATE_MIN: Final = 64 * KIB  # bytes a second: the largest batch keeps a connection waiting for 2 minutes
QUOTA_BURST_SECONDS: Final = 1.0  # so much of its rate a subject has at once
QUOTA_HOLD_SECONDS_MAX: Final = 2.0  # so long it is slowed down; what would have to wait longer is refused
QUOTA_RETRY_SECONDS: Final = 0.1  # until one more request, or connection, may be taken: some will have ended

# --- clocks ----------------------------------------------------------------------------
CLOCK_DIFFERENCE_SECONDS_MAX: Final = 2.0  # of two nodes' wall clocks: NTP keeps them within milliseconds

# --- identities and permissions ---------------------------------------------------
CERTIFICATE_FILE_SIZE_MAX: Final = 256 * KIB  # a bundle of a hundred CAs; anything larger is a wrong path
CERTIFICATE_SIZE_MAX: Final = 6 * KIB  # of a leaf, in DER; gRPC takes some 8 KiB of a peer's whole handshake
CERTIFICATES_SHOWN_SIZE_MAX: Final = 8 * KIB  # of a leaf and what stands behind it
RSA_KEY_BITS_MIN: Final = 2048  # 112 bits of security, OpenSSL's level 2
RSA_KEY_BITS_MAX: Final = (
    8192  # to check such a signature takes 0.3 ms; beyond, the stacks' own bounds differ
)
IDENTITIES_MAX: Final = 1024  # parsed client certificates remembered, about 2 KiB each
POLICY_SIZE_MAX: Final = 256 * KIB
POLICY_RULES_MAX: Final = 1000  # with a model of their own, some 2.5 us each
DECISIONS_MAX: Final = 4096  # remembered (subject, object, action) decisions

# --- gRPC -----------------------------------------------------------------------
GRPC_MESSAGE_SIZE_MAX: Final = PAYLOAD_SIZE_MAX + 64 * KIB
GRPC_FRAMES_SIZE_MAX: Final = 4 * MIB - 4 * KIB  # a message of which every stub takes as it comes
GRPC_STREAMS_PER_CONNECTION_MAX: Final = 256
GRPC_METADATA_SIZE_MAX: Final = 16 * KIB
PIPELINE_MAX: Final = 256  # requests of one produce stream awaiting their commit
PIPELINE_SIZE_MAX: Final = 16 * MIB  # the same in bytes: two of the largest batches
READERS_SIZE_MAX: Final = 32 * MIB  # entries that readers take at a time, shared among those under way
READER_SIZE_MIN: Final = 64 * KIB  # a reader's least share; one entry at least, whatever its size
GRPC_CALLS_MAX: Final = 4096  # calls and streams under way on the whole server
CALLS: Final = Quota("calls", GRPC_CALLS_MAX, GRPC_CALLS_MAX // 2)  # the same by subject
MESSAGE_SECONDS: Final = 60.0  # from a call's headers to its whole request: 8 MiB at 140 KiB a second

# --- HTTP -----------------------------------------------------------------------
HTTP_HEAD_SIZE_MAX: Final = 16 * KIB  # the request line and all headers
HTTP_HEADERS_MAX: Final = 100  # of a request; a browser sends about twenty
HTTP_BODY_SIZE_MAX: Final = 2 * MIB  # a record of the usual limit, in base64
HTTP_CONNECTIONS_MAX: Final = 256  # of browsers, monitors and balancers; each costs two descriptors at most
HTTP_HEAD_SECONDS: Final = 10.0  # from accept, or the first byte of a later request, to the end of its head
HTTP_BODY_SECONDS: Final = 30.0  # from there to the end of its body
HTTP_ANSWER_SECONDS: Final = 30.0  # until an answer begins; a stream then lasts as long as it likes
HTTP_IDLE_SECONDS: Final = 60.0  # between two requests on one connection

# --- JSON over HTTP ---------------------------------------------------------------
REST_BODY_AT_ONCE_MAX: Final = 16 * KIB  # of JSON; a longer body is parsed in a thread, 2 MiB in 20 ms
REST_RECORDS_MAX: Final = 10_000  # in one append: each costs Python a microsecond or two
REST_COUNT_DEFAULT: Final = 100
REST_COUNT_MAX: Final = 1000  # records of one answer; with the next bound it is made in 10 ms
REST_ANSWER_SIZE_MAX: Final = 1 * MIB  # of their values, the last one beyond it
REST_SECONDS: Final = 25.0  # until a request is answered that waits; before HTTP's own time is over
REST_EVENT_SIZE_MAX: Final = 64 * KIB  # of records in one event, the last one beyond it
REST_BEAT_SECONDS: Final = 15.0  # without a record: a comment shows that the stream lives
REST_LIVE_RECORDS_MAX: Final = 200  # in one event of a live stream, and ...
REST_LIVE_SECONDS: Final = 0.1  # ... so long until the next: 2,000 records a second, which people cannot read

# --- clients --------------------------------------------------------------------
UNREPORTED_BATCHES_MAX: Final = 1024  # failed ones whose errors no caller got yet; more are only counted
FASTSTREAM_WORKERS_MAX: Final = 256  # of a subscriber: each holds some records that wait for it
FASTSTREAM_PRODUCERS_MAX: Final = 64  # of a broker: a cluster remembers 4,096, and replies may name any log
# Of a Deferred client's calls, of its producer whose buffer is full, or of a consumer's emits, when nobody
# waits: so many, and ...
WAITING_APPENDS_MAX: Final = 4096
WAITING_SIZE_MAX: Final = 64 * MIB  # ... so many bytes, the last append beyond it

# --- the wire -------------------------------------------------------------------
LINK_HEADER_SIZE: Final = 16
HELLO_SIZE_MAX: Final = 4 * KIB  # the only frame a stranger may send
CONTROL_SIZE_MAX: Final = 8 * KIB  # link and client frames without bulk: errors carry the longest texts
UNKNOWN_SIZE_MAX: Final = 64 * KIB  # a frame of a kind this version does not know: dropped or refused
GOSSIP_SIZE_MAX: Final = 64 * KIB
PUSH_PULL_SIZE_MAX: Final = 256 * KIB  # GOSSIP_MEMBERS_MAX statements of about 1 kB
GOSSIP_MEMBERS_MAX: Final = 4 * MEMBERS_MAX  # also those seen and not (or no longer) in the configuration
GOSSIP_STRANGERS_MAX: Final = MEMBERS_MAX  # of those, nodes that no configuration names: joiners, mostly
GOSSIP_STRANGERS_PER_NAME_MAX: Final = 2  # disks of one such name: an emptied disk, and one emptied again
TWINS_MAX: Final = 64  # machines that have a member's name and are not it, remembered
STRANGERS_DOUBTED_MAX: Final = 64  # nodes that spoke as members and are none, remembered
GOSSIP_BROADCASTS_MAX: Final = 32  # statements on one probe
GOSSIP_RELAYS_MAX: Final = 256  # probes under way for others; each member asks for one at a time
GOSSIP_OUTBOX_MAX: Final = 4096  # messages of one turn; a turn of 64 members makes a few hundred
INCARNATION_RESERVE: Final = (
    16  # incarnations made durable ahead, so that a refutation need not wait for a disk
)
INCARNATION_JUMP_MAX: Final = 1 << 20  # what hearsay may add to a member's incarnation at once
INCARNATION_HEARSAY_MAX: Final = 1 << 48  # what hearsay may say of a member not known yet
INCARNATION_MAX: Final = 1 << 63
ADDRESS_BOOK_SIZE_MAX: Final = (
    64 * KIB
)  # the file `members`: over 200 members with addresses of common length
TAGS_MAX: Final = 16
ADDRESS_SIZE_MAX: Final = 261  # a host name of 255 bytes, a colon, a port
TEXT_SIZE_MAX: Final = 2 * KIB  # a sentence for an operator
FAILURE_DETAILS_MAX: Final = 8
LOGS_PER_DESCRIBE_MAX: Final = 1024
DESCRIBE_SIZE_MAX: Final = 256 * KIB
PRODUCE_SIZE_MAX: Final = PAYLOAD_SIZE_MAX + 64
FORWARD_SIZE_MAX: Final = PAYLOAD_SIZE_MAX + 64 + SUBJECT_SIZE_MAX  # a produce passed on, with its subject
LEADS_SIZE_MAX: Final = 128 * KIB  # LOGS_MAX pairs of 12 bytes
BEAT_SIZE_MAX: Final = 256 * KIB  # LOGS_MAX times 20 bytes
ENTRIES_REPLY_SIZE_MAX: Final = ENTRY_SIZE_MAX + 64  # what a repair asks another node for; one entry at least
STATE_REPLY_SIZE_MAX: Final = STATE_SIZE_MAX + 64  # the replicated state: mostly what producers sent last
FETCH_REPLY_SIZE_MAX: Final = max(FETCH_SIZE_MAX, ENTRY_SIZE_MAX) + 64
REQUESTS_PER_CONNECTION_MAX: Final = 256  # what our clients ask at a time: earlier nodes refused more
FOLLOWS_PER_CONNECTION_MAX: Final = 256  # they never end by themselves, so nobody could be held back by them
FOLLOW_CREDIT_MAX: Final = 64 * MIB  # bytes a client may let the server send ahead

BODIES: Final = Quota("bytes of unfinished requests", 256 * MIB, 64 * MIB)  # eight of the largest at a time
QUIET_SIZE_MAX: Final = 40 * KIB  # over gRPC without a call: a handshake, and the metadata of the first
QUIET_SECONDS_MAX: Final = 5.0  # and so long until it begins, when so much came
ANSWERS: Final = Quota("bytes of answers not taken", 128 * MIB, 32 * MIB)  # of readers that are slow
HOLDING_FREE: Final = 16 * KIB  # what a connection may hold of these at no charge: most hold no more, ever
HOLDING_STEP: Final = 256 * KIB  # and what it takes and gives back at a time

LOG_LINES: Final = Quota(
    "lines a minute about peers", 300, 60
)  # in the diagnostics: a flood must not fill the disk
AUDIT_LINES: Final = Quota("lines a second of the audit", 1000, 200)  # some 300 bytes each
LASTING_LINES_MAX: Final = 1024  # texts remembered, so that what lasts is said once
LOG_TEXT_SIZE_MAX: Final = 256  # characters of what a peer says of itself, in such a line

# --- connections ------------------------------------------------------------------
CLIENT_HELLO_SIZE_MAX: Final = 16 * KIB  # about 2 KiB nowadays; post-quantum key shares made it that large
CLIENT_HELLO_SECONDS: Final = 5.0  # from accept to a whole ClientHello
GREETING_SECONDS: Final = 10.0  # from accept to the peer's Hello, TLS handshake included
FRAME_SECONDS: Final = 10.0  # from a frame's first byte to its last, and ...
FRAME_BYTES_PER_SECOND_MIN: Final = 64 * KIB  # ... a second more for each so many bytes
SILENCE_SECONDS: Final = 30.0  # without a byte received: a Ping is sent
SILENCE_SECONDS_MAX: Final = 60.0  # without a byte received: the connection is gone
STUCK_SECONDS_MAX: Final = 60.0  # a peer that takes none of what is written to it
SOCKET_BUFFER_SIZE: Final = 512 * KIB  # read at once of one connection, and held for a peer that is slow
HALF_CLOSED_SECONDS_MAX: Final = 30.0  # of a spliced connection: TLS has no use for more
CONNECTIONS_MAX: Final = 4096  # on the one port; accepting pauses there
CONNECTIONS_PER_ADDRESS_MAX: Final = 2560
STRANGERS_MAX: Final = 256  # connections whose peer is not known yet; beyond it the oldest goes
STRANGERS_PER_ADDRESS_MAX: Final = 64  # the same of one IPv4 address, or of one IPv6 /64
ADDRESSES_KNOWN_MAX: Final = 1024  # whose strangers go last: somebody with a certificate came from there
CONNECTIONS_PER_CLIENT_MAX: Final = 2048  # of one subject; an idle one takes 47 KiB
CONNECTIONS_WITHOUT_RULE_MAX: Final = 4  # of one that may do nothing here: enough to be told so
CONNECTIONS_OF_NODES_MAX: Final = 256  # kept free for them: CONNECTIONS_PER_NODE_MAX for each member
CONNECTIONS_PER_NODE_MAX: Final = 4  # of one node identity: a link, and its successor while it dies
REQUESTS_SIZE_MAX: Final = 16 * MIB  # unanswered requests of one connection; then it is not read
APPEND_COST: Final = 1 * KIB  # of these for an append on top of its batch
READ_COST: Final = 64 * KIB  # of these for any other request: its answer waits here, too
PEER_QUEUE_SIZE_MAX: Final = 16 * MIB  # bytes waiting for one peer link; beyond it messages are dropped
PEER_QUEUE_MAX: Final = 4096  # the same, counted
PEER_ADDRESSES_MAX: Final = 2  # where one node is tried: the newest that was said, and the one that was true

LOG_FILE_SIZE_MAX: Final = 10 * MIB
LOG_FILES_MAX: Final = 10
"""twistd's log file and how many old ones are kept: some 500,000 lines, so that no noise fills the disk."""
