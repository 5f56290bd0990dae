"""The state machine of an IKE SA, as one table (RFC 7296 §1.2-1.4, §2.25).

Every message that passed the window and the integrity check is looked up here by (state, our role in the exchange,
kind of exchange). What is not declared is rejected and changes nothing.
``docs/ikev2-states.md`` is generated from this table.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipsecstack.keyex.ikev2 import (
    create_child,
    followup,
    ike_auth,
    ike_auth_answer,
    ike_sa_init,
    informational,
    intermediate,
    rekey_child,
    rekey_ike,
    resumption,
)
from ipsecstack.keyex.ikev2.states import Kind, Need, Role, Row, State

_NONE: frozenset[Need] = frozenset()
_CHILD = frozenset({Need.SA, Need.TSI, Need.TSR})
_CHILD_KE = _CHILD | {Need.NONCE}


def _row(
    state: State,
    role: Role,
    kind: Kind,
    required: Iterable[Need],
    optional: Iterable[Need],
    handler: object,
    following: tuple[State, ...],
    story: str,
) -> Row:
    assert callable(handler)
    return Row(state, role, kind, frozenset(required), frozenset(optional), handler, following, story)


IN, R = Role.INITIATOR, Role.RESPONDER
S, K, N = State, Kind, Need

ROWS: tuple[Row, ...] = (
    # --- initial exchanges ---
    _row(S.NEW, R, K.IKE_SA_INIT, {N.SA, N.KE, N.NONCE}, _NONE, ike_sa_init.handle_request, (S.HALF_OPEN, S.NEW),
         "A peer begins. Cookies were settled before. Algorithms are chosen, keys computed; a refusal keeps nothing."),
    _row(S.INIT_SENT, IN, K.IKE_SA_INIT, {N.SA, N.KE, N.NONCE}, {N.CERTREQ}, ike_sa_init.handle_response,
         (S.AUTH_SENT, S.INIT_SENT, S.DEAD),
         "The responder chose, or asks for a cookie or another key exchange method (then we ask again)."),
    _row(S.HALF_OPEN, R, K.IKE_INTERMEDIATE, _NONE, {N.KE}, intermediate.handle_request, (S.HALF_OPEN, S.DEAD),
         "An additional key exchange before anybody proves who it is (RFC 9242, RFC 9370): new keys for what follows."),
    _row(S.AUTH_SENT, IN, K.IKE_INTERMEDIATE, {N.KE}, _NONE, intermediate.handle_response, (S.AUTH_SENT, S.DEAD),
         "The responder's half of it: new keys, then the next one or IKE_AUTH."),
    _row(S.HALF_OPEN, R, K.IKE_AUTH, {N.IDI}, _CHILD | {N.IDR, N.AUTH, N.CERT, N.CERTREQ, N.CP},
         ike_auth_answer.handle_request, (S.ESTABLISHED, S.AUTHENTICATING, S.HALF_OPEN, S.DEAD),
         "The peer says who it is and proves it; we do the same, and the first Child SA is made. No AUTH means EAP."),
    _row(S.AUTHENTICATING, R, K.IKE_AUTH, _NONE, {N.IDI, N.AUTH, N.CERT, N.CERTREQ, N.EAP},
         ike_auth_answer.handle_next_request, (S.ESTABLISHED, S.AUTHENTICATING, S.DEAD),
         "EAP goes on, or another round of authentication (RFC 4739). The last response has what the first request "
         "asked for."),
    _row(S.AUTHENTICATING, R, K.INFORMATIONAL, _NONE, {N.DELETE}, ike_auth_answer.handle_informational,
         (S.DELETING, S.AUTHENTICATING),
         "The peer does not believe that we are who we say, and ends it."),
    _row(S.AUTH_SENT, IN, K.IKE_AUTH, _NONE, _CHILD | {N.IDR, N.AUTH, N.CERT, N.CP, N.EAP},
         ike_auth.handle_response, (S.ESTABLISHED, S.AUTH_SENT, S.DEAD),
         "The responder proves who it is, then wants EAP or another round. If it does not, it is told so in a Delete."),
    _row(S.NEW, R, K.SESSION_RESUME, {N.NONCE}, _NONE, resumption.handle_request, (S.HALF_OPEN, S.NEW),
         "A peer that lost its IKE SA shows a ticket (RFC 5723). A bad one gets TICKET_NACK and keeps nothing."),
    _row(S.INIT_SENT, IN, K.SESSION_RESUME, {N.NONCE}, _NONE, resumption.handle_response,
         (S.AUTH_SENT, S.INIT_SENT, S.DEAD),
         "The gateway took our ticket, or asks for a cookie; if it refuses, we begin with IKE_SA_INIT."),
    # --- an established IKE SA ---
    _row(S.ESTABLISHED, R, K.NEW_CHILD, _CHILD_KE, {N.KE, N.CP}, create_child.handle_request, (S.ESTABLISHED,),
         "The peer asks for another Child SA: selectors are narrowed, both SAs installed."),
    _row(S.ESTABLISHED, IN, K.NEW_CHILD, _CHILD_KE, {N.KE, N.CP}, create_child.handle_response, (S.ESTABLISHED,),
         "Our Child SA, or the reason why there is none."),
    _row(S.ESTABLISHED, R, K.REKEY_CHILD, _CHILD_KE | {N.REKEY_SA}, {N.KE}, rekey_child.handle_request,
         (S.ESTABLISHED,),
         "The peer replaces a Child SA: inbound is installed now, outbound when the peer deletes the old one."),
    _row(S.ESTABLISHED, IN, K.REKEY_CHILD, _CHILD_KE, {N.KE}, rekey_child.handle_response, (S.ESTABLISHED,),
         "Our replacement is there: we send over it and delete the old one. Nonces settle a collision."),
    _row(S.ESTABLISHED, R, K.REKEY_IKE, {N.SA, N.NONCE}, {N.KE}, rekey_ike.handle_request,
         (S.REKEYED, S.ESTABLISHED),
         "The peer replaces the IKE SA: the children move, the old one waits for its deletion."),
    _row(S.ESTABLISHED, IN, K.REKEY_IKE, {N.SA, N.NONCE, N.KE}, _NONE, rekey_ike.handle_response,
         (S.REKEYED, S.ESTABLISHED),
         "Our new IKE SA is there: the children move and we delete the old one. Nonces settle a collision."),
    _row(S.ESTABLISHED, R, K.FOLLOWUP_KE, {N.KE}, _NONE, followup.handle_request, (S.ESTABLISHED, S.REKEYED),
         "An additional key exchange of a CREATE_CHILD_SA (RFC 9370). With the last one the new SA is made."),
    _row(S.ESTABLISHED, IN, K.FOLLOWUP_KE, {N.KE}, _NONE, followup.handle_response, (S.ESTABLISHED, S.REKEYED),
         "The responder's half of it; after the last one the response to CREATE_CHILD_SA is handled."),
    _row(S.ESTABLISHED, R, K.INFORMATIONAL, _NONE, {N.DELETE, N.CP}, informational.handle_request,
         (S.ESTABLISHED, S.DELETING),
         "Deletes, notifications, or a liveness check."),
    _row(S.ESTABLISHED, IN, K.INFORMATIONAL, _NONE, {N.DELETE, N.CP}, informational.handle_response,
         (S.ESTABLISHED,),
         "A Child SA of ours is closed, or the peer is alive."),
    # --- replaced by a new IKE SA ---
    _row(S.REKEYED, R, K.INFORMATIONAL, _NONE, {N.DELETE, N.CP}, informational.handle_request,
         (S.DELETING, S.REKEYED),
         "The peer deletes the old IKE SA."),
    _row(S.REKEYED, IN, K.INFORMATIONAL, _NONE, {N.DELETE, N.CP}, informational.handle_response, (S.REKEYED,),
         "The response to something sent before the rekeying."),
    _row(S.REKEYED, IN, K.REKEY_IKE, {N.SA, N.NONCE, N.KE}, _NONE, rekey_ike.handle_response, (S.REKEYED,),
         "Our own replacement comes late: the peer uses the one that it made meanwhile. Ours is deleted."),
    _row(S.REKEYED, R, K.NEW_CHILD, _CHILD_KE, {N.KE, N.CP}, create_child.refuse_request, (S.REKEYED,),
         "Too late here: TEMPORARY_FAILURE."),
    _row(S.REKEYED, R, K.REKEY_CHILD, _CHILD_KE | {N.REKEY_SA}, {N.KE}, create_child.refuse_request, (S.REKEYED,),
         "Too late here: TEMPORARY_FAILURE."),
    _row(S.REKEYED, R, K.REKEY_IKE, {N.SA, N.NONCE}, {N.KE}, create_child.refuse_request, (S.REKEYED,),
         "It is rekeyed already: TEMPORARY_FAILURE."),
    # --- being deleted by us ---
    _row(S.DELETING, IN, K.INFORMATIONAL, _NONE, {N.DELETE, N.CP}, informational.handle_response,
         (S.DEAD, S.DELETING),
         "The peer knows: the IKE SA is gone."),
    _row(S.DELETING, R, K.INFORMATIONAL, _NONE, {N.DELETE, N.CP}, informational.handle_request, (S.DELETING,),
         "Deletes cross on the way; liveness checks are still answered."),
    _row(S.DELETING, R, K.NEW_CHILD, _CHILD_KE, {N.KE, N.CP}, create_child.refuse_request, (S.DELETING,),
         "Too late: TEMPORARY_FAILURE."),
    _row(S.DELETING, R, K.REKEY_CHILD, _CHILD_KE | {N.REKEY_SA}, {N.KE}, create_child.refuse_request,
         (S.DELETING,),
         "Too late: TEMPORARY_FAILURE."),
    _row(S.REKEYED, R, K.FOLLOWUP_KE, {N.KE}, _NONE, create_child.refuse_request, (S.REKEYED,),
         "Too late here: TEMPORARY_FAILURE."),
    _row(S.REKEYED, IN, K.FOLLOWUP_KE, {N.KE}, _NONE, followup.handle_response, (S.REKEYED,),
         "Our own replacement comes late: the peer uses the one that it made meanwhile. Ours is deleted."),
    _row(S.DELETING, R, K.FOLLOWUP_KE, {N.KE}, _NONE, create_child.refuse_request, (S.DELETING,),
         "Too late: TEMPORARY_FAILURE."),
    _row(S.DELETING, R, K.REKEY_IKE, {N.SA, N.NONCE}, {N.KE}, create_child.refuse_request, (S.DELETING,),
         "Too late: TEMPORARY_FAILURE."),
)  # fmt: skip

TABLE: dict[tuple[State, Role, Kind], Row] = {(row.state, row.role, row.kind): row for row in ROWS}
assert len(TABLE) == len(ROWS)


def markdown() -> str:
    """The table as docs/ikev2-states.md shows it."""
    lines = [
        "# The IKEv2 state machine",
        "",
        "Generated from `ipsecstack/keyex/ikev2/table.py` by `python -m ipsecstack.keyex.ikev2.table`; a test",
        "holds the two together. A message is looked up by the IKE SA's state, our role in the exchange and the",
        "kind of exchange, after its message ID and integrity have been checked. What has no row is rejected and",
        "changes nothing.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> NEW",
        "    NEW --> INIT_SENT: initiate",
    ]
    seen: set[tuple[State, State]] = set()
    for row in ROWS:
        for following in row.next:
            if following is not row.state and (row.state, following) not in seen:
                seen.add((row.state, following))
                lines.append(f"    {row.state.name} --> {following.name}: {row.kind.value}")
    lines += [
        "    ESTABLISHED --> DELETING: terminate, expiry",
        "    AUTH_SENT --> DELETING: responder not authenticated",
        "    REKEYED --> DELETING: our Delete of the old IKE SA",
        "    DELETING --> DEAD",
        "    DEAD --> [*]",
        "```",
        "",
        "| state | role | exchange | required | optional | next | story |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        required = ", ".join(sorted(n.name for n in row.required)) or "–"
        optional = ", ".join(sorted(n.name for n in row.optional)) or "–"
        following_names = ", ".join(s.name for s in row.next)
        lines.append(
            f"| {row.state.name} | {row.role.value} | {row.kind.value} | {required} | {optional} | "
            f"{following_names} | {row.story} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
