"""Message classes of NETLINK_XFRM on pyroute2's base, which has none of its own: they make the octets of requests.

The fixed part of a message goes in as one field of octets (``structures`` packs it), attributes by their names.
"""

from __future__ import annotations

from pyroute2.netlink import nlmsg

from ipsecstack.dataplane.xfrm.numbers import Attribute, Message

_KINDS: dict[Attribute, str] = {
    Attribute.REPLAY_THRESH: "uint32",
    Attribute.ETIMER_THRESH: "uint32",
    Attribute.LASTUSED: "uint64",
    Attribute.TFCPAD: "uint32",
    Attribute.SA_EXTRA_FLAGS: "uint32",
    Attribute.PROTO: "uint8",
    Attribute.SET_MARK: "uint32",
    Attribute.SET_MARK_MASK: "uint32",
    Attribute.IF_ID: "uint32",
    Attribute.MTIMER_THRESH: "uint32",
}


class xfrm_message(nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """One message: ``body`` is the fixed structure, its length is the subclass's business."""

    prefix = "XFRMA_"
    nla_map = tuple((int(a), f"XFRMA_{a.name}", _KINDS.get(a, "cdata")) for a in Attribute)


def _message(name: str, octets: int) -> type[nlmsg]:
    return type(name, (xfrm_message,), {"fields": (("body", f"{octets}s"),) if octets else ()})


usersa_info = _message("usersa_info", 224)
usersa_id = _message("usersa_id", 24)
userspi_info = _message("userspi_info", 232)
userpolicy_info = _message("userpolicy_info", 168)
userpolicy_id = _message("userpolicy_id", 64)
usersa_flush = _message("usersa_flush", 1)
aevent_id = _message("aevent_id", 48)
dump_request = _message("dump_request", 0)

CLASSES: dict[Message, type[nlmsg]] = {
    Message.NEWSA: usersa_info,
    Message.UPDSA: usersa_info,
    Message.DELSA: usersa_id,
    Message.GETSA: usersa_id,
    Message.ALLOCSPI: userspi_info,
    Message.NEWPOLICY: userpolicy_info,
    Message.UPDPOLICY: userpolicy_info,
    Message.DELPOLICY: userpolicy_id,
    Message.GETPOLICY: userpolicy_id,
    Message.FLUSHSA: usersa_flush,
    Message.FLUSHPOLICY: dump_request,
    Message.NEWAE: aevent_id,
    Message.GETAE: aevent_id,
    Message.MIGRATE: userpolicy_id,
}


def message_octets(
    kind: Message,
    flags: int,
    sequence: int,
    body: bytes,
    attributes: list[tuple[Attribute, int | bytes]],
    dump: bool = False,
    port: int = 0,
) -> bytes:
    """One request as it goes to the kernel. ``body`` is exactly the structure's length. ``port`` is the number of the
    socket: the kernel repeats it in what it tells others of the change."""
    message = (dump_request if dump else CLASSES[kind])()
    message["header"]["type"] = int(kind)
    message["header"]["flags"] = int(flags)
    message["header"]["sequence_number"] = sequence
    message["header"]["pid"] = port
    if body:
        message["body"] = body
    message["attrs"] = [(f"XFRMA_{kind.name}", value) for kind, value in attributes]
    message.encode()
    octets = bytes(message.data)
    message.data[:] = bytes(len(octets))  # an SA's keys were in there
    return octets
