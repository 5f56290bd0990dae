"""Sockets of NETLINK_XFRM: one for requests and their answers, one for what the kernel tells of itself.

Both belong to the network namespace in which they were opened. What was received is overwritten once it is read: lists
of SAs carry their keys.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.codec import (
    Acknowledged,
    Answer,
    Overrun,
    Received,
    Request,
    parse,
    split,
)
from ipsecstack.dataplane.xfrm.numbers import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_CAP_ACK,
    NETLINK_EXT_ACK,
    NETLINK_XFRM,
    SOL_NETLINK,
    Group,
    Message,
)

ANSWER_SECONDS = 10.0  # a request that loads a module of the kernel takes its time
_BATCH = 24  # requests in one datagram
_BATCH_OCTETS = 16384
_RECEIVE_OCTETS = 262144
_QUEUE_OCTETS = 4 * 1024 * 1024
_SO_RCVBUFFORCE = 33

_CURES = {
    errno.EPERM: "start ipsecstackd as root, or with CAP_NET_ADMIN in this network namespace",
    errno.EACCES: "start ipsecstackd as root, or with CAP_NET_ADMIN in this network namespace",
    errno.EPROTONOSUPPORT: "the kernel lacks the protocol's module: modprobe esp4 esp6 ah4 ah6 ipcomp ipcomp6 (with a "
    "kernel that is built without them use dataplane = tun)",
    errno.ENOSYS: "the kernel lacks the algorithm: load its module, or propose another one",
    errno.ENOENT: "the kernel lacks the algorithm or its module: load it, or propose another one",
    errno.EOPNOTSUPP: "this kernel cannot do that: choose other settings, or use dataplane = tun",
    errno.EEXIST: "it is installed already: remove what other programs installed (ip xfrm state, ip xfrm policy)",
    errno.ENOBUFS: "the kernel has no room for it: raise net.core.rmem_max or remove SAs",
    errno.ENOMEM: "the kernel has no memory left",
    errno.EINVAL: "this kernel does not take these parameters",
}


class KernelError(DataPlaneError):
    """The kernel refused a request; ``number`` is its errno."""

    def __init__(self, what: str, number: int, reason: str = "") -> None:
        self.number = number
        said = f"{os.strerror(number)}{f' ({reason})' if reason else ''}"
        cure = _CURES.get(number)
        super().__init__(f"the kernel refused {what}: {said}{f'; {cure}' if cure else ''}")


def _open() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_XFRM)
    except OSError as error:
        cure = (
            "the kernel has no XFRM: modprobe xfrm_user, or use dataplane = tun"
            if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
            else _CURES.get(error.errno or 0, "see the kernel's log")
        )
        raise DataPlaneError(f"netlink to the kernel's IPsec: {error.strerror}; {cure}") from None
    for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
        with contextlib.suppress(OSError):  # kernels before 4.12 explain nothing
            sock.setsockopt(SOL_NETLINK, option, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_OCTETS)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_OCTETS)
    return sock


class _Buffer:
    """Room for one datagram, wiped after use."""

    def __init__(self) -> None:
        self._octets = memoryview(bytearray(_RECEIVE_OCTETS))

    def receive(self, sock: socket.socket) -> list[Received]:
        """OSError as the socket's ``recv``."""
        length = sock.recv_into(self._octets)
        try:
            return parse(self._octets[:length])
        finally:
            self._octets[:length] = bytes(length)

    def receive_raw(self, sock: socket.socket, visit: Callable[[int, int, memoryview], bool]) -> bool:
        """``visit(sequence, type, body)`` of each message until one gives True."""
        length = sock.recv_into(self._octets)
        try:
            return any(
                visit(sequence, kind, body) for kind, sequence, _, body in split(self._octets[:length])
            )
        finally:
            self._octets[:length] = bytes(length)


class Kernel:
    """Requests to the kernel. DataPlaneError when there is no such interface."""

    def __init__(self) -> None:
        self._socket = _open()
        self._socket.bind((0, 0))
        self.port = int(self._socket.getsockname()[0])
        """Netlink's number of this socket: events that its own requests cause carry it."""
        self._socket.settimeout(ANSWER_SECONDS)
        self._buffer = _Buffer()
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, requests: Iterable[Request]) -> list[Answer]:
        """Answers in the order of the requests, an errno in ``Acknowledged`` for each that was refused."""
        waiting = list(requests)
        answers: list[Answer] = []
        while waiting:
            batch: list[int] = []
            octets = bytearray()
            while waiting and len(batch) < _BATCH and len(octets) < _BATCH_OCTETS:
                self._sequence = self._sequence % 0xFFFFFFF0 + 1
                batch.append(self._sequence)
                octets += waiting.pop(0).to_bytes(self._sequence, self.port)
            try:
                self._socket.send(octets)
            except OSError as error:
                raise DataPlaneError(
                    f"netlink to the kernel's IPsec: {error.strerror}; see the kernel's log"
                ) from None
            finally:
                octets[:] = bytes(len(octets))
            answers += self._await(batch)
        return answers

    def _await(self, batch: Sequence[int]) -> list[Answer]:
        found: dict[int, Answer] = {}
        while len(found) < len(batch):
            for received in self._receive():
                if received.sequence in batch:
                    found.setdefault(received.sequence, received.answer)
        return [found[number] for number in batch]

    def _receive(self) -> list[Received]:
        try:
            return self._buffer.receive(self._socket)
        except TimeoutError:
            raise DataPlaneError("the kernel does not answer by netlink; see its log") from None
        except OSError as error:
            raise DataPlaneError(f"netlink to the kernel's IPsec: {error.strerror}") from None

    def call(self, request: Request) -> Answer:
        """One request that must succeed: KernelError."""
        (answer,) = self.ask([request])
        if isinstance(answer, Acknowledged) and answer.error:
            raise KernelError(request.what, answer.error, answer.reason)
        return answer

    def call_all(self, requests: Sequence[Request]) -> list[Answer]:
        """Requests that all must succeed: KernelError of the first that does not; the others were tried."""
        answers = self.ask(requests)
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, Acknowledged) and answer.error:
                raise KernelError(request.what, answer.error, answer.reason)
        return answers

    def dump(self, request: Request, visit: Callable[[int, memoryview], None]) -> None:
        """``visit(type, body)`` of each item of a list; the body is gone afterwards."""
        self._sequence = self._sequence % 0xFFFFFFF0 + 1
        number = self._sequence
        failed: list[int] = []

        def one(sequence: int, kind: int, body: memoryview) -> bool:
            if sequence != number:
                return False
            if kind == Message.DONE:
                return True
            if kind == Message.ERROR:
                failed.append(-int.from_bytes(body[:4], sys.byteorder, signed=True))
                return True
            visit(kind, body)
            return False

        try:
            self._socket.send(request.to_bytes(number, self.port))
            while not self._buffer.receive_raw(self._socket, one):
                pass
        except TimeoutError:
            raise DataPlaneError("the kernel does not answer by netlink; see its log") from None
        except OSError as error:
            raise DataPlaneError(f"netlink to the kernel's IPsec: {error.strerror}") from None
        if failed and failed[0]:
            raise KernelError(request.what, failed[0])


class Monitor:
    """What the kernel tells: never blocks."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._socket = _open()
        self._socket.bind((0, 0))
        try:
            for group in groups:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, int(group))
        except OSError as error:
            self._socket.close()
            raise DataPlaneError(
                f"events of the kernel's IPsec: {error.strerror}; {_CURES.get(error.errno or 0, '')}"
            ) from None
        self._socket.setblocking(False)
        self._buffer = _Buffer()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self, limit: int = 256) -> list[Received]:
        """What waits, at most ``limit`` datagrams; ``Overrun`` where some were lost."""
        out: list[Received] = []
        for _ in range(limit):
            try:
                out += self._buffer.receive(self._socket)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise DataPlaneError(f"events of the kernel's IPsec: {error.strerror}") from None
                out.append(Received(0, 0, Overrun()))
        return out
