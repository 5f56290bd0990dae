"""The peer of an EAP conversation (RFC 3748 §4.1, §5): answers the authenticator's requests."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ipsecstack.keyex.eap.method import Method, MethodFailed, PeerContext, PeerMethod
from ipsecstack.wire.eap import EapCode, EapError, EapPacket, EapType, type_name

MAX_ROUNDS = 128
_NO_TYPE = bytes((0,))
_EXPANDED_HEADER = 7  # vendor 3, vendor's type 4


class Result(Enum):
    """Where the conversation stands."""

    GOING_ON = "going on"
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one packet: a packet to send, and where the conversation stands."""

    result: Result
    packet: bytes | None = None
    reason: str = ""


class Peer:
    """Answers requests until Success or Failure. ``msk`` is there after Success, None without keys."""

    def __init__(self, context: PeerContext, methods: tuple[Method, ...]) -> None:
        self._context = context
        self._methods = methods
        self._method: Method | None = None
        self._running: PeerMethod | None = None
        self._rounds = 0
        self.msk: bytes | None = None

    @property
    def method(self) -> Method | None:
        """The method that was agreed on."""
        return self._method

    def receive(self, octets: bytes) -> Step:
        """One packet of the authenticator. Never raises: what makes no sense fails the conversation."""
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            return Step(Result.FAILURE, reason=f"EAP goes on for more than {MAX_ROUNDS} packets")
        try:
            packet = EapPacket.parse(octets)
            if packet.code == EapCode.REQUEST:
                return self._request(packet)
            if packet.code == EapCode.SUCCESS:
                return self._success()
            if packet.code == EapCode.FAILURE:
                return Step(Result.FAILURE, reason="received EAP_FAILURE, EAP authentication failed")
            raise EapError("the authenticator sends a response")
        except (EapError, MethodFailed) as error:
            return Step(Result.FAILURE, reason=str(error))

    def _request(self, packet: EapPacket) -> Step:
        if packet.type == EapType.IDENTITY:
            self._context.log("server requested EAP_IDENTITY")
            return self._answer(packet, packet.type, self._context.identity)
        if packet.type == EapType.NOTIFICATION:
            return self._answer(packet, packet.type, b"")
        if packet.type == EapType.NAK:
            raise EapError("a request of type Nak")
        if self._method is None or packet.type != self._method.type:
            chosen = next((method for method in self._methods if method.type == packet.type), None)
            if chosen is None or self._running is not None:
                return self._nak(packet)
            self._context.log(f"server requested EAP_{type_name(packet.type)} authentication")
            self._method, self._running = chosen, chosen.peer(self._context)
        assert self._running is not None
        return self._answer(packet, packet.type, self._running.respond(packet.data, packet.identifier))

    def _nak(self, packet: EapPacket) -> Step:
        if self._running is not None:
            raise EapError(f"another method, EAP_{type_name(packet.type)}, in the middle of one")
        self._context.log(f"EAP_{type_name(packet.type)} is not allowed here, sending EAP_NAK")
        wanted = b"".join(bytes((method.type,)) for method in self._methods) or _NO_TYPE
        if packet.type == EapType.EXPANDED:
            # An expanded request gets an expanded Nak (§5.3.2): vendor 0, type 3, then types in that form.
            none = bytes((EapType.EXPANDED,)) + bytes(_EXPANDED_HEADER)
            types = [bytes((EapType.EXPANDED,)) + bytes(3) + t.to_bytes(4, "big") for t in wanted if t]
            data = bytes(3) + int(EapType.NAK).to_bytes(4, "big") + (b"".join(types) or none)
            return self._answer(packet, EapType.EXPANDED, data)
        return self._answer(packet, EapType.NAK, wanted)

    def _answer(self, packet: EapPacket, type_: int, data: bytes) -> Step:
        response = EapPacket(EapCode.RESPONSE, packet.identifier, type_, data)
        return Step(Result.GOING_ON, response.to_bytes())

    def _success(self) -> Step:
        if self._running is None or not self._running.done:
            return Step(Result.FAILURE, reason="EAP_SUCCESS before the method was done")
        self.msk = self._running.msk
        return Step(Result.SUCCESS)
