r"""Filters: ``--where "camera=2"`` as conditions, typed by the stored value, independent of any engine.

The grammar of one expression; several are joined by AND::

    FIELD OPERATOR VALUE[,VALUE...]        operators: = (or ==)  !=  <  <=  >  >=
    FIELD = *                              the field is present; with != it is absent

Spaces around the field and around each value are ignored. A comma means "any of" (with ``!=``: none of). A value or a
field in double quotes is taken as it stands (``note="a, b"``), and a backslash takes the next character as it stands,
inside quotes and out (``note=a\\,b``, ``note=\\*``). Empty text is ``note=""``.

:func:`parse_where` makes untyped :class:`RawCondition` of text, :func:`bind` gives them the gallery's types. What each
means, slowly and obviously, is in ``tests/support/filter_oracle.py``; every engine must reproduce it.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, cast

from siamese_search.datasets.records import MetadataValue
from siamese_search.errors import FilterError

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "present", "absent"]

#: The orderings, and what engines call their bounds.
BOUNDS: dict[Operator, str] = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
ORDERINGS = frozenset(BOUNDS)
#: What a bare ``*`` makes of an operator.
_BARE: dict[Operator, Operator] = {"=": "present", "!=": "absent"}

#: Stored integers are signed 64-bit in every engine.
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
#: From here on whole numbers are not all a float64.
_EXACT = 2**53 - 1

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_OPERATOR = re.compile(r"!=|<=|>=|==|=|<|>")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_FIELD = re.compile(rf"{_QUOTED}\s*", re.DOTALL)
#: A value and the spaces around it: in quotes, or up to a comma; a backslash takes the next character as it stands.
_VALUE = re.compile(rf"""\s*(?:{_QUOTED}|(?!["\s])((?:\\.|[^,\s]|\s+(?![\s,]|\Z))*))\s*""", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_UNCLOSED = "a double quote is not closed"
#: What looks like a second condition behind a comma or a word, where a value is meant.
_ANOTHER = re.compile(r"(?:,|\s(?:and|or|&&|\|\|)\s)\s*[\w.]+\s*[=<>!]", re.IGNORECASE)
_PLAIN = re.compile(r"[^\s\"\\,*=!<>]+(?: [^\s\"\\,*=!<>]+)*")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one payload field; several conditions are joined by AND.

    ``values`` holds one value for the orderings, one or more for ``=`` (any of) and ``!=`` (none of),
    and none for ``present`` and ``absent``. A point without the field meets ``!=`` and ``absent``, nothing else.
    """

    field: str
    operator: Operator
    values: tuple[MetadataValue, ...] = ()


#: Conditions of which all hold.
Where = Sequence[Condition]


@dataclass(frozen=True, slots=True)
class RawCondition:
    """A parsed expression whose values are still text: their types are the gallery's to say.

    ``str(raw)`` is an expression that parses to the same condition again.
    """

    field: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.operator in _BARE.values():
            return f"{_quoted(self.field)}{'=' if self.operator == 'present' else '!='}*"
        return f"{_quoted(self.field)}{self.operator}{','.join(map(_quoted, self.values))}"


def parse_where(expressions: str | Sequence[str]) -> list[RawCondition]:
    """Parse ``--where`` expressions; raises FilterError that quotes the expression and shows the right form."""
    listed = [expressions] if isinstance(expressions, str) else expressions
    return [_parse_one(expression) for expression in listed]


def bind(raw: Iterable[RawCondition], fields: Mapping[str, str]) -> list[Condition]:
    """Give each value the type under which its field is stored.

    fields: payload field -> ``str``, ``int``, ``float`` or ``bool`` (:meth:`Gallery.fields`). Text is compared in any
    of Unicode's forms. Raises FilterError for an unknown field (listing the known ones), a value of the wrong type, and
    an ordering on text or truth values.
    """
    bound = []
    for one in raw:
        composed = unicodedata.normalize("NFC", one.field)
        name = composed if one.field not in fields and composed in fields else one.field
        values: Iterable[str] = one.values
        if one.operator in ("=", "!=") and fields.get(name) == "str":
            # Each form in which text may be stored: letters and accents as one, and apart.
            values = dict.fromkeys(
                form
                for text in one.values
                for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
            )
        typed = tuple(_typed(value, name, fields) for value in values)
        bound.append(check(Condition(name, one.operator, typed), fields))
    return bound


def check(condition: Condition, fields: Mapping[str, str]) -> Condition:
    """The condition, if it can be asked of these fields; an int value for a float field becomes a float.

    Raises FilterError otherwise. Engines call this first: a condition built by hand must not match nothing in silence.
    """
    kind = _kind_of(condition.field, fields)
    name, operator, values = condition.field, condition.operator, condition.values
    if operator in _BARE.values():
        if values:
            raise FilterError(f"{operator!r} takes no value, but {name!r} was given {len(values)}")
        return condition
    if operator in ORDERINGS:
        if kind not in ("int", "float"):
            hint = ", or a time such as 2024-05-01T10:00:00" if kind == "str" else ""
            raise FilterError(f"{name!r} holds {_PEOPLE[kind]}, which {operator} cannot order: use = or !={hint}")
        if len(values) != 1:
            raise FilterError(f"{name!r} {operator} takes one value, not {len(values)}")
    elif not values:
        raise FilterError(f"{name!r} {operator} needs a value")
    return Condition(name, operator, tuple(_checked(v, kind, name) for v in values))


def exact_ordering(condition: Condition) -> tuple[Condition | None, tuple[int, ...]]:
    """An ordering of whole numbers in terms that engines compare exactly: an ordering, or one of these numbers.

    Engines compare as float64, in which whole numbers beyond 2⁵³ run together, or as integers where they have an
    index. So near such a bound each number is named (1,536 at most), and the ordering takes over at the next float64.
    Either may be missing; nothing meets the condition where both are.
    """
    (value,) = condition.values
    if not isinstance(value, int) or abs(value) < _EXACT:
        return condition, ()
    up = condition.operator in (">", ">=")
    step = 1 if up else -1
    first = value + step * (condition.operator in (">", "<"))
    far = int(math.nextafter(float(first), step * math.inf))
    beyond = Condition(condition.field, ">=" if up else "<=", (far,)) if INT_MIN <= far <= INT_MAX else None
    return beyond, tuple(sorted(range(first, max(INT_MIN - 1, min(far, INT_MAX + 1)), step)))


_PEOPLE = {"str": "text", "int": "whole numbers", "float": "numbers", "bool": "true or false"}


def _kind_of(name: str, fields: Mapping[str, str]) -> str:
    if name in fields:
        return fields[name]
    if not fields:
        raise FilterError(f"unknown field {name!r}: the gallery is empty and has no fields yet")
    close = difflib.get_close_matches(name, fields, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise FilterError(f"unknown field {name!r}{hint}; known fields: {', '.join(sorted(fields))}")


def _checked(value: MetadataValue, kind: str, name: str) -> MetadataValue:
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value).__name__ != kind:
        raise FilterError(f"{name!r} holds {_PEOPLE[kind]}, and {value!r} is not that")
    if isinstance(value, float) and not math.isfinite(value):
        raise FilterError(f"{name!r} cannot be compared with {value!r}: it is not finite")
    if type(value) is int and not INT_MIN <= value <= INT_MAX:
        raise FilterError(f"{name!r} cannot be compared with {value}: it does not fit 64 bits")
    return value


def _typed(text: str, name: str, fields: Mapping[str, str]) -> MetadataValue:
    kind = _kind_of(name, fields)
    if kind == "str":
        return text
    if kind == "bool" and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    # Bounded before int(): a megabyte of digits would take minutes to convert.
    if kind == "int" and _INTEGER.fullmatch(text) and len(text) <= 40:
        return int(text)
    if kind == "float":
        with suppress(ValueError):
            return float(text)
    which = "neither" if kind == "bool" else "not one"
    raise FilterError(f"{name!r} holds {_PEOPLE[kind]}, and {text[:60]!r} is {which}")


def _parse_one(expression: str) -> RawCondition:
    field, rest = _read_field(expression)
    symbol = _OPERATOR.match(rest)
    if symbol is None:
        raise _malformed(expression, "there is no operator after the field")
    operator = cast(Operator, "=" if symbol[0] == "==" else symbol[0])
    values = _split_values(rest[symbol.end() :], expression)
    if any(value is None for value in values):
        if len(values) == 1 and operator in _BARE:
            return RawCondition(field, _BARE[operator])
        raise _malformed(expression, 'a bare * stands alone after = or != (the text * is written "*")')
    if operator in ORDERINGS and len(values) > 1:
        raise _malformed(expression, f"{operator} takes one value")
    return RawCondition(field, operator, tuple(v for v in values if v is not None))


def _read_field(expression: str) -> tuple[str, str]:
    text = expression.lstrip()
    if text.startswith('"'):
        quoted = _FIELD.match(text)
        if quoted is None:
            raise _malformed(expression, _UNCLOSED)
        field, rest = _unescaped(quoted[1]), text[quoted.end() :]
    else:
        symbol = _OPERATOR.search(text)
        if symbol is None:
            raise _malformed(expression, "there is no operator")
        field, rest = text[: symbol.start()].rstrip(), text[symbol.start() :]
    if not field:
        raise _malformed(expression, "there is no field before the operator")
    return field, rest


def _split_values(text: str, expression: str) -> list[str | None]:
    """The values between commas; None stands for a bare ``*``."""
    values: list[str | None] = []
    at = 0
    while True:
        found = _VALUE.match(text, at)
        if found is None:
            raise _malformed(expression, _UNCLOSED)
        quoted, bare = found.groups()
        if found.end() < len(text) and text[found.end()] != ",":
            raise _malformed(expression, "there is text after a closing quote")
        if bare == "":
            raise _malformed(expression, 'a value is missing (empty text is written "")')
        if bare and _ANOTHER.search(f",{bare}" if values else bare):
            raise _malformed(expression, "each condition has a --where of its own (or put the value in quotes)")
        values.append(None if bare == "*" else _unescaped(quoted if bare is None else bare))
        if found.end() == len(text):
            return values
        at = found.end() + 1  # behind the comma


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def _malformed(expression: str, reason: str) -> FilterError:
    shown = expression if len(expression) <= 80 else expression[:77] + "..."
    return FilterError(
        f"cannot read the filter {shown!r}: {reason}; write FIELD=VALUE, with = != < <= > >=, "
        "a comma for any of, =* for present, !=* for absent"
    )


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
