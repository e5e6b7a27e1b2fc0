"""Layouts: detection, scanning and human errors, on real directories and CSV files."""

from __future__ import annotations

import os
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.datasets.layouts import load_dataset, survey
from siamese_search.datasets.records import ImageRecord, decode_key, parse_market_name
from siamese_search.datasets.walk import PassedOver
from siamese_search.errors import DataError, UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def keys(root: Path, **options) -> list[str]:
    return [record.key for record in survey(root, **options).stream()]


def table(root: Path, text: str, name: str = "data.csv") -> Path:
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def fails(root: Path, *parts: str, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


MARKET = ("0002_c1s1_000451_03.jpg", "0002_c2s1_000451_03.jpg", "0007_c3s2_000001_00.jpg", "-1_c1s1_000401_03.jpg",
          "0000_c4s1_000001_01.jpg")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0002_c1s1_000451_03.jpg", ("0002", "1", {"sequence": 1, "frame": 451, "detection": 3})),
        ("-1_c1s1_000401_03.jpg", ("-1", "1", {"sequence": 1, "frame": 401, "detection": 3})),
        ("0000_c6s4_002893_04.jpg", ("0000", "6", {"sequence": 4, "frame": 2893, "detection": 4})),
        ("1501_c6s4_002893_04.jpg.jpg", ("1501", "6", {"sequence": 4, "frame": 2893, "detection": 4})),
        ("0002_c1s1_000451_03_bbox.png", ("0002", "1", {"sequence": 1, "frame": 451, "detection": 3})),
        ("0005_c2_f0046985.jpg", ("0005", "2", {"frame": 46985})),
        ("0001_c001_00016450_0.jpg", ("0001", "1", {"frame": 16450, "detection": 0})),
        ("0002_c1s1.jpg", None),
        ("x0002_c1s1_000451_03.jpg", None),
        ("-2_c1s1_000451_03.jpg", None),
        ("0002_c1s1_000451_03", None),
        ("\u0660\u0661_c1s1_000451_03.jpg", None),  # digits, but not ASCII ones
        ("0002_c1s1_000451_03.jpg\n", None),
    ],
)
def test_market_names(name, expected):
    assert parse_market_name(name) == expected


def test_market_directory_is_recognised_and_says_why(tmp_path):
    dataset = load_dataset(touch(tmp_path, *MARKET))
    assert dataset.layout == "market1501"
    assert dataset.reason == "names like -1_c1s1_000401_03.jpg (5 of 5 images)"
    assert dataset.identities == ["0002", "0007"]  # neither junk nor distractors
    assert [r.identity for r in dataset.records] == ["-1", "0000", "0002", "0002", "0007"]


def test_market_names_win_over_the_folders_they_are_in(tmp_path):
    root = touch(tmp_path, *(f"train/{name}" for name in MARKET), *(f"query/{name}" for name in MARKET))
    assert survey(root).detection.layout == "market1501"


def test_folders_give_the_first_folder_as_the_identity(tmp_path):
    root = touch(tmp_path, "ann/1.jpg", "ann/deep/er/2.png", "bob/1.JPEG", "README", "bob/notes.txt")
    dataset = load_dataset(root)
    assert dataset.layout == "folders"
    assert "2 folders" in dataset.reason
    assert [(r.key, r.identity) for r in dataset.records] == [
        ("ann/1.jpg", "ann"),
        ("ann/deep/er/2.png", "ann"),
        ("bob/1.JPEG", "bob"),
    ]
    assert all(r.path.is_file() and r.camera is None for r in dataset.records)


def test_flat_directories_have_no_identities(tmp_path):
    dataset = load_dataset(touch(tmp_path, "a.jpg", "b.png"))
    assert (dataset.layout, dataset.identities) == ("flat", [])


def test_one_folder_alone_is_no_identity_unless_asked_for(tmp_path):
    root = touch(tmp_path, "photos/a.jpg", "photos/b.jpg")
    assert survey(root).detection.layout == "flat"
    assert [r.identity for r in survey(root, "folders").stream()] == ["photos", "photos"]


def test_split_folders_are_not_taken_for_identities(tmp_path):
    fails(touch(tmp_path, "train/ann/1.jpg", "test/bob/1.jpg"), "test, train", "not identities")


@pytest.mark.parametrize(
    ("layout", "names", "offenders"),
    [
        ("market1501", ("a.jpg", "b.jpg", "c.jpg", "d.jpg", MARKET[0]), "4 images: a.jpg, b.jpg, c.jpg, …"),
        ("folders", ("a.jpg", "b.jpg", "ann/1.jpg"), "2 images: a.jpg, b.jpg;"),
    ],
)
def test_a_layout_that_does_not_fit_shows_the_first_three(tmp_path, layout, names, offenders):
    root = touch(tmp_path, *names)
    fails(root, layout, offenders, layout=layout)
    with pytest.raises(DataError):
        survey(root, layout).stream()  # on the call, before anything is ingested


@pytest.mark.parametrize("layout", ["auto", "asked for"])
@pytest.mark.parametrize(
    ("names", "found"), [(MARKET, "market1501"), (["ann/1.jpg", "ann/2.jpg", "bob/1.jpg"], "folders")]
)
def test_a_few_misfits_are_left_out_and_named(tmp_path, layout, names, found):
    root = touch(tmp_path, *names, "sheet.png", "thumb.jpg")
    dataset = load_dataset(root, "auto" if layout == "auto" else found)
    assert dataset.layout == found
    assert sorted(record.key for record in dataset.records) == sorted(names)
    assert f"; 2 left out, the first is sheet.png: does not fit the layout {found}" in dataset.reason
    assert len(list(survey(root).stream())) == len(names)


def test_what_has_no_images_that_are_read_says_what_it_has(tmp_path):
    (tmp_path / "a").write_bytes(b"\0\0\0\x20ftypavif")
    fails(tmp_path, "no images in it", "a: AVIF is not read")


def test_order_depends_on_names_alone(tmp_path):
    names = ["b/2.jpg", "a.jpg", "c/1.jpg", "b/10.jpg", "B/1.jpg", "b.jpg"]
    one, two = touch(tmp_path / "1", *names), touch(tmp_path / "2", *reversed(names))
    assert keys(one, layout="flat") == keys(two, layout="flat")
    assert sorted(keys(one, layout="flat")) == sorted(names)


def test_hidden_special_and_foreign_files_are_skipped(tmp_path):
    root = touch(tmp_path, "a.jpg", ".hidden.jpg", ".cache/b.jpg", "c.txt", "d.jpg.part")
    os.mkfifo(root / "pipe.jpg")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "dir.jpg").mkdir()
    assert keys(root) == ["a.jpg"]


def test_linked_files_count_and_linked_directories_do_not(tmp_path):
    root = touch(tmp_path / "root", "a.jpg", "sub/b.jpg")
    touch(tmp_path / "outside", "x.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "outside" / "x.jpg")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "sub" / "loop").symlink_to(root)
    assert keys(root, layout="flat") == ["a.jpg", "link.jpg", "sub/b.jpg"]


def test_following_links_ends_in_spite_of_loops(tmp_path):
    root = touch(tmp_path / "root", "a.jpg", "sub/b.jpg")
    touch(tmp_path / "outside", "x.jpg")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "sub" / "loop").symlink_to(root)
    (tmp_path / "outside" / "back").symlink_to(root)
    assert keys(root, layout="flat", follow_links=True) == ["a.jpg", "out/x.jpg", "sub/b.jpg"]


def test_a_root_that_is_a_link_is_walked(tmp_path):
    touch(tmp_path / "real", "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert keys(tmp_path / "link") == ["a.jpg"]


def test_names_that_are_not_utf8_survive(tmp_path):
    raw = b"caf\xe9%.jpg"
    (tmp_path / os.fsdecode(raw)).write_bytes(b"x")
    (record,) = survey(tmp_path).stream()
    record.key.encode("utf-8")
    assert os.fsencode(decode_key(record.key)) == raw
    assert record.path.read_bytes() == b"x"


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    for folder in range(40):
        touch(tmp_path, *(f"p{folder:02d}/{image:03d}.jpg" for image in range(100)))

    def peak(root: Path) -> int:
        tracemalloc.start()
        count = sum(1 for _ in survey(root, "flat").stream())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count % 100 == 0
        return found

    one = peak(tmp_path / "p00")
    # 40 times the images; the tree adds its top directory only. The smaller of two, because the interpreter's
    # own table of interned names may happen to grow in one of them.
    assert min(peak(tmp_path), peak(tmp_path)) < 3 * one


def test_folders_of_folders_are_named_with_the_pattern_that_takes_the_inner_ones(tmp_path):
    touch(tmp_path, "2024/anna/1.jpg", "2024/bob/1.jpg", "2025/anna/2.jpg")
    reason = survey(tmp_path).detection.reason
    (pattern,) = re.findall(r"--pattern '(\S+)' takes the innermost", reason)
    assert [one.identity for one in survey(tmp_path, f"pattern:{pattern}").stream()] == ["anna", "bob", "anna"]
    touch(tmp_path / "mixed", "people/anna/1.jpg", "people/bob/1.jpg", "more/1.jpg", "more/2.jpg", "queries/1.jpg")
    assert "innermost" in survey(tmp_path / "mixed").detection.reason
    touch(tmp_path / "flatter", "anna/1.jpg", "bob/1.jpg")
    assert "innermost" not in survey(tmp_path / "flatter").detection.reason


def test_images_that_lie_beside_folders_are_told(tmp_path):
    touch(tmp_path / "one", "anna/1.jpg", "2.jpg")
    told = survey(tmp_path / "one").detection
    assert (told.layout, "1 of 2 images in one folder: --layout folders takes anna" in told.reason) == ("flat", True)
    assert [one.identity for one in survey(tmp_path / "one", "folders", lenient=True).stream()] == ["anna"]
    touch(tmp_path / "few", "anna/1.jpg", "bob/1.jpg", *(f"{n}.jpg" for n in range(9)))
    assert "only 2 of 11 images in folders" in survey(tmp_path / "few").detection.reason


def test_a_table_without_a_header_is_told_to_get_one(tmp_path):
    touch(tmp_path, "a.jpg")
    fails(
        table(tmp_path, "a.jpg,anna\n"),
        "no path column among a.jpg, anna",
        "a header above them, such as path,identity",
    )


def test_missing_empty_and_wrong_roots(tmp_path):
    fails(tmp_path / "nowhere", "no such file or directory")
    fails(tmp_path, "no images")
    fails(touch(tmp_path, "note.md") / "note.md", "neither a directory of images nor a CSV")
    fails(tmp_path / ("x" * 300), "cannot be read (File name too long)")
    with pytest.raises(UsageError, match="market1501"):
        load_dataset(tmp_path, "market")
    touch(tmp_path, "a.jpg")
    fails(table(tmp_path, "path\na.jpg\n"), "needs a directory", layout="flat")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_named(tmp_path):
    root = touch(tmp_path, "a/1.jpg", "b/1.jpg")
    (root / "b").chmod(0)
    try:
        fails(root, "/b", "permissions")
    finally:
        (root / "b").chmod(0o755)


def test_csv_columns_become_typed_metadata(tmp_path):
    touch(tmp_path, "img/a.jpg", "img/b.jpg", "img/c.jpg")
    path = table(
        tmp_path,
        "\ufeffIdentity;Image;camera;age;weight;lost;site;mixed;zip;;big\n"
        'x1;img/a.jpg;1;41;70.5;true;"north; gate";true;0123;0;9\n'
        "x2;img/b.jpg;2;-3;1e1;False;;3;4567;1;99999999999999999999\n"
        ";img/c.jpg;;;;;;;;2;\n",
    )
    dataset = load_dataset(path)
    assert (dataset.layout, dataset.root) == ("csv", tmp_path)
    a, b, c = dataset.records
    assert (a.key, a.identity, a.camera) == ("img/a.jpg", "x1", "1")
    assert dict(a.metadata) == {
        "age": 41, "weight": 70.5, "lost": True, "site": "north; gate", "mixed": "true", "zip": "0123", "big": "9",
    }  # fmt: skip
    assert [type(v) for v in a.metadata.values()] == [int, float, bool, str, str, str, str]
    assert b.metadata["age"] == -3
    assert b.metadata["lost"] is False
    assert b.metadata["big"] == "99999999999999999999"  # no float64 is that number
    assert b.metadata["mixed"] == "3"  # one type for a column: no value fits both
    assert (c.identity, c.camera, dict(c.metadata)) == (None, None, {})


@pytest.mark.parametrize("column", ["path", "FILE", "filename", "Image"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_path_columns_and_delimiters(tmp_path, column, delimiter):
    touch(tmp_path, "a.jpg")
    (record,) = survey(table(tmp_path, f"{column}{delimiter}identity\r\na.jpg{delimiter}7\r\n")).stream()
    assert (record.key, record.identity) == ("a.jpg", "7")


def test_csv_names_are_found_beside_below_or_where_told(tmp_path):
    touch(tmp_path, "train/a.jpg", "data/a.jpg", "elsewhere/deep/a.jpg")
    path = table(tmp_path, "path\na.jpg\n")
    assert load_dataset(path).root == tmp_path / "data"  # named like the CSV
    assert load_dataset(table(tmp_path, "path\na.jpg\n", "x.csv")).root == tmp_path / "data"
    deep = tmp_path / "elsewhere" / "deep"
    assert survey(path, images_root=deep).detection.base == deep
    with pytest.raises(DataError, match="no such directory"):
        survey(path, images_root=tmp_path / "nowhere")


def test_csv_absolute_paths_are_kept_inside(tmp_path):
    touch(tmp_path / "in", "a.jpg")
    touch(tmp_path, "secret.jpg")
    assert keys(table(tmp_path / "in", f"path\n{tmp_path / 'in' / 'a.jpg'}\n")) == ["a.jpg"]
    for name in (str(tmp_path / "secret.jpg"), "../secret.jpg", "x/../../secret.jpg", "..", "."):
        fails(table(tmp_path / "in", f"path\n{name}\n"), "line 2", "leaves")


def test_csv_missing_files_are_counted(tmp_path):
    touch(tmp_path, "a.jpg")
    path = table(tmp_path, "path\na.jpg\n" + "".join(f"no{i}.jpg\n" for i in range(5)))
    fails(path, "5 images it names cannot be found", "no0.jpg, no1.jpg, no2.jpg, …")
    with pytest.raises(DataError):
        survey(path).stream()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("path,identity\n", "no rows"),
        ("identity,camera\n1,2\n", "no path column"),
        ("path,Age,age\na.jpg,1,2\n", "twice"),
        ("path,mtime_ns\na.jpg,1\n", "reserved"),
        ("path,x\na.jpg\n", "line 2: 1 fields"),
        ("path\na.jpg\na.jpg\n", "line 3: an earlier row has it"),
        ("path,x\n,1\n", "name is empty"),
        ("path,x\na.jpg," + "y" * 40_000 + "\n", "32768"),
        ('path,x\na.jpg,"' + "y" * 200_000 + "\n", "field larger"),
        ("path\x00,x\na.jpg,1\n", "not a text file"),
    ],
)
def test_csv_faults_are_one_line(tmp_path, text, part):
    touch(tmp_path, "a.jpg")
    fails(table(tmp_path, text), part)


def test_csv_in_utf16_is_named(tmp_path):
    (tmp_path / "data.csv").write_bytes("path\na.jpg\n".encode("utf-16"))
    fails(tmp_path / "data.csv", "UTF-16")


def test_csv_may_name_files_that_are_not_utf8(tmp_path):
    name = b"caf\xe9.jpg"
    (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    (tmp_path / "data.csv").write_bytes(b"path,who\n" + name + b",Ren\xe9\n")
    (record,) = survey(tmp_path / "data.csv").stream()
    assert os.fsencode(decode_key(record.key)) == name
    assert record.metadata["who"] == "René"


@given(st.binary(max_size=300) | st.text('path,;|\t\n\r"a.jpg12 \x00é').map(lambda text: f"path,x\n{text}".encode()))
def test_no_csv_raises_anything_but_a_data_error(tmp_path_factory, content):
    root = touch(tmp_path_factory.getbasetemp() / "fuzz", "a.jpg")
    (root / "data.csv").write_bytes(content)
    try:
        records = load_dataset(root / "data.csv").records
    except DataError:
        fails(root / "data.csv", "data.csv")  # one line that names the file
    else:
        assert {record.key for record in records} == {"a.jpg"}


def test_identities_keep_their_names_where_they_can(tmp_path):
    touch(tmp_path, "100%/a.jpg", "new\nline/a.jpg", os.fsdecode(b"\xe9/a.jpg"))
    assert load_dataset(tmp_path).identities == ["%E9", "100%", "new%0Aline"]


def test_csv_layout_in_a_directory_needs_exactly_one(tmp_path):
    touch(tmp_path, "a.jpg")
    fails(tmp_path, "has 0", layout="csv")
    table(tmp_path, "path\na.jpg\n")
    assert load_dataset(tmp_path, "csv").layout == "csv"
    table(tmp_path, "path\na.jpg\n", "other.csv")
    fails(tmp_path, "has 2 (data.csv, other.csv)", layout="triplets")


def test_triplets_from_market_names(tmp_path):
    a, p, n = MARKET[:3]
    touch(tmp_path, *(f"train/{name}" for name in MARKET))
    dataset = load_dataset(table(tmp_path, f"Anchor,Negative,Positive\n{a},{n},{p}\n"))
    assert (dataset.layout, dataset.root, dataset.triplets) == ("triplets", tmp_path / "train", [(a, p, n)])
    assert {r.key: r.identity for r in dataset.records} == {a: "0002", p: "0002", n: "0007"}


def test_triplets_from_folders_and_without_identities(tmp_path):
    touch(tmp_path, "x/1.jpg", "x/2.jpg", "y/1.jpg", "1.jpg", "2.jpg", "3.jpg")
    header = "anchor,positive,negative\n"
    folders = load_dataset(table(tmp_path, header + "x/1.jpg,x/2.jpg,y/1.jpg\n"))
    assert folders.identities == ["x", "y"]
    assert load_dataset(table(tmp_path, header + "1.jpg,2.jpg,3.jpg\n")).identities == []
    fails(table(tmp_path, header + "x/1.jpg,y/1.jpg,x/2.jpg\n"), "identities contradict 1 of 1 triplet:", "line 2")
    fails(table(tmp_path, header + "1.jpg,2.jpg,9.jpg\n"), "1 image it names cannot be found", "9.jpg")
    fails(table(tmp_path, header), "no rows")
    fails(table(tmp_path, "path\n1.jpg\n"), "must name the columns", layout="triplets")


@pytest.mark.data
def test_the_real_data_sets(data_dir):
    market = load_dataset(data_dir / "market1501" / "train")
    assert (market.layout, len(market.records), len(market.identities)) == ("market1501", 12936, 751)
    assert {r.camera for r in market.records} == set("123456")
    triplets = load_dataset(data_dir / "market1501" / "train.csv")
    assert (triplets.layout, len(triplets.triplets)) == ("triplets", 4000)
    assert {r.key for r in triplets.records} <= {r.key for r in market.records}
    faces = load_dataset(data_dir / "orl_faces")
    assert (faces.layout, len(faces.records), len(faces.identities)) == ("folders", 400, 40)


def test_whole_paths_lie_below_the_root_that_is_named(tmp_path):
    touch(tmp_path / "disk", "a.jpg")
    path = table(tmp_path, "path,identity\n" + f"{tmp_path / 'disk' / 'a.jpg'},ann\n", "x.csv")
    [record] = survey(path, images_root=Path("/")).stream()
    assert record.path == tmp_path / "disk" / "a.jpg"


def test_a_lenient_survey_passes_over_names_that_lead_elsewhere(tmp_path):
    touch(tmp_path / "in", "a.jpg", "b.jpg")
    touch(tmp_path, "secret.jpg")
    path = table(tmp_path / "in", "path,n\na.jpg,1\n../secret.jpg,2\n,3\n/etc/hostname,4\nb.jpg,5\n")
    found = list(survey(path, lenient=True).stream_all())
    assert [one.key for one in found if isinstance(one, ImageRecord)] == ["a.jpg", "b.jpg"]
    told = [(one.relative, one.reason) for one in found if isinstance(one, PassedOver)]
    assert [name for name, _ in told] == ["../secret.jpg", "", "/etc/hostname"]
    for (_, reason), line, word in zip(told, (3, 4, 5), ("leaves", "empty", "leaves"), strict=True):
        assert reason.startswith(f"line {line}: ")
        assert word in reason
    with pytest.raises(DataError, match=r"line 2: .* leaves"):
        survey(table(tmp_path / "in", "path,n\n../secret.jpg,2\n"), lenient=True)


@pytest.mark.parametrize("text", ["a.jpg\nno.jpg\n", "no.jpg\nno2.jpg\n"])
def test_a_lenient_survey_leaves_missing_files_to_whoever_reads(tmp_path, text):
    touch(tmp_path, "a.jpg")
    path = table(tmp_path, f"path\n{text}")
    if "a.jpg" in text:
        assert [record.key for record in survey(path, lenient=True).stream()] == ["a.jpg", "no.jpg"]
    else:
        with pytest.raises(DataError, match="2 images it names cannot be found"):
            survey(path, lenient=True)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("path,Person_ID,cam", "identity from column Person_ID; camera from column cam"),
        ("file,label,cam", "identity from column label; camera from column cam"),
        ("path,person id,camid", "identity from column person id; camera from column camid"),
        ("path,class,pid", "identity from column pid"),
        ("path,age", "no column identity, so its images have none"),
        ("path,identity,label", None),
    ],
)
def test_a_table_says_which_column_is_the_identity(tmp_path, header, told):
    touch(tmp_path, "a.jpg")
    path = table(tmp_path, f"{header}\na.jpg{',1' * header.count(',')}\n")
    reason = survey(path).detection.reason
    assert (told in reason) if told else "column" not in reason
    (record,) = survey(path).stream()
    taken = told is None or "from column" in told
    assert record.identity == ("1" if taken else None)
    assert record.camera == ("1" if "cam" in header else None)


def test_an_id_is_an_identity_only_where_it_comes_again(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    again = table(tmp_path, "path,id\na.jpg,7\nb.jpg,8\nc.jpg,7\n")
    assert [record.identity for record in survey(again).stream()] == ["7", "8", "7"]
    rows = table(tmp_path, "path,id\na.jpg,1\nb.jpg,2\nc.jpg,3\n", "rows.csv")
    assert "no value of id comes twice" in survey(rows).detection.reason
    assert [(record.identity, dict(record.metadata)) for record in survey(rows).stream()] == [
        (None, {"id": 1}),
        (None, {"id": 2}),
        (None, {"id": 3}),
    ]


def test_an_exported_gallery_is_read_as_a_table(tmp_path):
    touch(tmp_path / "p", "=x/0.jpg", "=x/1.jpg")
    rows = "".join(f"{i},'=x,p,{tmp_path}/p/=x/{i}.jpg,=x/{i}.jpg,1,2,{i}\n" for i in (0, 1))
    text = f"id,identity,source,path,key,crc,size,age\n{rows}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (table(tmp_path, text, "x.csv"), table(elsewhere, text, "x.csv")):
        records = load_dataset(path).records
        assert [(r.identity, r.metadata, r.path) for r in records] == [
            ("=x", {"age": i}, tmp_path / "p" / "=x" / f"{i}.jpg") for i in (0, 1)
        ]
    for cell in ("nan", "None", "1.0", "'<none>"):  # people of these names, whom only others' tables cannot have
        records = load_dataset(table(tmp_path, text.replace("'=x,p", f"{cell},p"), "x.csv")).records
        assert [r.identity for r in records] == [cell.removeprefix("'")] * 2


def test_names_are_composed_whoever_wrote_them(tmp_path):
    touch(tmp_path, "Zo\u00eb/0.jpg", "Zoe\u0308/1.jpg", "bob/2.jpg")
    records = load_dataset(tmp_path).records
    assert {record.identity for record in records} == {"Zo\u00eb", "bob"}
    assert len({record.key for record in records}) == 3
    # A table may spell a file in the other form, and name a column in it.
    path = table(tmp_path, "path,identity,Gro\u0308\u00dfe\nZoe\u0308/0.jpg,Zoe\u0308,a\u0308\n")
    (record,) = load_dataset(path).records
    assert (record.key, record.identity) == ("Zo\u00eb/0.jpg", "Zo\u00eb")
    assert record.metadata == {"Gr\u00f6\u00dfe": "\u00e4"}


def test_what_data_frames_write_for_gaps(tmp_path):
    touch(tmp_path, *(f"{n}.jpg" for n in range(4)))
    rows = ["0.jpg,a,1.0,20,nan", "1.jpg,nan,2.0,nan,red", "2.jpg,None,,22,x", "3.jpg,b,<NA>,,y"]
    path = table(tmp_path, "path,identity,camera,age,colour\n" + "\n".join(rows) + "\n")
    dataset = load_dataset(path)
    assert [r.identity for r in dataset.records] == ["a", None, None, "b"]
    assert [r.camera for r in dataset.records] == ["1", "2", None, None]
    assert [r.metadata.get("age") for r in dataset.records] == [20, None, 22, None]
    assert dataset.records[0].metadata["colour"] == "nan"  # a column of text says what it says
    for part in (
        "1 x nan in 'identity' taken as nothing",
        "1 x <NA> in 'camera'",
        "in 'age'",
        "camera 1.0 and the like",
    ):
        assert part in dataset.reason
    assert "colour" not in dataset.reason.partition("rows")[2]
    others = ["NA", "N/A", "n/a", "-nan", "#N/A", "#REF!", "#DIV/0!", "NULL", "null", "\\N"]  # of R, C, Excel, SQL
    touch(tmp_path, *(f"{n}.jpg" for n in range(len(others))))
    rows = "".join(f"{n}.jpg,{cell}\n" for n, cell in enumerate(others)) + "3.png,Null\n"  # a person
    told = load_dataset(table(touch(tmp_path, "3.png"), "path,identity\n" + rows))
    assert [r.identity for r in told.records] == [None] * len(others) + ["Null"]
    # One that is no whole number keeps them all as they are.
    mixed = table(tmp_path, "path,camera\n0.jpg,1.0\n1.jpg,1.5\n2.jpg,gate\n")
    assert [r.camera for r in load_dataset(mixed).records] == ["1.0", "1.5", "gate"]


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (["1", "1.0", "2"], ["1", "1", "2"]),  # one data frame had gaps, the other none
        (["1.0", "-1.0", "2.0"], ["1", "-1", "2"]),
        (["1;0", "-1;0", "2"], ["1", "-1", "2"]),  # as German and French spreadsheets write it
        (["1", "01", "2.0"], ["1", "01", "2.0"]),  # 01 is a name
        (["-1", "1", "2"], ["-1", "1", "2"]),
    ],
)
def test_whole_numbers_are_the_same_label_with_and_without_a_point(tmp_path, cells, wanted):
    touch(tmp_path, *(f"{n}.jpg" for n in range(len(cells))))
    rows = "".join(f"{n}.jpg|{cell}|{cell}\n" for n, cell in enumerate(cells)).replace(";", ",")
    records = load_dataset(table(tmp_path, "path|identity|camera\n" + rows)).records
    assert [record.identity for record in records] == [record.camera for record in records] == wanted


@pytest.mark.parametrize(
    "text",
    [
        'path,identity\n0.jpg,"a\n1.jpg,b\n2.jpg,c\n',
        'path,identity\n0.jpg,"a\n1.jpg,"b"\n2.jpg,c\n',
        'path,identity\n0.jpg,a\n1.jpg,"b',
        '"path,identity\n0.jpg,a\n1.jpg,b\n',
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path, text):
    touch(tmp_path, *(f"{n}.jpg" for n in range(3)))
    for lenient in (False, True):
        with pytest.raises(DataError, match=r"line|header"):
            survey(table(tmp_path, text), lenient=lenient)


def test_csv_as_excel_writes_it(tmp_path):
    touch(tmp_path, "p/a/0.jpg", "p/M\u00fcller/0.jpg")
    told = table(tmp_path, "sep=;\r\npath;identity\r\np/a/0.jpg;a,b\r\n")
    assert [(r.key, r.identity) for r in load_dataset(told).records] == [("p/a/0.jpg", "a,b")]
    windows = table(tmp_path, "path,identity\np\\a\\0.jpg,a\n")
    assert [r.key for r in load_dataset(windows).records] == ["p/a/0.jpg"]
    latin = tmp_path / "latin.csv"
    latin.write_bytes("path,identity,Gr\u00f6\u00dfe\np\\M\u00fcller\\0.jpg,M\u00fcller,\u20ac\n".encode("cp1252"))
    dataset = load_dataset(latin)
    (record,) = dataset.records
    assert (record.key, record.identity, record.metadata) == (
        "p/M\u00fcller/0.jpg",
        "M\u00fcller",
        {"Gr\u00f6\u00dfe": "\u20ac"},
    )
    assert "bytes that are not UTF-8 read as Windows-1252" in dataset.reason
    fails(table(tmp_path, "path\n..\\secret.jpg\n"), "cannot be found")


@pytest.mark.parametrize(
    "text",
    [
        'path, identity, note\n"0.jpg", "a, b", "x"\n1.jpg, c, ""\n',  # a space behind each comma, as people type
        '"path";"identity";"note, if any, of 1, 2"\n0.jpg;a, b;x\n1.jpg;c;\n',
    ],
)
def test_spaces_and_quotes_are_no_part_of_a_cell(tmp_path, text):
    touch(tmp_path, "0.jpg", "1.jpg")
    found = [(r.key, r.identity, *r.metadata.values()) for r in load_dataset(table(tmp_path, text)).records]
    assert found == [("0.jpg", "a, b", "x"), ("1.jpg", "c")]


def test_the_index_of_a_data_frame_that_was_read_and_written_again_is_no_metadata(tmp_path):
    touch(tmp_path, "0.jpg")
    text = "Unnamed: 0,Unnamed: 0.1,Unnamed: door,path,identity\n7,8,x,0.jpg,a\n"
    (record,) = load_dataset(table(tmp_path, text)).records
    assert record.metadata == {"Unnamed: door": "x"}


@pytest.mark.parametrize(
    ("cells", "odd"),
    [
        (["1,5", "2,25"], "1,5"),
        (["-1.234,5", "2,0"], "-1.234,5"),
        (["20", "-", "22"], "-"),
        (["1.5", "inf"], "inf"),
        (["TRUE", "1"], "1"),
        (["1", "99999999999999999999"], "99999999999999999999"),
        (["red", "2", "blue"], None),
        (["007", "008"], None),
    ],
)
def test_a_column_that_was_to_be_numbers_and_is_text_is_told(tmp_path, cells, odd):
    touch(tmp_path, *(f"{n}.jpg" for n in range(len(cells))))
    text = "path;age\n" + "".join(f"{n}.jpg;{cell}\n" for n, cell in enumerate(cells))
    dataset = load_dataset(table(tmp_path, text))
    assert [r.metadata["age"] for r in dataset.records] == cells
    told = f"age is text, because of '{odd}': numbers look like 1.5" if odd else "rows)"
    assert told in dataset.reason
    assert ("is text" in dataset.reason) == (odd is not None)


@pytest.mark.parametrize("cell", ["1.23457E+12", "1,2E+15", "9E+11"])
def test_identities_whose_digits_a_spreadsheet_cut_off_are_told(tmp_path, cell):
    touch(tmp_path, *(f"{n}.jpg" for n in range(4)))
    text = f"path;identity\n0.jpg;{cell}\n1.jpg;{cell}\n2.jpg;17\n3.jpg;1E7\n"
    assert f"identity {cell}: a spreadsheet cut off its digits" in load_dataset(table(tmp_path, text)).reason
    whole = load_dataset(table(tmp_path, text.replace(cell, "1234567890123")))
    assert "cut off" not in whole.reason


@pytest.mark.parametrize("name", ["0000", "-1"])
def test_a_person_with_the_name_of_nobody_is_a_person_where_names_are_not_market_1501s(tmp_path, name):
    touch(tmp_path / "d", f"{name}/0.jpg", f"{name}/1.jpg", "0001/1.jpg", "0002/2.jpg")
    path = table(tmp_path / "d", f"path,identity\n{name}/0.jpg,{name}\n0001/1.jpg,0001\n")
    for found in (load_dataset(tmp_path / "d", "folders"), load_dataset(path)):
        assert found.identities[0] == name
        assert all(one.is_somebody for one in found.records)
    touch(tmp_path / "m", f"{name}_c1s1_000001_01.jpg", "0001_c1s1_000001_01.jpg", "0002_c1s1_000001_01.jpg")
    found = load_dataset(tmp_path / "m")
    assert found.identities == ["0001", "0002"]
    assert [one.reserved for one in found.records if one.identity == name] == [name]
