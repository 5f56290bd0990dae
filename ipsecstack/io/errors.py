"""What goes wrong with sockets, told with the cure."""

from __future__ import annotations

import errno


class NetworkError(Exception):
    """A socket cannot be opened; the message tells the operator what to do next."""


def advice(error: OSError) -> str:
    """What an operator can do about an error of a socket that has been working."""
    if error.errno in (errno.ENOBUFS, errno.ENOMEM):
        return "the kernel has no buffers left; lower the load or raise net.core.wmem_max"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
        return "check the route to the peer, and that local_addrs names an address of this host"
    if error.errno in (errno.EPERM, errno.EACCES):
        return "a packet filter or a missing capability forbids it; check nftables and CAP_NET_ADMIN"
    if error.errno == errno.EMSGSIZE:
        return "the packet is larger than the path takes; check the MTU of the device and of the path"
    if error.errno == errno.EINVAL:
        return "check that local_addrs names an address of this host"
    return "the socket is opened again"


def unbindable(what: str, error: OSError, cure_in_use: str) -> NetworkError:
    """Why a socket cannot be opened, and what to do."""
    if error.errno == errno.EADDRINUSE:
        cure = cure_in_use
    elif error.errno in (errno.EPERM, errno.EACCES):
        cure = (
            "start ipsecstackd as root, or give it CAP_NET_BIND_SERVICE, CAP_NET_RAW and CAP_NET_ADMIN "
            "(for a trial without root: unshare -Urn, or --dataplane memory with ports above 1023)"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        cure = "the address is not one of this host; check the interface"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        cure = "no file descriptors are left; raise LimitNOFILE"
    else:
        cure = "see the error"
    return NetworkError(f"cannot open {what}: {error.strerror or error}; {cure}")
