"""No text of a stranger breaks a line or a page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from item.explanation.printable import printable, printable_line


@given(st.text())
def test_what_is_shown_is_printable_and_as_long_as_before(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)


@given(st.text())
def test_a_line_is_one_line(text: str) -> None:
    assert len(printable_line(text).splitlines()) <= 1
    assert "  " not in printable_line(text)


def test_what_can_be_read_stays() -> None:
    assert printable("a\tb\u202ec é") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c é"
    assert printable_line(" a\n\tb ") == "a b"
