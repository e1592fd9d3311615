"""Known bugs of what the logs of one node share; `tests/test_driving_mutants.py` tries them."""

from tests.mutants.named import bug

LANE = "loghouse.runtime.lanes:Lane."
LANES = "test_lanes:LaneTests."

SHARED = (
    bug(
        "lane-reorders",
        "many logs: a lane reorders one group's writes",
        "The work of a lane does not wait for what the lane was given before.",
        (LANE + "submit", "if len(self._jobs) == 1:", "if True:"),
        (LANE + "_begin", "self._jobs[0][0]", "self._jobs[-1][0]"),
        (LANE + "_take_over", "if self._jobs:", "if False:"),
        by=LANES + "test_order",
    ),
    bug(
        "one-lane-for-all",
        "many logs: busy logs wait for each other's syncs",
        "All groups have the same lane.",
        ("loghouse.runtime.lanes:DiskLanes.lane", "self._lanes.get(group)", "self._lanes.get(0)"),
        ("loghouse.runtime.lanes:DiskLanes.lane", "self._lanes[group] =", "self._lanes[0] ="),
        by=LANES + "test_side_by_side",
    ),
    bug(
        "two-lanes-for-one",
        "many logs: a log that is hosted anew overtakes what its last host still writes",
        "A group gets another lane at each question.",
        ("loghouse.runtime.lanes:DiskLanes.lane", "self._lanes.get(group)", "None"),
        by=LANES + "test_one_lane_a_group",
    ),
    bug(
        "buried-beside-writes",
        "many logs: the lane of a log is not that of the node",
        "A log that was deleted is closed while its replica still writes.",
        ("loghouse.node.hosted_logs:HostedLogs._end", "self._lanes.lane(group)", "self._disk"),
        by="test_hosted_logs:LaneTests.test_bury_behind_writes",
    ),
    bug(
        "stop-drops-what-waits",
        "many logs: a stop loses what waits in a lane",
        "A stop finishes what threads are at, and forgets what waits behind it.",
        (LANE + "stop", "[do(job) for job in waiting]", "[]"),
        by=LANES + "test_stop",
    ),
    bug(
        "all-at-one-instant",
        "many logs: all tick in one loop, which holds the reactor",
        "All members are called in the first phase.",
        ("loghouse.node.wheel:Wheel._do_phase", "PHASES_MAX", "1"),
        by="test_wheel:WheelTests.test_many",
    ),
    bug(
        "time-lost-when-late",
        "many logs: elections come late on a busy node",
        "A phase that was missed is not made up for.",
        ("loghouse.node.wheel:Wheel._turn", "not done or done < min(due, self._phase_count)", "not done"),
        by="test_wheel:WheelTests.test_late",
    ),
    bug(
        "cache-never-given-back",
        "many logs: a budget never given back",
        "A log that is quiet, or over, holds its part of the caches for ever.",
        ("loghouse.shares:Budget.move", "self.held += after - before", "self.held += max(0, after - before)"),
        by="raft.test_raft_log:SharedCacheTests.test_let_go",
    ),
    bug(
        "quiet-log-keeps-its-cache",
        "many logs: 5 to 13 MiB for ever of a log that was busy once",
        "A quiet log keeps in memory what the disk has.",
        ("loghouse.raft.raft_log:RaftLog.tick", "self._quiet_ticks += 1", "pass"),
        by="raft.test_raft_log:SharedCacheTests.test_quiet",
    ),
    bug(
        "cache-for-each-log",
        "many logs: a bound for each log is as many times the bound as there are logs",
        "Every log keeps as much as one alone may.",
        ("loghouse.raft.raft_log:RaftLog.release", "if share < size_max:", "if False:"),
        by="raft.test_raft_log:SharedCacheTests.test_many",
    ),
    bug(
        "stopped-core-holds-on",
        "many logs: a budget never given back",
        "A core that is replaced or stopped keeps its part of the caches.",
        ("loghouse.replica.driver:RaftDriver.stop", "self.raft.let_go()", "pass"),
        by="test_budgets:NodeBudgetTests.test_stopped",
    ),
    bug(
        "waiter-never-given-back",
        "many logs: a budget never given back",
        "Who cancels a wait is counted for ever.",
        ("loghouse.node.waiters:Waiters._forget", "self._set_count(self.count - 1)", "self.count -= 1"),
        by="test_waiters:WaitersTests.test_bound_of_all_logs",
    ),
    bug(
        "a-scrub-rate-for-each-log",
        "many logs: each reads its sealed segments at the whole rate",
        "What one log reads does not put off what the next one reads.",
        (
            "loghouse.replica.scrubber:Scrubber._step",
            "self._pace.due(seconds, max(self._due, began - LATE_SECONDS_MAX))",
            "max(self._due, began - LATE_SECONDS_MAX)",
        ),
        by="test_scrubber:ScrubberTests.test_rate_of_all_logs",
    ),
    bug(
        "reserve-taken-in-between",
        "many logs: another log makes the reserve of the room that was given back for a cut",
        "Others may come between giving the reserve back and the work it is for.",
        ("loghouse.storage.creation:Reserve.use_for", "with self._guard:", "with nullcontext():"),
        by="storage.test_reserve:ReserveTests.test_given_back",
    ),
    bug(
        "reserve-given-back-once",
        "many logs: the room that one log had given back is not used by another that waits for it",
        "Who finds the reserve given back gives up.",
        ("loghouse.storage.creation:Reserve.use_for", "release_count == self._release_count and ", ""),
        by="storage.test_reserve:ReserveTests.test_given_back_by_another_log",
    ),
    bug(
        "old-reserve-stays",
        "many logs: an upgraded log keeps 16 MiB that nothing uses",
        "The reserve that an earlier version made for a log stays.",
        ("loghouse.storage.opening:Settlement.run", "remove_file(files, own_reserve)", "pass"),
        by="storage.test_reserve:UpgradeTests.test_upgrade",
    ),
    bug(
        "a-pace-for-each-log",
        "many logs: each reads 64 MiB a second for followers far behind",
        "What one log reads does not put off what the next one reads.",
        ("loghouse.shares:Pace.due", "self._free_at = due + amount / self.rate", "pass"),
        by="test_replica_bounds:ReadAheadTests.test_pace_of_all_logs",
    ),
)
