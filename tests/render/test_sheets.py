import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import write_image
from PIL import Image

from siamese_search.errors import SiameseSearchError, UsageError
from siamese_search.render import sheets
from siamese_search.render.canvas import BLUE, COLOURS, TILE_WIDTH, Canvas, elide
from siamese_search.render.marks import verdict
from siamese_search.render.sheets import draw_sheet
from siamese_search.retrieval.results import QueryResult, SearchResult

GREEN, RED, GREY = (COLOURS[kind] for kind in ("good", "bad", "unknown"))


def result(rank, identity, path, **more):
    return SearchResult(rank, 1 - rank / 50, identity, "1", Path(path), str(path), **more)


def query(path, *results, **more):
    return QueryResult(str(path), tuple(results), Path(path), **more)


def borders(png, height):
    """Per drawn row of tiles, the border colours from left to right, read from the picture itself."""
    with Image.open(png) as image:
        pixels = image.convert("RGB")
    step = TILE_WIDTH + sheets._GAP
    rows = []
    y = sheets.MARGIN + sheets._TITLE + height // 2
    while y < pixels.height:
        lefts = [sheets.MARGIN] + [
            sheets.MARGIN + step + 2 * sheets._GAP + column * step for column in range((pixels.width - 200) // step)
        ]
        rows.append([pixels.getpixel((x + 2, y)) for x in lefts if x + 2 < pixels.width])
        y += height + sheets._CAPTION + 2 * sheets._GAP
    return rows


@pytest.fixture
def picture(tmp_path):
    return write_image(tmp_path / "0007_c1s1_000001_01.jpg", size=(128, 64))


def height_of(results):
    return sheets._tile_height(sheets.paths_of(results))


def test_borders_tell_the_same_identity_from_others(picture, tmp_path):
    found = [result(1, "0007", picture), result(2, "0008", picture), result(3, None, picture)]
    answers = [query(picture, *found)]  # its Market-1501 name says that it is 0007
    out = draw_sheet(answers, tmp_path / "sheet.png")
    assert borders(out, height_of(answers)) == [[BLUE, GREEN, RED, GREY]]
    out = draw_sheet(answers, tmp_path / "sheet.png", truth=False)
    assert borders(out, height_of(answers)) == [[BLUE, GREY, GREY, GREY]]


def test_where_the_query_identity_comes_from(picture, tmp_path):
    anonymous = write_image(tmp_path / "who.jpg", size=(128, 64))
    seen = [result(1, "ann", picture), result(2, "bob", picture)]
    cases = [
        (query(anonymous, *seen), None, [GREY, GREY]),
        (query(anonymous, *seen, identity="bob"), None, [RED, GREEN]),
        (query(anonymous, *seen, identity="bob"), {str(anonymous): "ann"}, [GREEN, RED]),
        (query(anonymous, *seen, identity="bob"), ["ann"], [GREEN, RED]),
        (query(anonymous, *seen, identity="bob"), [None], [RED, GREEN]),
        (query(picture, *seen, identity="bob"), None, [RED, GREEN]),
    ]
    for answer, given, expected in cases:
        out = draw_sheet([answer], tmp_path / "sheet.png", query_identities=given)
        assert borders(out, height_of([answer])) == [[BLUE, *expected]]


def test_the_models_verdict_is_a_badge_and_never_the_frame(picture, tmp_path):
    anonymous = write_image(tmp_path / "who.jpg", size=(128, 64))
    found = [result(1, "ann", picture, match=True), result(2, None, picture, match=False)]
    for answer, expected in [
        (query(anonymous, *found), [GREY, GREY]),
        (query(anonymous, *found, identity="bob"), [RED, GREY]),
    ]:
        out = draw_sheet([answer], tmp_path / "sheet.png")
        assert borders(out, height_of([answer])) == [[BLUE, *expected]]
        with Image.open(out) as drawn:
            pixels = np.asarray(drawn.convert("RGB")).astype(int)[92:]  # below the legend
        for colour in (GREEN, RED):
            assert (np.abs(pixels - colour).max(axis=2) < 4).sum() > 300


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ("1", "1", "same"),
        ("1", "2", "different"),
        (None, "1", "unknown"),
        ("1", None, "unknown"),
        ("-1", "-1", "unknown"),  # junk is no identity: two junk boxes are not the same person
        ("1", "-1", "unknown"),
        ("0", "0000", "different"),
    ],
)
def test_verdict(mine, theirs, expected):
    assert verdict(mine, theirs) == expected


def test_the_sheet_grows_by_rows_and_wraps_by_columns(picture, tmp_path):
    found = [result(rank, "a", picture) for rank in range(1, 8)]
    sizes = {}
    for name, answers, columns in [
        ("one", [query(picture, *found[:3])], 10),
        ("two", [query(picture, *found[:3])] * 2, 10),
        ("wrapped", [query(picture, *found)], 3),
        ("unwrapped", [query(picture, *found)], 10),
    ]:
        with Image.open(draw_sheet(answers, tmp_path / f"{name}.png", columns=columns)) as image:
            assert image.format == "PNG"
            sizes[name] = image.size
    cell = height_of([query(picture)]) + sheets._CAPTION
    assert sizes["two"][1] - sizes["one"][1] == cell + 2 * sheets._GAP
    assert sizes["wrapped"][1] - sizes["unwrapped"][1] == 2 * cell
    assert sizes["wrapped"][0] < sizes["unwrapped"][0]


def test_only_so_many_queries_are_drawn(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, "MAX_QUERIES", 2)
    answers = [query(picture, result(1, "a", picture))] * 5
    out = draw_sheet(answers, tmp_path / "sheet.png")
    assert len(borders(out, height_of(answers))) == 2


def test_dirt_never_stops_the_drawing(picture, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(picture.read_bytes()[:80])
    nasty = os.fsdecode(b"/caf\xe9\n\x1b[31m.jpg")
    answers = [
        query(
            picture, result(1, "a" * 500, tmp_path / "gone.jpg"), result(2, "b\n\x00\u202e", tmp_path / "broken.jpg")
        ),
        query(nasty, error="no such file"),
        QueryResult("image 3", (result(1, "日本", picture, sightings=1200, cameras=tuple("123456789")),)),
        query(picture),
    ]
    out = draw_sheet(answers, tmp_path / "deep" / "sheet.png", title="x" * 300)
    with Image.open(out) as image:
        image.load()


def test_images_of_any_shape_fit_their_tiles(tmp_path):
    wide = write_image(tmp_path / "wide.png", size=(4, 900))
    tall = write_image(tmp_path / "tall.png", size=(900, 3))
    dot = write_image(tmp_path / "dot.png", size=(1, 1))
    answers = [query(wide, result(1, "a", tall), result(2, "b", dot))]
    low, high = sheets._TILE_HEIGHT
    assert low <= height_of(answers) <= high
    out = draw_sheet(answers, tmp_path / "sheet.png")
    assert borders(out, height_of(answers)) == [[BLUE, GREY, GREY]]


def test_what_cannot_be_drawn_or_written(picture, tmp_path):
    with pytest.raises(UsageError, match="no results"):
        draw_sheet([], tmp_path / "sheet.png")
    with pytest.raises(UsageError, match="at least 1 column"):
        draw_sheet([query(picture)], tmp_path / "sheet.png", columns=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(SiameseSearchError, match="cannot be written"):
        draw_sheet([query(picture)], tmp_path / "file" / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_elide_keeps_both_ends_and_as_much_as_fits():
    assert elide("short", lambda text: len(text) <= 9) == "short"
    for room in range(1, 20):
        shortened = elide("beginning-middle-end", lambda text, room=room: len(text) <= room)
        assert len(shortened) == room
        start, _, end = shortened.partition("…")
        assert "beginning-middle-end".startswith(start)
        assert "beginning-middle-end".endswith(end)


@pytest.mark.parametrize("text", ["Änne Müller", "François", "Łukasz Żak", "Ελένη", "Дмитрий"])
def test_names_of_many_languages_are_drawn_as_they_are_written(text):
    def drawn(part):
        canvas = Canvas(60, 40)
        canvas.text((5, 5), part, 15, (0, 0, 0))
        return canvas.image.tobytes()

    nothing = drawn("\u4e00")  # neither font has it: the box that stands for such
    assert not [one for one in text if drawn(one) == nothing]
    assert Canvas(9, 9).width_of(text, 13) < 13 * len(text)


#: Letters of a font that this machine gets, and names that ask for it.
_HAN = "王小明_01.jpg"


def _font_of(directory: Path, letters: str) -> None:
    """A font whose letters are all a black square of their own width."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for place in ((100, 800), (700, 800), (700, 0)):
        pen.lineTo(place)
    pen.closePath()
    names = [".notdef", *(f"u{ord(one):04x}" for one in letters)]
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(one): name for one, name in zip(letters, names[1:], strict=True)})
    font.setupGlyf({name: TTGlyphPen(None).glyph() if name == ".notdef" else pen.glyph() for name in names})
    font.setupHorizontalMetrics(dict.fromkeys(names, (800, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    directory.mkdir(parents=True)
    font.save(directory / "squares.ttf")


@pytest.mark.parametrize("there", [True, False], ids=["a font has them", "none has"])
def test_names_in_letters_of_few_fonts_are_drawn_or_escaped_and_never_boxes(tmp_path, there):
    """In a process of its own, for it is asked for the fonts of a home that is made here."""
    if there:
        _font_of(tmp_path / ".local" / "share" / "fonts", "".join(sorted(set(_HAN))))
    code = "import sys; from siamese_search.render.canvas import _drawable; text, font = _drawable(sys.argv[1], 13);"
    code += " print(ascii(text), font.getname()[0])"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / ".local" / "share")}
    done = subprocess.run(
        [sys.executable, "-c", code, _HAN], capture_output=True, text=True, check=True, env=environment
    )
    told, _, family = done.stdout.strip().rpartition("' ")
    if family == "Squares" or there:
        assert (told, family) == (ascii(_HAN)[:-1], "Squares")
    elif family == "DejaVu Sans":
        assert told == "'" + ascii(_HAN)[1:-1].replace("\\", "\\\\")
    else:
        assert told == ascii(_HAN)[:-1], "this machine has such a font of its own"
