"""Exchanges that we initiate, as tasks: queued, sent one at a time, concluded by a row of the state table."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ipsecstack.keyex.ikev2.states import Kind
from ipsecstack.wire.ikev2 import Header, Message, NotifyType, Payload

if TYPE_CHECKING:
    from ipsecstack.keyex.ikev2.followup import Followup
    from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa


class Task:
    """One exchange to do. ``label`` is strongSwan's word in VICI's tasks-active and tasks-queued."""

    kind: ClassVar[Kind]
    label: ClassVar[str]
    moves: ClassVar[bool] = True
    """Goes to the new IKE SA when the old one is rekeyed while this task waits."""
    alone: ClassVar[bool] = False
    """No other exchange of ours may be under way at the same time, and none overtakes it (§2.8, §2.25)."""

    def __init__(self) -> None:
        self.sent: tuple[Header, list[Payload]] | None = None
        """The request under way, to send it anew in smaller fragments."""
        self.followup: Followup | None = None
        """Additional key exchanges that the exchange still needs (RFC 9370)."""
        self.more: tuple[bytes, ...] = ()
        """Their secrets, when all are done."""
        self.tickets: list[int] = []
        self.not_before = 0.0

    @property
    def doing(self) -> Kind:
        """The kind of the exchange that is under way for this task."""
        return self.kind if self.followup is None else Kind.FOLLOWUP_KE

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """The request's payloads, or None when there is nothing left to do."""
        raise NotImplementedError  # interface

    def excludes(self, other: Task) -> bool:
        """Whether this task must not run beside another one that is under way (a window larger than 1, §2.3)."""
        return self.alone or other.alone

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """The response of an INFORMATIONAL exchange is there (those of other kinds have their row in the table)."""

    def before_end(self, sa: IkeSa, now: float) -> None:
        """The IKE SA is about to end: save what another one took over in the meantime."""

    def old_deleted(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        """The peer deletes this Child SA while the task waits or is under way."""

    def undo(self, sa: IkeSa) -> None:
        """The response makes no sense: the peer may have made what we did not. Comes before ``abort``."""

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        """The exchange cannot be done any more (timeout, the IKE SA is gone): let go of what was reserved."""
        sa.host.finish(self.tickets, False, f"{self.label} failed: {reason}")


class Refusal(Exception):
    """A request that is answered with an error notification and nothing else."""

    def __init__(
        self, notify: NotifyType, message: str, data: bytes = b"", *, spi: bytes = b"", protocol: int = 0
    ):
        super().__init__(message)
        self.notify = notify
        self.message = message
        self.data = data
        self.spi = spi
        self.protocol = protocol
