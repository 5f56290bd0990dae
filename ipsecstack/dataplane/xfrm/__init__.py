"""The kernel's data plane: SAs and policies by netlink (NETLINK_XFRM)."""
