"""The window of a produce stream: how much is under way, by count and by bytes, and what makes room."""

import asyncio

from loghouse.api import pipeline
from loghouse.api.guard import Call
from loghouse.api.pipeline import Pipeline
from loghouse.api.v1 import log_pb2
from loghouse.errors import UnavailableError
from tests.api.test_calls import CallCase, Context
from tests.fakes.clock_loop import timed


class WindowTests(CallCase):
    """`Pipeline`."""

    async def begin(self, sizes, *, producer_id=0):
        """Run a stream of messages of these sizes; `made` are their answers."""
        self.made = []

        async def submit(request):
            self.made.append(asyncio.get_running_loop().create_future())
            return self.made[-1]

        messages = [log_pb2.ProduceRequest(log="x" * size, producer_id=producer_id) for size in sizes]
        self.context = Context(*[(0, message.SerializeToString()) for message in messages])
        call = Call(self.guard(), self.rpc(), self.context)
        self.pipeline = Pipeline(call, submit)
        self.running = asyncio.ensure_future(self.pipeline.run())
        await asyncio.sleep(1.0)

    async def answer(self, *numbers):
        for number in numbers:
            self.made[number].set_result(b"%d" % number)
        await asyncio.sleep(1.0)

    async def end(self):
        self.running.cancel()
        await asyncio.wait({self.running})
        self.assertEqual(asyncio.all_tasks() - {asyncio.current_task()}, set())

    @timed
    async def test_bytes(self):
        """What does not fit waits until enough is answered; what fits exactly does not."""
        self.patch(pipeline, "PIPELINE_SIZE_MAX", 100)
        await self.begin([48] * 7)  # 50 bytes each
        self.assertEqual((len(self.made), self.pipeline._size), (2, 100))
        for number in range(5):
            await self.answer(number)
            self.assertEqual((len(self.made), self.pipeline._size), (number + 3, 100))
        await self.answer(5)
        self.assertEqual((len(self.made), self.pipeline._size), (7, 50))
        self.assertEqual(self.context.written, [b"%d" % number for number in range(6)])
        await self.end()

    @timed
    async def test_one_byte_more(self):
        """A message that is a byte too large waits for the ones before it, and goes alone if it must."""
        self.patch(pipeline, "PIPELINE_SIZE_MAX", 100)
        await self.begin([48, 49, 110, 8])
        counts = [len(self.made)]
        for number in range(3):
            await self.answer(number)
            counts.append(len(self.made))
        self.assertEqual(counts, [1, 2, 3, 4])
        await self.end()

    @timed
    async def test_counts(self):
        """A producer has fewer under way than others."""
        self.patch(pipeline, "PIPELINE_MAX", 5)
        self.patch(pipeline, "PRODUCER_BATCHES_MAX", 3)
        for producer_id, count in ((0, 5), (7, 3)):
            await self.begin([1] * 9, producer_id=producer_id)
            self.assertEqual(len(self.made), count)
            await self.answer(0, 1)
            self.assertEqual(len(self.made), count + 2)
            await self.end()

    @timed
    async def test_order(self):
        """An answer waits for those before it; it is written once, and its bytes count until then."""
        await self.begin([48, 48, 48])
        await self.answer(2, 1)
        self.assertEqual((self.context.written, self.pipeline._size), ([], 150))
        await self.answer(0)
        self.assertEqual((self.context.written, self.pipeline._size), ([b"0", b"1", b"2"], 0))
        await self.end()

    @timed
    async def test_refused_in_its_turn(self):
        """A request that is refused ends the stream behind the answers before it, and takes no room."""
        answers = []

        async def submit(request):
            if len(answers) == 2:
                raise UnavailableError("no")
            answers.append(asyncio.get_running_loop().create_future())
            return answers[-1]

        context = Context(*[(0, log_pb2.ProduceRequest(log="l").SerializeToString())] * 4)
        stream = Pipeline(Call(self.guard(), self.rpc(), context), submit)
        running = asyncio.ensure_future(stream.run())
        await asyncio.sleep(1.0)
        self.assertEqual((len(stream._answers), stream._size, stream._has_ended), (3, 6, True))
        for answer in answers:
            answer.set_result(b"done")
        await self.raises(UnavailableError, running)
        self.assertEqual(context.written, [b"done"] * 2)
