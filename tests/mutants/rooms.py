"""Known bugs about full disks; `tests/test_driving_mutants.py` tries them."""

from tests.mutants.named import bug

ROOM = "loghouse.raft.room:Room."
FULL = "test_full_disks:"

ROOMS = (
    bug(
        "full-leader-stays",
        "found from outside: a leader whose disk alone was full refused everything for ever",
        "A leader without room never looks for a successor.",
        (ROOM + "_look_for_room", "if target != NOBODY:", "if False:"),
        by=FULL + "LeaderTests.test_hands_over",
    ),
    bug(
        "lead-passed-to-and-fro",
        "two full disks that hand the lead to each other",
        "A successor is taken whether it has room or not.",
        (ROOM + "_successor_with_room", "not progress.no_room_ticks and", ""),
        by=FULL + "LeaderTests.test_none_with_room",
    ),
    bug(
        "records-before-the-trim",
        "records that too few disks can take bar the way to the trim that frees room",
        "Records are proposed although a majority has no room.",
        (ROOM + "_count_room", "if full and", "if False and"),
        by=FULL + "LeaderTests.test_refused_early",
    ),
    bug(
        "address-book-is-fatal",
        "found from outside: a member on a full disk ended when its address book changed",
        "No room for the address book ends the node.",
        (
            "loghouse.storage.directory:DataDirectory.write_members",
            'disk_work(self.path, f"write {self.path}/{MEMBERS_NAME}")',
            "contextlib.nullcontext()",
        ),
        by=FULL + "AddressBookTests.test_no_room",
    ),
    bug(
        "votes-behind-records",
        "found here: a vote waited behind records that no disk had room for",
        "What found no room is kept in front of votes.",
        ("loghouse.replica.disk_room:DiskRoom.look_at_stuck_write", "driver.must_go_back", "False"),
        by=FULL + "MatrixTests.test_all",
    ),
)
