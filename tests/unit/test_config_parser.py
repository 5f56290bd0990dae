"""swanctl.conf text -> tree: the syntax, includes, references, and errors that say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecstack.config.loader import load_tree, tree_from_text
from ipsecstack.config.parser import MAX_DEPTH
from ipsecstack.config.tree import ConfigError, Section


def plain(section: Section) -> dict[str, object]:
    """A tree as nested dicts of texts."""
    found: dict[str, object] = {key: value.text for key, value in section.values.items()}
    found.update({name: plain(sub) for name, sub in section.sections.items()})
    return found


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", {}),
        ("# only a comment", {}),
        ("a = b", {"a": "b"}),
        ("a=b", {"a": "b"}),
        ("a = b   c\t d", {"a": "b c d"}),
        ("a = b # comment\nc = d", {"a": "b", "c": "d"}),
        ("a = b=c,{d", {"a": "b=c,{d"}),
        ('a = "b # c } \\" \\\\ \\n\\t."', {"a": 'b # c } " \\ \n\t.'}),
        ('a = "b\\\nc"', {"a": "bc"}),
        ('a = "b\nc"', {"a": "b\nc"}),
        ('a = x "y  z" w', {"a": "x y  z w"}),
        ("a = b\r\nc = d\r\n", {"a": "b", "c": "d"}),
        ("s { }", {"s": {}}),
        ("s\n{\n}\n", {"s": {}}),
        ("s { a = b }", {"s": {"a": "b"}}),
        ("s { a = b } t { c = d }", {"s": {"a": "b"}, "t": {"c": "d"}}),
        ("s { t { u { a = b } } }", {"s": {"t": {"u": {"a": "b"}}}}),
        ("s { a = b\n a = c }", {"s": {"a": "c"}}),
        ("s { a = b } s { c = d\n a = e }", {"s": {"a": "e", "c": "d"}}),
        ("a = b\na =", {}),
        ("a =\nb = c", {"b": "c"}),
        ("include = x", {"include": "x"}),
        ("includes { a = b }", {"includes": {"a": "b"}}),
        ("base { a = 1\n t { x = 1 } }\ns : base { b = 2\n t { y = 2 } }",
         {"base": {"a": "1", "t": {"x": "1"}}, "s": {"a": "1", "b": "2", "t": {"x": "1", "y": "2"}}}),
        ("s : base { a = 2 }\nbase { a = 1\n b = 1 }", {"base": {"a": "1", "b": "1"}, "s": {"a": "2", "b": "1"}}),
        ("base { a = 1 }\ns : base { a = }", {"base": {"a": "1"}, "s": {}}),
        ("x { y { a = 1 } }\ns : x.y { }", {"x": {"y": {"a": "1"}}, "s": {"a": "1"}}),
        ("p { a = 1\n b = 1 }\nq { a = 2\n c = 2 }\ns : p, q { }",
         {"p": {"a": "1", "b": "1"}, "q": {"a": "2", "c": "2"}, "s": {"a": "1", "b": "1", "c": "2"}}),
        ("p { a = 1 }\nq : p { b = 2 }\ns : q { c = 3 }",
         {"p": {"a": "1"}, "q": {"a": "1", "b": "2"}, "s": {"a": "1", "b": "2", "c": "3"}}),
    ],
)  # fmt: skip
def test_syntax(text: str, tree: dict[str, object]) -> None:
    assert plain(tree_from_text(text)) == tree


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a {\n b = c\n", 1, "'a' is never closed"),
        ("x = 1\na {\n b {\n }\n", 2, "'a' is never closed"),
        ("a = b\n}\n", 2, "closes no section"),
        ("a = 1\nb c\n", 2, "write one statement"),
        ("a = 1\nb\n", 2, "a name stands alone"),
        ("a.b = c", 1, "cannot hold '.'"),
        ("\n= c", 2, "without a name"),
        ("\n\n{ }", 3, "without a section name"),
        ('a = 1\nb = "never ends\n', 2, "closing quote"),
        ("a : b { }", 1, "referenced section 'b' does not exist"),
        ("base { }\na : bsae { }", 2, "did you mean 'base'"),
        ("a : b { }\nb : a { }", 1, "circle"),
        ("a : a { }", 1, "circle"),
        ("a { " * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1), 1, "nested more than"),
    ],
)
def test_errors_name_the_line_and_the_cure(text: str, line: int, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tree_from_text(text, "x.conf")
    assert str(caught.value).startswith(f"x.conf:{line}: ")
    assert word in str(caught.value)


def test_values_know_their_place() -> None:
    tree = tree_from_text("s {\n  a = 1\n}\n", "x.conf")
    assert str(tree.sections["s"].values["a"].origin) == "x.conf:2"
    assert str(tree.sections["s"].origin) == "x.conf:1"


def test_a_secret_is_in_no_repr_and_no_syntax_error() -> None:
    tree = tree_from_text('secrets { ike { secret = "hunter2" } }')
    assert "hunter2" not in repr(tree)
    with pytest.raises(ConfigError) as caught:
        tree_from_text('secrets { ike { secret = "hunter2" "')
    assert "hunter2" not in str(caught.value)


def test_many_references_end() -> None:
    text = "s0 { a = 1 }\n" + "".join(f"s{i} : s{i - 1} {{ }}\n" for i in range(1, 100))
    with pytest.raises(ConfigError, match="chain"):
        # the last first, so that nothing is resolved yet when it is reached
        tree_from_text("\n".join(reversed(text.strip().split("\n"))))


def test_references_cannot_multiply_without_end() -> None:
    """Each level holds two subsections that inherit the level below: 2^n sections from n lines."""
    text = "l0 { a = 1 }\n" + "".join(
        f"l{i} {{ x : l{i - 1} {{ }}\n y : l{i - 1} {{ }} }}\n" for i in range(1, 31)
    )
    with pytest.raises(ConfigError, match="too many"):
        tree_from_text(text)


# --- includes ---------------------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_conf", ".conf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_includes_are_relative_sorted_and_may_stand_in_sections(tmp_path: Path) -> None:
    write(
        tmp_path,
        main_conf="a = 0\ns {\n include conf.d/*.conf\n z = last }\ninclude sub/more.conf",
        conf_d__x_conf="",
    )
    write(tmp_path / "conf.d", b_conf="k = b\nb = 1", a_conf="k = a\na = 1")
    write(tmp_path / "sub", more_conf="include deeper/*", deeper__one="c = 3")
    tree = load_tree(tmp_path / "main.conf")
    assert plain(tree) == {"a": "0", "c": "3", "s": {"k": "b", "a": "1", "b": "1", "z": "last"}}
    assert tree.values["c"].origin.source == str(tmp_path / "sub" / "deeper" / "one")


def test_include_of_a_name_with_blanks(tmp_path: Path) -> None:
    (tmp_path / "two words.conf").write_text("a = 1")
    (tmp_path / "q.conf").write_text('include "two words.conf"')
    (tmp_path / "e.conf").write_text("include two\\ words.conf")
    assert plain(load_tree(tmp_path / "q.conf")) == plain(load_tree(tmp_path / "e.conf")) == {"a": "1"}


def test_include_cycle(tmp_path: Path) -> None:
    write(tmp_path, a_conf="include b.conf", b_conf="x = 1\ninclude a.conf")
    with pytest.raises(ConfigError, match=r"b\.conf:2: include: a file includes itself"):
        load_tree(tmp_path / "a.conf")


def test_include_depth(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.conf").write_text(f"include {i + 1}.conf")
    with pytest.raises(ConfigError, match="nested more than"):
        load_tree(tmp_path / "0.conf")


def test_plain_include_must_exist_and_a_pattern_need_not(tmp_path: Path) -> None:
    write(tmp_path, a_conf="\ninclude nowhere.conf", b_conf="include nowhere/*.conf\nx = 1")
    with pytest.raises(ConfigError, match=r"a\.conf:2: cannot read .*nowhere\.conf"):
        load_tree(tmp_path / "a.conf")
    assert plain(load_tree(tmp_path / "b.conf")) == {"x": "1"}


def test_unreadable_main_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_tree(tmp_path / "none.conf")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_tree(tmp_path)
    (tmp_path / "latin.conf").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_tree(tmp_path / "latin.conf")


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, a_conf="include b.conf", b_conf="fine = 1\n}\n")
    with pytest.raises(ConfigError, match=r"b\.conf:2: "):
        load_tree(tmp_path / "a.conf")
