"""Asked: a search as an address. Every state of the page is one, so that it survives a reload and can be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import parse_qs, urlencode

from siamese_search.errors import FilterError, UsageError
from siamese_search.gallery.filters import RawCondition, parse_where

#: Results per page that are offered.
KS = (10, 20, 50, 100, 200)


@dataclass(frozen=True, slots=True)
class Asked:
    """kept: uploads by their tokens; like: points; away, away_kept: what results shall not resemble; where: filters."""

    kept: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    away_kept: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    k: int = 20
    group: bool = False
    rerank: bool = False

    @classmethod
    def read(cls, text: str) -> Self:
        """From the query of an address; what it does not know, it leaves out. Raises UsageError for far too much."""
        try:
            found = parse_qs(text, max_num_fields=_MOST)
        except ValueError:
            raise UsageError(f"an address names at most {_MOST} images and filters: take some away") from None
        numbers = [int(one) for one in found.get("k", []) if one.isascii() and one.isdigit() and len(one) < 6]
        lists: dict[str, Any] = {field: tuple(found.get(name, ())) for name, field in _LISTS.items()}
        return cls(
            **lists,
            k=min(max(numbers[-1], 1), KS[-1]) if numbers else cls().k,
            group="1" in found.get("group", ()),
            rerank="1" in found.get("rerank", ()),
        )

    def fields(self, *without: str) -> list[tuple[str, str]]:
        """What the address says, in order; nothing of what is as usual."""
        pairs = [(name, one) for name, field in _LISTS.items() for one in getattr(self, field)]
        usual = Asked()
        pairs += [("k", str(self.k))] * (self.k != usual.k)
        pairs += [("group", "1")] * self.group + [("rerank", "1")] * self.rerank
        return [(name, value) for name, value in pairs if name not in without]

    @property
    def text(self) -> str:
        return urlencode(self.fields())

    def url(self, **changes: Any) -> str:
        """The page, with these changes."""
        text = replace(self, **changes).text
        return f"/?{text}" if text else "/"

    @property
    def anything(self) -> bool:
        """Whether there is something to search for."""
        return bool(self.kept or self.like)

    @property
    def fresh(self) -> Asked:
        """The same settings and filters, and nobody to search for."""
        return replace(self, kept=(), like=(), away=(), away_kept=())

    def onwards(self, point: str) -> str:
        """A search for what this point of the gallery shows."""
        return self.fresh.url(like=(point,))

    def without(self, name: str, value: str) -> str:
        """The page without one of its images, or filters."""
        field = _LISTS[name]
        return self.url(**{field: tuple(one for one in getattr(self, field) if one != value)})

    def toggled(self, field: str, value: str) -> str:
        """The page with one value of a field more, or less: several of one field are any of them."""
        before = self.chosen(field)
        chosen = [one for one in before if one != value] if value in before else [*before, value]
        others = self.where_without(field, "=", "absent")
        added = (str(RawCondition(field, "=", tuple(chosen))),) if chosen else ()
        return self.url(where=(*others, *added))

    def without_field(self, field: str) -> tuple[bool, str]:
        """Whether only images that lack a field are asked for, and the page where that is the other way round."""
        on = RawCondition(field, "absent") in self.conditions()
        others = self.where_without(field, "=", "absent")
        return on, self.url(where=others if on else (*others, str(RawCondition(field, "absent"))))

    def chosen(self, field: str) -> tuple[str, ...]:
        """The values that a field may have, as far as a filter says so."""
        conditions = self.conditions()
        return tuple(value for one in conditions if (one.field, one.operator) == (field, "=") for value in one.values)

    def bounds(self, field: str) -> tuple[str, str]:
        """The range of a field that the filters ask for; "" for no end."""
        ends = {one.operator: one.values[0] for one in self.conditions() if one.field == field and one.values}
        return ends.get(">=", ""), ends.get("<=", "")

    def ranged(self, field: str, low: str, high: str) -> Asked:
        """With another range of a field."""
        others = self.where_without(field, ">=", "<=")
        ends = [(">=", low.strip()), ("<=", high.strip())]
        added = [str(RawCondition(field, sign, (end,))) for sign, end in ends if end]  # type: ignore[arg-type]
        return replace(self, where=(*others, *added))

    def where_without(self, field: str, *operators: str) -> tuple[str, ...]:
        """The filters but those of a field; what is no filter stays, for the search to say so."""
        return tuple(
            text
            for text, one in self._filters()
            if one is None or one.field != field or (operators and one.operator not in operators)
        )

    def conditions(self) -> list[RawCondition]:
        """The filters that can be read."""
        return [one for _, one in self._filters() if one is not None]

    def _filters(self) -> Iterator[tuple[str, RawCondition | None]]:
        """Each as it is written, and as it is read; ``None`` for what is none."""
        for text in self.where:
            try:
                yield text, parse_where([text])[0]
            except FilterError:
                yield text, None


_MOST = 200
#: Names in the address, and what they are here.
_LISTS: Mapping[str, str] = {"q": "kept", "like": "like", "not": "away", "notq": "away_kept", "where": "where"}
