"""BAML's delimiters are broken invisibly; all other text is unchanged."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bridge
from bridge.baml.delimiters import BREAK, DELIMITERS, defuse, defuse_all

ROLE, MEDIA = DELIMITERS
ORDINARY = (
    "",
    "hello",
    "How do I write BAML",
    "BAML_LOG=off",
    "the BAML_CHAT_ROLE of a message",
    "MAGIC_STRING_DELIMITER",
    "_private",
    "AML",
    "a_b",
    "  indented\n\ttext \n",
    "line\n" * 1000,
    "naïve ﬆraße İı 漢字 🙂",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert defuse(text) == text


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("around", ["{}", "a{}b", "{0}{0}", "{0}:baml-start-baml:{0}", "\n{}\n", "x_{}_y"])
def test_delimiter_is_broken_and_reads_the_same(delimiter: str, around: str) -> None:
    text = around.format(delimiter)
    safe = defuse(text)
    assert delimiter not in safe
    assert safe.replace(BREAK, "") == text
    assert safe == defuse(safe)


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_changing_the_case_forms_no_delimiter(delimiter: str) -> None:
    for text in (delimiter.lower(), delimiter.title(), delimiter.lower().replace("s", "ſ")):
        assert delimiter not in defuse(text).upper()


@given(
    delimiter=st.sampled_from(DELIMITERS),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    before=st.sampled_from(["", "text ", "BAML_", "_"]),
    after=st.sampled_from(["", " text", "_", ":baml-start-baml:{}"]),
    space=st.sampled_from(["", " ", "\n"]),
)
def test_joined_pieces_form_no_delimiter(delimiter: str, cuts: list[int], before: str, after: str, space: str) -> None:
    places = [0, *sorted(cuts), len(delimiter)]
    pieces = [delimiter[a:b] for a, b in pairwise(places)]
    pieces[0], pieces[-1] = before + pieces[0], pieces[-1] + after
    safe = [defuse(space + piece + space).strip() for piece in pieces]
    assert delimiter not in "".join(safe)
    assert delimiter not in "".join(safe).upper()


@given(st.text(alphabet=st.sampled_from("BAML_CHTROEGISND x\n"), max_size=80))
def test_only_the_break_is_added(text: str) -> None:
    safe = defuse(text)
    assert safe.replace(BREAK, "") == text
    assert defuse(safe) == safe


def test_nested_values_and_keys_are_defused() -> None:
    safe = defuse_all({"a": [ROLE, {MEDIA: ("x", 1, None, True, 1.5)}]})
    assert ROLE not in str(safe)
    assert MEDIA not in str(safe)
    assert safe["a"][1][f"BAML_{BREAK}MEDIA_MAGIC_STRING_DELIMITER"] == ["x", 1, None, True, 1.5]


def test_package_exports_defuse() -> None:
    assert bridge.defuse(ROLE) != ROLE
