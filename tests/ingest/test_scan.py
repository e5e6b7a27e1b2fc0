"""The scan: every file as it is on disk, whatever its name; chunks that never grow."""

import os
from pathlib import Path

import pytest
from fakes import write_image

from ingest import scan
from ingest.scan import scan_files, survey_roots
from siamese_search.datasets.records import decode_key, encode_key
from siamese_search.errors import DataError

NAMES = [
    b"a.ppm",
    b"100%.ppm",
    b"%41.ppm",
    b"x\ny.ppm",
    b"\xff.ppm",
    "é.ppm".encode(),
    b"sub/\xfe/b.ppm",
    b"sub/c d.ppm",
]


@pytest.mark.parametrize("base", [b"plain", b"per%cent", b"\xff", "é".encode(), b"new\nline", b"with space"])
def test_keys_and_paths_name_the_files_whatever_they_are_called(tmp_path, base):
    root = tmp_path / os.fsdecode(base)
    picture = write_image(tmp_path / "a.ppm").read_bytes()
    for name in NAMES:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    (files,) = scan_files(survey_roots([root], "flat"))
    assert {os.fsencode(decode_key(file.record.key)) for file in files} == set(NAMES)
    for file in files:
        real = root / decode_key(file.record.key)
        assert file.record.path == real
        assert file.path == encode_key(real)
        assert decode_key(file.path) == os.fspath(real)
        status = real.stat()
        assert (file.size, file.mtime_ns, file.reason) == (status.st_size, status.st_mtime_ns, None)
        assert file.source == encode_key(root)


def test_a_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
    write_image(tmp_path / "root" / "a.ppm")
    monkeypatch.chdir(tmp_path)
    (files,) = scan_files(survey_roots([Path("root")]))
    assert files[0].path == f"{tmp_path}/root/a.ppm"


def test_chunks_never_grow_not_even_of_what_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "CHUNK", 4)
    write_image(tmp_path / "root" / "z.ppm")
    write_image(tmp_path / "outside.ppm")
    for number in range(11):
        (tmp_path / "root" / f"{number:02d}.ppm").symlink_to(tmp_path / "outside.ppm")
    chunks = list(scan_files(survey_roots([tmp_path / "root"])))
    assert [len(chunk) for chunk in chunks] == [4, 4, 4]
    assert [file.reason is None for chunk in chunks for file in chunk] == [False] * 11 + [True]
    followed = scan_files(survey_roots([tmp_path / "root"], follow_links=True))
    assert all(file.reason is None for chunk in followed for file in chunk)


def test_two_roots_of_one_source_may_not_share_a_key(tmp_path):
    for root in ("one", "two"):
        write_image(tmp_path / root / "a.ppm")
    surveys = survey_roots([tmp_path / "one", tmp_path / "two"])
    assert sum(len(chunk) for chunk in scan_files(surveys)) == 2
    with pytest.raises(DataError, match=r"both 'a.ppm' of source 'nas'"):
        list(scan_files(surveys, "nas"))
