"""Numbers as people write them: ``1e9``, ``100M``, ``1_000_000``; ``128GB``, ``64GiB``."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from siamese_search.errors import UsageError, printable

#: No plan is for more: a quadrillion.
LARGEST = 10**15

_COUNT = re.compile(r"([0-9][0-9_.,]*(?:e[+-]?[0-9]{1,3})?)\s*([kmbgt]?)", re.IGNORECASE)
_BYTES = re.compile(r"([0-9][0-9_.,]*(?:e[+-]?[0-9]{1,3})?)\s*(?:(b)|([kmgtp])(i?)b?)?", re.IGNORECASE)
_THOUSANDS = {"": 0, "k": 1, "m": 2, "b": 3, "g": 3, "t": 4, "p": 5}


def read_count(text: str) -> int:
    """A whole number from 1: ``1e9``, ``1.5M``, ``2k``, ``1B`` (or ``1G``, a billion), ``1_000_000``, ``1,000,000``.

    Raises UsageError for anything else, for less than 1 and for more than LARGEST.
    """
    found = _COUNT.fullmatch(text.strip())
    value = _number(found[1]) * 1000 ** _THOUSANDS[found[2].lower()] if found else Decimal(0)
    if value < 1 or value > LARGEST or value != value.to_integral_value():
        raise UsageError(
            f"{printable(text[:40])!r} is not a count: write a whole number such as 1e9, 100M or 1_000_000"
        )
    return int(value)


def read_bytes(text: str) -> int:
    """Bytes, at least 1: ``128GB`` (10^9), ``64GiB`` (2^30), ``512M``, ``2000``.

    Raises UsageError for anything else.
    """
    found = _BYTES.fullmatch(text.strip())
    value = Decimal(0)
    if found:
        value = _number(found[1]) * (1024 if found[4] else 1000) ** _THOUSANDS[(found[3] or "").lower()]
    if value < 1 or value > LARGEST * 1000:
        raise UsageError(f"{printable(text[:40])!r} is not a size: write it as 128GB, 64GiB or 512M")
    return int(value)


def _number(text: str) -> Decimal:
    """0 for what is none. A comma may only part thousands: 1,5 could be either of two numbers."""
    if "," in text and not re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", text):
        return Decimal(0)
    try:
        return Decimal(text.replace("_", "").replace(",", ""))
    except InvalidOperation:
        return Decimal(0)
