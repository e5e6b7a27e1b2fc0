import math
from pathlib import Path

import pytest
from fakes import MODEL, MemoryGallery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.plan import payload_of, plan_files
from ingest.scan import ScannedFile
from siamese_search.datasets.records import NO_METADATA, ImageRecord, point_id

NAMES = st.sampled_from([*sorted(NO_METADATA), "size_", "weather", "crc_", "path__", 'a"b', "a\\b", ""])
METADATA = st.dictionaries(NAMES, st.one_of(st.text(max_size=5), st.integers(-9, 9), st.booleans(), st.floats()))


def scanned(key="a.jpg", size=10, mtime_ns=20, source="s", **record):
    return ScannedFile(ImageRecord(key, Path("/r") / key, **record), source, f"/r/{key}", size, mtime_ns)


def stored(*files):
    """A gallery in which these files have been ingested."""
    gallery = MemoryGallery()
    vector = [1.0] + [0.0] * (MODEL.dim - 1)
    payloads = [payload_of(file) for file in files]
    ids = [point_id(file.source, file.record.key) for file in files]
    gallery.upsert(ids, [vector] * len(files), payloads)
    return gallery


def action(file, gallery, **options):
    (planned,) = plan_files([file], gallery, **options)
    return planned.action


@settings(suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(METADATA)
def test_metadata_never_hides_a_field_of_ours_and_keeps_every_value(metadata):
    file = scanned(identity="ann", metadata=metadata)
    payload = payload_of(file)
    own = {"source": "s", "key": "a.jpg", "path": "/r/a.jpg", "size": 10, "mtime_ns": 20, "identity": "ann"}
    assert own.items() <= payload.items()
    assert "crc" not in payload
    assert "camera" not in payload
    finite = [v for v in metadata.values() if not (isinstance(v, float) and not math.isfinite(v))]
    others = [value for name, value in payload.items() if name not in own]
    assert sorted(map(repr, others)) == sorted(map(repr, finite))
    assert not any('"' in name or "\\" in name or not name for name in payload)
    # What is stored is what the next run plans: nothing changes by itself.
    assert action(file, stored(file)) == "unchanged"


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (scanned(), "unchanged"),
        (scanned(size=11), "changed"),
        (scanned(mtime_ns=21), "changed"),
        (scanned(mtime_ns=19), "changed"),
        (scanned(identity="ann"), "relabelled"),
        (scanned(camera="1"), "relabelled"),
        (scanned(metadata={"weather": "sun"}), "relabelled"),
        (scanned(key="b.jpg"), "new"),
        (scanned(source="other"), "new"),
    ],
)
def test_what_makes_a_file_new_changed_or_relabelled(now, expected):
    assert action(now, stored(scanned())) == expected


def test_a_label_that_was_taken_away_is_a_change():
    assert action(scanned(), stored(scanned(identity="ann"))) == "relabelled"
    assert action(scanned(identity="ann"), stored(scanned(camera="ann"))) == "relabelled"


def test_a_value_stored_as_text_because_its_field_is_mixed_is_not_a_change():
    file = scanned(metadata={"n": 1, "b": True, "f": 0.5, "t": "x"})
    gallery = stored(file)
    for _, payload in gallery.points.values():
        payload.update({"n": "1", "b": "true", "f": "0.5"})
    assert action(file, gallery) == "unchanged"
    assert action(scanned(metadata={"n": 2, "b": True, "f": 0.5, "t": "x"}), gallery) == "relabelled"


def test_reembed_plans_what_is_stored_as_changed():
    gallery = stored(scanned())
    assert action(scanned(), gallery, reembed=True) == "changed"
    assert action(scanned(key="b.jpg"), gallery, reembed=True) == "new"


def test_a_point_without_crc_is_embedded_again():
    gallery = stored(scanned())
    for _, payload in gallery.points.values():
        del payload["crc"]
    assert action(scanned(), gallery) == "changed"
