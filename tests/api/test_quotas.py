"""Quotas of subjects over gRPC: calls wait first, and are refused with a time when it must be."""

import grpc
from google.rpc import error_details_pb2
from twisted.internet.task import Clock

from loghouse.api.gated_call import GatedCall
from loghouse.api.v1 import log_pb2
from loghouse.limits import KIB, MIB
from loghouse.shares import Shares, SubjectQuota
from tests.api.doors import DoorCase, details_of, produce
from tests.fakes.tasks import asynchronous, until


class QuotaTests(DoorCase):
    """`root` has quotas; how long its calls wait is noted, not waited for."""

    policy = "p, root, *, produce\np, root, *, consume\np, other, *, produce\n"

    async def begin(self):
        self.clock = Clock()
        self.shares = Shares(seconds=self.clock.seconds)
        self.waits = []

        async def wait(call, seconds):
            if seconds:
                self.waits.append(seconds)
                self.clock.advance(seconds)

        self.patch(GatedCall, "wait", wait)
        await self.open_door(shares=self.shares)

    def give(self, **quota):
        self.shares.quotas.change({"root": SubjectQuota(**quota)})

    def retry_seconds(self, error):
        """How long the standard detail says to wait."""
        info, [detail] = details_of(error)
        self.assertEqual(info.reason, "QUOTA_EXCEEDED")
        retry = error_details_pb2.RetryInfo()
        self.assertTrue(detail.Unpack(retry))
        return retry.retry_delay.ToMilliseconds() / 1000

    @asynchronous
    async def test_bytes_in(self):
        """A call waits once its subject used more than a second's worth, and is refused beyond a hold."""
        self.give(bytes_in=MIB)
        for _ in range(3):
            await self.root.Produce(produce(b"x" * (MIB * 3 // 4)))
        self.assertEqual(len(self.waits), 2)
        self.assertLess(abs(sum(self.waits) - 1.25), 0.01)
        self.give(bytes_in=64 * KIB)
        await self.root.Produce(produce(b"x" * 512 * KIB))
        error = await self.refused(self.root.Produce(produce(b"x")), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertLess(abs(self.retry_seconds(error) - (7.0 - self.waits[-1])), 0.1)
        del self.waits[:]
        await self.stub("other").Produce(produce(b"x" * 512 * KIB))
        self.assertEqual(self.waits, [])

    @asynchronous
    async def test_stream_in(self):
        """Of a stream the next request is not read before the time is there; none is refused for that."""
        self.give(bytes_in=MIB)
        requests = [produce(b"x" * (MIB - 1000)) for _ in range(4)]
        answers = [answer.offset async for answer in self.root.ProduceStream(iter(requests))]
        self.assertEqual(len(answers), 4)
        self.assertLess(abs(sum(self.waits) - 3.0), 0.1)

    @asynchronous
    async def test_bytes_out(self):
        """Answers wait, too; one alone is refused beyond a hold."""
        self.give(bytes_out=64 * KIB)
        self.node.cluster.add_values(b"x" * 512 * KIB)
        await self.root.Fetch(log_pb2.FetchRequest(offset=0))
        error = await self.refused(
            self.root.Consume(log_pb2.ConsumeRequest(offset=0)), grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        self.assertLess(abs(self.retry_seconds(error) - 7.0), 0.1)
        stream = self.root.ConsumeStream(log_pb2.ConsumeRequest(offset=0))
        await stream.read()
        self.assertLess(abs(self.waits[0] - 7.0), 0.1)
        stream.cancel()

    @asynchronous
    async def test_requests(self):
        """One more call than the quota allows is refused; when one has ended, there is room again."""
        self.give(requests=1)
        self.node.hold()
        first = self.root.Produce(produce())
        await until(lambda: self.node.held_count)
        error = await self.refused(self.root.Produce(produce()), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.retry_seconds(error), 0.1)
        self.node.release()
        await first
        await self.root.Produce(produce())
        self.assertEqual(self.shares.quotas.of("root").requests, 0)
