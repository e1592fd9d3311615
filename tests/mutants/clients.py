"""Known bugs of the client: its connections, and how it reads. Each names the test that must catch it.

`tests/client/test_mutants.py` tries them.
"""

from tests.mutants.named import bug

CONNECTION = "loghouse.client.connection:"
CALLS = "loghouse.client.calls:Calls."
OPENED = "loghouse.client.deferred.opened:OpenedClient."

CLIENT = (
    bug(
        "client-follows-a-log-made-again",
        "KAFKA-12257: a topic made again under its name",
        "Another log that got the name is taken for the one that was asked for.",
        (CALLS + "_check_log", "view.group > self.group", "False"),
        by="client.test_named_logs:RecreatedTests.test_never_goes_on",
    ),
    bug(
        "client-keeps-a-stale-epoch",
        "many logs: of two routes the newer one has the higher epoch",
        "Whatever a node tells of a log's place is believed, however old it is.",
        (CALLS + "_check_log", "view.epoch < self._epoch", "False"),
        by="client.test_named_logs:RouteTests.test_older_epochs",
    ),
    bug(
        "client-believes-a-node-that-is-behind",
        "many logs: a node may not know a log yet",
        "One node that does not know a log is enough to believe that there is none.",
        (CALLS + "confirmed", "self.is_named and isinstance(failure.error, UnknownLogError)", "False"),
        by="client.test_named_logs:RouteTests.test_a_node_that_is_behind",
    ),
    bug(
        "broken-append-is-safe",
        "grpc/proposal A6: what may be retried",
        "An append on a connection that broke counts as not done, and is made again.",
        (CONNECTION + "Connection._fail_everything", "unknown if one.is_append else nothing", "nothing"),
        by="client.test_connection:RequestTests.test_connection_breaks",
    ),
    bug(
        "late-append-is-safe",
        "grpc/proposal A6: what may be retried",
        "An append without an answer in time counts as not done.",
        (CONNECTION + "Connection._give_up", "lost_call(", 'unreached(self._address, "").failure or ('),
        by="client.test_connection:RequestTests.test_no_answer",
    ),
    bug(
        "unknown-outcome-is-safe",
        "design 6 (an ambiguous outcome is a typed error)",
        "An append of which the node does not know the outcome is made again.",
        ("loghouse.client.failures:effect_of", "return Effect.UNKNOWN", "return Effect.NOTHING"),
        by="client.test_calls:AppendTests.test_unknown_outcome",
    ),
    bug(
        "any-text-is-an-address",
        "a just-started node told of addresses that it did not know",
        "What a server tells of is dialled, whether it is an address or not.",
        ("loghouse.client.balancing:Balancer._addresses_of", "if is_dialable(address)", ""),
        by="client.test_balancing:NoAddressTests.test_never_chosen",
    ),
    bug(
        "strange-failure-ends-it",
        "a producer was closed for good by a ValueError",
        "What is raised below and is no error of ours goes up as it is.",
        (
            "loghouse.client.channels:Lent.__exit__",
            "raise CallFailedError(unexpected(error, self._address)) from error",
            "return",
        ),
        by="client.test_calls:UnexpectedTests.test_tried_again",
    ),
    bug(
        "any-cluster-will-do",
        "client-takes-node-of-other-cluster",
        "A node of another cluster of the same CA is spoken to.",
        ("loghouse.client.pin:ClusterPin._check", "elif cluster != self.cluster", "elif False"),
        by="client.test_strangers:StrangersTests.test_certificates",
    ),
    bug(
        "leader-not-followed",
        "design 9 (balancing as in the original)",
        "The leader that a follower names is not remembered.",
        (CONNECTION + "Connection._take", "self._hinted(event.name, event.group or DEFAULT_GROUP)", "pass"),
        by="client.test_calls:AppendTests.test_answer_names_the_leader",
    ),
    bug(
        "any-server-will-do",
        "RFC 7301 (ALPN)",
        "A server that did not choose the protocol is spoken to.",
        (CONNECTION + "Connection.connection_made", "tls.selected_alpn_protocol() != ALPN", "False"),
        by="client.test_connection:TlsTests.test_door_of_something_else",
    ),
    bug(
        "any-certificate-will-do",
        "RFC 9525 (service identity)",
        "The server's certificate is not checked.",
        (
            CONNECTION + "context_of",
            "context.set_alpn_protocols([ALPN])",
            "context.set_alpn_protocols([ALPN]); context.check_hostname = False; context.verify_mode = 0",
        ),
        by="client.test_connection:TlsTests.test_server_is_not_trusted",
    ),
    bug(
        "old-tls-will-do",
        "design 8 (TLS 1.3)",
        "An older TLS is accepted.",
        (CONNECTION + "context_of", "ssl.TLSVersion.TLSv1_3", "ssl.TLSVersion.TLSv1_2"),
        by="client.test_connection:TlsTests.test_greets",
    ),
    bug(
        "no-bound-here",
        "limits.py (requests on one connection)",
        "More requests are sent than a node allows; it refuses them.",
        (CONNECTION + "Connection.__init__", "self._loop, REQUESTS_PER_CONNECTION_MAX", "self._loop, 10**6"),
        by="client.test_connection:RequestTests.test_bound",
    ),
    bug(
        "credit-for-nothing",
        "wire_format 3 (credit)",
        "A reader lets the node send more before it has taken what came.",
        (
            CONNECTION + "Following.received",
            "self._ready.append(answer)",
            "self._ready.append(answer); self._connection.add_credit(self._stream, len(answer.frames))",
        ),
        by="client.test_reading:EndTests.test_slow_reader",
    ),
    bug(
        "values-of-other-records",
        "ADR 15",
        "A record without a value takes that of the next one, which has two.",
        ("loghouse.protocol.batch:plain_values", "and all(records)", ""),
        by="protocol.test_batch:PlainValuesTests.test_never_wrong",
    ),
    bug(
        "keys-are-lost",
        "ADR 15",
        "A batch in which one record has a key is taken for one of values alone.",
        ("loghouse.protocol.batch:plain_values", "and fields.ByteSize() == len(joined)", ""),
        by="protocol.test_batch:PlainValuesTests.test_anything_else",
    ),
    bug(
        "awaited-outside-of-a-task",
        "ADR 45",
        "The asyncio client waits in a coroutine that no task of its loop runs.",
        ("loghouse.client.place:Place.check_task", "asyncio.current_task() is None", "False"),
        by="client.test_place:LoopTests.test_no_task",
    ),
    bug(
        "reactor-stops-before-the-answer",
        "ADR 45",
        "The reactor's stop closes a client with calls under way.",
        (OPENED + "_is_busy", "bool(self._calls) or ", ""),
        by="client.test_deferred:StopTests.test_waits_for_calls",
    ),
    bug(
        "first-trigger-closes",
        "ADR 45",
        "A client closes before others were told of the reactor's stop.",
        (OPENED + "_is_busy", "await deferLater(self._reactor, 0)", "pass"),
        by="client.test_deferred:StopTests.test_after_the_others",
    ),
    bug(
        "any-thread-will-do",
        "ADR 45",
        "Other threads than the reactor's use a Deferred client.",
        (OPENED + "check_here", "self._thread != threading.get_ident()", "False"),
        by="client.test_deferred:EndTests.test_other_thread",
    ),
    bug(
        "one-row-for-two-consumers",
        "docs/clients.md: consumers of two logs that share a database need two rows",
        "A consumer goes on where that of another log stands.",
        ("loghouse.client.database:DatabasePosition.claim", "row[2] != source", "False"),
        ("loghouse.client.database:DatabasePosition.claim", " AND source = ?", " AND source <> ''"),
        ("loghouse.client.database:DatabasePosition.claim", "self.name, source, epoch)", "self.name, epoch)"),
        by="client.test_database:PositionTests.test_taken",
    ),
)
