"""IKEv2 codec (RFC 7296 §3): octets to frozen dataclasses and back. No state, no keys, no judgement of policy."""

from ipsecstack.wire.ikev2.errors import UnsupportedCriticalPayload, WireError
from ipsecstack.wire.ikev2.message import (
    Header,
    Message,
    build_message,
    chain_to_bytes,
    describe,
    make_header,
    parse_chain,
    parse_message,
)
from ipsecstack.wire.ikev2.numbers import (
    CertEncoding,
    CfgAttribute,
    CfgType,
    ExchangeType,
    Flag,
    IdType,
    NotifyType,
    PayloadType,
    TsType,
    exchange_name,
    notify_name,
)
from ipsecstack.wire.ikev2.payloads import (
    Auth,
    Cert,
    CertReq,
    Cp,
    Delete,
    Eap,
    Encrypted,
    EncryptedFragment,
    IdI,
    IdR,
    Ke,
    Nonce,
    Notify,
    Opaque,
    Payload,
    Sa,
    Ts,
    TsI,
    TsR,
    VendorId,
)
from ipsecstack.wire.ikev2.proposals import Attribute, SaProposal, Transform

__all__ = [
    "Attribute", "Auth", "Cert", "CertEncoding", "CertReq", "CfgAttribute", "CfgType", "Cp", "Delete", "Eap",
    "Encrypted",
    "EncryptedFragment", "ExchangeType", "Flag", "Header",
    "IdI", "IdR", "IdType", "Ke", "Message", "Nonce", "Notify", "NotifyType", "Opaque", "Payload", "PayloadType",
    "Sa", "SaProposal", "Transform", "Ts", "TsI", "TsR", "TsType", "UnsupportedCriticalPayload", "VendorId",
    "WireError", "build_message", "chain_to_bytes", "describe", "exchange_name", "make_header", "notify_name",
    "parse_chain", "parse_message",
]  # fmt: skip
