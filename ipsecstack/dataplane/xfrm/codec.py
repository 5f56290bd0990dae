"""Requests to the kernel and what it answers and tells: values in, octets out, and back. No socket, no state.

Keys go in (``Algorithm.key``) and never come out: an SA as it is read from the kernel has names and lengths of its
algorithms only. What is cut short or makes no sense is counted by ``parse`` and left out, whatever its octets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ipsecstack.dataplane.xfrm.messages import message_octets
from ipsecstack.dataplane.xfrm.numbers import Attribute, Flag, Message
from ipsecstack.dataplane.xfrm.structures import (
    Buffer,
    Encapsulation,
    Faults,
    IPAddress,
    PolicyInfo,
    Replay,
    Selector,
    StateId,
    StateInfo,
    Template,
    Use,
    pack_address,
    parse_address,
)

Attributes = list[tuple[Attribute, int | bytes]]
NO_MARK = (0, 0)
TEMPLATES_MAX = 6
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NAME_OCTETS = 64


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An algorithm by the kernel's name, with key (octets) and ICV length (bits; 0 where it has none of its own)."""

    kind: Attribute  # ALG_CRYPT, ALG_AEAD, ALG_AUTH_TRUNC or ALG_COMP
    name: str
    key: bytes = field(default=b"", repr=False)
    icv_bits: int = 0
    key_bits: int = 0  # as read from the kernel; what is written follows from the key

    def to_bytes(self) -> bytes:
        name = self.name.encode("ascii").ljust(_NAME_OCTETS, b"\0")
        if self.kind in (Attribute.ALG_AEAD, Attribute.ALG_AUTH_TRUNC):
            return name + struct.pack("=II", 8 * len(self.key), self.icv_bits) + self.key
        return name + struct.pack("=I", 8 * len(self.key)) + self.key


@dataclass(frozen=True, slots=True)
class State:
    """An SA with its attributes."""

    info: StateInfo
    algorithms: tuple[Algorithm, ...] = ()
    encapsulation: Encapsulation | None = None
    replay: Replay | None = None
    use: Use | None = None  # restored counts (XFRMA_LTIME_VAL)
    tfc_padding: int = 0
    extra_flags: int = 0
    mark: tuple[int, int] = NO_MARK  # value, mask
    if_id: int = 0
    care_of: IPAddress | None = None
    last_used: int | None = None  # seconds since 1970; only read

    def attributes(self) -> Attributes:
        out: Attributes = [(algorithm.kind, algorithm.to_bytes()) for algorithm in self.algorithms]
        if self.encapsulation is not None:
            out.append((Attribute.ENCAP, self.encapsulation.to_bytes()))
        if self.replay is not None:
            kind = Attribute.REPLAY_ESN_VAL if self.replay.extended else Attribute.REPLAY_VAL
            out.append((kind, self.replay.to_bytes()))
        if self.use is not None:
            out.append((Attribute.LTIME_VAL, self.use.to_bytes()))
        if self.tfc_padding:
            out.append((Attribute.TFCPAD, self.tfc_padding))
        if self.extra_flags:
            out.append((Attribute.SA_EXTRA_FLAGS, self.extra_flags))
        if self.care_of is not None:
            out.append((Attribute.COADDR, pack_address(self.care_of)))
        return out + _binding(self.mark, self.if_id)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy with its templates."""

    info: PolicyInfo
    templates: tuple[Template, ...] = ()
    mark: tuple[int, int] = NO_MARK
    if_id: int = 0

    def attributes(self) -> Attributes:
        out: Attributes = []
        if self.templates:
            out.append((Attribute.TMPL, b"".join(template.to_bytes() for template in self.templates)))
        return out + _binding(self.mark, self.if_id)


def _binding(mark: tuple[int, int], if_id: int) -> Attributes:
    out: Attributes = []
    if mark != NO_MARK:
        out.append((Attribute.MARK, struct.pack("=II", *mark)))
    if if_id:
        out.append((Attribute.IF_ID, if_id))
    return out


# --- requests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One request; ``to_bytes`` gives it the number by which its answer is known."""

    kind: Message
    body: bytes = field(repr=False)
    attributes: Attributes = field(default_factory=list, repr=False)
    flags: int = Flag.REQUEST | Flag.ACK
    what: str = ""  # for messages to people

    def to_bytes(self, sequence: int, port: int = 0) -> bytes:
        dump = self.flags & Flag.DUMP == Flag.DUMP
        return message_octets(self.kind, self.flags, sequence, self.body, self.attributes, dump, port)


def new_state(state: State, replace: bool = False) -> Request:
    kind = Message.UPDSA if replace else Message.NEWSA
    return Request(kind, state.info.to_bytes(), state.attributes(), what=_sa_text(state.info.id))


def delete_state(state: StateId, mark: tuple[int, int] = NO_MARK) -> Request:
    return Request(Message.DELSA, state.to_bytes(), _binding(mark, 0), what=_sa_text(state))


def get_state(state: StateId, mark: tuple[int, int] = NO_MARK) -> Request:
    """Answered by a State, without an acknowledgement."""
    return Request(Message.GETSA, state.to_bytes(), _binding(mark, 0), Flag.REQUEST, _sa_text(state))


def dump_states(protocol: int = 0) -> Request:
    """Every SA, or those of one IP protocol."""
    attributes: Attributes = [(Attribute.PROTO, protocol)] if protocol else []
    return Request(Message.GETSA, b"", attributes, Flag.REQUEST | Flag.DUMP, "the list of SAs")


def allocate_spi(info: StateInfo, low: int, high: int) -> Request:
    """Reserve an SPI (answered by a State that holds it); it lapses unless an SA is made of it."""
    body = info.to_bytes() + struct.pack("=II", low, high)
    return Request(Message.ALLOCSPI, body, [], Flag.REQUEST, _sa_text(info.id))


def new_policy(policy: Policy, replace: bool = False) -> Request:
    kind = Message.UPDPOLICY if replace else Message.NEWPOLICY
    return Request(kind, policy.info.to_bytes(), policy.attributes(), what=_policy_text(policy.info))


def delete_policy(
    selector: Selector, way: int, mark: tuple[int, int] = NO_MARK, if_id: int = 0, index: int = 0
) -> Request:
    body = selector.to_bytes() + struct.pack("=IB3x", index, way)
    return Request(Message.DELPOLICY, body, _binding(mark, if_id), what="a policy")


def get_policy(selector: Selector, way: int, mark: tuple[int, int] = NO_MARK, if_id: int = 0) -> Request:
    """Answered by a Policy, without an acknowledgement."""
    body = selector.to_bytes() + struct.pack("=IB3x", 0, way)
    return Request(Message.GETPOLICY, body, _binding(mark, if_id), Flag.REQUEST, "a policy")


def dump_policies() -> Request:
    return Request(Message.GETPOLICY, b"", [], Flag.REQUEST | Flag.DUMP, "the list of policies")


def set_sequence(state: StateId, source: IPAddress, replay: Replay) -> Request:
    """Set sequence numbers and window of an SA that is there (XFRM_MSG_NEWAE)."""
    body = state.to_bytes() + pack_address(source) + struct.pack("=II", 0, 0)
    kind = Attribute.REPLAY_ESN_VAL if replay.extended else Attribute.REPLAY_VAL
    flags = Flag.REQUEST | Flag.ACK | Flag.REPLACE
    return Request(Message.NEWAE, body, [(kind, replay.to_bytes())], flags, _sa_text(state))


def migrate(
    selector: Selector,
    way: int,
    protocol: int,
    mode: int,
    reqid: int,
    old: tuple[IPAddress, IPAddress],
    new: tuple[IPAddress, IPAddress],
) -> Request:
    """Move the SAs of a policy, and its template, from one pair (source, destination) to another."""
    one = (
        b"".join(map(pack_address, (old[1], old[0], new[1], new[0])))
        + struct.pack("=BB2xI", protocol, mode, reqid)
        + struct.pack("=HH", *(2 if pair[0].version == 4 else 10 for pair in (old, new)))
    )
    body = selector.to_bytes() + struct.pack("=IB3x", 0, way)
    return Request(Message.MIGRATE, body, [(Attribute.MIGRATE, one)], what="a change of addresses")


_NAMES = {50: "ESP", 51: "AH", 108: "IPComp"}


def _sa_text(state: StateId) -> str:
    name = _NAMES.get(state.protocol, str(state.protocol))
    return f"the {name} SA {state.spi:08x} to {state.destination}"


def _policy_text(info: PolicyInfo) -> str:
    sel = info.selector
    ways = ("in", "out", "fwd")
    way = ways[info.way] if info.way < len(ways) else str(info.way)
    return (
        f"the policy ({way}) from {sel.source}/{sel.source_prefix} to "
        f"{sel.destination}/{sel.destination_prefix}"
    )


# --- what the kernel says -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The answer to a request that asks for one; ``error`` is an errno, 0 for success."""

    error: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a list."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """Messages were lost."""


@dataclass(frozen=True, slots=True)
class StateFound:
    """An SA: answered, listed, or told as added (NEWSA) or changed (UPDSA)."""

    state: State
    updated: bool = False


@dataclass(frozen=True, slots=True)
class StateDeleted:
    """An SA is gone; ``state`` is as it was at its end, None where the kernel gave the name alone."""

    id: StateId
    state: State | None = None


@dataclass(frozen=True, slots=True)
class StatesFlushed:
    protocol: int


@dataclass(frozen=True, slots=True)
class PolicyFound:
    policy: Policy
    updated: bool = False


@dataclass(frozen=True, slots=True)
class PolicyDeleted:
    selector: Selector
    way: int
    index: int


@dataclass(frozen=True, slots=True)
class PoliciesFlushed:
    """All policies of main type are gone."""


@dataclass(frozen=True, slots=True)
class AcquireAsked:
    """A packet needs an SA that is not there; ``selector`` is the packet, ``template`` the SA asked for."""

    protocol: int
    source: IPAddress
    destination: IPAddress
    selector: Selector
    policy: PolicyInfo
    seq: int
    template: Template | None = None


@dataclass(frozen=True, slots=True)
class StateExpired:
    """A limit was reached; after a hard one the kernel has deleted the SA."""

    info: StateInfo
    hard: bool


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """An authentic packet in UDP came from another address or port (RFC 7296 §2.23)."""

    id: StateId
    reqid: int
    old: tuple[IPAddress, int]
    new: tuple[IPAddress, int]


@dataclass(frozen=True, slots=True)
class SequenceTold:
    """Counts and sequence numbers of an SA as an event (XFRM_MSG_NEWAE)."""

    id: StateId
    reqid: int
    replay: Replay | None = None
    use: Use | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """A message of a type that is of no use here."""

    kind: int


Answer = (
    Acknowledged
    | Done
    | Overrun
    | StateFound
    | StateDeleted
    | StatesFlushed
    | PolicyFound
    | PolicyDeleted
    | PoliciesFlushed
    | AcquireAsked
    | StateExpired
    | MappingChanged
    | SequenceTold
    | Other
)


@dataclass(frozen=True, slots=True)
class Received:
    """One message with the number of the request it answers (0: an event) and the port that made the request."""

    sequence: int
    port: int
    answer: Answer


class _Short(Exception):
    """Octets are missing."""


def split(data: Buffer) -> Iterator[tuple[int, int, int, memoryview]]:
    """(type, sequence, port, body) of each message in one datagram; ends at the first header that makes no sense."""
    view = memoryview(data)
    at = 0
    while at + _HEADER.size <= len(view):
        length, kind, _flags, sequence, port = _HEADER.unpack_from(view, at)
        if length < _HEADER.size or at + length > len(view):
            return
        yield kind, sequence, port, view[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def parse(data: Buffer) -> list[Received]:
    """All messages of one datagram. A message that is too short for its type comes as ``Other``."""
    out = []
    for kind, sequence, port, body in split(data):
        out.append(Received(sequence, port, read(kind, body)))
    return out


def read(kind: int, body: memoryview) -> Answer:
    """What a message of this type says; ``Other`` when it is too short, or of no use here."""
    reader = _READERS.get(kind)
    try:
        return reader(body) if reader is not None else Other(kind)
    except _Short:
        return Other(kind)


def _need(body: Buffer, octets: int) -> None:
    if len(body) < octets:
        raise _Short


def attributes_of(body: Buffer, start: int) -> dict[int, memoryview]:
    """Type -> value of the attributes from ``start`` on; of equal types the first, and none after one that is cut."""
    view = memoryview(body)
    out: dict[int, memoryview] = {}
    at = (start + 3) & ~3
    while at + _ATTRIBUTE.size <= len(view):
        length, kind = _ATTRIBUTE.unpack_from(view, at)
        if length < _ATTRIBUTE.size or at + length > len(view):
            break
        out.setdefault(kind & 0x3FFF, view[at + _ATTRIBUTE.size : at + length])
        at += (length + 3) & ~3
    return out


def _number(found: dict[int, memoryview], kind: Attribute, octets: int = 4) -> int | None:
    value = found.get(kind)
    return int.from_bytes(value[:octets], _ORDER) if value is not None and len(value) >= octets else None


_ORDER: Literal["little", "big"] = "little" if struct.pack("=H", 1)[0] else "big"


def _mark(found: dict[int, memoryview]) -> tuple[int, int]:
    value = found.get(Attribute.MARK)
    if value is None or len(value) < 8:
        return NO_MARK
    marked, mask = struct.unpack_from("=II", value)
    return marked, mask


def _replay(found: dict[int, memoryview]) -> Replay | None:
    if (value := found.get(Attribute.REPLAY_ESN_VAL)) is not None:
        return Replay.parse_extended(value)
    value = found.get(Attribute.REPLAY_VAL)
    return Replay.parse(value) if value is not None else None


def _algorithms(found: dict[int, memoryview]) -> tuple[Algorithm, ...]:
    """Names and lengths. The octets behind them, which are keys, are not looked at."""
    out = []
    for kind in (Attribute.ALG_CRYPT, Attribute.ALG_AEAD, Attribute.ALG_AUTH_TRUNC, Attribute.ALG_COMP):
        value = found.get(kind)
        long = kind in (Attribute.ALG_AEAD, Attribute.ALG_AUTH_TRUNC)
        if value is None or len(value) < _NAME_OCTETS + (8 if long else 4):
            continue
        name = bytes(value[:_NAME_OCTETS]).partition(b"\0")[0].decode("ascii", "replace")
        (key_bits,) = struct.unpack_from("=I", value, _NAME_OCTETS)
        (icv_bits,) = struct.unpack_from("=I", value, _NAME_OCTETS + 4) if long else (0,)
        out.append(Algorithm(kind, name, b"", icv_bits, key_bits))
    return tuple(out)


def _state(info: StateInfo, found: dict[int, memoryview]) -> State:
    encap = found.get(Attribute.ENCAP)
    return State(
        info,
        _algorithms(found),
        Encapsulation.parse(encap) if encap is not None else None,
        _replay(found),
        None,
        _number(found, Attribute.TFCPAD) or 0,
        _number(found, Attribute.SA_EXTRA_FLAGS) or 0,
        _mark(found),
        _number(found, Attribute.IF_ID) or 0,
        None,
        _number(found, Attribute.LASTUSED, 8),
    )


def _read_state(body: memoryview) -> StateFound:
    _need(body, StateInfo.SIZE)
    return StateFound(_state(StateInfo.parse(body), attributes_of(body, StateInfo.SIZE)))


def _read_updated(body: memoryview) -> StateFound:
    return StateFound(_read_state(body).state, True)


def _read_deleted(body: memoryview) -> StateDeleted:
    _need(body, StateId.SIZE)
    found = attributes_of(body, StateId.SIZE)
    whole = found.get(Attribute.SA)
    state = _state(StateInfo.parse(whole), found) if whole and len(whole) >= StateInfo.SIZE else None
    return StateDeleted(StateId.parse(body), state)


def _read_flushed(body: memoryview) -> StatesFlushed:
    _need(body, 1)
    return StatesFlushed(body[0])


def _templates(found: dict[int, memoryview]) -> tuple[Template, ...]:
    value = found.get(Attribute.TMPL, memoryview(b""))
    count = min(len(value) // Template.SIZE, TEMPLATES_MAX)
    return tuple(Template.parse(value, number * Template.SIZE) for number in range(count))


def _read_policy(body: memoryview) -> PolicyFound:
    _need(body, PolicyInfo.SIZE)
    found = attributes_of(body, PolicyInfo.SIZE)
    policy = Policy(
        PolicyInfo.parse(body), _templates(found), _mark(found), _number(found, Attribute.IF_ID) or 0
    )
    return PolicyFound(policy)


def _read_updated_policy(body: memoryview) -> PolicyFound:
    return PolicyFound(_read_policy(body).policy, True)


def _read_deleted_policy(body: memoryview) -> PolicyDeleted:
    _need(body, 64)
    index, way = struct.unpack_from("=IB", body, Selector.SIZE)
    found = attributes_of(body, 64)
    whole = found.get(Attribute.POLICY)
    if whole is not None and len(whole) >= PolicyInfo.SIZE:
        info = PolicyInfo.parse(whole)
        return PolicyDeleted(info.selector, info.way, info.index)
    return PolicyDeleted(Selector.parse(body), way, index)


def _read_acquire(body: memoryview) -> AcquireAsked:
    _need(body, 280)
    policy = PolicyInfo.parse(body, 96)
    _spi, protocol = struct.unpack_from("=4sB", body, 16)
    templates = _templates(attributes_of(body, 280))
    selector = Selector.parse(body, 40)
    # The outer family is not told: it is that of the template.
    family = 0
    if templates:
        family = 2 if templates[0].source.version == 4 else 10
    family = family or (2 if selector.source.version == 4 else 10)
    (seq,) = struct.unpack_from("=I", body, 276)
    return AcquireAsked(
        protocol,
        parse_address(body[24:40], family),
        parse_address(body[0:16], family),
        selector,
        policy,
        seq,
        templates[0] if templates else None,
    )


def _read_expire(body: memoryview) -> StateExpired:
    _need(body, StateInfo.SIZE + 1)
    return StateExpired(StateInfo.parse(body), bool(body[StateInfo.SIZE]))


def _read_mapping(body: memoryview) -> MappingChanged:
    _need(body, 64)
    name = StateId.parse(body)
    (reqid,) = struct.unpack_from("=I", body, 24)
    (family,) = struct.unpack_from("=H", body, 20)
    old_port, new_port = struct.unpack_from(">HH", body, 60)
    return MappingChanged(
        name,
        reqid,
        (parse_address(body[28:44], family), old_port),
        (parse_address(body[44:60], family), new_port),
    )


def _read_sequence(body: memoryview) -> SequenceTold:
    _need(body, 48)
    found = attributes_of(body, 48)
    use = found.get(Attribute.LTIME_VAL)
    (reqid,) = struct.unpack_from("=I", body, 44)
    return SequenceTold(
        StateId.parse(body),
        reqid,
        _replay(found),
        Use.parse(use) if use is not None and len(use) >= Use.SIZE else None,
    )


def _read_error(body: memoryview) -> Acknowledged:
    """nlmsgerr: the error, the header of the request (the rest of it is not repeated to us), and the kernel's words."""
    _need(body, 4)
    (error,) = struct.unpack_from("=i", body)
    reason = ""
    if error and len(body) > 4 + _HEADER.size:
        # NLMSGERR_ATTR_MSG is 1; a kernel that repeats the whole request has its attributes behind it.
        length, _kind, _flags, _seq, _pid = _HEADER.unpack_from(body, 4)
        for start in (4 + _HEADER.size, 4 + max(length, _HEADER.size)):
            text = attributes_of(body, start).get(1)
            if text is not None and _printable(bytes(text).rstrip(b"\0")):
                reason = bytes(text).rstrip(b"\0").decode("ascii")
                break
    return Acknowledged(-error if error < 0 else error, reason)


def _printable(text: bytes) -> bool:
    return 0 < len(text) < 256 and all(32 <= octet < 127 for octet in text)


_READERS: dict[int, Callable[[memoryview], Answer]] = {
    Message.ERROR: _read_error,
    Message.DONE: lambda _body: Done(),
    Message.OVERRUN: lambda _body: Overrun(),
    Message.NEWSA: _read_state,
    Message.UPDSA: _read_updated,
    Message.DELSA: _read_deleted,
    Message.FLUSHSA: _read_flushed,
    Message.NEWPOLICY: _read_policy,
    Message.UPDPOLICY: _read_updated_policy,
    Message.DELPOLICY: _read_deleted_policy,
    Message.FLUSHPOLICY: lambda _body: PoliciesFlushed(),
    Message.ACQUIRE: _read_acquire,
    Message.EXPIRE: _read_expire,
    Message.MAPPING: _read_mapping,
    Message.NEWAE: _read_sequence,
}


# --- a quick look at many SAs -------------------------------------------------------------------------------------

_QUICK = struct.Struct("=4sB")


@dataclass(frozen=True, slots=True)
class Glance:
    """The counts of one SA in a list."""

    id: StateId
    user: int
    use: Use
    faults: Faults
    last_used: int | None


def glance(body: Buffer) -> Glance | None:
    """Name and counts of a NEWSA's body without the rest; None when it is cut short."""
    if len(body) < StateInfo.SIZE:
        return None
    (family,) = struct.unpack_from("=H", body, 212)
    (user,) = struct.unpack_from("=I", body, 52)
    spi, protocol = _QUICK.unpack_from(body, 72)
    return Glance(
        StateId(parse_address(body[56:72], family), int.from_bytes(spi, "big"), protocol),
        user,
        Use.parse(body, 160),
        Faults.parse(body, 192),
        _number(attributes_of(body, StateInfo.SIZE), Attribute.LASTUSED, 8),
    )
