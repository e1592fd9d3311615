"""Known bugs in serving logs that other nodes have. Each names the test that must catch it.

`tests/test_elsewhere_mutants.py` tries them.
"""

from tests.mutants.named import bug

TABLE = "loghouse.node.leaders:LeaderTable."
NEWS = "loghouse.node.leaders:LeaderNews."
FORWARDED = "loghouse.node.forwarded_reads:ReadForwarder."
REMOTE = "loghouse.node.remote_reads:RemoteReads."
REMOTE_LOG = "loghouse.node.remote_log:RemoteLog."

LEADERS = (
    bug(
        "leader-of-an-older-term",
        "KIP-951; many logs: routes with epochs",
        "Of two that say they lead, the one that spoke last is believed.",
        (TABLE + "heard", "and known.term >= lead.term", "and False"),
        by="test_leaders:TableTests.test_newer_term",
    ),
    bug(
        "silent-leader-believed",
        "etcd#7474: a leader that is gone, and asked for ever",
        "A node that says nothing any more is believed to lead.",
        (TABLE + "_believed", "> LEADER_SECONDS_MAX", "> 1e9"),
        by="test_leaders:TableTests.test_silence",
    ),
    bug(
        "lost-leader-believed",
        "a dead node that appends are sent to until a deadline",
        "A node whose link is lost is believed to lead.",
        (TABLE + "node_lost", "self._forget(group)", "pass"),
        by="test_leaders:TableTests.test_lost",
    ),
    bug(
        "former-leader-believed",
        "a leader that stepped down and is asked on",
        "What a node names no more it still leads.",
        (TABLE + "heard", "self._forget(group)", "pass"),
        by="test_leaders:TableTests.test_heard",
    ),
    bug(
        "hearsay-beats-the-leader",
        "a former leader that sends clients in circles",
        "What others say of a group counts more than what its leader says.",
        (TABLE + "denied", "if known is not None and known.name != name:", "if False:"),
        by="test_leaders:TableTests.test_denied_by_a_former_leader",
    ),
    bug(
        "last-lead-not-given-up",
        "a node that leads nothing any more and does not say so",
        "Nothing is told once nothing is led.",
        (NEWS + "look", "or not self._has_told", "or True"),
        by="test_leaders:NewsTests.test_every_second",
    ),
    bug(
        "leader-of-the-own-term-believed",
        "an append to a leader that Raft has lost already: its outcome is unknown",
        "A replica that lost its leader believes what that one said before.",
        (REMOTE_LOG + "leader_after", "leaders.term_of(self.group) > term", "True"),
        by="test_remote_reads:RemoteLogTests.test_own_term",
    ),
    bug(
        "routing-to-an-older-node",
        "a kind that the other version does not know",
        "Reads are passed on to nodes of before many logs.",
        ("loghouse.net.peer:PeerLink.send", "_NEEDED.get(message.KIND, 0)", "0"),
        by="net.test_dialling_parts:SendingTests.test_routing",
    ),
)

PASSED_ON = (
    bug(
        "reads-without-a-budget",
        "many-logs 5.6: a bound of each log is none of the node",
        "However much is on its way, more is asked for.",
        (FORWARDED + "_fits", "return not self._asked_size or", "return True or"),
        by="test_forwarded_reads:BudgetTests.test_turns",
    ),
    bug(
        "serving-without-a-budget",
        "many-logs 5.6",
        "However much others ask for at a time is read.",
        (FORWARDED + "_serve", "is_full = self._serving_count > 0 and", "is_full = False and"),
        by="test_forwarded_reads:BudgetTests.test_serving",
    ),
    bug(
        "waits-pile-up",
        "NATS: consumers that nobody waits for",
        "A node's former waits are kept beside the last one.",
        (FORWARDED + "_wait", "self._end_wait(key)", "pass"),
        by="test_forwarded_reads:WaitTests.test_last_one_counts",
    ),
    bug(
        "waits-without-an-end",
        "a long poll that a firewall has forgotten",
        "Who waits hears nothing until there is a record.",
        (FORWARDED + "_wait", "self._wait_deadlines.watch(deadline)", "pass"),
        by="test_forwarded_reads:WaitTests.test_long",
    ),
    bug(
        "waits-outlive-the-link",
        "a waiter for a node that is gone",
        "Waits of a node whose link is lost are kept.",
        (FORWARDED + "link_lost", "self._end_wait(key)", "pass"),
        by="test_forwarded_reads:WaitTests.test_link_lost",
    ),
    bug(
        "answer-of-any-node",
        "an answer that another node made up",
        "Whoever answers first is believed.",
        ("loghouse.node.forwarded_reads:_Asked.is_of", "return self.is_sent and", "return True or"),
        by="test_forwarded_reads:WayTests.test_answer_of_another",
    ),
    bug(
        "dropped-frames-not-told",
        "a reader that waits for an answer that was dropped",
        "An answer for which the link has no room is silence.",
        (FORWARDED + "_reply", "if isinstance(message, ForwardFrames | ForwardRangeReply):", "if False:"),
        by="test_forwarded_reads:WayTests.test_answer_that_does_not_fit_the_link",
    ),
    bug(
        "one-copy-asked",
        "a read that fails while two other nodes could answer it",
        "No other node is asked when the first one fails.",
        (REMOTE + "_ask_next", "if others and", "if False and"),
        by="test_remote_reads:AskingTests.test_next",
    ),
    bug(
        "certain-refusal-asked-again",
        "an offset that is out of range on every node",
        "A refusal that no other node would change is asked for on all of them.",
        (REMOTE + "_ask_next", "and error.may_retry", ""),
        by="test_remote_reads:AskingTests.test_certain",
    ),
    bug(
        "lower-offset-not-waited-for",
        "a follower that waits for a record that has been there for long",
        "Who comes for a lower offset waits until the higher one is there.",
        (REMOTE + "wait_for", "offset < self._waiting_offset", "False"),
        by="test_remote_reads:WaitingTests.test_lower",
    ),
    bug(
        "waits-for-nobody",
        "a request that is made again and again for readers that went",
        "The other node is asked on when nobody waits any more.",
        (REMOTE + "_waiter_ended", "if not self._waiters.count:", "if False:"),
        by="test_remote_reads:WaitingTests.test_cancelled",
    ),
    bug(
        "waits-once",
        "a follower that nobody wakes a second time",
        "After all nodes failed nobody is asked again.",
        (REMOTE + "_run_retry", "self._ask_to_wait()", "pass"),
        by="test_remote_reads:WaitingTests.test_nobody_can_tell",
    ),
)

ELSEWHERE = (*LEADERS, *PASSED_ON)
