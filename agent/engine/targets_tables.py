"""The rows of SNMP-TARGET-MIB, SNMP-NOTIFICATION-MIB and SNMP-COMMUNITY-MIB in the datastore.

Which rows may be, what the configuration file puts there, and what is made of them: the selection of targets
for the originator and the communities for the dispatcher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.config import Community, Notifications, Secret
from agent.engine.communities import Communities
from agent.engine.lcd import Lcd, LcdRow, LcdTable
from agent.engine.targets import (
    INFORM,
    MODELS,
    SIZES,
    TRAP,
    Selection,
    Sources,
    address_octets,
    is_tag_list,
    is_tag_value,
    select,
    tags,
)
from agent.smi.errors import SetError
from agent.smi.model import Change, IndexValues
from agent.smi.rowstatus import RowStatus, StorageType, StoredRow

NOT_FOR_REQUESTS = b"no-requests"
"""Transport tag of a community that only notifications are sent with: no address carries it."""
ANY_VERSION = frozenset(("v1", "v2c"))


class TargetTables:
    """The tables, and what follows from them."""

    def __init__(self, lcd: Lcd, communities: Communities) -> None:
        """Register the tables; `attach` and `configure` complete it before the first message."""
        self.communities = communities
        self.engine_id = b""
        self.addresses = lcd.table(
            "snmpTargetAddrTable",
            index=(bytes,),
            columns={
                "snmpTargetAddrTDomain": tuple,
                "snmpTargetAddrTAddress": bytes,
                "snmpTargetAddrTimeout": int,
                "snmpTargetAddrRetryCount": int,
                "snmpTargetAddrTagList": bytes,
                "snmpTargetAddrParams": bytes,
            },
            judge=self._judge_address,
        )
        self.extensions = lcd.table(
            "snmpTargetAddrExtTable",
            index=(bytes,),
            columns={"snmpTargetAddrTMask": bytes, "snmpTargetAddrMMS": int},
        )
        self.params = lcd.table(
            "snmpTargetParamsTable",
            index=(bytes,),
            columns={
                "snmpTargetParamsMPModel": int,
                "snmpTargetParamsSecurityModel": int,
                "snmpTargetParamsSecurityName": bytes,
                "snmpTargetParamsSecurityLevel": int,
            },
            judge=_judge_params,
        )
        self.notifies = lcd.table(
            "snmpNotifyTable",
            index=(bytes,),
            columns={"snmpNotifyTag": bytes, "snmpNotifyType": int},
            judge=_judge_notify,
        )
        self.profiles = lcd.table(
            "snmpNotifyFilterProfileTable",
            index=(bytes,),
            columns={"snmpNotifyFilterProfileName": bytes},
        )
        self.filters = lcd.table(
            "snmpNotifyFilterTable",
            index=(bytes, tuple),
            columns={"snmpNotifyFilterMask": bytes, "snmpNotifyFilterType": int},
        )
        self.community_rows = lcd.table(
            "snmpCommunityTable",
            index=(bytes,),
            columns={
                "snmpCommunityName": Secret,
                "snmpCommunitySecurityName": bytes,
                "snmpCommunityContextEngineID": bytes,
                "snmpCommunityContextName": bytes,
                "snmpCommunityTransportTag": bytes,
            },
            judge=_judge_community,
        )
        self._selection: Selection | None = None
        for table in (
            self.addresses,
            self.extensions,
            self.params,
            self.notifies,
            self.profiles,
            self.filters,
        ):
            table.watch(self._selection_changed)
        for table in (self.addresses, self.extensions, self.community_rows):
            table.watch(self._communities_changed)

    def attach(self, engine_id: bytes) -> None:
        """Say which engine's contexts communities stand for."""
        self.engine_id = engine_id
        self._communities_changed()

    # -- what follows ---------------------------------------------------------------------------------------

    def selection(self) -> Selection:
        """Who gets notifications; made again only after a change."""
        if self._selection is None:
            self._selection = select(
                self.addresses.active(),
                {row.index: row for row in self.extensions.rows()},
                self.params.active(),
                self.notifies.active(),
                self.profiles.active(),
                self.filters.active(),
            )
        return self._selection

    def _selection_changed(self) -> None:
        self._selection = None

    def _communities_changed(self) -> None:
        rows = [row for row in self.community_rows.active() if row.storage is not StorageType.readOnly]
        self.communities.set_rows(self._community(row) for row in rows if self._is_own(row))

    def _is_own(self, row: LcdRow) -> bool:
        return (row["snmpCommunityContextEngineID"] or self.engine_id) == self.engine_id

    def _community(self, row: LcdRow) -> tuple[Community, Sources | None]:
        community = Community(
            row["snmpCommunityName"],
            row["snmpCommunitySecurityName"].decode("utf-8", "replace"),
            ANY_VERSION,
            (),
            (row["snmpCommunityContextName"] or b"").decode("utf-8", "replace"),
        )
        tag = row["snmpCommunityTransportTag"]
        return community, Sources(list(self._tagged(tag))) if tag else None

    def _tagged(self, tag: bytes) -> Iterator[tuple[LcdRow, LcdRow | None]]:
        for row in self.addresses.active():
            if tag in tags(row["snmpTargetAddrTagList"] or b""):
                yield row, self.extensions.get(row.index)

    def community_for(self, security_name: str, context: str) -> bytes | None:
        """The community string that stands for a securityName in a context of ours, for messages that the
        agent originates (RFC 3584 section 5.2.3): of several rows the one whose index comes first.
        """
        name, where = security_name.encode(), context.encode()
        fits = [
            row
            for row in self.community_rows.active()
            if row["snmpCommunitySecurityName"] == name
            and (row["snmpCommunityContextName"] or b"") == where
            and self._is_own(row)
        ]
        found = min(fits, key=lambda row: row.index, default=None)
        return None if found is None else found["snmpCommunityName"].reveal()

    # -- the configuration ----------------------------------------------------------------------------------

    def configure(self, communities: Iterable[Community], notifications: Notifications) -> None:
        """Show [[community]], [[target]] and [[filter]] as readOnly rows; replaces those of before."""
        addresses: dict[IndexValues, dict[str, Any]] = {}
        extensions: dict[IndexValues, dict[str, Any]] = {}
        params: dict[IndexValues, dict[str, Any]] = {}
        profiles: dict[IndexValues, dict[str, Any]] = {}
        rows: dict[IndexValues, dict[str, Any]] = {}
        for community in communities:
            name = community.security_name.encode()
            rows[name,] = _community_row(community.name, name, community.context, name)
            for number, network in enumerate(community.networks, 1):
                domain, octets = address_octets(str(network.network_address), 0)
                index = (b"%s.%d" % (name, number),)
                addresses[index] = _address_row(domain, octets, name, name)
                extensions[index] = {
                    "snmpTargetAddrTMask": network.netmask.packed + b"\0\0",
                    "snmpTargetAddrMMS": 0,
                }
        for target in notifications.targets:
            name = target.name.encode()
            domain, octets = address_octets(target.host, target.port, target.zone)
            tag_list = b" ".join(tag.encode() for tag in target.tags)
            addresses[name,] = _address_row(domain, octets, tag_list, name, target.timeout, target.retries)
            extensions[name,] = {"snmpTargetAddrTMask": b"", "snmpTargetAddrMMS": 0}
            security_name = target.security_name.encode()
            params[name,] = {
                "snmpTargetParamsMPModel": target.version,
                "snmpTargetParamsSecurityModel": MODELS[target.version],
                "snmpTargetParamsSecurityName": security_name,
                "snmpTargetParamsSecurityLevel": target.level,
            }
            if target.community is not None:
                rows[security_name,] = _community_row(target.community, security_name, "", NOT_FOR_REQUESTS)
            if target.filter:
                profiles[name,] = {"snmpNotifyFilterProfileName": target.filter.encode()}
        self.addresses.set_configured(addresses)
        self.extensions.set_configured(extensions)
        self.params.set_configured(params)
        self.profiles.set_configured(profiles)
        self.community_rows.set_configured(rows)
        self.notifies.set_configured(
            {
                (b"traps",): {"snmpNotifyTag": b"traps", "snmpNotifyType": TRAP},
                (b"informs",): {"snmpNotifyTag": b"informs", "snmpNotifyType": INFORM},
            }
        )
        self.filters.set_configured(
            {
                (item.name.encode(), tree.oid): {
                    "snmpNotifyFilterMask": tree.mask,
                    "snmpNotifyFilterType": 1 if tree.included else 2,
                }
                for item in notifications.filters
                for tree in item.subtrees
            }
        )

    # -- rows that may be -----------------------------------------------------------------------------------

    def _judge_address(
        self, table: LcdTable, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> None:
        if after is None:
            return
        values = after.values
        domain = values.get("snmpTargetAddrTDomain")
        octets = values.get("snmpTargetAddrTAddress")
        if not is_tag_list(values.get("snmpTargetAddrTagList", b"")):
            raise SetError("wrongValue", "no SnmpTagList", "snmpTargetAddrTagList")
        if domain is not None and domain not in SIZES:
            raise SetError("inconsistentValue", "only UDP domains are served", "snmpTargetAddrTDomain")
        if domain is not None and octets is not None and len(octets) != SIZES[domain]:
            raise SetError(
                "inconsistentValue", "the address has not its domain's length", "snmpTargetAddrTAddress"
            )


def _address_row(
    domain: tuple[int, ...],
    octets: bytes,
    tag_list: bytes,
    params: bytes,
    timeout: int = 1500,
    retries: int = 3,
) -> dict[str, Any]:
    return {
        "snmpTargetAddrTDomain": domain,
        "snmpTargetAddrTAddress": octets,
        "snmpTargetAddrTimeout": timeout,
        "snmpTargetAddrRetryCount": retries,
        "snmpTargetAddrTagList": tag_list,
        "snmpTargetAddrParams": params,
    }


def _community_row(name: Secret, security_name: bytes, context: str, tag: bytes) -> dict[str, Any]:
    return {
        "snmpCommunityName": name,
        "snmpCommunitySecurityName": security_name,
        "snmpCommunityContextName": context.encode(),
        "snmpCommunityTransportTag": tag,
    }


def _judge_params(
    table: LcdTable, index: IndexValues, before: StoredRow | None, after: StoredRow | None
) -> None:
    if after is None:
        return
    version = after.values.get("snmpTargetParamsMPModel")
    model = after.values.get("snmpTargetParamsSecurityModel")
    level = after.values.get("snmpTargetParamsSecurityLevel")
    if version is not None and version not in MODELS:
        raise SetError("inconsistentValue", "no such message processing model", "snmpTargetParamsMPModel")
    if model is not None and model not in MODELS.values():
        raise SetError("inconsistentValue", "no such security model", "snmpTargetParamsSecurityModel")
    if after.status is RowStatus.active:
        if version is not None and MODELS[version] != model:
            raise SetError(
                "inconsistentValue", "the models do not go together", "snmpTargetParamsSecurityModel"
            )
        if version != 3 and level != 1:
            raise SetError(
                "inconsistentValue", "communities have no security", "snmpTargetParamsSecurityLevel"
            )


def _judge_notify(
    table: LcdTable, index: IndexValues, before: StoredRow | None, after: StoredRow | None
) -> None:
    if after is not None and not is_tag_value(after.values.get("snmpNotifyTag", b"")):
        raise SetError("wrongValue", "no SnmpTagValue", "snmpNotifyTag")


def _judge_community(
    table: LcdTable, index: IndexValues, before: StoredRow | None, after: StoredRow | None
) -> None:
    if after is None:
        return
    name: Secret | None = after.values.get("snmpCommunityName")
    if name is not None and not 1 <= len(name.reveal()) <= 255:
        raise SetError("wrongLength", "a community string has 1 to 255 octets", "snmpCommunityName")
    if not is_tag_value(after.values.get("snmpCommunityTransportTag", b"")):
        raise SetError("wrongValue", "no SnmpTagValue", "snmpCommunityTransportTag")


# -- stores with more to say than one table -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SecretColumn:
    """RowStore of a table in which one column is a secret: octets on the wire, a Secret in the datastore."""

    table: LcdTable
    column: str

    def load(self, model: Any, index: IndexValues) -> StoredRow | None:
        return self.table.load(model, index)

    def check(
        self, model: Any, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> None:
        self.table.check(model, index, before, self._hidden(after))

    def change(
        self, model: Any, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> Change:
        return self.table.change(model, index, before, self._hidden(after))

    def _hidden(self, row: StoredRow | None) -> StoredRow | None:
        if row is None or not isinstance(row.values.get(self.column), bytes):
            return row
        return StoredRow(
            row.status, row.storage, {**row.values, self.column: Secret(row.values[self.column])}
        )


@dataclass(frozen=True, slots=True)
class AddressStore:
    """RowStore of snmpTargetAddrTable: the row's snmpTargetAddrExtTable part comes and goes with it."""

    tables: TargetTables

    def load(self, model: Any, index: IndexValues) -> StoredRow | None:
        return self.tables.addresses.load(model, index)

    def check(
        self, model: Any, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> None:
        self.tables.addresses.check(model, index, before, after)
        extension = self.tables.extensions.get(index)
        if after is not None and extension is not None and after.status is RowStatus.active:
            _check_mask(extension["snmpTargetAddrTMask"], after)

    def change(
        self, model: Any, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> Change:
        tables = self.tables
        change = tables.addresses.change(model, index, before, after)
        extension = tables.extensions.get(index)
        if extension is not None:
            if after is None:
                change.merge(tables.extensions.change(model, index, extension, None))
            elif before is None or before.storage is not after.storage:
                kept = StoredRow(RowStatus.active, after.storage, extension.values)
                change.merge(tables.extensions.change(model, index, extension, kept))
        return change


@dataclass(frozen=True, slots=True)
class ExtensionWriter:
    """Row writer of snmpTargetAddrExtTable (RFC 3584), which augments snmpTargetAddrTable."""

    tables: TargetTables

    def test(self, model: Any, row: Any | None, index: IndexValues, values: Mapping[str, Any]) -> Change:
        main = self.tables.addresses.get(index)
        if main is None:
            raise SetError("inconsistentName", "no such row in snmpTargetAddrTable; make it in a PDU before")
        if main.storage is StorageType.readOnly:
            raise SetError("notWritable", "the row's StorageType is readOnly")
        before = self.tables.extensions.get(index)
        merged = {**(before.values if before is not None else EXTENSION_DEFAULTS), **values}
        mask = values.get("snmpTargetAddrTMask")
        if mask is not None:
            if main.status is RowStatus.active and merged != (
                before.values if before else EXTENSION_DEFAULTS
            ):
                raise SetError("inconsistentValue", "fixed while the row is active", "snmpTargetAddrTMask")
            _check_mask(mask, main)
        after = StoredRow(RowStatus.active, main.storage, merged)
        return self.tables.extensions.change(model, index, before, after)


EXTENSION_DEFAULTS: Mapping[str, Any] = {"snmpTargetAddrTMask": b"", "snmpTargetAddrMMS": 484}


def _check_mask(mask: bytes | None, main: StoredRow) -> None:
    octets = main.values.get("snmpTargetAddrTAddress")
    if mask and octets is not None and len(mask) != len(octets):
        raise SetError("inconsistentValue", "the mask has not the address's length", "snmpTargetAddrTMask")
