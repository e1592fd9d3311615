"""Known bugs of the production driver, storage and gossip; whole simulated nodes must show them."""

from loghouse.testing.mutation import Edit, Mutant

REPLICA = "loghouse.replica:Replica."

FULL = (
    Mutant(
        name="promise-before-disk",
        citation="Raft thesis 3.8; etcd Ready contract",
        description="Messages that wait for the disk leave with the others.",
        edits=(
            Edit(
                REPLICA + "_take",
                "in ready.messages_now:",
                "in ready.messages_now + ready.messages_after_persist:",
            ),
        ),
    ),
)
