"""Images by URL: a prefix of a bucket, a list of URLs, or one image, as a survey like that of a directory.

A bucket is listed once, whole, before anything is embedded: the layout needs all names, and what a complete listing
lacks has gone. It takes some 300 bytes per object.
"""

from __future__ import annotations

import codecs
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from siamese_search.datasets.csv_layout import CsvLayout
from siamese_search.datasets.layouts import Survey
from siamese_search.datasets.names import Detection, decide
from siamese_search.datasets.records import ImageRecord, encode_key
from siamese_search.datasets.table import Table, read_header
from siamese_search.datasets.walk import PassedOver, SystemFolders, is_system_folder
from siamese_search.errors import DataError, ImageError, UsageError, amount, printable
from siamese_search.io.images import is_image_name
from siamese_search.io.location import FileStamp, RemotePath, protocol_of, redacted
from siamese_search.io.remote import check_url, fetch, list_objects
from siamese_search.io.signatures import refused_name

_TABLES = (".csv", ".tsv", ".txt")
#: A list of a million URLs.
_MAX_LIST_BYTES = 256 << 20


@dataclass
class RemoteSurvey(Survey):
    """A root that is not on this machine. ``url``: its name, safe to store and print; no credentials are in it.

    listing: of a prefix, the images below it by their path there; empty for a list, whose records come from ``rows``.
    passed: what is passed over below a prefix, or in a list.
    """

    url: str = ""
    address: str = ""
    listing: dict[str, FileStamp] = field(default_factory=dict)
    passed: list[PassedOver] = field(default_factory=list)

    @property
    def shown(self) -> str:
        return printable(self.url)

    @property
    def source(self) -> str:
        return self.url

    def stream_all(self, *, inside: bool = False) -> Iterator[ImageRecord | PassedOver]:  # noqa: ARG002
        """The records; the ``path`` of each is a :class:`RemotePath`."""
        yield from self.rows or ()
        for relative, stamp in self.listing.items():
            record = self.record_of(relative)
            if isinstance(record, ImageRecord):
                record = replace(record, path=RemotePath.of(f"{self.address}/{relative}", stamp).as_path())
            yield record
        yield from self.passed

    def keys(self) -> set[str]:
        """The keys of all images that there are."""
        return {record.key for record in self.stream()}


def survey_remote(url: str, layout: str = "auto") -> RemoteSurvey:
    """List a prefix, or read a list of URLs, and decide the layout as for a directory or CSV.

    Raises UsageError for a URL that is not read here (:func:`~siamese_search.io.remote.check_url`), MissingExtraError,
    and DataError for what cannot be listed, has no images, or does not fit the layout.
    """
    protocol = check_url(url)
    if protocol not in ("http", "https"):
        return _survey_prefix(url.rstrip("/"), layout)
    name = urlsplit(url).path.lower()
    if name.endswith(_TABLES):
        return _survey_list(url, layout)
    if is_image_name(name):
        parts = urlsplit(redacted(url))
        rows, origin = [_record(url)], f"{parts.scheme}://{parts.netloc}"
        detection = Detection("flat", "one image", Path("/"))
        return RemoteSurvey(Path(name), detection, rows=rows, images=1, url=origin, address=url)
    raise UsageError(
        f"{printable(redacted(url))}: a web server lists nothing; give the URL of an image, or of a .csv or .txt with"
        " the URLs of images"
    )


def _survey_prefix(address: str, layout: str) -> RemoteSurvey:
    shown = redacted(address)
    if layout in ("csv", "triplets"):
        raise UsageError(f"{printable(shown)}: layout {layout} is for tables; choose folders, market1501 or flat")
    listing: dict[str, FileStamp] = {}
    passed: list[PassedOver] = []
    system = SystemFolders()
    for relative, stamp in list_objects(address):
        *folders, name = relative.split("/")
        if any(part.startswith(".") for part in (*folders, name)):
            continue
        inside = next((at for at, part in enumerate(folders) if is_system_folder(part)), None)
        if inside is not None:
            system.add("/".join(folders[: inside + 1]))
        elif (refused := refused_name(name)) is None:
            listing[relative] = stamp
        elif refused:
            passed.append(PassedOver(relative, refused))
    passed += system.passed_over()
    if not listing:
        raise DataError(
            f"{printable(shown)}: no images below it; check the bucket and the prefix, or see the formats in:"
            " sss ingest --help"
        )
    detection = replace(decide(shown, listing, layout)[0], base=Path("/"))
    return RemoteSurvey(
        Path(shown), detection, images=len(listing), url=shown, address=address, listing=listing, passed=passed
    )


def _survey_list(url: str, layout: str) -> RemoteSurvey:
    shown = redacted(url)
    if layout not in ("auto", "csv"):
        raise UsageError(f"{printable(shown)}: a list of URLs has the layout csv, not {layout}")
    try:
        content = fetch(RemotePath.of(url), limit=_MAX_LIST_BYTES)
    except ImageError as error:
        raise DataError(f"{printable(shown)}: {error.reason}") from None
    content = content.removeprefix(codecs.BOM_UTF8)
    # A plain list: whatever is in a line is its URL.
    if protocol_of(content[:16].decode("latin-1")) is not None:
        lines = (line.strip().replace(b'"', b'""') for line in content.splitlines())
        content = b"path\n" + b"".join(b'"%s"\n' % line for line in lines if line)
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(content)
        file.flush()
        try:
            table = read_header(Path(file.name))
            parsed = RemoteCsv(table, url)
            found = list(parsed.with_misfits())
        except DataError as error:
            raise DataError(str(error).replace(file.name, printable(shown))) from None
    rows = [one for one in found if isinstance(one, ImageRecord)]
    passed = [one for one in found if isinstance(one, PassedOver)]
    header = ",".join(map(printable, table.columns))
    reason = f"a list of URLs with the header {header[:80]} ({amount(len(rows), 'row')})"
    if parsed.unnamed and len(table.columns) > 1:
        reason += f"; {parsed.unnamed}"
    how = Detection("csv", reason, Path("/"))
    return RemoteSurvey(Path(shown), how, rows=rows, images=len(rows), url=shown, address=url, passed=passed)


class RemoteCsv(CsvLayout):
    """A CSV whose paths are URLs, or relative to the CSV's own."""

    def __init__(self, table: Table, url: str) -> None:
        self._url = url
        super().__init__(table, lenient=True)

    def _find_base(self, first: str, images_root: Path | None) -> Path:  # noqa: ARG002
        return Path("/")

    def _resolve(self, cell: str, line: int) -> str:
        address = urljoin(self._url, cell) if cell else ""
        try:
            check_url(address)
        except UsageError as error:
            raise DataError(f"{printable(redacted(self._url))}: line {line}: {error}") from None
        return address

    def _is_there(self, name: str) -> bool:  # noqa: ARG002 - asked when it is scanned: each costs a request
        return True

    def _place(self, name: str) -> tuple[str, Path]:
        record = _record(name)
        return record.key, record.path


def _record(address: str) -> ImageRecord:
    path = RemotePath.of(address)
    return ImageRecord(encode_key(path.url.partition("://")[2]), path.as_path())
