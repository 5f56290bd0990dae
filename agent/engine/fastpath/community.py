"""SNMPv1 and SNMPv2c on octets: RFC 1157 and RFC 1901 messages around a plan's answer."""

from __future__ import annotations

from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine.fastpath.sight import Sight
from agent.engine.responder import Requester
from agent.smi import ber

NO_ERROR = b"\x02\x01\x00\x02\x01\x00"
"""error-status noError and error-index 0."""
MAX_FRAMES = 2048
LENGTHS = [ber.length(size) for size in range(2048)]
"""Length octets of most messages."""


class CommunitySession:
    """A community that may be used from a host, and what it sees."""

    __slots__ = (
        "_frames",
        "community",
        "context",
        "head",
        "rooms",
        "security_name",
        "sight",
        "version",
    )

    def __init__(
        self, version: int, community: bytes, security_name: str, context: str, sight: Sight, max_size: int
    ) -> None:
        self.version = version
        self.community = community
        self.security_name = security_name
        self.context = context
        self.sight = sight
        self._frames: dict[int, tuple[bytes, bytes]] = {}
        self.head = ber.integer(version) + ber.tlv(ber.OCTET_STRING, community)
        budget = messages.community_budget(max_size, community)
        # by the length of the request-id: -2^31 has four octets, 0 has one
        self.rooms = [-1, *(pdus.varbinds_room(budget, 1 << (8 * octets - 2)) for octets in range(1, 5))]

    def requester(self, host: str, port: int) -> Requester:
        """Who asks, as the plain path names it."""
        return Requester(
            self.version,
            self.version + 1,
            self.security_name,
            1,
            self.context,
            (host.partition("%")[0], port),
        )

    def budget(self, max_size: int) -> int:
        """Octets that a Response-PDU may have."""
        return messages.community_budget(max_size, self.community)

    def message(self, request_id: bytes, varbinds: bytes) -> bytes:
        """The Response with a request-id's octets (tag and length too)."""
        size = len(varbinds)
        content = b"%b%b0%b%b" % (
            request_id,
            NO_ERROR,
            LENGTHS[size] if size < 2048 else ber.length(size),
            varbinds,
        )
        size = len(content)
        content = b"%b\xa2%b%b" % (self.head, LENGTHS[size] if size < 2048 else ber.length(size), content)
        size = len(content)
        return b"0%b%b" % (LENGTHS[size] if size < 2048 else ber.length(size), content)

    def frame(self, request_id: int, varbinds: int) -> tuple[bytes, bytes]:
        """What stands before and behind the content of a request-id, in a Response with VarBinds, of these sizes."""
        found = self._frames.get(varbinds << 3 | request_id)
        if found is None:
            message = self.message(b"\x02%c%b" % (request_id, bytes(request_id)), bytes(varbinds))
            at = len(message) - varbinds - len(NO_ERROR) - 1 - len(ber.length(varbinds))
            found = message[: at - request_id], message[at : len(message) - varbinds]
            if len(self._frames) >= MAX_FRAMES:
                self._frames.clear()
            self._frames[varbinds << 3 | request_id] = found
        return found
