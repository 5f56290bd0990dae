"""usmUserTable in the datastore (RFC 3414 section 5), and the users that USM knows by it.

Users of the configuration file are readOnly rows. Others are cloned from a row and given keys by KeyChange; the
datastore has localized keys alone, as Secrets that nothing shows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.config import Network, Secret, User
from agent.engine.communities import Networks
from agent.engine.lcd import Lcd, LcdRow, LcdTable
from agent.engine.requester import requester
from agent.engine.usm_crypto import PRIV, LocalUser, auth_key_size, key_change
from agent.smi.errors import SetError
from agent.smi.model import Change, IndexValues, RowWriter
from agent.smi.rowstatus import RowStatus, RowStatusWriter, StorageType, StoredRow

Oid = tuple[int, ...]

USM = 3
ENTRY = (1, 3, 6, 1, 6, 3, 15, 1, 2, 2, 1)
"""usmUserEntry."""
NO_AUTH = (1, 3, 6, 1, 6, 3, 10, 1, 1, 1)
NO_PRIV = (1, 3, 6, 1, 6, 3, 10, 1, 2, 1)
AUTH_OIDS: dict[str, Oid] = {
    "": NO_AUTH,
    **{
        name: (*NO_AUTH[:-1], number)
        for number, name in enumerate(("MD5", "SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512"), 2)
    },
}
"""RFC 3414 section 5, RFC 7860 section 4."""
PRIV_OIDS: dict[str, Oid] = {
    "": NO_PRIV,
    "DES": (*NO_PRIV[:-1], 2),
    "AES-128": (*NO_PRIV[:-1], 4),
    "AES-192": (1, 3, 6, 1, 4, 1, 14832, 1, 3),
    "AES-256": (1, 3, 6, 1, 4, 1, 14832, 1, 4),
    "AES-192-C": (1, 3, 6, 1, 4, 1, 9, 12, 6, 1, 1),
    "AES-256-C": (1, 3, 6, 1, 4, 1, 9, 12, 6, 1, 2),
}
"""RFC 3414 section 5, RFC 3826; the last four as net-snmp has them: keys extended after Blumenthal, and Reeder."""
_AUTH = {oid: name for name, oid in AUTH_OIDS.items()}
_PRIV = {oid: name for name, oid in PRIV_OIDS.items()}

_COLUMNS = {
    "usmUserAuthProtocol": tuple,
    "usmUserPrivProtocol": tuple,
    "usmUserPublic": bytes,
    "authKey": Secret,
    "privKey": Secret,
    # the network addresses that the user it was cloned from may be used from
    "networks": bytes,
    "cloned": int,
    "authKeyChanged": int,
    "privKeyChanged": int,
    "ready": int,
}
_NONE = Secret(b"")
_DEFAULTS: Mapping[str, Any] = {
    "usmUserAuthProtocol": NO_AUTH,
    "usmUserPrivProtocol": NO_PRIV,
    "usmUserPublic": b"",
    "authKey": _NONE,
    "privKey": _NONE,
    "networks": b"",
}


class UserTable:
    """All users, of this engine and of others."""

    def __init__(self, lcd: Lcd, on_change: Callable[[], None]) -> None:
        """`on_change` is called whenever the users are no longer what they were."""
        self.table = lcd.table("usmUserTable", index=(bytes, bytes), columns=_COLUMNS, judge=_judge)
        self.activate_clones = False
        """Whether a clone may be active with the keys of the user that it was cloned from."""
        self.writer: RowWriter = UserWriter(self)
        self.table.watch(on_change)

    def configure(self, engine_id: bytes, users: Mapping[User, LocalUser]) -> None:
        """Replace the users of the configuration file, which have keys for this engine."""
        self.table.set_configured(
            {(engine_id, local.name): _values(local, user.networks) for user, local in users.items()}
        )

    def users(self) -> dict[tuple[bytes, bytes], LocalUser]:
        """The active users by engine ID and name."""
        return {(row.index[0], row.index[1]): _user(row) for row in self.table.active()}


def _values(user: LocalUser, networks: Iterable[Network]) -> dict[str, Any]:
    return {
        **_DEFAULTS,
        "usmUserAuthProtocol": AUTH_OIDS[user.auth],
        "usmUserPrivProtocol": PRIV_OIDS[user.priv],
        "authKey": Secret(user.auth_key),
        "privKey": Secret(user.priv_key),
        "networks": " ".join(map(str, networks)).encode(),
    }


def _user(row: LcdRow) -> LocalUser:
    networks = _networks(row["networks"])
    return LocalUser(
        row.index[1],
        _AUTH[row["usmUserAuthProtocol"]],
        _PRIV[row["usmUserPrivProtocol"]],
        row["authKey"].reveal(),
        row["privKey"].reveal(),
        Networks(networks) if networks else None,
    )


def _networks(texts: bytes) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts.decode().split()]


def _judge(table: LcdTable, index: IndexValues, before: StoredRow | None, after: StoredRow | None) -> None:
    try:
        index[1].decode()
    except UnicodeDecodeError:
        # SnmpAdminString is UTF-8: two names that differ must never be taken for one
        raise SetError("noCreation", "usmUserName is not UTF-8") from None
    if after is not None and not after.values.keys() >= _DEFAULTS.keys():
        raise SetError("inconsistentValue", "columns are missing")
    if after is not None:
        _networks(after.values["networks"])
    for name, known in (("usmUserAuthProtocol", _AUTH), ("usmUserPrivProtocol", _PRIV)):
        if after is not None and after.values[name] not in known:
            raise SetError("wrongValue", "the protocol is not known", name)


class UserWriter:
    """The row writer of usmUserTable."""

    def __init__(self, users: UserTable) -> None:
        self._users = users
        self._rows = RowStatusWriter(
            users.table, "usmUserStatus", "usmUserStorageType", required=("ready",), defaults=_DEFAULTS
        )

    def test(self, model: Any, row: Any | None, index: IndexValues, values: Mapping[str, Any]) -> Change:
        """RowWriter: what each column's DESCRIPTION in RFC 3414 demands, then RowStatus and StorageType."""
        before = self._users.table.get(index)
        self._own(index, before, values)
        status = {name: values[name] for name in ("usmUserStatus",) if name in values}
        if values.get("usmUserStatus") == RowStatus.destroy:
            return self._rows.test(model, row, index, status)
        if before is not None and before.storage is StorageType.readOnly:
            raise SetError("notWritable", "the user is in the configuration file")
        columns = dict(before.values) if before is not None else dict(_DEFAULTS)
        cloned_now = self._clone(columns, values)
        self._protocols(columns, values, before is None, cloned_now)
        self._keys(columns, values)
        if "usmUserPublic" in values:
            columns["usmUserPublic"] = values["usmUserPublic"]
        if self._ready(columns):
            columns["ready"] = 1
        storage = {name: values[name] for name in ("usmUserStorageType",) if name in values}
        fixed = storage.get("usmUserStorageType") == StorageType.readOnly
        if fixed and before is None and columns["usmUserAuthProtocol"] != NO_AUTH:
            raise SetError("inconsistentValue", "its keys must be changeable", "usmUserStorageType")
        return self._rows.test(model, row, index, {**columns, **storage, **status})

    def _own(self, index: IndexValues, before: LcdRow | None, values: Mapping[str, Any]) -> None:
        for name in ("usmUserOwnAuthKeyChange", "usmUserOwnPrivKeyChange"):
            if name not in values:
                continue
            who = requester.get()
            if who is None or who.model != USM or who.level == 1 or who.name.encode() != index[1]:
                # at noAuthNoPriv anybody can say that he is the user
                raise SetError("noAccess", "only the user itself may", name)
            if before is not None and not before.is_active:
                raise SetError("inconsistentValue", "the user is not active", name)
            if name.replace("Own", "") in values:
                raise SetError("inconsistentValue", "the same key twice", name)

    def _clone(self, columns: dict[str, Any], values: Mapping[str, Any]) -> bool:
        if "usmUserCloneFrom" not in values or columns.get("cloned"):
            return False
        source = self._source(values["usmUserCloneFrom"])
        if source is None or not source.is_active:
            raise SetError("inconsistentName", "no active user to clone", "usmUserCloneFrom")
        for name in ("usmUserAuthProtocol", "usmUserPrivProtocol", "authKey", "privKey", "networks"):
            columns[name] = source[name]
        columns["cloned"] = 1
        return True

    def _source(self, pointer: Oid) -> LcdRow | None:
        """The row that a RowPointer points to, by any of its columns."""
        if pointer[: len(ENTRY)] != ENTRY:
            return None
        parts = pointer[len(ENTRY) + 1 :]
        strings = []
        while parts:
            size, parts = parts[0], parts[1:]
            if size > len(parts) or any(number > 255 for number in parts[:size]):
                return None
            strings.append(bytes(parts[:size]))
            parts = parts[size:]
        return self._users.table.get(tuple(strings)) if len(strings) == 2 else None

    def _protocols(
        self, columns: dict[str, Any], values: Mapping[str, Any], created: bool, cloned: bool
    ) -> None:
        # privacy first: both may be switched off in one PDU
        for name, known, nothing, key in (
            ("usmUserPrivProtocol", _PRIV, NO_PRIV, "privKey"),
            ("usmUserAuthProtocol", _AUTH, NO_AUTH, "authKey"),
        ):
            if name not in values:
                continue
            value = values[name]
            if created and value not in known:
                raise SetError("wrongValue", "the protocol is not known", name)
            if cloned or value == columns[name]:
                continue
            if not created and value != nothing:
                raise SetError("inconsistentValue", "it can only be switched off", name)
            columns[name] = value
            columns[key] = _NONE
        if columns["usmUserAuthProtocol"] == NO_AUTH and columns["usmUserPrivProtocol"] != NO_PRIV:
            names = ("usmUserAuthProtocol", "usmUserPrivProtocol")
            culprit = next((name for name in names if name in values), None)
            raise SetError("inconsistentValue", "privacy needs authentication", culprit)

    def _keys(self, columns: dict[str, Any], values: Mapping[str, Any]) -> None:
        auth, priv = _AUTH[columns["usmUserAuthProtocol"]], _PRIV[columns["usmUserPrivProtocol"]]
        for kind, key, used in (("Auth", "authKey", auth), ("Priv", "privKey", priv)):
            for name in (f"usmUser{kind}KeyChange", f"usmUserOwn{kind}KeyChange"):
                if name not in values:
                    continue
                if not columns.get("cloned"):
                    raise SetError("inconsistentName", "the user was not cloned yet", name)
                if not used or not values[name]:
                    continue
                size = auth_key_size(auth) if kind == "Auth" else PRIV[priv]
                if len(values[name]) != 2 * size:
                    raise SetError("wrongLength", f"a KeyChange of {used} has {2 * size} octets", name)
                columns[key] = Secret(key_change(auth, columns[key].reveal(), values[name]))
                columns[f"{key}Changed"] = 1

    def _ready(self, columns: Mapping[str, Any]) -> bool:
        if not columns.get("cloned"):
            return False
        if self._users.activate_clones:
            return True
        return all(
            columns[protocol] == nothing or columns.get(f"{key}Changed")
            for protocol, nothing, key in (
                ("usmUserAuthProtocol", NO_AUTH, "authKey"),
                ("usmUserPrivProtocol", NO_PRIV, "privKey"),
            )
        )
