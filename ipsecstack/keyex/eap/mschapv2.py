"""EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2-02; RFC 2759): both ends prove the password, an MSK follows."""

from __future__ import annotations

import hmac

from ipsecstack.crypto import mschap
from ipsecstack.keyex.eap.method import Method, MethodFailed, PeerContext, ServerContext
from ipsecstack.wire.eap import EapError, EapType

CHALLENGE, RESPONSE, SUCCESS, FAILURE = 1, 2, 3, 4
_HEADER = 4  # op code, MS-CHAPv2-ID, MS-Length
_CHALLENGE_OCTETS = 16
_RESPONSE_OCTETS = 49  # peer challenge 16, reserved 8, NT response 24, flags 1
_MAX_NAME = 255


def _packet(code: int, id_: int, data: bytes) -> bytes:
    return bytes((code, id_)) + (_HEADER + len(data)).to_bytes(2, "big") + data


def _parse(data: bytes) -> tuple[int, int, bytes]:
    """(op code, MS-CHAPv2-ID, what follows)."""
    if len(data) < _HEADER:
        raise EapError("EAP-MSCHAPv2: shorter than its header")
    length = int.from_bytes(data[2:4], "big")
    # Some implementations count the EAP type octet or leave the length out; what is there counts.
    if length > len(data) + 1:
        raise EapError(f"EAP-MSCHAPv2: length {length} does not fit into {len(data)} octets")
    return data[0], data[1], data[_HEADER:]


def _user(name: bytes) -> bytes:
    """The name without a domain in front (RFC 2759 §4)."""
    return name.rpartition(b"\\")[2]


class _Peer:
    def __init__(self, context: PeerContext) -> None:
        self._context = context
        self._expected: bytes | None = None
        self._key: bytes | None = None
        self.done = False
        self.msk: bytes | None = None

    def respond(self, data: bytes, identifier: int) -> bytes:
        if data[:1] == bytes((SUCCESS,)):
            return self._success(data)
        code, id_, content = _parse(data)
        if code == CHALLENGE:
            return self._challenge(id_, content)
        if code == FAILURE:
            raise MethodFailed(f"EAP-MSCHAPv2 failed: {_failure_text(content)}")
        raise EapError(f"EAP-MSCHAPv2: op code {code} is no request")

    def _challenge(self, id_: int, content: bytes) -> bytes:
        if len(content) < 1 + _CHALLENGE_OCTETS or content[0] != _CHALLENGE_OCTETS:
            raise EapError("EAP-MSCHAPv2: the challenge is not of 16 octets")
        if self._expected is not None:
            raise EapError("EAP-MSCHAPv2: a second challenge")
        hashed = self._hash()
        theirs = content[1 : 1 + _CHALLENGE_OCTETS]
        ours = self._context.random(_CHALLENGE_OCTETS)
        name = self._context.identity[:_MAX_NAME]
        user = _user(name)
        response = mschap.nt_response(theirs, ours, user, hashed)
        self._expected = mschap.authenticator_response(hashed, response, ours, theirs, user)
        self._key = mschap.msk(hashed, response)
        value = ours + bytes(8) + response + b"\0"
        return _packet(RESPONSE, id_, bytes((_RESPONSE_OCTETS,)) + value + name)

    def _hash(self) -> bytes:
        password = self._context.password()
        if password is not None:
            return hash_of(password)
        stored = self._context.nt_hash()
        if stored is None or len(stored) != 16:
            raise MethodFailed("no EAP secret for our identity")
        return stored

    def _success(self, data: bytes) -> bytes:
        if self._expected is None:
            raise EapError("EAP-MSCHAPv2: success before the challenge")
        content = data[_HEADER:]
        given = bytes(20)
        for part in content.split(b" "):
            if part[:2] == b"S=" and len(part) >= 42:
                try:
                    given = bytes.fromhex(part[2:42].decode("ascii"))
                except ValueError:
                    break
                break
        if not hmac.compare_digest(given, self._expected):
            raise MethodFailed("EAP-MSCHAPv2: the authenticator does not know the password")
        self.done, self.msk = True, self._key
        return bytes((SUCCESS,))


class _Server:
    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._challenge = context.random(_CHALLENGE_OCTETS)
        self._id = context.random(1)[0]
        self._key: bytes | None = None
        self._failed = False
        self.msk: bytes | None = None

    def begin(self, identifier: int) -> bytes:
        value = bytes((_CHALLENGE_OCTETS,)) + self._challenge + self._context.server_name
        return _packet(CHALLENGE, self._id, value)

    def respond(self, data: bytes, identifier: int) -> bytes | None:
        if self._failed:
            raise MethodFailed("EAP-MSCHAPv2 verification failed")
        if self._key is not None:
            if data[:1] != bytes((SUCCESS,)):
                raise MethodFailed("EAP-MSCHAPv2: the peer does not acknowledge our success")
            self.msk = self._key
            return None
        code, id_, content = _parse(data)
        if code != RESPONSE or id_ != self._id or len(content) < 1 + _RESPONSE_OCTETS:
            raise EapError("EAP-MSCHAPv2: no response to our challenge")
        if content[0] != _RESPONSE_OCTETS:
            raise EapError("EAP-MSCHAPv2: the response is not of 49 octets")
        return self._check(content[1:50], content[50:])

    def _check(self, value: bytes, name: bytes) -> bytes:
        theirs, response = value[:16], value[24:48]
        user = _user(name)
        known = self._hash(self._context.identity)
        # Whoever is not known costs the same time as whoever is.
        hashed = known if known is not None else hash_of(self._context.random(6).hex().encode())
        expected = mschap.nt_response(self._challenge, theirs, user, hashed)
        proof = mschap.authenticator_response(hashed, response, theirs, self._challenge, user)
        same_user = hmac.compare_digest(user, _user(self._context.identity))
        right = hmac.compare_digest(expected, response)
        if not (right and same_user) or known is None:
            # "691: authentication failure", no retry (RFC 2759 §6): the peer acknowledges, then EAP-Failure follows.
            self._failed = True
            challenge = self._context.random(16).hex().upper().encode()
            return _packet(FAILURE, self._id, b"E=691 R=0 C=" + challenge + b" V=3 M=Not authenticated")
        self._key = mschap.msk(hashed, response)
        text = b"S=" + proof.hex().upper().encode() + b" M=Welcome"
        return _packet(SUCCESS, self._id, text)

    def _hash(self, user: bytes) -> bytes | None:
        password = self._context.password(user)
        if password is not None:
            return hash_of(password)
        return self._context.nt_hash(user)


def hash_of(password: bytes) -> bytes:
    """The NT hash of a password that is UTF-8; other octets are taken as Latin-1."""
    try:
        text = password.decode("utf-8")
    except UnicodeDecodeError:
        text = password.decode("latin-1")
    return mschap.nt_password_hash(text)


def _failure_text(content: bytes) -> str:
    error = next((word for word in content.split(b" ") if word[:2] == b"E="), b"")
    known = {b"E=691": "wrong name or password", b"E=647": "account disabled", b"E=648": "password expired"}
    return known.get(error, "refused by the authenticator")


METHOD = Method(EapType.MSCHAPV2, "mschapv2", _Peer, _Server)
