"""Any tree, written out as swanctl.conf text in any legal style, reads back as that tree; any garbage is an error."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.config.identity import parse_identity
from ipsecstack.config.loader import tree_from_text
from ipsecstack.config.proposals import parse_proposal, weak_algorithms
from ipsecstack.config.tree import ConfigError, Section
from ipsecstack.crypto import encr, integ
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.wire.transforms import PROPOSAL_KEYWORDS, TransformType, proposal_keyword

NAMES = st.text(st.sampled_from("abcxyzABC019-_@<>$/%"), min_size=1, max_size=8).filter(
    lambda name: name != "include"
)
VALUES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\r"), min_size=1, max_size=20
)
TREES = st.recursive(
    st.just({}),
    lambda inner: st.dictionaries(NAMES, st.one_of(VALUES, inner), max_size=4),
    max_leaves=12,
)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write(tree: dict[str, object], draw: st.DrawFn, indent: str = "") -> str:
    """Text of a tree, in a style that is drawn: blanks, comments, newlines and quotes where the syntax is free."""
    out = ""
    for key, value in tree.items():
        out += draw(st.sampled_from(["", "\n", "  # a comment {}\n", "\t"])) if not out.endswith(" ") else ""
        if isinstance(value, dict):
            gap = draw(st.sampled_from(["", " ", "\n", " # why\n\n"]))
            out += f"{indent}{key}{gap}{{\n{write(value, draw, indent + ' ')}\n}}" + draw(
                st.sampled_from(["\n", " "])
            )
        else:
            plain = (
                not set(value) & set('#}"\\ \t')
                and value.isprintable()
                and not any(c.isspace() for c in value)
            )
            text = value if plain and draw(st.booleans()) else quoted(value)
            blank = draw(st.sampled_from(["", " ", "\t "]))
            out += f"{indent}{key}{blank}={blank}{text}" + draw(
                st.sampled_from(["\n", "  # comment\n", "\r\n"])
            )
    return out


def plain(section: Section) -> dict[str, object]:
    found: dict[str, object] = {key: value.text for key, value in section.values.items()}
    found.update({name: plain(sub) for name, sub in section.sections.items()})
    return found


@settings(max_examples=150, deadline=None)
@given(TREES, st.data())
def test_trees_survive_being_written(tree: dict[str, object], data: st.DataObject) -> None:
    text = write(tree, data.draw)  # type: ignore[arg-type]
    assert plain(tree_from_text(text)) == tree, text


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('ab{}=:,."#\\\n \tinclude'), max_size=40))
def test_any_text_is_a_tree_or_a_config_error(text: str) -> None:
    try:
        tree_from_text(text.replace("include", "includ"))
    except ConfigError as error:
        where = str(error)
    else:
        where = "text:"
    assert where.startswith("text:")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_any_identity_is_one_or_a_value_error(text: str) -> None:
    try:
        identity = parse_identity(text)
    except ValueError:
        return
    assert identity.is_any == (identity.type == 0)
    assert identity.is_any or identity.data


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["aes128gcm16", "aes256gcm16", "chacha20poly1305"]),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    st.lists(st.sampled_from(["prfsha256", "prfsha384", "prfsha512"]), min_size=1, max_size=3, unique=True),
    st.lists(
        st.sampled_from(["x25519", "ecp256", "ecp384", "modp2048"]), min_size=1, max_size=3, unique=True
    ),
    st.randoms(use_true_random=False),
)
def test_words_of_a_proposal_keep_their_order_within_a_type(encr, prf, ke, random) -> None:  # type: ignore[no-untyped-def]
    queues = [list(encr), list(prf), list(ke)]
    words = []
    while any(queues):
        words.append(random.choice([q for q in queues if q]).pop(0))
    proposal = parse_proposal("-".join(words), SecurityProtocol.IKE)
    assert [proposal_keyword(TransformType.ENCR, e, bits or None) for e, bits in proposal.encr] == encr
    assert [proposal_keyword(TransformType.PRF, p) for p in proposal.prf] == prf
    assert [proposal_keyword(TransformType.KE, k) for k in proposal.ke] == ke


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *PROPOSAL_KEYWORDS,
                "weak",
                "ke1_mlkem768",
                "ke7_x25519",
                "ke2_none",
                "ke8_x25519",
                "nonsense",
                "",
            ]
        ),
        max_size=8,
    ),
    st.sampled_from([SecurityProtocol.IKE, SecurityProtocol.ESP, SecurityProtocol.AH]),
)
def test_any_words_make_a_proposal_or_a_clear_error(words: list[str], protocol: SecurityProtocol) -> None:
    """Nothing weak without the word, nothing that belongs elsewhere, and what is accepted is implemented."""
    text = "-".join(words)
    try:
        proposal = parse_proposal(text, protocol)
    except ValueError as error:
        proposal, problem = None, str(error)
    if proposal is None:
        assert problem.startswith(("proposal '", "'"))
        return
    assert "weak" in words or not weak_algorithms([proposal])
    assert bool(proposal.encr) is (protocol is not SecurityProtocol.AH)
    assert bool(proposal.prf) is (protocol is SecurityProtocol.IKE)
    assert bool(proposal.esn) is (protocol is not SecurityProtocol.IKE)
    for id_, bits in proposal.encr:
        assert not (encr.get(id_, bits).esp_only and protocol is SecurityProtocol.IKE)
    for mac in proposal.integ:
        assert protocol is SecurityProtocol.AH or not integ.get(mac).ah_only
