"""IKE fragmentation (RFC 7383): long messages in datagrams that no router has to fragment, and back together.

A fragment is authenticated by itself before anything of it is kept, and only for a message that is expected now: forged
ones cost one check of an ICV, and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.keyex.window import Outstanding
from ipsecstack.wire.ikev2 import (
    EncryptedFragment,
    Header,
    Message,
    Notify,
    NotifyType,
    Payload,
    WireError,
)

SUPPORTED = NotifyType.IKEV2_FRAGMENTATION_SUPPORTED
RETRY_SMALLER = 2
"""After so many retransmissions without an answer the message goes in smaller fragments (RFC 7383 §2.5.2)."""
_UDP, _MARKER = 8, 4
_LEAST = 200  # octets of a message, below which we do not cut however small the peer's fragments are
_SMALL_PIECE = 64  # octets inside a fragment: a message in more than max_packet / 64 of them is not collected
_IP_HEADER = {4: 20, 6: 40}
_SMALLEST = {4: 576, 6: 1280}


class Fragmentation(Extension):
    """Both ends say in IKE_SA_INIT that they take fragments (§2.3); ``accept`` takes them and makes none."""

    resumes = True

    def init_request(self, sa: IkeSa) -> list[Payload]:
        return [Notify(SUPPORTED)] if _wanted(sa) else []

    def init_requested(self, sa: IkeSa, message: Message) -> list[Payload]:
        self.init_answered(sa, message)
        return [Notify(SUPPORTED)] if sa.features.fragmentation else []

    def init_answered(self, sa: IkeSa, message: Message) -> None:
        sa.features.fragmentation = _wanted(sa) and message.notify(SUPPORTED) is not None


def _wanted(sa: IkeSa) -> bool:
    return sa.config is not None and sa.config.fragmentation != "no"


# --- outgoing ---------------------------------------------------------------------------------------------------------


def limit(sa: IkeSa, packet: int = 0) -> int:
    """Octets that an IKE message may have in a packet of ``packet`` octets (0: as configured, or as was found out)."""
    version = sa.remote.host.version
    size = packet or sa.features.fragment_size or sa.host.options.fragment_size or _SMALLEST[version]
    return size - _IP_HEADER[version] - _UDP - (_MARKER if sa.marker else 0)


def seal(sa: IkeSa, header: Header, payloads: list[Payload], most: int = 0) -> tuple[bytes, ...]:
    """The datagrams of a message: one, or its fragments where it is too long for the path.

    ``most`` octets are all that the path is known to take (a response to fragments is cut as they are); 0: not known.
    """
    assert sa.protection is not None
    sends = (
        sa.features.fragmentation and sa.config is not None and sa.config.fragmentation in ("yes", "force")
    )
    if not sends:
        return (sa.protection.seal(header, payloads),)
    bound = min(limit(sa), max(most, _LEAST)) if most else limit(sa)
    datagrams = sa.protection.seal_fragments(header, payloads, bound)
    if len(datagrams) > 1:
        octets = sum(map(len, datagrams))
        sa.log("ENC", 1, f"splitting IKE message ({octets} bytes) into {len(datagrams)} fragments")
    return datagrams


def retry_smaller(sa: IkeSa, entry: Outstanding, task: Task | None) -> None:
    """Nobody answers a request: maybe the path lost what is long. It goes on in the smallest fragments."""
    smallest = _SMALLEST[sa.remote.host.version]
    if (
        task is None
        or task.sent is None
        or entry.retransmits <= RETRY_SMALLER
        or not sa.features.fragmentation
    ):
        return
    if sa.protection is None or max(map(len, entry.datagrams)) <= limit(sa, smallest):
        return
    header, payloads = task.sent
    datagrams = seal(sa, header, payloads, limit(sa, smallest))
    # RFC 7383 §2.6: a receiver that has fragments already starts anew only for a larger total.
    if len(datagrams) > len(entry.datagrams):
        sa.log(
            "IKE", 1, f"no answer to {len(entry.datagrams)} datagrams, trying fragments of {smallest} bytes"
        )
        sa.features.fragment_size = smallest
        entry.datagrams = datagrams


# --- incoming ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pieces:
    """The fragments of one message so far: plaintexts by number."""

    total: int
    found: dict[int, bytes] = field(default_factory=dict, repr=False)
    first_payload: int = 0
    first_datagram: bytes = field(default=b"", repr=False)
    largest: int = 0

    @property
    def octets(self) -> int:
        return sum(map(len, self.found.values()))


@dataclass(frozen=True, slots=True)
class Opened:
    """A message that verified: the type of its first payload, and the octets of all.

    ``datagram`` is what a retransmission repeats (of fragments the first one), ``largest`` is the longest datagram that
    the peer cut it into, 0 if it came whole.
    """

    first_payload: int
    chain: bytes = field(repr=False)
    datagram: bytes = field(repr=False)
    largest: int = 0
    key: tuple[bool, int] = (False, 0)
    last: int = 0
    pieces: _Pieces | None = field(default=None, repr=False)


class Reassembly:
    """Messages of one IKE SA that are coming in fragments: one for each message ID that is expected."""

    __slots__ = ("_incoming", "_limit")

    def __init__(self, max_packet: int) -> None:
        self._incoming: dict[tuple[bool, int], _Pieces] = {}
        self._limit = max_packet

    def __len__(self) -> int:
        return len(self._incoming)

    def refuses(self, header: Header, fragment: EncryptedFragment) -> str | None:
        """Why a fragment is not even worth a look at its ICV; None if it is."""
        known = self._incoming.get(_key(header))
        if fragment.total > 1 + self._limit // _SMALL_PIECE:  # each costs memory, however little is in it
            return f"a message in {fragment.total} fragments is too long"
        if known is None:
            return None
        if fragment.total < known.total:
            return f"fragment of {fragment.total}, after fragments of {known.total}"
        if fragment.total == known.total and fragment.number in known.found:
            return f"fragment {fragment.number} is there already"
        return None

    def add(
        self, header: Header, fragment: EncryptedFragment, first: int, plaintext: bytes, data: bytes
    ) -> Opened | None:
        """Keep a fragment that verified; the message when it was the last one. WireError when it gets too long."""
        key = _key(header)
        pieces = self._incoming.get(key)
        if pieces is None or fragment.total > pieces.total:
            pieces = self._incoming[key] = _Pieces(fragment.total)
        pieces.found[fragment.number] = plaintext
        pieces.largest = max(pieces.largest, len(data))
        if fragment.number == 1:
            pieces.first_payload, pieces.first_datagram = first, data
        if pieces.octets > self._limit:
            del self._incoming[key]
            raise WireError(f"the fragments have more than {self._limit} octets, max_packet")
        if len(pieces.found) < pieces.total:
            return None
        del self._incoming[key]
        chain = b"".join(pieces.found[number] for number in range(1, pieces.total + 1))
        return Opened(
            pieces.first_payload, chain, pieces.first_datagram, pieces.largest, key, fragment.number, pieces
        )

    def put_back(self, opened: Opened) -> None:
        """The message cannot be handled yet: its last fragment, received again, completes it again."""
        if opened.pieces is not None:
            opened.pieces.found.pop(opened.last, None)
            self._incoming[opened.key] = opened.pieces

    def forget(self, *, response: bool, message_id: int) -> None:
        """The message is not expected any more."""
        self._incoming.pop((response, message_id), None)

    def clear(self) -> None:
        self._incoming.clear()


def _key(header: Header) -> tuple[bool, int]:
    return header.is_response, header.message_id


def collect(sa: IkeSa, header: Header, fragment: EncryptedFragment, data: bytes) -> Opened | None:
    """Take a fragment of an expected message; the whole message with its last one.

    IntegrityError and WireError as ``Protection.open``: nothing has changed then.
    """
    assert sa.protection is not None
    if not sa.features.fragmentation:
        raise WireError("a fragment, but fragmentation was not negotiated")
    if sa.reassembly is None:
        sa.reassembly = Reassembly(sa.host.options.max_packet)
    why = sa.reassembly.refuses(header, fragment)
    if why is not None:
        raise WireError(why)
    first, plaintext = sa.protection.open(data, (fragment,))
    sa.counters.fragments_in += 1
    opened = sa.reassembly.add(header, fragment, first, plaintext, data)
    text = f"received fragment #{fragment.number} of {fragment.total}"
    if opened is None:
        sa.log("ENC", 1, f"{text}, waiting for complete IKE message")
    else:
        sa.log("ENC", 1, f"{text}, reassembled fragmented IKE message ({len(opened.chain)} bytes)")
    return opened


def whole(sa: IkeSa, header: Header) -> None:
    """The message came whole after all: fragments of it are not waited for."""
    if sa.reassembly is not None:
        sa.reassembly.forget(response=header.is_response, message_id=header.message_id)


def put_back(sa: IkeSa, opened: Opened) -> None:
    """The message cannot be handled yet: its last datagram will be received again."""
    if sa.reassembly is not None:
        sa.reassembly.put_back(opened)
