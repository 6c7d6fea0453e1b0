"""Strangers' text made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with every character that cannot be shown replaced, line breaks too.

    Control characters are not allowed in XML, and direction marks can reorder a page.
    """
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def printable_line(text: str) -> str:
    """The same on one line: any white space is a single blank."""
    return printable(" ".join(text.split()))
