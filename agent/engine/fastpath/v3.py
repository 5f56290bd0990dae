"""SNMPv3 under USM on octets: RFC 3412 section 6 messages, RFC 3414 section 3, around a plan's answer."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine.fastpath.cipher import AesCfb, Mac
from agent.engine.fastpath.community import LENGTHS, NO_ERROR
from agent.engine.fastpath.errors import NotMine
from agent.engine.fastpath.sight import Sight
from agent.engine.responder import Requester
from agent.engine.state import MAX_BOOTS
from agent.engine.usm import TIME_WINDOW, USM, Usm
from agent.engine.usm_crypto import AUTH, LocalUser
from agent.smi import ber

MAX_ROOMS = 256
MAX_HOSTS = 1024
ACQUAINTANCE = 60
"""Seconds after which a host is looked at again."""
FLAGS = (0, 0, 1, 3)
"""msgFlags of a Response by securityLevel."""


class V3User:
    """A user at one securityLevel: keys in use, and the octets of a Response that never change."""

    __slots__ = (
        "_head",
        "_parameters",
        "_parameters_at",
        "_scoped",
        "_tail",
        "_times",
        "cipher",
        "hosts",
        "level",
        "mac",
        "rooms",
        "sights",
        "user",
    )

    def __init__(self, usm: Usm, user: LocalUser, level: int) -> None:
        """Raises NotMine for a user or protocol that only the plain path knows."""
        if level > user.level:
            raise NotMine
        self.user = user
        self.level = level
        self.mac: Mac | None = None
        self.cipher: AesCfb | None = None
        if level >= 2:
            self.mac = Mac(user.auth_key, *AUTH[user.auth])
        if level == 3:
            if not user.priv.startswith("AES-"):
                raise NotMine
            self.cipher = AesCfb(user.priv_key)
        self.sights: dict[bytes, Sight] = {}
        """By contextName."""
        self.rooms: dict[tuple[int, int, int, int], int] = {}
        self.hosts: dict[str, int] = {}
        """From where it came, and the engine's time when that was last looked at."""
        # msgGlobalData after msgID, then what surrounds msgAuthoritativeEngineTime
        self._head = messages.v3_header(0, usm.max_size, FLAGS[level])[8:]
        self._tail = ber.tlv(4, user.name) + ber.tlv(4, bytes(self.mac.size if self.mac else 0))
        self._scoped = ber.tlv(4, usm.engine_id)
        self._parameters = b""
        self._parameters_at = -1
        self._times = b""

    def requester(self, context: bytes, host: str, port: int) -> Requester:
        """Who asks, as the plain path names it."""
        name = self.user.name.decode("utf-8", "replace")
        return Requester(
            messages.V3,
            USM,
            name,
            self.level,
            context.decode("utf-8", "replace"),
            (host.partition("%")[0], port),
        )

    def room(self, usm: Usm, max_size: int, message_id: int, request_id: int, context: bytes) -> int:
        """Octets of VarBinds that a Response can hold. `message_id`, `request_id`: how many octets they have."""
        max_size = min(max_size, usm.max_size)
        key = (max_size, message_id, request_id, len(context))
        found = self.rooms.get(key)
        if found is None:
            if len(self.rooms) >= MAX_ROOMS:
                self.rooms.clear()
            found = self.rooms[key] = self._room(usm, max_size, message_id, request_id, context)
        return found

    def _room(self, usm: Usm, max_size: int, message_id: int, request_id: int, context: bytes) -> int:
        # Usm.budget, from the same functions
        room = pdus.inner_room(max_size)
        room -= len(messages.v3_header(1 << (8 * message_id - 2), usm.max_size, 0))
        salt = bytes(8 if self.level == 3 else 0)
        times = ber.integer(MAX_BOOTS) + ber.integer(0x7FFFFFFF)
        parameters = self._scoped + times + self._tail + ber.tlv(4, salt)
        room -= len(ber.tlv(4, ber.tlv(ber.SEQUENCE, parameters)))
        if self.level == 3:
            room = pdus.inner_room(room)
        room = pdus.inner_room(room) - len(messages.scoped_head(usm.engine_id, context))
        return pdus.varbinds_room(room, 1 << (8 * request_id - 2))

    def message(
        self, usm: Usm, message_id: bytes, request_id: bytes, context: bytes, varbinds: bytes
    ) -> bytes:
        """The whole Response. `message_id` and `request_id` with their tags, `context` the contextName."""
        seconds = usm.engine_time
        if seconds != self._parameters_at:
            self._parameters = self._until_digest(usm, seconds)
            self._parameters_at = seconds
            self._times = struct.pack(">II", usm.boots, seconds)
        # lengths from the inside out, then all octets at once
        size = len(varbinds)
        list_length = LENGTHS[size] if size < 2048 else ber.length(size)
        size += len(request_id) + 7 + len(list_length)
        pdu_length = LENGTHS[size] if size < 2048 else ber.length(size)
        size += len(self._scoped) + 3 + len(context) + len(pdu_length)
        content = b"0%b%b\x04%b%b\xa2%b%b%b0%b%b" % (
            LENGTHS[size] if size < 2048 else ber.length(size),
            self._scoped,
            LENGTHS[len(context)],
            context,
            pdu_length,
            request_id,
            NO_ERROR,
            list_length,
            varbinds,
        )
        if self.level == 3:
            assert self.cipher is not None
            salt = usm.next_salt()
            content = self.cipher.encrypt(self._times + salt, content)
            size = len(content)
            length = LENGTHS[size] if size < 2048 else ber.length(size)
            content = b"\x04\x08%b\x04%b%b" % (salt, length, content)
        else:
            content = b"\x04\x00" + content
        head = self._head
        before = b"\x02\x01\x030%c%b%b%b" % (len(message_id) + len(head), message_id, head, self._parameters)
        mac = self.mac
        if mac is None:
            size = len(before) + len(content)
            return b"0%b%b%b" % (LENGTHS[size] if size < 2048 else ber.length(size), before, content)
        size = len(before) + mac.size + len(content)
        before = b"0%b%b" % (LENGTHS[size] if size < 2048 else ber.length(size), before)
        return before + mac.sign(b"%b%b%b" % (before, mac.blank, content)) + content

    def _until_digest(self, usm: Usm, seconds: int) -> bytes:
        """msgSecurityParameters up to the octets of the digest."""
        after = 10 if self.level == 3 else 2  # msgPrivacyParameters
        content = self._scoped + ber.integer(usm.boots) + ber.integer(seconds) + self._tail
        length = ber.length(len(content) + after)
        whole = 1 + len(length) + len(content) + after
        blank = self.mac.size if self.mac else 0
        content = b"\x04" + ber.length(whole) + b"\x30" + length + content
        return content[: len(content) - blank]


Opened = tuple[V3User, bytes, int, bytes, bytes, int, int]
"""(user, msgID with its tag, msgMaxSize, contextName, octets that hold the PDU, its start, its end)."""


class Layout:
    """Where everything is in a message, and the octets that a sender's next one has in common with it.

    Not in common are msgID, engine time, digest, salt and what is enciphered.
    """

    __slots__ = (
        "_parts",
        "context",
        "data_at",
        "digest_at",
        "id_at",
        "id_end",
        "max_size",
        "pdu_at",
        "pdu_end",
        "salt_end",
        "scoped",
        "size",
        "time_at",
        "time_end",
        "user",
    )

    user: V3User
    max_size: int
    time_at: int
    time_end: int
    digest_at: int
    salt_end: int
    data_at: int
    context: bytes
    scoped: bytes
    pdu_at: int
    pdu_end: int

    def __init__(self, size: int, id_at: int, id_end: int) -> None:
        self.size = size
        self.id_at = id_at
        self.id_end = id_end

    def keep(self, data: bytes, digest: int, salt: int) -> None:
        """Remember the octets in common. `digest` and `salt`: how many octets they have."""
        salt_at = self.salt_end - salt
        self._parts = (
            data[: self.id_at],
            data[self.id_end : self.time_at],
            data[self.time_end : self.digest_at],
            self.digest_at + digest,
            data[self.digest_at + digest : salt_at],
            salt_at,
            data[self.salt_end : self.data_at],
        )

    def fits(self, data: bytes) -> bool:
        """Whether a message differs from the one that was read in nothing but what is not in common."""
        before, middle, user, digest_end, priv, salt_at, opening = self._parts
        return (
            len(data) == self.size
            and data[: self.id_at] == before
            # one of the values that have their only encoding whatever follows
            and 0 < data[self.id_at] < 0x80
            and data[self.id_end : self.time_at] == middle
            and data[self.time_at] < 0x80
            and data[self.time_end : self.digest_at] == user
            and data[digest_end:salt_at] == priv
            and data[self.salt_end : self.data_at] == opening
        )


class V3Door:
    """Lets in what the User-based Security Model lets in. Users are set up when they first ask."""

    def __init__(self, usm: Usm, authenticated: Callable[[str, float], None]) -> None:
        """`authenticated` is told now and then from which host authentic messages come."""
        self.usm = usm
        self._authenticated = authenticated
        self._users: dict[tuple[bytes, int], V3User] = {}
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        """By sender: what its last message was like."""
        self._authority = ber.tlv(4, usm.engine_id) + ber.integer(usm.boots)
        self._context_engine = ber.tlv(4, usm.engine_id)

    def open(self, data: bytes, position: int, address: tuple[Any, ...]) -> Opened:
        """Read, authenticate and decipher a message after its version. Raises NotMine, IndexError."""
        layout = self._layouts.get(address)
        known = layout is not None and layout.fits(data)
        if layout is None or not known:
            layout = self._read(data, position)
        user, usm, at = layout.user, self.usm, layout.time_at
        seconds = int.from_bytes(data[at : layout.time_end], "big")
        mac = user.mac
        host = address[0]
        if mac is not None:
            if not mac.verify(data, layout.digest_at):
                raise NotMine
            now = usm.engine_time
            if abs(now - seconds) > TIME_WINDOW or usm.boots == MAX_BOOTS:
                raise NotMine
            met = user.hosts.get(host)
            if met is None or now - met > ACQUAINTANCE:
                self._meet(user, host, now)
        elif host not in user.hosts:
            self._meet(user, host, 0)
        octets, start = data, layout.data_at
        if user.cipher is not None:
            salt = data[layout.salt_end - 8 : layout.salt_end]
            octets = user.cipher.decrypt(struct.pack(">II8s", usm.boots, seconds, salt), data[start:])
            start = 0
        if not known or not octets.startswith(layout.scoped, start):
            self._read_scoped(octets, start, layout)
            if len(self._layouts) >= MAX_HOSTS:
                self._layouts.clear()
            self._layouts[address] = layout
        message_id = data[layout.id_at - 2 : layout.id_end]
        return user, message_id, layout.max_size, layout.context, octets, layout.pdu_at, layout.pdu_end

    def _read(self, data: bytes, position: int) -> Layout:
        """Read all up to msgData. Raises NotMine, IndexError."""
        # msgGlobalData
        end = position + 2 + data[position + 1]
        start = position + 2
        size = data[start + 1]
        position = start + 2 + size
        if data[start - 2] != 0x30 or end - start >= 0x80 or data[start] != 2 or not 1 <= size <= 4:
            raise NotMine
        first = data[start + 2]
        if first >= 0x80 or (size > 1 and not first and data[start + 3] < 0x80):
            raise NotMine
        layout = Layout(len(data), start + 2, position)
        size = data[position + 1]
        start = position + 2
        position = start + size
        if data[start - 2] != 2 or not 1 <= size <= 4 or data[start] >= 0x80:
            raise NotMine
        layout.max_size = int.from_bytes(data[start:position], "big")
        if (
            layout.max_size < messages.MIN_MAX_SIZE
            or position + 6 != end
            or data[position : position + 2] != b"\x04\x01"
            or data[position + 3 : end] != b"\x02\x01\x03"
        ):
            raise NotMine
        level = (1, 2, 0, 3)[data[position + 2] & 3]
        # msgSecurityParameters
        if data[end] != 4:
            raise NotMine
        position, stop = _content(data, end + 1)
        if data[position] != 0x30:
            raise NotMine
        position, last = _content(data, position + 1)
        start = position
        authority = self._authority
        position += len(authority)
        if last != stop or data[start:position] != authority or data[position] != 2:
            raise NotMine
        size = data[position + 1]
        start = position + 2
        position = start + size
        if not 1 <= size <= 4 or data[start] >= 0x80 or data[position] != 4:
            raise NotMine
        layout.time_at, layout.time_end = start, position
        start = position + 2
        position = start + data[position + 1]
        name = data[start:position]
        size = data[position + 1]
        if data[position] != 4 or size >= 0x80 or len(name) > 32:
            raise NotMine
        layout.digest_at = position + 2
        position = layout.digest_at + size
        salt = stop - position - 2
        if data[position] != 4 or data[position + 1] != salt or salt < 0:
            raise NotMine
        user = layout.user = self._users.get((name, level)) or self._user(name, level)
        if user.mac is not None and size != user.mac.size:
            raise NotMine
        layout.salt_end = layout.data_at = stop
        if level == 3:
            layout.data_at, end = _content(data, stop + 1)
            if data[stop] != 4 or end != len(data) or salt != 8:
                raise NotMine
        layout.keep(data, size, salt)
        return layout

    def _read_scoped(self, octets: bytes, at: int, layout: Layout) -> None:
        """Read a ScopedPDU up to its PDU. Raises NotMine, IndexError."""
        if octets[at] != 0x30:
            raise NotMine
        position, end = _content(octets, at + 1)
        if end > len(octets) or (at and end != len(octets)):
            # after what was enciphered there may be padding
            raise NotMine
        start = position
        position += len(self._context_engine)
        if octets[start:position] != self._context_engine or octets[position] != 4:
            raise NotMine
        size = octets[position + 1]
        if size > 32:
            raise NotMine
        start = position + 2
        position = start + size
        layout.context = octets[start:position]
        layout.scoped = octets[at:position]
        layout.pdu_at, layout.pdu_end = position, end

    def _user(self, name: bytes, level: int) -> V3User:
        known = self.usm.users.get(name)
        if known is None or not level:
            raise NotMine
        user = self._users[name, level] = V3User(self.usm, known, level)
        return user

    def _meet(self, user: V3User, host: str, now: int) -> None:
        """A host that the user has not come from lately. Raises NotMine when it may not come from there."""
        plain = host.partition("%")[0]
        networks = user.user.networks
        if networks is not None:
            if plain not in networks:
                raise NotMine
        elif user.level == 1:
            # anybody at anybody's address: the plain path bounds what such a sender is sent
            raise NotMine
        if user.level > 1:
            self._authenticated(plain, time.monotonic())
        if len(user.hosts) >= MAX_HOSTS:
            user.hosts.clear()
        user.hosts[host] = now


def _content(data: bytes, position: int) -> tuple[int, int]:
    """Where the content starts and ends whose length octets are at `position`. Raises NotMine, IndexError."""
    size = data[position]
    position += 1
    if size >= 0x80:
        more = size & 0x7F
        if not 1 <= more <= 3:
            raise NotMine
        size = int.from_bytes(data[position : position + more], "big")
        position += more
    return position, position + size
