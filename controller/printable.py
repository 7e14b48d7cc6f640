"""Foreign text, made safe to show.

Refusals and problems quote what app owners and libraries wrote.  On a terminal an escape sequence in it
could hide or forge lines, so everything that is not printable is shown as its escape instead.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every unprintable character, newlines included, written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
