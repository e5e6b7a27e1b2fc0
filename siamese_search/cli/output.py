"""What the commands print: the answer on stdout, everything else on stderr.

What strangers have named never reaches a terminal as markup or control characters (:func:`safe`), nor a CSV reader as a
formula (:func:`csv_cell`).
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from siamese_search.errors import EXIT_INTERRUPTED, amount, at_place, printable
from siamese_search.io.csv_cells import CsvWriter, csv_cell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ingest.summary import IngestSummary
    from siamese_search.datasets.records import Failure

Drawn = TypeVar("Drawn")
#: Controls that JSON itself does not escape: DEL, C1, and those that turn the direction of text.
_CONTROLS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
#: Formats of commands whose answer is a list.
LIST_FORMATS = ("table", "json", "jsonl", "csv", "paths")
#: ``--store``, ``--gallery`` and ``--insecure`` as they were given to this command: :func:`stand_at`.
_place: list[str] = []
#: Characters of a table that are held before they are written.
_CSV_AT_ONCE = 1_000_000


def stand_at(argv: Sequence[str]) -> None:
    """Take from a command line which store and gallery the commands mean that its messages name."""
    _place.clear()
    for at, word in enumerate(argv[: argv.index("--")] if "--" in argv else argv):
        flag, equals, value = word.partition("=")
        if flag in ("--store", "--gallery") and (equals or at + 1 < len(argv)):
            given = value if equals else argv[at + 1]
            if flag == "--store" and given.startswith(".."):  # holds in this directory alone
                given = str(Path(given).resolve())
            _place.extend((flag, given))
        elif word == "--insecure":
            _place.append(word)


def with_place(text: str) -> str:
    """The text, its ``sss calibrate`` and the like as they must be typed for the store and gallery of this command."""
    return at_place(text, _place)


def note(message: str) -> None:
    """One line on stderr: what was chosen, what was skipped, where a file went."""
    sys.stderr.write(f"{printable(with_place(' '.join(message.splitlines())))}\n")
    sys.stderr.flush()


def warn(message: str) -> None:
    """One line on stderr about something that went wrong but did not stop the work."""
    note(f"sss: warning: {message}")


def warn_skipped(failures: Iterable[Failure]) -> None:
    """A :func:`warn` for each input that was left out."""
    for failure in failures:
        warn(f"skipped {failure.shown}: {failure.reason}")


def safe(value: object) -> str:
    """Any value as one line of text without control characters or undecodable bytes; ``None`` is empty."""
    return "" if value is None else printable(str(value))


def write_text(text: str) -> None:
    """The answer, as lines of text, on stdout; what else could move a cursor in it is escaped."""
    lines = with_place(text).removesuffix("\n").split("\n")
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def write_json(value: object, *, lines: bool = False) -> None:
    """The answer as JSON on stdout: indented, or on one line. NaN and infinities become ``null``."""
    sys.stdout.write(to_json(value, indent=None if lines else 2) + "\n")


def write_answer(told: object, text: str | Callable[[], None], *, json: bool, lines: bool = False) -> None:
    """The answer, as JSON where that is asked for, else as text. Functions: what makes ``told``, what prints."""
    if json:
        write_json(told() if callable(told) else told, lines=lines)
    elif isinstance(text, str):
        write_text(text)
    else:
        text()


def interrupted(text: str) -> int:
    """Say what becomes of what was interrupted; the exit code."""
    note(f"sss: interrupted{text}")
    return EXIT_INTERRUPTED


def write_drawn(draw: Callable[[Drawn, Path], object], what: Drawn, out: Path | None) -> None:
    """Draw a picture or a page where one is asked for, and say so."""
    if out is not None:
        draw(what, out)
        note(f"wrote {safe(out)}")


def write_json_list(values: Iterable[object], *, lines: bool = False) -> None:
    """:func:`write_json` of a list, or of its elements on lines of their own; no more than one of it is in memory."""
    if lines:
        for value in values:
            write_json(value, lines=True)
        return
    before = "[\n  "
    for value in values:
        sys.stdout.write(before + to_json(value).replace("\n", "\n  "))
        before = ",\n  "
    sys.stdout.write("[]\n" if before.startswith("[") else "\n]\n")


def to_json(value: object, *, indent: int | None = 2) -> str:
    """Strict JSON (no NaN), readable UTF-8 except for undecodable bytes, which stay ``\\udcXX`` escapes, as do control
    characters beyond ASCII, some of which terminals obey."""
    plain = _plain(value)
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(plain, indent=indent, ensure_ascii=True, allow_nan=False)
    return text


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Path):
        return os.fspath(value)
    if hasattr(value, "item"):  # numpy scalars, without importing numpy
        return _plain(value.item())
    raise TypeError(f"{type(value).__name__} has no place in the JSON contract")


def write_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The answer as RFC 4180 CSV on stdout (lines end in ``\\n``, as every Unix tool expects). A field of the gallery
    with the name of another column gets a ``_`` behind it: no reader takes one name twice."""
    buffer = io.StringIO()
    writer = CsvWriter(buffer)
    names: list[str] = []
    for name in header:
        while name.casefold() in (other.casefold() for other in names):
            name += "_"
        names.append(name)
    for row in chain([names], rows):  # names of metadata come from strangers too
        writer.writerow([csv_cell(value) for value in row])
        if buffer.tell() > _CSV_AT_ONCE:
            sys.stdout.write(buffer.getvalue())
            buffer.seek(0)
            buffer.truncate()
    sys.stdout.write(buffer.getvalue())


def write_paths(paths: Iterable[str], *, null: bool = False) -> int:
    """One path per line: the file system's own bytes into a pipe, escaped text on a terminal.

    null: end each with a zero byte instead, as ``xargs -0`` wants it. A path with a line break would read as two
    paths, the second perhaps of any file there is: without null it is left out and named. Returns how many were.
    """
    left_out = 0
    for path in paths:
        if not null and ("\n" in path or "\r" in path):
            warn(f"left out {path!r}: it has a line break and would read as two paths; take --null (xargs -0)")
            left_out += 1
        elif null or (not sys.stdout.isatty() and hasattr(sys.stdout, "buffer")):
            sys.stdout.flush()
            sys.stdout.buffer.write(os.fsencode(path) + (b"\0" if null else b"\n"))
        else:
            sys.stdout.write(f"{printable(path)}\n")
    return left_out


def console(*, stderr: bool = False) -> Console:
    """A Rich console that reads no markup and obeys NO_COLOR, TERM and COLUMNS; into a pipe it never wraps or cuts."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 10_000
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)


#: A column of text or numbers keeps at least this much of its content on a narrow terminal, one of words half.
MOST_KEPT = 24

#: Colours of the words of a verdict.
_VERDICTS = {"yes": "green", "no": "red"}


def write_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[object]]) -> None:
    """A plain table on stdout. columns: (heading, kind) with kind ``text``, ``number``, ``words``, ``verdict`` or
    ``path``. On a narrow terminal ``words`` columns give way, cut at their end; the others stay whole. Where the table
    is wider than that, its last columns move to lines of their own: paths, which are there to be copied, or words, and
    then as many as it takes, so that nothing is cut away."""
    screen = console()
    screen.width = max(screen.width, 20)  # also of a terminal that says it is narrower
    cells = [[safe(value) for value in row] for row in rows]
    widths = [max([len(heading), *(len(row[index]) for row in cells)]) for index, (heading, _) in enumerate(columns)]
    least = [min(width, _least(kind)) + 3 for width, (_, kind) in zip(widths, columns, strict=True)]
    fit = len(columns) - (columns[-1][1] in ("path", "words") and sum(widths) + 3 * len(columns) > screen.width)
    while sum(least[:fit]) > screen.width:
        fit -= 1
    fit = max(fit, 1)
    # Captured, because Rich itself ends the process with code 1 when the reader of a pipe has gone.
    with screen.capture() as captured:
        screen.print(_table(columns[:fit], widths, cells))
    if fit == len(columns):
        sys.stdout.write(captured.get())
        return
    lines = captured.get().splitlines()
    head = len(lines) - len(cells) - 1  # below the rows is one more line
    sys.stdout.write("\n".join(lines[:head]) + "\n")
    for line, row in zip(lines[head:], cells, strict=False):
        rest = list(zip(columns, row, strict=True))[fit:]
        words = ", ".join(f"{heading} {text}".strip() for (heading, kind), text in rest if text and kind != "path")
        below = [words, *(text for (_, kind), text in rest if kind == "path")]
        sys.stdout.write("\n    ".join([line, *filter(None, below)]) + "\n")


def _table(columns: Sequence[tuple[str, str]], widths: Sequence[int], cells: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for (heading, kind), width in zip(columns, widths, strict=False):
        result.add_column(
            heading,
            justify="right" if kind == "number" else "left",
            no_wrap=kind != "words",  # Rich narrows no others
            overflow="ellipsis",
            min_width=min(width, _least(kind)),
        )
    for row in cells:
        shown = zip(row, columns, strict=False)
        styled = [(text, _VERDICTS.get(text, "") if kind == "verdict" else "") for text, (_, kind) in shown]
        result.add_row(*(Text(text, style, no_wrap=True) for text, style in styled))
    return result


def _least(kind: str) -> int:
    """How much of its content a column keeps on a narrow terminal, at least."""
    return MOST_KEPT // 2 if kind == "words" else MOST_KEPT


def clauses(text: str) -> str:
    """A sentence that is too long for one line, in a line for each part of it that a semicolon ends."""
    return text if len(text) <= 80 else text.replace("; ", ";\n")


def write_sentence(text: str, indent: str = "") -> None:
    """A sentence on stdout: its :func:`clauses`, broken between words where a terminal is narrower. indent: before each
    line but the first."""
    write_text("\n".join(_folded(line, indent) for line in clauses(text).replace("\n", f"\n{indent}").split("\n")))


def _folded(line: str, indent: str) -> str:
    """A line broken between words where a terminal is narrower. indent: before what comes below."""
    if not sys.stdout.isatty():
        return line
    from textwrap import fill

    width = max(console().width, 20)
    return fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def shown_path(path: Path) -> str:
    """Relative to the working directory where the image is below it: what a person would type."""
    if not isinstance(path, Path):  # a URL
        return str(path)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def write_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Aligned ``label  value`` lines on stdout, folded beside the labels; a path stays whole."""
    listed = [(label, value) for label, value in pairs if label or value is not None]
    width = max((len(label) for label, _ in listed), default=0)
    for label, value in listed:
        line = f"{label:<{width}}  {safe(value)}".rstrip()
        write_text(line if isinstance(value, Path) else _folded(line, " " * (width + 2)))


def ingested(summary: IngestSummary) -> str:
    """The summary of an ingest for people, in two lines."""
    counts = [(name, getattr(summary, name)) for name in ("new", "changed", "moved", "unchanged", "removed", "failed")]
    told = ", ".join(f"{count} {what}" for what, count in counts if count or what not in ("moved", "removed"))
    speed = f", {summary.images_per_second:.0f} images/s" if summary.embedded else ", nothing to embed"
    if summary.bottleneck is not None and summary.embedded:
        speed += f"; bottleneck: {summary.bottleneck}, busy {summary.busy(summary.bottleneck):.0%} of the time"
    return (
        f"{amount(summary.seen, 'image')}: {told} ({summary.seconds:.1f} s{speed})\n"
        f"gallery '{summary.collection}' in {printable(summary.store)}"
    )
