"""Bandwidth as people write it: `10M`, or `10M/50M` where the directions differ.

The first rate is what the container may send, the second what it may receive; one alone is both.  A rate is a
whole number of kbit/s, Mbit/s or Gbit/s, decimal as with all line rates.
"""

from __future__ import annotations

import re

LOWEST, HIGHEST = 64_000, 100_000_000_000  # bit/s
_RATE = re.compile(r"([1-9][0-9]{0,8})([kMG])\Z")
_UNITS = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def parse_bandwidth(text: str) -> tuple[int, int]:
    """Bit/s from the container and to it; `ValueError` says what is wrong, as the end of a sentence."""
    parts = text.split("/")
    if len(parts) > 2:
        raise ValueError("has more than two rates; write one, or from/to the container, such as 10M/50M")
    rates = [_rate(part) for part in parts]
    return rates[0], rates[-1]


def _rate(text: str) -> int:
    match = _RATE.match(text)
    if match is None:
        raise ValueError("is not a rate such as 512k, 10M or 1G (bit/s), or two such as 10M/50M")
    rate = int(match[1]) * _UNITS[match[2]]
    if not LOWEST <= rate <= HIGHEST:
        raise ValueError("is out of range: a rate is from 64k to 100G")
    return rate


def bandwidth_text(rate_out: int | None, rate_in: int | None) -> str:
    """Two rates in the form that people write; `-` is a direction without a limit, "" both."""
    if rate_out is None and rate_in is None:
        return ""
    parts = [_text(rate_out), _text(rate_in)]
    return parts[0] if parts[0] == parts[1] else "/".join(parts)


def _text(rate: int | None) -> str:
    if rate is None:
        return "-"
    unit = next(unit for unit in "GMk" if rate % _UNITS[unit] == 0 or unit == "k")
    return f"{rate // _UNITS[unit]}{unit}"
