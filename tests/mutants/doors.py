"""Known bugs of what the doors do with appends. Each names the test that must catch it.

`tests/test_door_mutants.py` tries them.
"""

from tests.mutants.named import bug

CHECKING = "loghouse.protocol.checking:"
ZSTD = "loghouse.protocol.zstd:"

PAYLOADS = (
    bug(
        "bytes-behind-a-frame",
        "RFC 8878 3.1: frames are independent",
        "What is behind a payload's zstd frame is not looked at.",
        [(ZSTD + "_check_blocks", "if position < size:", "if False:")],
        "protocol.test_zstd:PayloadVectorTests.test_taken_and_refused",
    ),
    bug(
        "checksum-cut-off",
        "RFC 8878 3.1.1: Content_Checksum",
        "A frame without the checksum that it announces is taken.",
        [
            (ZSTD + "_check_blocks", "position += 4 * parameters.has_checksum", ""),
            (
                ZSTD + "unpack_frame",
                "unpacker.decompress(payload, max_output_size=PAYLOAD_SIZE_MAX)",
                "unpacker.stream_reader(payload).read(PAYLOAD_SIZE_MAX)",
            ),
        ],
        "protocol.test_zstd:PayloadVectorTests.test_taken_and_refused",
    ),
    bug(
        "any-window-will-do",
        "RFC 8878 3.1.1.1.2: decoders need not support more than 8 MiB",
        "A frame whose window other decoders refuse is taken.",
        [(ZSTD + "unpacked_size", "parameters.window_size > ZSTD_WINDOW_SIZE_MAX", "False")],
        "protocol.test_zstd:PayloadVectorTests.test_taken_and_refused",
    ),
    bug(
        "parse-before-the-count",
        "ADR 19",
        "However many records a batch may hold, it is parsed at once.",
        [(CHECKING + "check_steps", "if elements_max <= PARSED_ELEMENTS_MAX:", "if True:")],
        "protocol.test_checking:CostTests.test_bombs",
    ),
    bug(
        "headers-cost-nothing",
        "ADR 19",
        "Only records are counted before a parse, not their headers.",
        [(CHECKING + "_count_elements", "+ unpacked.count(_HEADER_TAG)", "")],
        "protocol.test_checking:CostTests.test_bombs",
    ),
    bug(
        "packed-size-is-the-size",
        "ADR 19",
        "What a packed batch unpacks to does not count: it is unpacked and parsed on the reactor.",
        [
            (CHECKING + "check_steps", "max(len(payload), unpacked_size(payload))", "len(payload)"),
            (CHECKING + "check_steps", "if is_packed and elements_max > UNPACKED_ELEMENTS_MAX:", "if False:"),
        ],
        "protocol.test_checking:CostTests.test_what_the_reactor_does_itself",
    ),
    bug(
        "held-by-one-given-up",
        "appends of a session keep their order",
        "A batch that nobody waits for any more holds those behind it back for ever.",
        [("loghouse.net.appending:Appends._propose_checked", "or not line[0][0].is_wanted", "")],
        "net.test_appending:LineTests.test_given_up_while_checked",
    ),
)
