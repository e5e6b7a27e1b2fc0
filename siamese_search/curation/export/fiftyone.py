"""FiftyOneDataset: the directory format that FiftyOne exports and imports itself.

    import fiftyone as fo
    dataset = fo.Dataset.from_dir(dataset_dir=OUT, dataset_type=fo.types.FiftyOneDataset)

``metadata.json`` has no ``version`` key, which makes it the variant of FiftyOne's LegacyFiftyOneDatasetImporter: every
version reads that one, and it needs neither object ids nor FiftyOne's database schema. ``samples.json`` holds a sample
per image, by absolute path: images are not copied.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.curation.export.rows import Batch, Column
from siamese_search.gallery.contract import Vectors
from siamese_search.gallery.payload import LABELLED

#: Of no use outside the gallery.
_LEFT_OUT = frozenset({"crc", "mtime_ns", "digest", "carried", "path", LABELLED})
#: Names that a sample has for itself.
_TAKEN = frozenset(
    {"id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "media_type", "embedding",
     "dataset", "dataset_id", "frames", "group", "in_dataset"}
)  # fmt: skip


def write_fiftyone(
    rows: Iterable[Batch], columns: Sequence[Column], out: Path, *, about: Mapping[str, str]
) -> tuple[int, int]:
    """Write into the empty directory ``out``; (samples, points left out because no path is known of them).

    identity: a Classification, so that FiftyOne colours, filters and evaluates by it. All other fields are plain;
    the vector is the vector field ``embedding``. about: goes into ``dataset.info``.
    """
    names = _names([column for column in columns if column.field not in _LEFT_OUT])
    where = next((at for at, column in enumerate(columns) if column.field == "path"), None)
    count = left_out = 0
    with (out / "samples.json").open("w", encoding="utf-8") as handle:
        handle.write('{"samples": [')
        for batch in rows:
            for row in range(len(batch.ids)):
                path = None if where is None else batch.values[where][row]
                if not path or not str(path).startswith("/"):
                    left_out += 1
                    continue
                sample: dict[str, Any] = {"filepath": path, "tags": [], "metadata": None}
                for column, values in zip(columns, batch.values):
                    if column.field in names and values[row] is not None:
                        sample[names[column.field]] = _value(column, values[row])
                if batch.vectors is not None:
                    sample["embedding"] = _packed(batch.vectors[row])
                handle.write((",\n" if count else "\n") + json.dumps(sample, ensure_ascii=False))
                count += 1
        handle.write("\n]}\n")
    document = {"media_type": "image", "info": {f"sss_{name}": text for name, text in about.items()}}
    (out / "metadata.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return count, left_out


def _value(column: Column, value: Any) -> Any:
    if column.field == "identity":
        return {"_cls": "Classification", "tags": [], "label": str(value)}
    return value


def _names(columns: Sequence[Column]) -> dict[str, str]:
    """Field -> a name that FiftyOne takes: letters, digits and ``_``, beginning with a letter, used once."""
    names: dict[str, str] = {}
    for column in columns:
        name = re.sub(r"\W", "_", column.field, flags=re.ASCII)
        if not name[:1].isalpha():
            name = f"f{name}"
        while name in _TAKEN or name in names.values():
            name += "_"
        names[column.field] = name
    return names


def _packed(vector: Vectors) -> dict[str, Any]:
    """A vector as FiftyOne stores one: a compressed .npy, as binary of MongoDB's extended JSON."""
    buffer = io.BytesIO()
    np.save(buffer, vector, allow_pickle=False)
    packed = zlib.compress(buffer.getvalue(), 1)
    return {"$binary": {"base64": base64.b64encode(packed).decode("ascii"), "subType": "00"}}
