"""The pytest fixtures with real nodes: one cluster a session, made well before each test."""

from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from tests.fixtures.running import run_pytest
from tests.processes import SKIP, long

# The tests come one after the other, and each leaves the nodes as bad as it can.
TESTS = '''
    import pytest
    from loghouse.errors import LoghouseError
    from loghouse.testing.process import wait_until

    pids = set()


    def pids_of(cluster):
        return {node.pid for node in cluster._processes.nodes}


    def test_kill(loghouse_cluster):
        """Another node leads; two nodes are left dead, one of them and its disk full."""
        assert loghouse_cluster.first_offset == 0
        with loghouse_cluster.connect_blocking() as log, log.producer() as producer:
            producer.append(b"a").offset()
            killed = loghouse_cluster.kill_leader()
            producer.append(b"b").offset()
            assert loghouse_cluster.leader() != killed
            assert [record.value for record in log.read()] == [b"a", b"b"]
        pids.update(pids_of(loghouse_cluster))
        loghouse_cluster.fill_disk()
        loghouse_cluster.kill(loghouse_cluster.leader())


    def test_clean(loghouse_cluster):
        """All are up and well again, and the log is empty; the one that lives still is the same."""
        assert loghouse_cluster.first_offset == 2
        assert len(pids & pids_of(loghouse_cluster)) == 1
        with loghouse_cluster.connect_blocking() as log:
            assert list(log.read("earliest")) == []
            assert log.append(b"c") == 2
            # They were started for this test, before its part of the logs begins.
            assert all("serves on" not in text for text in loghouse_cluster.logs().values())
        leader = loghouse_cluster.leader()
        loghouse_cluster.partition(leader, clients=True)
        with loghouse_cluster.connect_blocking(timeout_seconds=120) as log, log.producer() as producer:
            producer.append(b"d").offset()
        loghouse_cluster.pause(loghouse_cluster.names[0])


    @pytest.mark.loghouse(seconds=30)
    def test_full(loghouse_cluster):
        """Full disks take no appends, and take them again once there is room."""
        assert loghouse_cluster.seconds_max == 30
        with loghouse_cluster.connect_blocking() as log:
            assert log.append(b"e") == loghouse_cluster.first_offset
            loghouse_cluster.fill_disk()
            with pytest.raises(LoghouseError):
                log.append(b"f", timeout_seconds=3)
            wait_until(lambda: "no space left" in str(loghouse_cluster.logs()), "a node to notice")
            loghouse_cluster.free_disk()
            with log.producer() as producer:
                producer.append(b"g").offset()
        loghouse_cluster.restart(loghouse_cluster.leader())
        loghouse_cluster.clock(3600)


    def test_new(loghouse_cluster):
        """A cluster whose clocks were ahead is replaced; this test fails, to show the nodes' logs."""
        assert loghouse_cluster.first_offset == 0
        loghouse_cluster.kill("node-2")
        loghouse_cluster.start()
        assert False
'''

NODE_TESTS = """
    def test_node(loghouse_node):
        with loghouse_node.connect_blocking() as log:
            assert log.append(b"a") == 0
        loghouse_node.kill()


    def test_next(loghouse_node):
        with loghouse_node.connect_blocking() as log:
            assert list(log.read("earliest")) == []
            assert log.append(b"b") == 1
        assert loghouse_node.names == ("node-1",)
"""


class FixtureTests(SynchronousTestCase):
    """Each test here runs a file of tests in a process of its own."""

    skip = SKIP

    def run_tests(self, text):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        (folder / "test_it.py").write_text(dedent(text))
        return run_pytest(folder, f"--basetemp={folder}/tmp")[1]

    @long
    def test_cluster(self):
        """Whatever a test did, the next one finds three nodes that are well, and an empty log."""
        output = self.run_tests(TESTS)
        self.assertIn("1 failed, 3 passed", output)
        self.assertIn("loghouse node-2", output)
        self.assertIn("serves on", output)

    def test_node(self):
        """A single node is started again and emptied, too."""
        self.assertIn("2 passed", self.run_tests(NODE_TESTS))
