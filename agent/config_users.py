"""The sections [[user]] and [[community]]: who may ask."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from typing import Any

from agent.config_reader import MISSING, Where
from agent.config_types import (
    AUTH_PROTOCOLS,
    KEY_SIZES,
    LEVELS,
    MODELS,
    PRIV_PROTOCOLS,
    ROLES,
    WEAK,
    Community,
    Secret,
    User,
    role_group,
)
from agent.config_values import ValueReader

Members = MutableMapping[tuple[int, str], str]
"""(securityModel, securityName) -> group."""


class UserReader(ValueReader):
    """Reads users and communities, and which group each belongs to."""

    def user(self, table: dict[str, Any], n: int, members: Members) -> User:
        where: Where = ("user", n)
        secrets = ("auth_password", "auth_password_file", "priv_password", "priv_password_file")
        keys = ("auth_key", "auth_key_file", "priv_key", "priv_key_file")
        access = ("role", "group", "insecure_write", "networks", "weak")
        self.known(table, where, ("name", "auth", "priv", *access, *secrets, *keys))
        name = self.take(table, where, "name", str, MISSING)
        if not 1 <= len(name.encode()) <= 32:
            raise self.fault((*where, "name"), "not 1 to 32 octets", "choose another name")
        if (MODELS["usm"], name) in members:
            raise self.fault((*where, "name"), f"user {name!r} is there twice", "remove one")
        auth = self.choice(table, where, "auth", AUTH_PROTOCOLS, "")
        priv = self.choice(table, where, "priv", PRIV_PROTOCOLS, "")
        if priv and not auth:
            raise self.fault((*where, "priv"), "privacy without authentication", "add auth")
        weak = self.take(table, where, "weak", bool, False)
        for key, chosen, better in (("auth", auth, "SHA-256"), ("priv", priv, "AES-128")):
            if chosen in WEAK and not weak:
                raise self.fault((*where, key), f"{chosen} is weak", f'use "{better}", or add weak = true')
        auth_key, auth_localized = self.key(table, where, "auth", bool(auth))
        priv_key, priv_localized = self.key(table, where, "priv", bool(priv))
        if auth_key and priv_key and auth_localized != priv_localized:
            raise self.fault(where, "one key is localized, the other a password", "give both the same way")
        for kind, chosen, secret in (("auth", auth, auth_key), ("priv", priv, priv_key)):
            if secret is not None and auth_localized and len(secret.reveal()) != KEY_SIZES[chosen]:
                size, there = KEY_SIZES[chosen], len(secret.reveal())
                raise self.fault(
                    (*where, f"{kind}_key"),
                    f"a localized {chosen} key has {size} octets, not {there}",
                    f"write {2 * size} hex digits",
                )
        level = 3 if priv else 2 if auth else 1
        members[MODELS["usm"], name] = self.group(table, where, level, "give the user auth and priv")
        networks = self.networks(table, where)
        return User(name, auth, auth_key, priv, priv_key, auth_localized, networks)

    def group(self, table: dict[str, Any], where: Where, level: int, cure: str) -> str:
        """The group, or that of the role."""
        role = self.choice(table, where, "role", ROLES, "")
        group: str = self.take(table, where, "group", str, "")
        if bool(role) == bool(group):
            problem = "both role and group" if role else "neither role nor group"
            raise self.fault(
                (*where, "group") if role else where,
                problem,
                f"give role ({', '.join(ROLES)}), or group and an [[access]] for it",
            )
        insecure = self.take(table, where, "insecure_write", bool, False)
        if group:
            if "insecure_write" in table:
                raise self.fault(
                    (*where, "insecure_write"), "belongs to role", "write it into the group's [[access]]"
                )
            self.unreserved(group, (*where, "group"))
            return group
        if role != "monitor" and level < LEVELS["authPriv"] and not insecure:
            raise self.fault(
                (*where, "role"),
                f"{role} may write, which needs SNMPv3 authPriv",
                f'{cure}, use role = "monitor", or add insecure_write = true',
            )
        return role_group(role, level)

    def unreserved(self, name: str, where: Where) -> None:
        """Names of roles are not for others."""
        if name.startswith("role:"):
            raise self.fault(where, "names that begin with role: are the roles' own", "choose another name")

    def key(self, table: dict[str, Any], where: Where, kind: str, wanted: bool) -> tuple[Secret | None, bool]:
        password = self.secret(table, where, f"{kind}_password", f"{kind}_password_file")
        key = self.secret(table, where, f"{kind}_key", f"{kind}_key_file")
        if not wanted:
            if password or key:
                raise self.fault(where, f"a secret for {kind} but no {kind}", f"add {kind} = ...")
            return None, False
        if (password is None) == (key is None):
            raise self.fault(
                where, f"{kind} needs one secret", f"give {kind}_password_file, or {kind}_key_file"
            )
        if password is not None:
            if len(password.reveal()) < 8:
                raise self.fault(where, f"the {kind} password is shorter than 8 octets", "take a longer one")
            return password, False
        assert key is not None
        try:
            return Secret(bytes.fromhex(key.reveal().decode("ascii").removeprefix("0x"))), True
        except ValueError:
            raise self.fault(where, f"{kind}_key is not hex", "write the localized key in hex") from None

    def community(
        self, table: dict[str, Any], n: int, members: Members, contexts: Collection[str]
    ) -> Community:
        where: Where = ("community", n)
        access = ("role", "group", "insecure_write")
        self.known(table, where, ("name", "name_file", *access, "versions", "networks", "context"))
        name = self.secret(table, where, "name", "name_file")
        if name is None or not name.reveal():
            raise self.fault(where, "no community string", "add name or name_file")
        versions = self.strings(table, where, "versions", ("v2c",))
        for version in versions:
            if version not in ("v1", "v2c"):
                raise self.fault((*where, "versions"), f"{version!r} is not known", 'use "v1", "v2c"')
        networks = self.networks(table, where)
        if not networks:
            raise self.fault(
                where, "networks is missing or empty", 'name who may use it; anyone is ["0.0.0.0/0", "::/0"]'
            )
        group = self.group(table, where, 1, "use a [[user]]")
        # RFC 3584: a securityName of its own, so that the secret itself appears nowhere
        security_name = f"community{n + 1}"
        for version in versions:
            members[MODELS[version], security_name] = group
        context = self.take(table, where, "context", str, "")
        if context and context not in contexts:
            # a community that stands for a context that is not there would be told genErr for ever
            there = f"use one of {', '.join(contexts)}, or " if contexts else ""
            raise self.fault(
                (*where, "context"), f"no source {context!r}", f"{there}leave it out for all sources together"
            )
        return Community(name, security_name, frozenset(versions), networks, context)
