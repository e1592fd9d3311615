"""Links in memory between the nodes of a town: real sessions, and a stand-in for `net.peer.PeerLink`."""

from loghouse.errors import ProtocolError
from loghouse.net.peer import PeerState
from loghouse.protocol.codec import encode, encode_envelope
from loghouse.protocol.session import Event, LinkUp, Session

DELAY_SECONDS = 0.001
RETRY_SECONDS = 0.3


class TownLink:
    """The sending side towards an address; the same outside as `PeerLink`. Its door is a resident."""

    def __init__(self, door, host, port, expected_node, event_received, link_lost) -> None:
        self.state = PeerState.IDLE
        self.expected_node = expected_node
        self.wire = None
        self._resident = door
        self._address = f"{host}:{port}"
        self._event_received = event_received
        self._link_lost = link_lost

    def dial(self) -> None:
        if self.state is PeerState.IDLE:
            self._dial()

    def send_raft(self, envelope) -> bool:
        return self._send(encode_envelope(envelope))

    def send(self, message, *, group: int = 0) -> bool:
        return self._send(encode(message, group=group))

    def stop(self, reason: str = "") -> None:
        self.state = PeerState.STOPPED
        if self.wire is not None:
            self.wire.close()

    def _send(self, frame) -> bool:
        if self.state is not PeerState.UP:
            self.dial()
            return False
        self.wire.carry(True, b"".join(frame))
        return True

    def _dial(self) -> None:
        if self.state is PeerState.STOPPED or not self._resident.is_running:
            return
        self.state = PeerState.DIALLING
        town = self._resident.town
        town.dials[self._resident.name, self._address] += 1
        town.clock.callLater(DELAY_SECONDS, self._connect)

    def _connect(self) -> None:
        town = self._resident.town
        acceptor = town.at(self._address)
        is_gone = self.state is PeerState.STOPPED or not self._resident.is_running
        if is_gone or acceptor is None or town.is_cut(self._resident, acceptor):
            self.lost()
        else:
            self.wire = Wire(self, self._resident, acceptor)

    def came_up(self, event: LinkUp) -> None:
        self.state = PeerState.UP
        self._event_received(event)

    def heard(self, event: Event) -> None:
        self._event_received(event)

    def lost(self) -> None:
        was_up, self.wire = self.wire is not None, None
        if self.state is not PeerState.STOPPED:
            self.state = PeerState.WAITING
            self._resident.town.clock.callLater(RETRY_SECONDS, self._dial)
        if was_up:
            self._link_lost()


class Accepted:
    """The accepting end, as `AcceptedPeers` knows one."""

    def __init__(self, wire, session: Session) -> None:
        self.session = session
        self.problem: ProtocolError | None = None
        self._wire = wire

    def break_off(self, error: ProtocolError) -> None:
        self.problem = error
        self._wire.town.problems.append(str(error))
        self._wire.close()

    def close(self) -> None:
        self._wire.close()


class Wire:
    """One connection. What is on its way when a cut begins is lost; who closes is noticed by both."""

    def __init__(self, link: TownLink, dialler, acceptor) -> None:
        self.town = dialler.town
        self.ends = (dialler, acceptor)
        self._link = link
        self._is_open = True
        self._is_known = False  # to the acceptor's peers
        hello = dialler.hello()
        self._dialling = Session(hello, is_dialler=True, expected_node=link.expected_node)
        self._accepting = Session(acceptor.hello(), is_dialler=False, admit=acceptor.cluster.accepted.admit)
        self._accepted = Accepted(self, self._accepting)
        self.town.wires.append(self)
        self._pump()

    def carry(self, from_dialler: bool, content: bytes) -> None:
        self.town.clock.callLater(DELAY_SECONDS, self._arrive, from_dialler, content)

    @property
    def is_up(self) -> bool:
        """Whether both ends greeted and fit."""
        return self._is_open and self._is_known

    def _pump(self) -> None:
        for session, from_dialler in ((self._dialling, True), (self._accepting, False)):
            content = b"".join(session.bytes_to_send())
            if content:
                self.carry(from_dialler, content)

    def _arrive(self, from_dialler: bool, content: bytes) -> None:
        source, target = self.ends if from_dialler else self.ends[::-1]
        if not self._is_open or self.town.is_cut(source, target):
            return
        session = self._accepting if from_dialler else self._dialling
        try:
            events = session.receive(content)
        except ProtocolError as error:
            self.town.problems.append(str(error))
            self.close()
            return
        for event in events:
            if from_dialler:
                self._accept(event)
            elif isinstance(event, LinkUp):
                self._link.came_up(event)
            else:
                self._link.heard(event)
        self._pump()

    def _accept(self, event: Event) -> None:
        peers = self.ends[1].cluster.accepted
        if not isinstance(event, LinkUp):
            peers.event_received(self._accepted, event)
        elif not event.agreement.is_restricted:
            self._is_known = True
            peers.link_up(self._accepted)

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self.town.wires.remove(self)
        if self._is_known:
            self.ends[1].cluster.accepted.link_lost(self._accepted)
        self._link.lost()
