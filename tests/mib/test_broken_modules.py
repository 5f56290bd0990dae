"""What is wrong with a module is told with file and line and what to do, whatever it is; nothing is ever written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mibs.build import BuildError, build
from mibs.checks import cycles

GOOD = """X-MIB DEFINITIONS ::= BEGIN
IMPORTS
    MODULE-IDENTITY, OBJECT-TYPE, NOTIFICATION-TYPE, Integer32, enterprises
        FROM SNMPv2-SMI
    TEXTUAL-CONVENTION, DisplayString
        FROM SNMPv2-TC
    MODULE-COMPLIANCE, OBJECT-GROUP
        FROM SNMPv2-CONF;

x MODULE-IDENTITY
    LAST-UPDATED "202601010000Z"
    ORGANIZATION "o"
    CONTACT-INFO "c"
    DESCRIPTION "names xOther -- and so on"
    REVISION "202601010000Z"
    DESCRIPTION "r"
    ::= { enterprises 99990 }

Colour ::= TEXTUAL-CONVENTION
    STATUS current
    DESCRIPTION "d"
    SYNTAX INTEGER { red(1), green(2) }

xTable OBJECT-TYPE
    SYNTAX SEQUENCE OF XEntry
    MAX-ACCESS not-accessible
    STATUS current
    DESCRIPTION "d"
    ::= { x 1 }

xEntry OBJECT-TYPE
    SYNTAX XEntry
    MAX-ACCESS not-accessible
    STATUS current
    DESCRIPTION "d"
    INDEX { xNumber }
    ::= { xTable 1 }

XEntry ::= SEQUENCE {
    xNumber Integer32,
    xColour Colour
}

xNumber OBJECT-TYPE
    SYNTAX Integer32 (1..10)
    MAX-ACCESS not-accessible
    STATUS current
    DESCRIPTION "d"
    ::= { xEntry 1 }

xColour OBJECT-TYPE
    SYNTAX Colour
    MAX-ACCESS read-only
    STATUS current
    DESCRIPTION "d"
    ::= { xEntry 2 }

xText OBJECT-TYPE
    SYNTAX DisplayString
    MAX-ACCESS read-only
    STATUS current
    DESCRIPTION "d"
    ::= { x 2 }

xEvent NOTIFICATION-TYPE
    OBJECTS { xColour }
    STATUS current
    DESCRIPTION "d"
    ::= { x 3 }

xGroup OBJECT-GROUP
    OBJECTS { xColour, xText }
    STATUS current
    DESCRIPTION "d"
    ::= { x 4 }

xCompliance MODULE-COMPLIANCE
    STATUS current
    DESCRIPTION "d"
    MODULE
        MANDATORY-GROUPS { xGroup }
    ::= { x 5 }
END
"""


def line(text: str, after: str = "") -> int:
    """Line of GOOD that holds a text, the first one after another text."""
    start = GOOD.index(after) if after else 0
    return GOOD.count("\n", 0, GOOD.index(text, start)) + 1


def test_the_good_module_compiles(base: Path, source: Callable[[str, str], Path], tmp_path: Path) -> None:
    assert "X-MIB" in build((source("X-MIB", GOOD), base), tmp_path / "out").modules


@pytest.mark.parametrize(
    ("old", "new", "at", "says"),
    [
        ("MAX-ACCESS read-only\n    STATUS current\n    DESCRIPTION \"d\"\n    ::= { x 2 }",
         "MAX-ACCESS read-onl\n    STATUS current\n    DESCRIPTION \"d\"\n    ::= { x 2 }",
         line("MAX-ACCESS", "xText OBJ"), "MAX-ACCESS of xText is read-onl; it must be one of not-accessible,"),
        ("xText OBJECT-TYPE\n    SYNTAX DisplayString\n    MAX-ACCESS read-only\n    STATUS current",
         "xText OBJECT-TYPE\n    SYNTAX DisplayString\n    MAX-ACCESS read-only\n    STATUS mandatory",
         line("STATUS", "xText OBJ"), "STATUS of xText is mandatory; it must be one of current,"),
        ("xText OBJECT-TYPE\n    SYNTAX DisplayString", "xText OBJECT-TYPE\n    SYNTAX DisplayText",
         line("SYNTAX", "xText OBJ"), "the SYNTAX of xText is DisplayText, which is neither defined here nor imported"),
        ("FROM SNMPv2-CONF", "FROM SNMPv3-CONF",
         line("SNMPv2-CONF"), "imports from SNMPv3-CONF, but there is no such module"),
        ("TEXTUAL-CONVENTION, DisplayString", "TEXTUAL-CONVENTION, DisplayString, DisplayText",
         line("TEXTUAL-CONVENTION, D"), "imports DisplayText, which SNMPv2-TC does not define"),
        ("MODULE-IDENTITY, OBJECT-TYPE, NOTIFICATION-TYPE,", "MODULE-IDENTITY, OBJECT-TYPE,",
         line("xEvent NOT"), "xEvent uses NOTIFICATION-TYPE, which is not imported; add it to IMPORTS"),
        ("TEXTUAL-CONVENTION, DisplayString", "TEXTUAL-CONVENTION",
         line("SYNTAX", "xText OBJ"), "the SYNTAX of xText is DisplayString, which is neither defined here nor"),
        ("xText OBJECT-TYPE", "xColour OBJECT-TYPE",
         line("xText OBJ"), f"xColour is defined twice, first in line {line('xColour OBJ')}; rename one"),
        ("Colour ::= TEX", "DisplayString ::= TEX",
         line("Colour ::= TEX"), "DisplayString is imported from SNMPv2-TC and defined here; drop one"),
        ("::= { x 2 }", "::= { y 2 }",
         line("{ x 2 }"), "the OID of xText starts at y, which is neither defined here nor imported"),
        ("::= { x 2 }", "::= { xText 2 }",
         line("xText OBJ"), "the OID of xText leads back to itself"),
        ("::= { x 2 }", "::= { x 4294967296 }",
         line("{ x 2 }"), "the OID of xText has the sub-identifier 4294967296; it must be 0 to 4294967295"),
        ("::= { x 4 }", "::= { x 2 }",
         line("xGroup OBJ"), f"xGroup and xText (X-MIB.mib line {line('xText OBJ')}) are both registered at 1.3.6.1.4"),
        ("INDEX { xNumber }", "INDEX { xNumbr }",
         line("INDEX"), "INDEX of xEntry names xNumbr, which is neither defined here nor imported"),
        ("INDEX { xNumber }", "INDEX { xTable }",
         line("INDEX"), "the INDEX of xEntry names xTable, which is no column; correct it"),
        ("    INDEX { xNumber }\n", "",
         line("xEntry OBJ"), "the row xEntry has neither INDEX nor AUGMENTS; add one"),
        ("INDEX { xNumber }", "AUGMENTS { xTable }",
         line("INDEX"), "xEntry AUGMENTS xTable, which is no conceptual row with an INDEX"),
        ("    xNumber Integer32,\n", "",
         line("xNumber OBJ") - 1, "xNumber is a column of xEntry and missing in the SEQUENCE XEntry; add it"),
        ("    xColour Colour\n", "    xColour Colour,\n    xShape Colour\n",
         line("xColour Colour") + 1, "the SEQUENCE XEntry lists xShape, which is no column of xEntry"),
        ("    xNumber Integer32,", "    xNumber Counter32,",
         line("xNumber Integer32"), "the SEQUENCE XEntry gives xNumber the type Counter32, the column has Integer32"),
        ("SYNTAX SEQUENCE OF XEntry", "SYNTAX SEQUENCE OF YEntry",
         line("SEQUENCE OF"), "the SYNTAX of xTable is YEntry, which is neither defined here nor imported"),
        ("red(1), green(2)", "red(1), green(1)",
         line("red(1)"), "Colour gives the number 1 to red and to green; change one"),
        ("red(1), green(2)", "red(1), red(2)",
         line("red(1)"), "Colour gives the label red to 1 and to 2; rename one"),
        ("SYNTAX INTEGER { red(1), green(2) }", "SYNTAX Colour",
         line("Colour ::= TEX"), "types are defined by each other (X-MIB::Colour -> X-MIB::Colour)"),
        ("OBJECTS { xColour }", "OBJECTS { xColor }",
         line("OBJECTS { xColour }"), "OBJECTS of xEvent names xColor, which is neither defined here nor imported"),
        ("OBJECTS { xColour, xText }", "OBJECTS { xColour, xTexts }",
         line("OBJECTS { xColour, x"), "OBJECTS of xGroup names xTexts, which is neither"),
        ("MANDATORY-GROUPS { xGroup }", "MANDATORY-GROUPS { xGroups }",
         line("MANDATORY"), "a group of xCompliance names xGroups, which is neither"),
        ("    ::= { xEntry 2 }", "    DEFVAL { blue }\n    ::= { xEntry 2 }",
         line("{ xEntry 2 }"), "the DEFVAL of xColour is no value of its SYNTAX; correct one"),
        ("X-MIB DEFINITIONS", "Y-MIB DEFINITIONS", 1, "defines Y-MIB; name the file Y-MIB.mib"),
        ("DESCRIPTION \"names", "DESCRIPTION names",
         line("names xOther"), "syntax error at 'names'"),
        ("    SYNTAX DisplayString\n", "    DisplayString\n",
         line("SYNTAX", "xText OBJ"), "syntax error at 'DisplayString'"),
        ("    ::= { x 5 }\nEND\n", "    ::= { x 5 }\n",
         line("{ x 5 }"), "the file ends in the middle of a definition; is it truncated?"),
        ("    ::= { x 5 }\nEND\n", "END\n",
         line("{ x 5 }"), "syntax error at 'END': the module ends here although a definition is incomplete"),
        ("DESCRIPTION \"r\"", "DESCRIPTION \"r",
         line("CONTACT") - 2 + 7, ""),
    ],
)  # fmt: skip
def test_file_line_and_cure(
    old: str, new: str, at: int, says: str, base: Path, source: Callable[[str, str], Path], tmp_path: Path
) -> None:
    assert old in GOOD
    folder = source("X-MIB", GOOD.replace(old, new, 1))
    with pytest.raises(BuildError) as caught:
        build((folder, base), tmp_path / "out")
    problems = caught.value.problems
    found = [problem for problem in problems if problem.path.name == "X-MIB.mib" and says in problem.text]
    assert found, f"{says!r} is not in {[str(problem) for problem in problems]}"
    if says:
        assert found[0].line == at
    else:
        assert all(1 <= problem.line <= GOOD.count("\n") for problem in found)
    assert not (tmp_path / "out").exists()


def test_all_problems_of_all_files_are_told_at_once(
    base: Path, source: Callable[[str, str], Path], tmp_path: Path
) -> None:
    source(
        "X-MIB",
        GOOD.replace("SYNTAX DisplayString", "SYNTAX DisplayText").replace("STATUS current", "STATUS no"),
    )
    folder = source("Y-MIB", GOOD.replace("X-MIB", "Y-MIB").replace("enterprises 99990", "enterprizes 1"))
    with pytest.raises(BuildError) as caught:
        build((folder, base), tmp_path / "out")
    problems = caught.value.problems
    assert [p.path.name for p in problems] == sorted(p.path.name for p in problems)
    assert len([p for p in problems if p.path.name == "X-MIB.mib"]) > 5
    assert [p for p in problems if p.path.name == "Y-MIB.mib"]


def test_modules_that_import_each_other(
    base: Path, source: Callable[[str, str], Path], tmp_path: Path
) -> None:
    text = (
        "{0} DEFINITIONS ::= BEGIN\nIMPORTS\n    {2} FROM {1};\n{3} OBJECT IDENTIFIER ::= {{ {2} 1 }}\nEND\n"
    )
    source("A-MIB", text.format("A-MIB", "B-MIB", "b", "a"))
    source("B-MIB", text.format("B-MIB", "C-MIB", "c", "b"))
    folder = source("C-MIB", text.format("C-MIB", "A-MIB", "a", "c"))
    with pytest.raises(BuildError) as caught:
        build((folder, base), tmp_path / "out")
    assert len(caught.value.problems) == 1
    problem = caught.value.problems[0]
    assert (problem.path.name, problem.line) == ("A-MIB.mib", 3)
    assert "in a circle (A-MIB -> B-MIB -> C-MIB -> A-MIB); move what both need" in problem.text


def test_one_module_in_two_folders(base: Path, source: Callable[[str, str], Path], tmp_path: Path) -> None:
    folder = source("X-MIB", GOOD)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "X-MIB.mib").write_text(GOOD)
    with pytest.raises(BuildError, match=r"more/X-MIB.mib:1: X-MIB is also defined by .*src/X-MIB.mib"):
        build((folder, tmp_path / "more", base), tmp_path / "out")


def test_one_oid_in_two_modules(base: Path, source: Callable[[str, str], Path], tmp_path: Path) -> None:
    source("X-MIB", GOOD)
    folder = source("Y-MIB", GOOD.replace("X-MIB", "Y-MIB"))
    with pytest.raises(BuildError, match=r"Y-MIB.mib:\d+: xTable and xTable \(X-MIB.mib line \d+\) are both"):
        build((folder, base), tmp_path / "out")


def test_two_modules_in_one_file(base: Path, source: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"X-MIB.mib:1: holds 2 modules; write exactly one into each file"):
        build((source("X-MIB", GOOD + GOOD.replace("X-MIB", "Y-MIB")), base), tmp_path / "out")


@pytest.mark.parametrize("text", ["", "\n\n", "-- nothing but a comment\n"])
def test_file_without_a_module(
    text: str, base: Path, source: Callable[[str, str], Path], tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=r"X-MIB.mib:1: "):
        build((source("X-MIB", text), base), tmp_path / "out")


def test_text_that_is_not_utf8(base: Path, source: Callable[[str, str], Path], tmp_path: Path) -> None:
    folder = source("X-MIB", GOOD)
    path = folder / "X-MIB.mib"
    path.write_bytes(path.read_bytes().replace(b'"r"', b'"\xe9"'))
    with pytest.raises(BuildError, match=rf"X-MIB.mib:{line('DESCRIPTION', 'REVISION')}: is not UTF-8 here"):
        build((folder, base), tmp_path / "out")


def test_huge_file(base: Path, source: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"X-MIB.mib: is larger than 4194304 octets"):
        build((source("X-MIB", "-" * (4 * 1024 * 1024 + 1)), base), tmp_path / "out")


def test_every_truncation_is_told(base: Path, source: Callable[[str, str], Path], tmp_path: Path) -> None:
    lines = GOOD.splitlines(keepends=True)
    for count in range(1, len(lines) - 1):
        folder = source("X-MIB", "".join(lines[:count]))
        with pytest.raises(BuildError) as caught:
            build((folder, base), tmp_path / "out")
        assert all(0 <= problem.line <= count + 1 for problem in caught.value.problems)
    assert not (tmp_path / "out").exists()


WORDS = [
    *sorted(set(GOOD.split())),
    '"',
    "--",
    "MACRO",
    "CHOICE",
    "EXPORTS",
    "0",
    "-1",
    "{",
    "}",
    "\x00",
    "é",
    "'ff'H",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(GOOD.split()) - 1),
            st.sampled_from(["drop", "put", "swap"]),
            st.sampled_from(WORDS),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_mutations_compile_or_are_told(
    base: Path, tmp_path: Path, changes: list[tuple[int, str, str]]
) -> None:
    words = GOOD.split(" ")
    for place, action, word in changes:
        place %= len(words)
        if action == "drop":
            del words[place]
        elif action == "put":
            words.insert(place, word)
        else:
            words[place] = word
    (tmp_path / "src").mkdir(exist_ok=True)
    (tmp_path / "src" / "X-MIB.mib").write_text(" ".join(words))
    try:
        build((tmp_path / "src", base), tmp_path / "out")
    except BuildError as error:
        assert error.problems  # noqa: PT017
        assert all(problem.text for problem in error.problems)  # noqa: PT017
    assert not list(tmp_path.glob("out/.build-*"))


def test_cycles() -> None:
    assert cycles({"a": ["b"], "b": []}) == []
    assert cycles({"b": ["a"], "a": ["b"]}) == [("a", "b")]
    assert cycles({"a": ["a"]}) == [("a",)]
    assert cycles({"a": ["x"]}) == []
