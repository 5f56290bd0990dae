"""Numbers of <linux/xfrm.h>, <linux/netlink.h> and <linux/udp.h> that the kernel's interface for IPsec is made of."""

from __future__ import annotations

from enum import IntEnum, IntFlag

NETLINK_XFRM = 6


class Message(IntEnum):
    """Message types of NETLINK_XFRM, and the control messages that every netlink family has."""

    NOOP = 1
    ERROR = 2
    DONE = 3
    OVERRUN = 4
    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    ALLOCSPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    POLEXPIRE = 0x1B
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    NEWAE = 0x1E
    GETAE = 0x1F
    REPORT = 0x20
    MIGRATE = 0x21
    NEWSADINFO = 0x22
    GETSADINFO = 0x23
    NEWSPDINFO = 0x24
    GETSPDINFO = 0x25
    MAPPING = 0x26


class Attribute(IntEnum):
    """XFRMA_*: types of attributes."""

    ALG_AUTH = 1
    ALG_CRYPT = 2
    ALG_COMP = 3
    ENCAP = 4
    TMPL = 5
    SA = 6
    POLICY = 7
    SEC_CTX = 8
    LTIME_VAL = 9
    REPLAY_VAL = 10
    REPLAY_THRESH = 11
    ETIMER_THRESH = 12
    SRCADDR = 13
    COADDR = 14
    LASTUSED = 15
    POLICY_TYPE = 16
    MIGRATE = 17
    ALG_AEAD = 18
    KMADDRESS = 19
    ALG_AUTH_TRUNC = 20
    MARK = 21
    TFCPAD = 22
    REPLAY_ESN_VAL = 23
    SA_EXTRA_FLAGS = 24
    PROTO = 25
    ADDRESS_FILTER = 26
    PAD = 27
    OFFLOAD_DEV = 28
    SET_MARK = 29
    SET_MARK_MASK = 30
    IF_ID = 31
    MTIMER_THRESH = 32


class Group(IntEnum):
    """Multicast groups."""

    ACQUIRE = 1
    EXPIRE = 2
    SA = 3
    POLICY = 4
    AEVENTS = 5
    REPORT = 6
    MIGRATE = 7
    MAPPING = 8


class Flag(IntFlag):
    """NLM_F_*: flags of a request."""

    REQUEST = 1
    MULTI = 2
    ACK = 4
    REPLACE = 0x100
    EXCL = 0x200
    DUMP = 0x300


class Way(IntEnum):
    """XFRM_POLICY_*: which way a policy looks. FWD are packets that arrive and are forwarded."""

    IN = 0
    OUT = 1
    FWD = 2


class Verdict(IntEnum):
    """XFRM_POLICY_*: what a policy does."""

    ALLOW = 0
    BLOCK = 1


class StateMode(IntEnum):
    """XFRM_MODE_*."""

    TRANSPORT = 0
    TUNNEL = 1
    BEET = 4


class StateFlag(IntFlag):
    """XFRM_STATE_*."""

    NOECN = 1
    DECAP_DSCP = 2
    NOPMTUDISC = 4
    WILDRECV = 8
    ICMP = 16
    AF_UNSPEC = 32
    ALIGN4 = 64
    ESN = 128


class ExtraFlag(IntFlag):
    """XFRM_SA_XFLAG_*."""

    DONT_ENCAP_DSCP = 1
    OSEQ_MAY_WRAP = 2


ESP, AH, COMP = 50, 51, 108
"""IP protocol numbers, which is how the kernel names security protocols."""

ICMP, ICMPV6, MOBILITY = 1, 58, 135
NO_LIMIT = 2**64 - 1
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2
IP_XFRM_POLICY, IPV6_XFRM_POLICY = 17, 35
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 1, 10, 11
