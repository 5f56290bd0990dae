"""Errors with packets that the ends report to each other on their IKE SA (RFC 7296 §1.5, §3.10.1)."""

from __future__ import annotations

from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.informational import Liveness
from ipsecstack.keyex.ikev2.rekey_child import RekeyChild
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import ChildState
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType, Payload


class InvalidSpi(Liveness):
    """The peer sends to an SPI that we do not have. It may have lost its SAs, so this is a sign of life, too."""

    def __init__(self, spi: int) -> None:
        super().__init__()
        self.spi = spi

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        sa.log("IKE", 1, f"telling {sa.remote.host} that SPI {self.spi:08x} is not known")
        return [Notify(NotifyType.INVALID_SPI, self.spi.to_bytes(4, "big"))]


class Reports(Extension):
    """What the peer reports about our packets."""

    def informed(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        for notify in message.all(Notify):
            if notify.type == NotifyType.INVALID_SPI:
                _invalid_spi(sa, notify)
            elif notify.type == NotifyType.INVALID_SELECTORS:
                _invalid_selectors(sa, notify)
        return []


def _invalid_spi(sa: IkeSa, notify: Notify) -> None:
    """The peer has no SA for what we send: replace it. If it knows nothing of it any more, a new one is made."""
    child = sa.child_by_spi_out(int.from_bytes(notify.data, "big")) if len(notify.data) == 4 else None
    sa.log("IKE", 1, f"received INVALID_SPI notify for SPI {notify.data.hex()}")
    if child is None or child.state is not ChildState.INSTALLED or child.pending_out is not None:
        return
    if not any(getattr(task, "old", getattr(task, "child", None)) is child for task in sa.tasks()):
        sa.enqueue(RekeyChild(child))


def _invalid_selectors(sa: IkeSa, notify: Notify) -> None:
    """Our packet did not belong into the SA that it came by: the peer dropped it. Only an operator can mend that."""
    child: ChildSa | None = None
    if len(notify.spi) == 4 and notify.protocol in (SecurityProtocol.ESP, SecurityProtocol.AH):
        child = sa.child_by_spi_out(int.from_bytes(notify.spi, "big"), notify.protocol)
    name = child.tag if child is not None else f"with SPI {notify.spi.hex()}"
    sa.log("IKE", 1, f"received INVALID_SELECTORS notify: peer dropped a packet of CHILD_SA {name}")
