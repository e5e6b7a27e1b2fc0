"""What ``sss serve`` is asked for, and the bounds that it keeps to."""

from __future__ import annotations

from dataclasses import dataclass

from siamese_search import options as shared
from siamese_search.options import Request, StrPath, option


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions(Request):
    """See :func:`siamese_search.web.server.serve`. What is ``None`` comes from the settings."""

    host: str = option("127.0.0.1", "Address to listen at; any but this machine's own needs a key.", metavar="ADDRESS")
    port: int = option(8000, "Port to listen at; 0 takes a free one.", low=0, high=65535, metavar="N")
    open: bool = option(False, "Open the page in a browser.")
    read_only: bool = option(False, "Show and search; change nothing.")
    key_file: StrPath | None = option(
        None, "File with the key that visitors need, readable by you alone.  [default: SSS_SERVE_KEY]", metavar="FILE"
    )
    allow_host: str | tuple[str, ...] = option(
        (), "Further name under which browsers reach this server; may be repeated.", many=True, metavar="NAME"
    )
    evaluation: StrPath | None = option(
        None, "Show this evaluation: the report.json of `sss evaluate --report`.", metavar="FILE"
    )
    ingest_failures: StrPath | None = option(
        None, "Show these failures: the file of `sss ingest --failures`.", metavar="FILE"
    )
    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()
    model: StrPath | None = shared.model()
    threads: int | None = shared.threads()


@dataclass(frozen=True, slots=True)
class Limits:
    """Of what one visitor may ask for. bytes: of a whole request; pixels: of one image; images: of one query."""

    bytes: int = 32 << 20
    pixels: int = 50_000_000
    images: int = 16
    k: int = 200
    #: Characters of a text, and entries of a list, in a request.
    text: int = 1000
    points: int = 10_000
    #: Seconds for a request to arrive.
    arrival: float = 20.0
    #: Requests that are answered at a time, and those of one address in a minute.
    at_once: int = 32
    per_minute: int = 6000
