"""How ``sss search --timeline`` prints: a table per query, or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from siamese_search.cli.output import (
    safe,
    shown_path,
    write_csv,
    write_json,
    write_paths,
    write_table,
    write_text,
)

if TYPE_CHECKING:
    from siamese_search.retrieval.timeline import Sighting, Timeline


def print_timelines(timelines: Sequence[Timeline], format: str) -> None:
    if format == "json":
        write_json([timeline.to_json() for timeline in timelines])
    elif format == "jsonl":
        for timeline in timelines:
            write_json(timeline.to_json(), lines=True)
    elif format == "csv":
        _print_csv(timelines)
    elif format == "paths":
        write_paths(dict.fromkeys(str(hit.path) for one in timelines for hit in one.answer.results))
    else:
        shown = [timeline for timeline in timelines if timeline.answer.error is None]
        for index, timeline in enumerate(shown):
            _print_table(timeline, first=index == 0)


def _print_table(timeline: Timeline, *, first: bool) -> None:
    from siamese_search.render.marks import match_heading, percent, verdict_sentence

    answer = timeline.answer
    title = f"{safe(answer.query)}: {_who(timeline)}"
    write_text(title if first else f"\n{title}")
    marked = any(result.match is not None for result in answer.results)
    sequences = "sequence" in timeline.within
    columns = [("sequence", "number")] if sequences else []
    columns += [(safe(timeline.field), "number"), ("gap", "number"), ("camera", "text"), ("score", "number")]
    columns += [(match_heading(answer), "text"), ("probability", "number")] if marked else []
    columns += [("image", "path")]

    def row(sighting: Sighting) -> list[object]:
        result = sighting.result
        cells: list[object] = [result.metadata.get("sequence")] if sequences else []
        camera = result.camera
        if sighting.came_from is not None:
            camera = f"{sighting.came_from} → {result.camera}"
        cells += [sighting.time, _gap(sighting.gap, timeline.unit), camera, f"{result.score:.4f}"]
        if marked:
            cells += [{True: "yes", False: "no", None: ""}[result.match], percent(result.probability)]
        return [*cells, shown_path(result.path)]

    if timeline.sightings:
        write_table(columns, [row(sighting) for sighting in timeline.sightings])
    if timeline.within:
        place = " and ".join(timeline.within)
        write_text(
            f"{safe(timeline.field)} numbers count within one {place}: only there do order and gaps mean time"
        )
    if sentence := verdict_sentence(answer):
        write_text(sentence)


def _who(timeline: Timeline) -> str:
    """Whose sightings these are, and whether all are shown."""
    shown, total = len(timeline.sightings), timeline.total
    if timeline.identity is None:
        if not timeline.sightings:
            return "no sightings"
        kind = "matches" if timeline.answer.verdict is not None else "nearest images"
        return f"no identity known; the {shown:,} {kind}"
    count = (
        f"{shown:,} of {total:,} sightings" if shown < total else f"{shown:,} sighting{'s' * (shown != 1)}"
    )
    cameras = sorted({hit.camera for hit in timeline.answer.results if hit.camera is not None})
    by = f", by {len(cameras)} cameras" if len(cameras) > 1 else ""
    return f"identity {safe(timeline.identity)}, {count}{by}"


def _gap(gap: float | None, unit: str | None) -> str:
    """``+2 h 5 min``, or the bare difference where its unit is not known."""
    if gap is None:
        return ""
    if unit != "seconds":
        return f"+{gap:,.10g}"
    days, rest = divmod(round(gap), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        del parts[0]
    return "+" + " ".join(f"{count} {name}" for count, name in parts[:2] if count or name == parts[0][1])


def _print_csv(timelines: Sequence[Timeline]) -> None:
    header = [
        "query",
        "time",
        "gap",
        "came_from",
        "rank",
        "score",
        "identity",
        "camera",
        "path",
        "key",
        "match",
    ]
    extra = sorted({name for one in timelines for hit in one.answer.results for name in hit.metadata})
    rows = [
        [
            timeline.answer.query,
            sighting.time,
            sighting.gap,
            sighting.came_from,
            sighting.result.rank,
            f"{sighting.result.score:.6f}",
            sighting.result.identity,
            sighting.result.camera,
            str(sighting.result.path),
            sighting.result.key,
            sighting.result.match,
            *(sighting.result.metadata.get(name) for name in extra),
        ]
        for timeline in timelines
        for sighting in timeline.sightings
    ]
    write_csv([*header, *extra], rows)
