"""When producers and readers do what: how long a stream may be silent, idle or broken before it is left.

As `test_times`: a loop with a clock of its own, and streams that do as a test says.
"""

import asyncio
import contextlib

from loghouse.client.batching import Accumulator, head_of
from loghouse.client.channels import Answers, AppendAnswer, AppendStream, FetchAnswer, LogId
from loghouse.client.failures import CallFailedError, CallFailure, Effect
from loghouse.client.reading import Reader
from loghouse.client.records import Bounds
from loghouse.client.sending import Sending
from loghouse.errors import (
    ClosedError,
    DeadlineError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ProtocolError,
    UnavailableError,
    UnknownProducerError,
)
from loghouse.protocol.entry import Codec, EntryKind, frame_seed, make_entry
from tests.client.test_times import DENIED, LEADERLESS, LOST, NOWHERE, UUID, TimedCase, view
from tests.fakes.clock_loop import timed

FOR_EVER = 10_000.0


class ScriptedAppends(AppendStream):
    """Takes batches, and gives the outcomes that the case's `outcomes` has for the channel's address.

    An outcome is an offset, a failure, or a pair of seconds and one of them. Without one nothing comes.
    """

    def __init__(self, channel, case):
        self.address = channel.address
        self.case = case
        self.sent = asyncio.Queue()
        self.case.opened.append((case.now, self.address))

    async def write(self, request):
        self.case.written.append(
            (self.case.now, self.address, bytes(request.batch)[-1:], request.producer_sequence)
        )
        self.case.requests.append(request)
        failure = self.case.write_failures.get(self.address)
        if failure is not None:
            raise failure
        self.sent.put_nowait(request)

    async def read(self):
        outcomes = self.case.outcomes.get(self.address, [])
        if outcomes and isinstance(outcomes[0], CallFailure):  # a stream that cannot even be opened
            raise CallFailedError(outcomes.pop(0))
        request = await self.sent.get()
        outcome = outcomes.pop(0) if outcomes else (FOR_EVER, LOST)
        if type(outcome) is tuple:
            await asyncio.sleep(outcome[0])
            outcome = outcome[1]
        if isinstance(outcome, CallFailure):
            raise CallFailedError(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return AppendAnswer(outcome, request.record_count)

    def cancel(self):
        self.case.left.append((self.case.now, self.address))


class SendingCase(TimedCase):
    """A producer's sending, batch by batch: `add` gives it one, of one record."""

    def start(self, outcomes, *, script=None, window=4, timeout=60.0, linger=0.0, **options):
        script = script if script is not None else {address: {"register": [5]} for address in ALL}
        calls = self.begin(script, **options)
        self.outcomes = outcomes
        self.write_failures = {}
        self.opened, self.written, self.requests, self.left = [], [], [], []
        self.settled = []
        self.accumulator = Accumulator(batch_size=6, linger_seconds=linger, timeout_seconds=timeout)
        self.sending = Sending(
            calls,
            self.accumulator,
            codec=Codec.NONE,
            window=window,
            lock=contextlib.nullcontext(),
            settled=lambda batch: self.settled.append((self.now, batch)),
        )
        self.running = calls.spawn(self.sending.run())

    def appends(self, channel, log):
        self.assertEqual(log, LogId())
        return ScriptedAppends(channel, self)

    def add(self, value=b"a"):
        batch = self.accumulator.add(head_of(1), value, self.loop.time())
        self.sending.wake()
        return batch

    async def end(self):
        await self.calls.close()
        self.assertTrue(self.running.done())

    def at(self):
        """When which offsets or kinds of errors were settled."""
        return [
            (time, batch.base_offset if batch.error is None else type(batch.error))
            for time, batch in self.settled
        ]


ALL = ("h1:1", "h2:2", "h3:3")


class StreamTests(SendingCase):
    """One stream: opened when there is something, left when it is of no use."""

    @timed
    async def test_idle(self):
        """A stream without a batch for 10 s is closed; the next batch opens another one."""
        self.start({"h1:1": [(1.0, 0), 1, 2]})
        self.add(b"a")
        await asyncio.sleep(5.0)
        self.add(b"b")
        await asyncio.sleep(20.0)
        self.add(b"c")
        await asyncio.sleep(1.0)
        self.assertEqual(self.opened, [(0.0, "h1:1"), (25.0, "h1:1")])
        self.assertEqual(self.left, [(15.0, "h1:1")])
        self.assertEqual(self.at(), [(1.0, 0), (5.0, 1), (25.0, 2)])
        self.assertEqual([request[2:] for request in self.written], [(b"a", 0), (b"b", 1), (b"c", 2)])
        self.assertEqual(self.given("register"), [5.0])
        await self.end()

    @timed
    async def test_request(self):
        """A batch is sent with all that a node needs to know of it, under the producer's id."""
        self.start({"h1:1": [0]}, linger=0.5)
        batch = self.add(b"a")
        await asyncio.sleep(0.4)
        self.assertEqual(self.written, [])
        await asyncio.sleep(0.2)
        (request,) = self.requests
        self.assertEqual(bytes(request.batch), head_of(1) + b"a")
        self.assertEqual((request.record_count, request.attributes), (1, Codec.NONE))
        self.assertEqual((request.batch_crc, request.expect_offset), (batch.crc, None))
        self.assertEqual((request.producer_id, request.producer_sequence), (5, 0))
        self.assertEqual(self.at(), [(0.5, 0)])
        await self.end()

    @timed
    async def test_silent_server(self):
        """A server that answers nothing for 5 s is left, and the same batch goes to another one."""
        script = {address: {"register": [5], "servers": [view("h2:2")]} for address in ALL}
        self.start({"h2:2": [7]}, script=script)
        self.add(b"a")
        await asyncio.sleep(20.0)
        self.assertEqual(self.written, [(0.0, "h1:1", b"a", 0), (5.02, "h2:2", b"a", 0)])
        self.assertEqual((self.left[0], self.at()), ((5.0, "h1:1"), [(5.02, 7)]))
        await self.end()

    @timed
    async def test_slow_server(self):
        """While answers come, each within 5 s, a stream is kept."""
        self.start({"h1:1": [(4.9, 0), (4.9, 1), (4.9, 2)]})
        for value in (b"a", b"b", b"c"):
            self.add(value)
        await asyncio.sleep(20.0)
        self.assertEqual([offset for _, offset in self.at()], [0, 1, 2])
        self.assertEqual(len(self.opened), 1)
        await self.end()

    @timed
    async def test_window(self):
        """So many are on their way at a time; each answer lets one more go."""
        self.start({"h1:1": [(1.0, number) for number in range(6)]}, window=2)
        for number in range(6):
            self.add(b"%d" % number)
        await asyncio.sleep(10.0)
        self.assertEqual([time for time, *_ in self.written], [0.0, 0.0, 1.0, 2.0, 3.0, 4.0])
        self.assertEqual([time for time, _ in self.settled], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        await self.end()

    @timed
    async def test_pauses(self):
        """A stream that fails is opened again after pauses that grow; an answer ends that."""
        self.start({"h1:1": [LEADERLESS] * 3 + [0, (0.0, LEADERLESS), 1]}, seeds=ALL[:1], is_direct=True,
                   script={"h1:1": {"register": [5], "servers": [view()]}})  # fmt: skip
        self.add(b"a")
        await asyncio.sleep(5.0)
        self.assertEqual([time for time, _ in self.opened], [0.0, 0.02, 0.06, 0.14])
        self.add(b"b")
        await asyncio.sleep(5.0)
        self.assertEqual([time for time, _ in self.opened[4:]], [5.02])
        self.assertEqual(self.at(), [(0.14, 0), (5.02, 1)])
        await self.end()

    @timed
    async def test_leader_is_named(self):
        """To a leader that was named it goes at once, the first time."""
        named = CallFailure(error=UnavailableError("not me"), effect=Effect.NOTHING, leader="h2")
        self.start({"h1:1": [named], "h2:2": [7]})
        self.add(b"a")
        await asyncio.sleep(1.0)
        self.assertEqual(self.opened, [(0.0, "h1:1"), (0.0, "h2:2")])
        self.assertEqual(self.at(), [(0.0, 7)])
        await self.end()

    @timed
    async def test_leader_moves(self):
        """When another server leads, what is on its way is awaited; then the stream goes to that one."""
        self.start({"h1:1": [(1.0, 0)], "h2:2": [1]})
        self.add(b"a")
        await asyncio.sleep(0.5)
        self.balancer.hinted("h2")
        self.add(b"b")
        await asyncio.sleep(5.0)
        self.assertEqual(self.opened, [(0.0, "h1:1"), (1.0, "h2:2")])
        self.assertEqual(self.at(), [(1.0, 0), (1.0, 1)])
        await self.end()


class BrokenTests(SendingCase):
    """What a failure means for what was sent, and for what was not."""

    @timed
    async def test_refused(self):
        """A refusal is of one batch: the next one goes on at once, there."""
        self.start(
            {"h1:1": [CallFailure(error=InvalidRequestError("record", "no"), effect=Effect.REFUSED), 0]}
        )
        self.outcomes["h1:1"] = [(0.0, self.outcomes["h1:1"][0]), 0]
        self.add(b"a")
        self.add(b"b")
        await asyncio.sleep(5.0)
        self.assertEqual(self.at()[0], (0.0, InvalidRequestError))
        self.assertEqual(self.at()[1:], [(0.0, 0)])
        await self.end()

    @timed
    async def test_writer_hears_first(self):
        """Of a stream that takes no more the reader may say why, within 1 s; else nobody knows."""
        for reason, seconds, error in ((DENIED, 0.9, PermissionDeniedError), (DENIED, 1.1, None)):
            self.start({"h1:1": []}, seeds=ALL[:1], is_direct=True,
                       script={"h1:1": {"register": [5], "servers": [view()]}}, timeout=3.0)  # fmt: skip
            begun = self.now
            self.write_failures["h1:1"] = ProtocolError("broken")
            reading = ScriptedAppends.read

            async def read(stream, seconds=seconds, reason=reason):
                await asyncio.sleep(seconds)
                raise CallFailedError(reason)

            self.patch(ScriptedAppends, "read", read)
            self.add(b"a")
            await asyncio.sleep(6.0)
            self.patch(ScriptedAppends, "read", reading)
            if error is not None:
                self.assertEqual(self.at(), [(round(begun + seconds, 3), error)])
            else:
                ((_, batch),) = self.settled
                self.assertIsInstance(batch.error, OutcomeUnknownError)
                self.assertIn("h1:1: broken", str(batch.error))
                self.assertEqual(self.left[0][0] - begun, 1.0)
            await self.end()

    @timed
    async def test_expired(self):
        """What waits behind a silent server expires at its time, looked at each half second."""
        self.start({}, timeout=2.2, script={address: {"register": [5]} for address in ALL})
        self.add(b"a")
        await asyncio.sleep(10.0)
        self.assertEqual(self.at(), [(2.5, OutcomeUnknownError)])
        await self.end()

    @timed
    async def test_too_much_before_it(self):
        """A batch that never came into the window expires with a word of why."""
        self.start({}, window=1, timeout=2.2)
        self.add(b"a")
        waiting = self.add(b"b")
        await asyncio.sleep(4.0)
        self.assertEqual([kind for _, kind in self.at()], [OutcomeUnknownError, DeadlineError])
        self.assertEqual(
            str(waiting.error), "nothing was appended before the deadline: too much was before it"
        )
        await self.end()

    @timed
    async def test_registering_in_vain(self):
        """Without an id a batch is tried until its time is over, and the error says why."""
        self.start({}, script={address: {"register": [LEADERLESS], "servers": [view()]} for address in ALL},
                   timeout=2.0)  # fmt: skip
        batch = self.add(b"a")
        await asyncio.sleep(5.0)
        self.assertEqual(self.at(), [(2.0, DeadlineError)])
        self.assertIn("; the last problem: gave up after ", str(batch.error))
        self.assertEqual(self.opened, [])
        await self.end()

    @timed
    async def test_registering_refused(self):
        """Who may not append is told at once, batch by batch; the producer lives on."""
        self.start({"h1:1": [0]}, script={"h1:1": {"register": [DENIED, 5]}})
        self.add(b"a")
        await asyncio.sleep(1.0)
        self.assertEqual(self.at(), [(0.0, PermissionDeniedError)])
        self.add(b"b")
        await asyncio.sleep(1.0)
        self.assertEqual(self.at()[1:], [(1.0, 0)])
        await self.end()

    @timed
    async def test_closed(self):
        """A producer that is cut off fails what is not acknowledged; what was sent may have been appended."""
        self.start({}, window=1)
        sent, waiting = self.add(b"a"), self.add(b"b")
        await asyncio.sleep(1.0)
        self.assertEqual(str(self.sending.closed_error), "the producer is closed")
        self.running.cancel()
        await asyncio.wait({self.running})
        text = "the producer was closed before everything was sent"
        self.assertEqual(
            (type(sent.error), str(sent.error)),
            (OutcomeUnknownError, f"{text}; what was sent may have been appended"),
        )
        self.assertEqual((type(waiting.error), str(waiting.error)), (ClosedError, text))
        self.assertEqual(self.left, [(1.0, "h1:1")])
        await self.end()

    @timed
    async def test_leader_that_knows_nothing(self):
        """A refusal that may be an old leader's is a reason to ask who leads; the batch is sent again."""
        gap = CallFailure(error=UnknownProducerError(5), effect=Effect.REFUSED)
        script = {"h1:1": {"register": [5], "servers": [view()]}}
        self.start({"h1:1": [(0.0, LOST), (0.5, gap), 3]}, script=script, seeds=ALL[:1], is_direct=True)
        self.add(b"a")
        await asyncio.sleep(10.0)
        self.assertEqual((len(self.written), self.at()), (3, [(0.56, 3)]))
        self.assertEqual([time for time, _ in self.times("servers")], [0.0, 0.52])
        await self.end()

    @timed
    async def test_finish(self):
        """Finishing sends what lingers at once, and ends when all is answered."""
        self.start({"h1:1": [(1.0, 0)]}, linger=30.0)
        self.add(b"a")
        await asyncio.sleep(2.0)
        self.sending.finish()
        await self.running
        self.assertEqual((self.now, self.at()), (3.0, [(3.0, 0)]))
        await self.end()

    @timed
    async def test_bug(self):
        """What is no error of ours ends the producer: everybody is told, and so is who appends later."""
        self.start({"h1:1": [0]})

        def broken():
            raise KeyError("bug")

        await asyncio.sleep(1.0)
        self.sending._pull = broken
        batch = self.add(b"a")
        await asyncio.wait({self.running})
        self.assertIsInstance(self.running.exception(), KeyError)
        text = "the producer failed: KeyError: 'bug'"
        self.assertEqual((type(batch.error), str(batch.error)), (UnavailableError, text))
        error = self.sending.closed_error
        self.assertEqual((type(error), str(error)), (ClosedError, f"the producer is closed: {text}"))
        self.assertIsInstance(error.__cause__, KeyError)
        await self.end()


SEED = frame_seed(UUID, 1)


def frames(first, count=1):
    """An answer with so many records from an offset on, each a batch of its own."""
    made = b"".join(
        make_entry(
            SEED,
            index=offset + 1,
            term=1,
            kind=EntryKind.RECORDS,
            base_offset=offset,
            timestamp=1,
            payload=b"\n\x03\n\x01v",
            record_count=1,
        ).frame
        for offset in range(first, first + count)
    )
    return FetchAnswer(made, first + count)


class ScriptedAnswers(Answers):
    """Gives what the case's `answers_of` has for the channel's address, as `ScriptedAppends` does."""

    def __init__(self, channel, case):
        self.address = channel.address
        self.case = case

    async def read(self):
        steps = self.case.answers_of.get(self.address, [])
        step = steps.pop(0) if steps else (FOR_EVER, LOST)
        if type(step) is tuple:
            await asyncio.sleep(step[0])
            step = step[1]
        if isinstance(step, CallFailure):
            raise CallFailedError(step)
        return step

    def cancel(self):
        self.case.left.append((self.case.now, self.address))


class ReaderCase(TimedCase):
    """A reader from offset 0 on."""

    def start(self, answers_of, script=None, *, end=None, seconds=30.0, is_unconfirmed=False, **options):
        calls = self.begin(script or {}, **options)
        self.answers_of = answers_of
        self.opened, self.left, self.read = [], [], []
        self.reader = Reader(calls, offset=0, end=end, timeout_seconds=seconds, is_unconfirmed=is_unconfirmed)

    def answers(self, channel, offset, log):
        self.assertEqual(log, LogId())
        self.opened.append((self.now, channel.address, offset))
        return ScriptedAnswers(channel, self)

    async def reading(self):
        """Read until the reader ends; notes when which offset came."""
        async with contextlib.aclosing(self.reader.answers()) as answers:
            async for batches in answers:
                self.read += [(self.now, record.offset) for batch in batches for record in batch]


class ReaderTests(ReaderCase):
    """Who is read from, and for how long."""

    @timed
    async def test_end(self):
        """Up to the end, and no further; nothing more is asked then."""
        self.start({"h3:3": [frames(0, 2), (1.0, frames(2, 3))]}, end=4)
        await self.reading()
        self.assertEqual(self.read, [(0.0, 0), (0.0, 1), (1.0, 2), (1.0, 3)])
        self.assertEqual((self.opened, self.left), ([(0.0, "h3:3", 0)], [(1.0, "h3:3")]))
        await self.calls.close()

    @timed
    async def test_quiet(self):
        """A server that is silent for 5 s must show each 5 s, within 5 s, that it is in touch."""
        self.start({"h3:3": [(12.0, frames(0))]}, {"h3:3": {"bounds": [Bounds(0, 0)]}}, end=1)
        await self.reading()
        self.assertEqual(self.times("bounds"), [(5.0, "h3:3"), (10.0, "h3:3")])
        self.assertEqual(self.given("bounds"), [5.0, 5.0])
        self.assertEqual(self.read, [(12.0, 0)])
        await self.calls.close()

    @timed
    async def test_out_of_touch(self):
        """One that cannot show it is left for another one."""
        self.start({"h2:2": [frames(0)]}, {"h3:3": {"bounds": [(0.5, LEADERLESS)]}}, end=1)
        await self.reading()
        self.assertEqual([place for _, place, _ in self.opened], ["h3:3", "h2:2"])
        self.assertEqual(self.left[0], (5.5, "h3:3"))
        self.assertEqual(self.read, [(5.54, 0)])
        await self.calls.close()

    @timed
    async def test_does_not_send(self):
        """One that has more, and does not send it within 5 s more, is left, too; one that does is not."""
        self.start({"h3:3": [(9.9, frames(0))]}, {"h3:3": {"bounds": [Bounds(0, 1)]}}, end=1)
        await self.reading()
        self.assertEqual((len(self.opened), self.read), (1, [(9.9, 0)]))
        await self.calls.close()
        self.start({"h2:2": [frames(0)]}, {"h3:3": {"bounds": [Bounds(0, 1)]}}, end=1)
        begun = self.now
        await self.reading()
        self.assertEqual(
            [(round(time - begun, 3), place) for time, place in self.left], [(10.0, "h3:3"), (10.04, "h2:2")]
        )
        await self.calls.close()

    @timed
    async def test_dry(self):
        """When nobody confirms the end, a server that sends nothing for 2 s has no more; all are asked."""
        self.start({"h3:3": [frames(0)]}, end=None, is_unconfirmed=True)
        with self.assertLogs("loghouse.client", "WARNING") as logged:
            await self.reading()
        self.assertEqual([time for time, _, _ in self.opened], [0.0, 2.0, 4.0])
        self.assertEqual({place for _, place, _ in self.opened}, set(ALL))
        self.assertEqual((self.now, self.read), (6.0, [(0.0, 0)]))
        self.assertIn("to offset 0: more may have been appended", logged.output[0])
        await self.calls.close()

    @timed
    async def test_goes_on(self):
        """After a failure it goes on behind what was read, at another server, after a pause that grows."""
        self.start(
            {"h3:3": [frames(0), LOST], "h2:2": [LEADERLESS, frames(1)], "h1:1": [LEADERLESS, frames(1)]},
            {address: {"servers": [view()]} for address in ALL},
            end=2,
        )
        await self.reading()
        self.assertEqual(
            [(time, offset) for time, _, offset in self.opened], [(0.0, 0), (0.02, 1), (0.06, 1)]
        )
        self.assertEqual([offset for _, offset in self.read], [0, 1])
        await self.calls.close()

    @timed
    async def test_refused(self):
        """A refusal ends it, and nobody else is asked."""
        gone = CallFailure(error=OffsetOutOfRangeError(0, 5, 9), effect=Effect.REFUSED)
        self.start({address: [gone] for address in ALL})
        error, _ = await self.raises(OffsetOutOfRangeError, self.reading())
        self.assertEqual((error, len(self.opened)), (gone.error, 1))
        await self.calls.close()

    @timed
    async def test_given_up(self):
        """When no server sends anything for its time it fails; one that did once does not count."""
        self.start(
            {"h3:3": [(50.0, frames(0))] + [NOWHERE] * 99, "h2:2": [NOWHERE] * 99, "h1:1": [NOWHERE] * 99},
            {address: {"servers": [view()], "bounds": [Bounds(0, 0)]} for address in ALL},
            seconds=3.0,
        )
        error, at = await self.raises(DeadlineError, self.reading())
        self.assertEqual(self.read, [(50.0, 0)])
        self.assertTrue(51.9 <= at < 53.0, at)
        self.assertEqual(str(error), "no server sent offset 1 for 3 s; the last one: nobody is there")
        await self.calls.close()
