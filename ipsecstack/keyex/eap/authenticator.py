"""The authenticator of an EAP conversation (RFC 3748 §4.2, §5): asks for an identity, then runs a method."""

from __future__ import annotations

from collections.abc import Callable

from ipsecstack.keyex.eap.method import Method, MethodFailed, ServerContext, ServerMethod
from ipsecstack.keyex.eap.peer import MAX_ROUNDS, Result, Step
from ipsecstack.wire.eap import EapCode, EapError, EapPacket, EapType, type_name

MAX_IDENTITY_OCTETS = 1020


class Authenticator:
    """Makes requests until the peer is authenticated or not.

    ``admit(identity)`` says whether a name that the peer gives may go on; one that may not is refused as late as one
    with a wrong password: ``context.password`` gives nothing for it.
    """

    def __init__(
        self,
        context: ServerContext,
        methods: tuple[Method, ...],
        *,
        ask_identity: bool,
        admit: Callable[[bytes], None],
    ) -> None:
        self._context = context
        self._methods = list(methods)
        self._ask_identity = ask_identity
        self._admit = admit
        self._method: Method | None = None
        self._running: ServerMethod | None = None
        self._progressed = False
        self._rounds = 0
        self._identifier = context.random(1)[0]
        self.msk: bytes | None = None

    @property
    def method(self) -> Method | None:
        return self._method

    @property
    def identity(self) -> bytes:
        """The peer's name, as it gave it or as it was known before."""
        return self._context.identity

    def begin(self) -> Step:
        """The first request."""
        if self._ask_identity:
            return self._request(EapType.IDENTITY, b"")
        return self._start()

    def receive(self, octets: bytes) -> Step:
        """One packet of the peer. Never raises: what makes no sense is a failure, with the packet that says so."""
        self._rounds += 1
        try:
            if self._rounds > MAX_ROUNDS:
                raise EapError(f"EAP goes on for more than {MAX_ROUNDS} packets")
            packet = EapPacket.parse(octets)
            if packet.code != EapCode.RESPONSE or packet.identifier != self._identifier:
                raise EapError("no response to our request")
            return self._response(packet)
        except (EapError, MethodFailed) as error:
            return self._failure(str(error))

    def _response(self, packet: EapPacket) -> Step:
        if self._running is None:
            if packet.type != EapType.IDENTITY or len(packet.data) > MAX_IDENTITY_OCTETS:
                raise EapError("no identity, though it was asked for")
            self._context.identity = packet.data
            self._admit(packet.data)
            return self._start()
        assert self._method is not None
        if packet.type == EapType.NAK or (
            packet.type == EapType.EXPANDED and packet.data[:7] == bytes(6) + bytes((EapType.NAK,))
        ):
            return self._refused(packet)
        if packet.type != self._method.type:
            raise EapError(f"a response of EAP_{type_name(packet.type)}")
        self._progressed = True
        self._identifier = (self._identifier + 1) & 0xFF
        more = self._running.respond(packet.data, self._identifier)
        if more is not None:
            return self._send(self._method.type, more)
        self.msk = self._running.msk
        return Step(Result.SUCCESS, EapPacket(EapCode.SUCCESS, packet.identifier).to_bytes())

    def _refused(self, packet: EapPacket) -> Step:
        """The peer wants another method: one of those that it names and that are left (§5.3.1)."""
        assert self._method is not None
        if self._progressed:
            raise EapError("a Nak in the middle of a method")
        self._context.log(f"peer requests another method than EAP_{type_name(self._method.type)}")
        if packet.type == EapType.NAK:
            wanted = list(packet.data)
        else:
            rest = packet.data[7:]
            wanted = [
                int.from_bytes(rest[i + 4 : i + 8], "big")
                for i in range(0, len(rest) - 7, 8)
                if rest[i : i + 4] == bytes((EapType.EXPANDED, 0, 0, 0))
            ]
        self._methods = [m for m in self._methods if m is not self._method and m.type in wanted]
        return self._start()

    def _start(self) -> Step:
        if not self._methods:
            return self._failure("the peer knows none of the EAP methods that are allowed")
        self._method = self._methods[0]
        self._running = self._method.server(self._context)
        self._context.log(f"initiating EAP_{type_name(self._method.type)} method")
        self._identifier = (self._identifier + 1) & 0xFF
        return self._send(self._method.type, self._running.begin(self._identifier))

    def _request(self, type_: int, data: bytes) -> Step:
        self._identifier = (self._identifier + 1) & 0xFF
        return self._send(type_, data)

    def _send(self, type_: int, data: bytes) -> Step:
        packet = EapPacket(EapCode.REQUEST, self._identifier, type_, data)
        return Step(Result.GOING_ON, packet.to_bytes())

    def _failure(self, reason: str) -> Step:
        return Step(Result.FAILURE, EapPacket(EapCode.FAILURE, self._identifier).to_bytes(), reason)
