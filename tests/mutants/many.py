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
        ("loghouse.node.hosted_logs:HostedLogs.bury", "self._lanes.lane(group)", "self._disk"),
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
)
