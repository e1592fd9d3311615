"""Known bugs of quiet logs that sleep; `tests/test_log_mutants.py` tries them."""

from tests.mutants.named import bug

BEATS = "loghouse.node.beats:Beats."
PULSES = "loghouse.node.pulses:Pulses."
REST = "loghouse.raft.rest:Rest."
DRIVER = "loghouse.replica.driver:RaftDriver."
WAKE = "test_beats:WakeTests."
CORE = "raft.test_rest:RestTests."

# What keeps a leader with unfinished entries awake, each by itself.
UNFINISHED = tuple(
    (REST + "is_at_rest", text, "True")
    for text in (
        "log.is_released",
        "log.commit_index == log.durable_index == log.last_index",
        "not log.has_writes",
        "not self._is_writing",
    )
)

ASLEEP = (
    bug(
        "sleeper-not-woken-by-another-life",
        "many-logs 5.5: a process that began anew knew no leader, and nobody told it",
        "A leader sleeps on although a follower's process is another one.",
        (BEATS + "_judge", "is_new_life or", ""),
        by=WAKE + "test_another_life_that_says_the_same",
    ),
    bug(
        "another-life-taken-for-the-same",
        "many-logs 5.5: a leader that came back at once was taken for one that never went",
        "Lives are not compared.",
        (PULSES + "heard", "elif life != pulse.life:", "elif False:"),
        by="test_pulses:PulsesTests.test_new_life",
    ),
    bug(
        "sleeper-woken-by-nothing",
        "many-logs 5.5: a leader that lost its power was missed by nobody",
        "Missing beats are not noticed.",
        (BEATS + "tick", "self._gone(name)", "pass"),
        by=WAKE + "test_leader_is_gone",
    ),
    bug(
        "link-lost-in-silence",
        "ADR 10: a dead process takes its connections along",
        "A lost link wakes nobody before the beats are missed.",
        (BEATS + "node_lost", "self._gone(name)", "pass"),
        by=WAKE + "test_link_is_lost",
    ),
    bug(
        "all-elections-at-once",
        "tikv#19070: one store down wakes all leaders, at the worst moment",
        "However many logs lost their leader, all stand for election at once.",
        (BEATS + "_wake_led_by", "len(led_there) // LOGS_PER_ELECTION", "1"),
        by="test_beats:WaveTests.test_spread",
    ),
    bug(
        "elections-not-spread",
        "tikv#19070, the same",
        "Timeouts after a lost leader are drawn from one election timeout always.",
        (
            "loghouse.raft.elections:Elections.leader_link_lost",
            "elections * ticks",
            "ticks",
        ),
        by=CORE + "test_spread",
    ),
    bug(
        "leader-sleeps-with-an-undurable-entry",
        "many-logs 5.5: entries that a sleeping leader had in memory only",
        "A leader sleeps while its disk writes.",
        *UNFINISHED,
        by=CORE + "test_undurable",
    ),
    bug(
        "leader-sleeps-with-an-uncommitted-entry",
        "many-logs 5.5: an entry that nobody sent again",
        "A leader sleeps although others lack its last entry.",
        *UNFINISHED,
        (REST + "_is_even", "progress.match_index == self._log.last_index", "True"),
        by=CORE + "test_uncommitted",
    ),
    bug(
        "question-to-a-sleeping-leader-ignored",
        "many-logs 5.5: it was refused in silence, and who asked knew no leader",
        "Messages do not wake.",
        (DRIVER + "receive", "if self.is_asleep and", "if False and"),
        by=WAKE + "test_pre_vote",
    ),
    bug(
        "beat-of-an-old-life-accepted",
        "many-logs 5.5: what was under way from a process that was killed",
        "A late beat of a life that is over counts.",
        (PULSES + "heard", "if life in pulse.over:", "if False:"),
        by="test_pulses:PulsesTests.test_old_life",
    ),
    bug(
        "sleeper-not-woken-by-who-is-back",
        "cockroach#51894, the other way round: who lags is there again and gets nothing",
        "A leader sleeps on beside a member that is back and lacks entries.",
        (BEATS + "_judge", "not raft.may_lead_asleep(here)", "False"),
        by=WAKE + "test_stopped_and_back",
    ),
    bug(
        "leader-sleeps-without-a-quorum",
        "etcd: check-quorum, which a sleeping leader does not do",
        "That the voters' nodes are gone changes nothing for a leader that sleeps.",
        (REST + "may_lead_asleep", "return has_quorum(self._voters, even)", "return True"),
        by=WAKE + "test_no_quorum",
    ),
    bug(
        "check-quorum-goes-on-where-it-was",
        "etcd#6441: a leader that woke stepped down before anybody could answer",
        "A woken leader looks for its quorum in the period that it slept through.",
        (REST + "wake", "self._election_elapsed = 0", "pass"),
        by=CORE + "test_leader_wakes",
    ),
    bug(
        "sleeps-before-an-older-node",
        "many-logs 5.5: a member of another version heard no heartbeats",
        "Who does not beat is taken for away.",
        (REST + "may_lead_asleep", "progress.silent_ticks < 2 * self.config.election_ticks", "False"),
        by=WAKE + "test_older_node",
    ),
    bug(
        "beat-to-an-older-node",
        "a kind that the other version does not know",
        "Beats are sent to nodes that do not take them.",
        ("loghouse.net.peer:PeerLink.send", "_NEEDED.get(message.KIND, 0)", "0"),
        by="net.test_dialling_parts:SendingTests.test_beats",
    ),
    bug(
        "hidden-follower-sleeps-on",
        "found while this was built: a leader that closed its log still beat",
        "A follower sleeps whatever its leader's beats name.",
        (
            BEATS + "_judge",
            "not raft.may_follow_asleep(self._pulses.said(name, log.group))",
            "False",
        ),
        by=WAKE + "test_not_named_any_more",
    ),
    bug(
        "the-default-log-sleeps",
        "ADR 37: the default log stays as it is",
        "Every log may sleep.",
        (BEATS + "_fall_asleep", "group == DEFAULT_GROUP or", ""),
        by="test_beats:AloneTests.test_the_default_log",
    ),
    bug(
        "copy-without-a-configuration-is-silent",
        "found here by the simulator: a leader slept before its newest member had heard anything",
        "Who does not know yet which member it is does not beat.",
        (BEATS + "_make_beats", "not log.is_hosted", "log.driver is None"),
        by=WAKE + "test_no_configuration",
    ),
    bug(
        "who-led-waits",
        "many-logs 5.6: after all nodes began anew each log waited for a timeout",
        "After a restart nobody stands before its timeout.",
        ("loghouse.node.served_log:ServedLog.stand_again", "driver.raft.vote == driver.raft.id", "False"),
        by="test_served_asleep:AgainTests.test_stand_again",
    ),
    bug(
        "clocks-not-heard-for-trims",
        "found while this was built: the age of records stood still in a log that sleeps",
        "A leader that trims by age sleeps through it.",
        ("loghouse.replica.trimming:Trimmer.look", "self._replica.wake()", "pass"),
        by="test_disk_room:TrimmerTests.test_asleep",
    ),
)
