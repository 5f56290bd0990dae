"""Numbers of IKEv2 with the names that people read in logs.

Source: IANA registry "Internet Key Exchange Version 2 (IKEv2) Parameters"; RFC 7296 §3.1-3.16.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

IKEV2_MAJOR = 2
HEADER_OCTETS = 28


class ExchangeType(IntEnum):
    """Exchange types (RFC 7296 §3.1)."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37
    IKE_SESSION_RESUME = 38
    IKE_INTERMEDIATE = 43
    IKE_FOLLOWUP_KE = 44


class Flag(IntFlag):
    """Flags of the IKE header (RFC 7296 §3.1)."""

    INITIATOR = 0x08
    VERSION = 0x10
    RESPONSE = 0x20


class PayloadType(IntEnum):
    """Payload types (RFC 7296 §3.2)."""

    NONE = 0
    SA = 33
    KE = 34
    IDI = 35
    IDR = 36
    CERT = 37
    CERTREQ = 38
    AUTH = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR_ID = 43
    TSI = 44
    TSR = 45
    SK = 46
    CP = 47
    EAP = 48
    GSPM = 49
    SKF = 53
    PS = 54


PAYLOAD_LABELS: dict[int, str] = {
    PayloadType.SA: "SA", PayloadType.KE: "KE", PayloadType.IDI: "IDi", PayloadType.IDR: "IDr",
    PayloadType.CERT: "CERT", PayloadType.CERTREQ: "CERTREQ", PayloadType.AUTH: "AUTH", PayloadType.NONCE: "No",
    PayloadType.NOTIFY: "N", PayloadType.DELETE: "D", PayloadType.VENDOR_ID: "V", PayloadType.TSI: "TSi",
    PayloadType.TSR: "TSr", PayloadType.SK: "E", PayloadType.CP: "CP", PayloadType.EAP: "EAP",
    PayloadType.GSPM: "GSPM", PayloadType.SKF: "EF", PayloadType.PS: "PS",
}  # fmt: skip


class IdType(IntEnum):
    """Identification types (RFC 7296 §3.5)."""

    IPV4_ADDR = 1
    FQDN = 2
    RFC822_ADDR = 3
    IPV6_ADDR = 5
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11
    FC_NAME = 12
    NULL = 13


class CfgType(IntEnum):
    """What a Configuration payload is (RFC 7296 §3.15)."""

    REQUEST = 1
    REPLY = 2
    SET = 3
    ACK = 4


class CfgAttribute(IntEnum):
    """Configuration attributes (RFC 7296 §3.15.1, IANA's registry)."""

    INTERNAL_IP4_ADDRESS = 1
    INTERNAL_IP4_NETMASK = 2
    INTERNAL_IP4_DNS = 3
    INTERNAL_IP4_NBNS = 4
    INTERNAL_IP4_DHCP = 6
    APPLICATION_VERSION = 7
    INTERNAL_IP6_ADDRESS = 8
    INTERNAL_IP6_DNS = 10
    INTERNAL_IP6_DHCP = 12
    INTERNAL_IP4_SUBNET = 13
    SUPPORTED_ATTRIBUTES = 14
    INTERNAL_IP6_SUBNET = 15
    INTERNAL_IP6_NBNS = 11  # of RFC 4306, which no IKEv2 peer need know
    INTERNAL_IP4_SERVER = 23456  # Microsoft's
    INTERNAL_IP6_SERVER = 23457
    UNITY_SPLIT_INCLUDE = 28676
    UNITY_LOCAL_LAN = 28677


class CertEncoding(IntEnum):
    """Certificate encodings (RFC 7296 §3.6)."""

    PKCS7 = 1
    PGP = 2
    DNS_SIGNED_KEY = 3
    X509_SIGNATURE = 4
    KERBEROS_TOKEN = 6
    CRL = 7
    ARL = 8
    SPKI = 9
    X509_ATTRIBUTE = 10
    RAW_RSA_KEY = 11
    HASH_URL_X509 = 12
    HASH_URL_BUNDLE = 13
    OCSP_CONTENT = 14
    RAW_PUBLIC_KEY = 15


class TsType(IntEnum):
    """Traffic selector types (RFC 7296 §3.13.1)."""

    IPV4_ADDR_RANGE = 7
    IPV6_ADDR_RANGE = 8


class NotifyType(IntEnum):
    """Notify message types: errors below 16384, status from there on (RFC 7296 §3.10.1)."""

    UNSUPPORTED_CRITICAL_PAYLOAD = 1
    INVALID_IKE_SPI = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_SYNTAX = 7
    INVALID_MESSAGE_ID = 9
    INVALID_SPI = 11
    NO_PROPOSAL_CHOSEN = 14
    INVALID_KE_PAYLOAD = 17
    AUTHENTICATION_FAILED = 24
    SINGLE_PAIR_REQUIRED = 34
    NO_ADDITIONAL_SAS = 35
    INTERNAL_ADDRESS_FAILURE = 36
    FAILED_CP_REQUIRED = 37
    TS_UNACCEPTABLE = 38
    INVALID_SELECTORS = 39
    UNACCEPTABLE_ADDRESSES = 40
    UNEXPECTED_NAT_DETECTED = 41
    USE_ASSIGNED_HOA = 42
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
    INVALID_GROUP_ID = 45
    AUTHORIZATION_FAILED = 46
    STATE_NOT_FOUND = 47
    TS_MAX_QUEUE = 48
    INITIAL_CONTACT = 16384
    SET_WINDOW_SIZE = 16385
    ADDITIONAL_TS_POSSIBLE = 16386
    IPCOMP_SUPPORTED = 16387
    NAT_DETECTION_SOURCE_IP = 16388
    NAT_DETECTION_DESTINATION_IP = 16389
    COOKIE = 16390
    USE_TRANSPORT_MODE = 16391
    HTTP_CERT_LOOKUP_SUPPORTED = 16392
    REKEY_SA = 16393
    ESP_TFC_PADDING_NOT_SUPPORTED = 16394
    NON_FIRST_FRAGMENTS_ALSO = 16395
    MOBIKE_SUPPORTED = 16396
    ADDITIONAL_IP4_ADDRESS = 16397
    ADDITIONAL_IP6_ADDRESS = 16398
    NO_ADDITIONAL_ADDRESSES = 16399
    UPDATE_SA_ADDRESSES = 16400
    COOKIE2 = 16401
    NO_NATS_ALLOWED = 16402
    AUTH_LIFETIME = 16403
    MULTIPLE_AUTH_SUPPORTED = 16404
    ANOTHER_AUTH_FOLLOWS = 16405
    REDIRECT_SUPPORTED = 16406
    REDIRECT = 16407
    REDIRECTED_FROM = 16408
    TICKET_LT_OPAQUE = 16409
    TICKET_REQUEST = 16410
    TICKET_ACK = 16411
    TICKET_NACK = 16412
    TICKET_OPAQUE = 16413
    LINK_ID = 16414
    USE_WESP_MODE = 16415
    ROHC_SUPPORTED = 16416
    EAP_ONLY_AUTHENTICATION = 16417
    CHILDLESS_IKEV2_SUPPORTED = 16418
    QUICK_CRASH_DETECTION = 16419
    IKEV2_MESSAGE_ID_SYNC_SUPPORTED = 16420
    IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED = 16421
    IKEV2_MESSAGE_ID_SYNC = 16422
    IPSEC_REPLAY_COUNTER_SYNC = 16423
    SECURE_PASSWORD_METHODS = 16424
    PSK_PERSIST = 16425
    PSK_CONFIRM = 16426
    ERX_SUPPORTED = 16427
    IFOM_CAPABILITY = 16428
    SENDER_REQUEST_ID = 16429
    IKEV2_FRAGMENTATION_SUPPORTED = 16430
    SIGNATURE_HASH_ALGORITHMS = 16431
    CLONE_IKE_SA_SUPPORTED = 16432
    CLONE_IKE_SA = 16433
    PUZZLE = 16434
    USE_PPK = 16435
    PPK_IDENTITY = 16436
    NO_PPK_AUTH = 16437
    INTERMEDIATE_EXCHANGE_SUPPORTED = 16438
    IP4_ALLOWED = 16439
    IP6_ALLOWED = 16440
    ADDITIONAL_KEY_EXCHANGE = 16441
    USE_AGGFRAG = 16442
    SUPPORTED_AUTH_METHODS = 16443
    SA_RESOURCE_INFO = 16444
    USE_PPK_INT = 16445
    PPK_IDENTITY_KEY = 16446


FIRST_STATUS = 16384

# Short forms that strongSwan's log uses; others show their RFC name.
_NOTIFY_SHORT: dict[int, str] = {
    NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD: "CRIT", NotifyType.INVALID_IKE_SPI: "INVAL_IKE_SPI",
    NotifyType.INVALID_MAJOR_VERSION: "INVAL_MAJOR", NotifyType.INVALID_SYNTAX: "INVAL_SYN",
    NotifyType.INVALID_MESSAGE_ID: "INVAL_MID", NotifyType.INVALID_SPI: "INVAL_SPI",
    NotifyType.NO_PROPOSAL_CHOSEN: "NO_PROP", NotifyType.INVALID_KE_PAYLOAD: "INVAL_KE",
    NotifyType.AUTHENTICATION_FAILED: "AUTH_FAILED", NotifyType.SINGLE_PAIR_REQUIRED: "SINGLE_PAIR",
    NotifyType.NO_ADDITIONAL_SAS: "NO_ADD_SAS", NotifyType.INTERNAL_ADDRESS_FAILURE: "INT_ADDR_FAIL",
    NotifyType.FAILED_CP_REQUIRED: "FAIL_CP_REQ", NotifyType.TS_UNACCEPTABLE: "TS_UNACCEPT",
    NotifyType.INVALID_SELECTORS: "INVAL_SEL", NotifyType.UNACCEPTABLE_ADDRESSES: "UNACCEPT_ADDR",
    NotifyType.UNEXPECTED_NAT_DETECTED: "UNEXPECT_NAT", NotifyType.USE_ASSIGNED_HOA: "ASSIGNED_HOA",
    NotifyType.TEMPORARY_FAILURE: "TEMP_FAIL", NotifyType.CHILD_SA_NOT_FOUND: "NO_CHILD_SA",
    NotifyType.INITIAL_CONTACT: "INIT_CONTACT", NotifyType.SET_WINDOW_SIZE: "WIN_SIZE",
    NotifyType.ADDITIONAL_TS_POSSIBLE: "ADD_TS_POSS", NotifyType.IPCOMP_SUPPORTED: "IPCOMP_SUPP",
    NotifyType.NAT_DETECTION_SOURCE_IP: "NATD_S_IP", NotifyType.NAT_DETECTION_DESTINATION_IP: "NATD_D_IP",
    NotifyType.USE_TRANSPORT_MODE: "USE_TRANSP", NotifyType.HTTP_CERT_LOOKUP_SUPPORTED: "HTTP_CERT_LOOK",
    NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED: "ESP_TFC_PAD_N", NotifyType.NON_FIRST_FRAGMENTS_ALSO: "NON_FIRST_FRAG",
    NotifyType.MOBIKE_SUPPORTED: "MOBIKE_SUP", NotifyType.ADDITIONAL_IP4_ADDRESS: "ADD_4_ADDR",
    NotifyType.ADDITIONAL_IP6_ADDRESS: "ADD_6_ADDR", NotifyType.NO_ADDITIONAL_ADDRESSES: "NO_ADD_ADDR",
    NotifyType.UPDATE_SA_ADDRESSES: "UPD_SA_ADDR", NotifyType.NO_NATS_ALLOWED: "NO_NATS",
    NotifyType.AUTH_LIFETIME: "AUTH_LFT", NotifyType.MULTIPLE_AUTH_SUPPORTED: "MULT_AUTH",
    NotifyType.ANOTHER_AUTH_FOLLOWS: "AUTH_FOLLOWS", NotifyType.REDIRECT_SUPPORTED: "REDIR_SUP",
    NotifyType.REDIRECT: "REDIR", NotifyType.REDIRECTED_FROM: "REDIR_FROM",
    NotifyType.EAP_ONLY_AUTHENTICATION: "EAP_ONLY", NotifyType.CHILDLESS_IKEV2_SUPPORTED: "CHDLESS_SUP",
    NotifyType.QUICK_CRASH_DETECTION: "QCD", NotifyType.IKEV2_MESSAGE_ID_SYNC_SUPPORTED: "MSG_ID_SYN_SUP",
    NotifyType.IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED: "RPL_CTR_SYN_SUP",
    NotifyType.IKEV2_FRAGMENTATION_SUPPORTED: "FRAG_SUP", NotifyType.SIGNATURE_HASH_ALGORITHMS: "HASH_ALG",
    NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED: "INTERMEDIATE_SUP", NotifyType.ADDITIONAL_KEY_EXCHANGE: "ADD_KE",
    NotifyType.USE_PPK: "USE_PPK", NotifyType.PPK_IDENTITY: "PPK_ID", NotifyType.NO_PPK_AUTH: "NO_PPK",
}  # fmt: skip


def notify_name(number: int) -> str:
    """The RFC name of a notify message type, or ``NOTIFY_<number>`` for one that is not assigned here."""
    try:
        return NotifyType(number).name
    except ValueError:
        return f"NOTIFY_{number}"


def notify_label(number: int) -> str:
    """The short form for one-line message texts."""
    short = _NOTIFY_SHORT.get(number)
    if short is not None:
        return short
    try:
        return NotifyType(number).name
    except ValueError:
        return f"({number})"


def exchange_name(number: int) -> str:
    """The RFC name of an exchange type, or ``EXCHANGE_<number>``."""
    try:
        return ExchangeType(number).name
    except ValueError:
        return f"EXCHANGE_{number}"
