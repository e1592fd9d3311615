"""Known bugs of what the servers do with appends. Each names the test that must catch it.

`tests/test_door_mutants.py` tries them.
"""

from tests.mutants.named import bug

GATE = "loghouse.node.gate:"
CHECKING = "loghouse.protocol.checking:"
ZSTD = "loghouse.protocol.zstd:"

PAYLOADS = (
    bug(
        "bytes-behind-a-frame",
        "RFC 8878 3.1: frames are independent",
        "What is behind a payload's zstd frame is not looked at.",
        (ZSTD + "_check_blocks", "if position < size:", "if False:"),
        by="protocol.test_zstd:PayloadVectorTests.test_taken_and_refused",
    ),
    bug(
        "checksum-cut-off",
        "RFC 8878 3.1.1: Content_Checksum",
        "A frame without the checksum that it announces is taken.",
        (ZSTD + "_check_blocks", "position += 4 * parameters.has_checksum", ""),
        (
            ZSTD + "unpack_frame",
            "unpacker.decompress(payload, max_output_size=PAYLOAD_SIZE_MAX)",
            "unpacker.stream_reader(payload).read(PAYLOAD_SIZE_MAX)",
        ),
        by="protocol.test_zstd:PayloadVectorTests.test_taken_and_refused",
    ),
    bug(
        "any-window-will-do",
        "RFC 8878 3.1.1.1.2: decoders need not support more than 8 MiB",
        "A frame whose window other decoders refuse is taken.",
        (ZSTD + "unpacked_size", "parameters.window_size > ZSTD_WINDOW_SIZE_MAX", "False"),
        by="protocol.test_zstd:PayloadVectorTests.test_taken_and_refused",
    ),
    bug(
        "parse-before-the-count",
        "ADR 19",
        "However many records a batch may hold, it is parsed at once.",
        (CHECKING + "check_steps", "if elements_max <= PARSED_ELEMENTS_MAX:", "if True:"),
        by="protocol.test_checking:CostTests.test_bombs",
    ),
    bug(
        "headers-cost-nothing",
        "ADR 19",
        "Only records are counted before a parse, not their headers.",
        (CHECKING + "_count_elements", "+ unpacked.count(_HEADER_TAG)", ""),
        by="protocol.test_checking:CostTests.test_bombs",
    ),
    bug(
        "fields-cost-nothing",
        "ADR 19",
        "A request of millions of empty fields is parsed at once.",
        (CHECKING + "_fields", "count > REQUEST_FIELDS_MAX", "False"),
        by="api.test_hostile:HostileTests.test_many_small_parts",
    ),
    bug(
        "a-record-is-parsed-before-its-size",
        "ADR 19",
        "However many headers the record of a request has, it is parsed at once.",
        (CHECKING + "record_steps", "> HEADERS_PER_RECORD_MAX", "> 1 << 30"),
        by="api.test_hostile:HostileTests.test_many_small_parts",
    ),
    bug(
        "packed-size-is-the-size",
        "ADR 19",
        "What a packed batch unpacks to does not count: it is unpacked and parsed on the reactor.",
        (CHECKING + "check_steps", "max(len(payload), unpacked_size(payload))", "len(payload)"),
        (CHECKING + "check_steps", "if is_packed and elements_max > UNPACKED_ELEMENTS_MAX:", "if False:"),
        by="protocol.test_checking:CostTests.test_what_the_reactor_does_itself",
    ),
    bug(
        "one-way-of-unpacking",
        "RFC 8878, 3.1.1.1.2: the window",
        "A frame that repeats bytes from behind its window is taken: readers get an error, or other bytes.",
        ("loghouse.protocol.zstd:unpack_frame", "if len(unpacked) > window_size and", "if False and"),
        by="protocol.test_zstd:PayloadVectorTests.test_taken_and_refused",
    ),
    bug(
        "held-by-one-given-up",
        "appends of a session keep their order",
        "A batch that nobody waits for any more holds those behind it back for ever.",
        ("loghouse.net.appending:Appends._propose_checked", "or not line[0][0].is_wanted", ""),
        by="net.test_appending:LineTests.test_given_up_while_checked",
    ),
    bug(
        "queued-before-gathered",
        "messages of a log keep their order on a link",
        "What was queued while the link was full leaves before what was gathered earlier.",
        ("loghouse.net.peer:PeerLink._drain", "if self._gathered and link.is_writable:", "if False:"),
        by="net.test_dialling_parts:SendingTests.test_gathered_before_queued",
    ),
    bug(
        "leader-of-the-last-log-alone",
        "found while answers were gathered: each log has its leader",
        "Of the logs whose answers leave together, a client hears who leads the last one.",
        ("loghouse.net.appending:Appender.note_answer", "self._answered.get(appends)", "None"),
        by="net.test_appending:AnswerTests.test_answers_of_many_logs",
    ),
)

PRODUCERS = (
    bug(
        "retry-with-other-records",
        "Kafka KIP-98: a sequence belongs to one batch",
        "Whatever a producer sends under a sequence that is in the log is acknowledged.",
        (
            "loghouse.raft.proposals:Proposals._ticket_of",
            "if not _is_same(proposal, batch, header):",
            "if False:",
        ),
        by="raft.test_producers:ProducerTests.test_other_records_under_a_sequence_that_is_taken",
    ),
    bug(
        "retry-without-a-time",
        "a retry's answer is the first one's",
        "A retry of a committed batch is told that it was appended at the beginning of time.",
        (
            "loghouse.replica.driver:RaftDriver._wait",
            "Appended.by(ticket, ticket.timestamp)",
            "Appended.by(ticket, 0)",
        ),
        by="test_retries:RetryTests.test_retries_of_a_producer",
    ),
    bug(
        "held-back-is-a-gap",
        "RFC 9293: back-pressure is no error of the sender",
        "Batches behind one that was held back are told that they left a gap.",
        (
            "loghouse.raft.proposals:Proposals._find_original",
            "if error.expected == held and error.sequence > held:",
            "if False:",
        ),
        by="raft.test_producers:ProducerTests.test_in_flight_is_bounded",
    ),
    bug(
        "held-back-here-is-a-gap-there",
        "RFC 9293: back-pressure is no error of the sender",
        "A follower passes on batches behind one that it held back itself.",
        (
            "loghouse.node.forwarding:Forwarder._refusal",
            "if held is not None and held < sequence:",
            "if False:",
        ),
        by="test_retries:HeldBackTests.test_what_stands_behind_a_batch_held_back",
    ),
)

GATES = (
    bug(
        "expired-on-an-open-connection",
        "RFC 5280 4.1.2.5: validity",
        "A certificate counts as long as its connection lasts.",
        (GATE + "Gate.check_permission", "if identity.has_expired(self._clock()):", "if False:"),
        by="net.test_same_refusal:CertificateTests.test_expires",
    ),
    bug(
        "no-such-log",
        "gRPC: NOT_FOUND",
        "Whatever log a request names, the default one is meant.",
        (GATE + "Gate.find_log", "self.node.log(name)", "self.node.log('')"),
        by="net.test_same_refusal:RequestTests.test_permission",
    ),
    bug(
        "another-log-of-that-name",
        "KAFKA-12257: a topic made again under its name",
        "The number of the log that a request is for is not looked at.",
        (GATE + "Gate.find_log", "if group and log.group != group:", "if False:"),
        by="test_node_parts:GateTests.test_another_log_of_that_name",
    ),
    bug(
        "the-catalogue-is-a-log-like-any",
        "many logs: the catalogue is for administrators",
        "A rule that covers the catalogue's name is enough to read and to write it.",
        (GATE + "Gate.check_permission", "object_ == CATALOGUE_LOG:", "False:"),
        by="test_node_parts:GateTests.test_the_catalogue",
    ),
    bug(
        "groups-tell-names",
        "CWE-204: observable response discrepancy",
        "Whoever tries groups learns the names of logs that it may not know of.",
        (
            "loghouse.net.binary_server:BinarySession._check_log",
            "if group == DEFAULT_GROUP or gate.may_see(identity, log.name):",
            "if True:",
        ),
        by="net.test_many_logs:GroupTests.test_groups_tell_no_names",
    ),
    bug(
        "a-bug-in-its-own-words",
        "CWE-209: error messages with sensitive information",
        "A client is told the text of an error that no client was meant to read.",
        (GATE + "refusal_of", "OutcomeUnknownError(UNEXPECTED)", "OutcomeUnknownError(str(error))"),
        by="net.test_same_refusal:RequestTests.test_unexpected_failure",
    ),
    bug(
        "nobody-s-proposal",
        "limits.py (shares by subject), ADR 16",
        "A proposal does not say whose it is.",
        (GATE + "proposal_alone", "subject=subject", 'subject=""'),
        by="api.test_log_service:UnaryTests.test_expect_offset_and_producer",
    ),
)

FLOW = (
    bug(
        "stream-wider-than-a-producer",
        "backpressure, not an error, for who only writes on",
        "A stream of a producer goes on to be read until the log refuses a batch, which ends the stream.",
        ("loghouse.api.pipeline:Pipeline._read", "PRODUCER_BATCHES_MAX", "PIPELINE_MAX"),
        by="api.test_streams:PipelineTests.test_window_of_a_producer",
    ),
    bug(
        "nobody-is-held-back",
        "limits.py (unanswered requests of one connection)",
        "However much the requests of a connection hold, more are taken.",
        ("loghouse.protocol.session:Session._events_of", "if self.served.is_full:", "if False:"),
        by="protocol.test_flow_control:FlowTests.test_a_dialler_ahead_is_held_back",
    ),
    bug(
        "held-back-for-ever",
        "limits.py (unanswered requests of one connection)",
        "What came behind full requests is not looked at when they are answered.",
        ("loghouse.net.link:Link.flush", "self._go_on(session)", "pass"),
        by="net.test_flow:FlowTests.test_goes_on",
    ),
    bug(
        "parts-without-a-beginning",
        "design 9 (the first records entry holds the asked offset)",
        "The part of a large batch begins with its first record, whatever was asked for.",
        ("loghouse.api.unpacking:_first_part", "if first:", "if False:"),
        by="api.test_large_batches:LargeBatchTests.test_fetch",
    ),
)

WEB = (
    bug(
        "slowloris",
        "RFC 9112 (limits.py: HTTP_HEAD_SECONDS)",
        "A head may take as long as it likes, while a byte comes now and then.",
        ("loghouse.http.channel:HttpChannel.connectionMade", "self._within(HTTP_HEAD_SECONDS)", "pass"),
        by="http.test_channel:SlowTests.test_head",
    ),
    bug(
        "folded-headers",
        "RFC 9112 5.2",
        "A header in several lines is taken.",
        ("loghouse.http.channel:HttpChannel.lineReceived", 'if line[:1] in (b" ", b"\\t"):', "if False:"),
        by="http.test_channel:SmugglingTests.test_lines",
    ),
    bug(
        "body-without-an-end",
        "limits.py (HTTP_BODY_SIZE_MAX)",
        "Chunks are kept, however many come.",
        (
            "loghouse.http.channel:HttpRequest.handleContentChunk",
            "self.content.tell() + len(data) > HTTP_BODY_SIZE_MAX",
            "False",
        ),
        by="http.test_channel:SizeTests.test_body",
    ),
    bug(
        "any-host-will-do",
        "DNS rebinding",
        "A page that has this machine's address under its own name is answered.",
        (
            "loghouse.http.endpoint:origin_problem",
            "if is_plain and not _is_this_machine(name):",
            "if False:",
        ),
        by="http.test_endpoint:PlainTests.test_other_sites",
    ),
    bug(
        "series-for-every-log",
        "200 kB (docs/monitoring.md)",
        "Every log has series of its own.",
        ("loghouse.http.collector:_of_logs", "sorted(hosted)[:LOGS_SHOWN_MAX]", "sorted(hosted)"),
        by="http.test_metrics_page:PageTests.test_thousand_logs",
    ),
    bug(
        "healthy-in-any-state",
        "docs/operations.md (Health)",
        "A node that is behind says that it is ready.",
        ("loghouse.node.condition:_of_replica", "yield Hindrance.BEHIND", "pass"),
        by="http.test_health:ConditionTests.test_replicas",
    ),
)
