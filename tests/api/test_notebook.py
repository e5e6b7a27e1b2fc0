"""What people in notebooks do: the notebook of docs/, queries in memory, vectors, answers that show themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siamese_search as sss
from siamese_search.api.handle import Results
from siamese_search.datasets.demo import generate_demo
from siamese_search.model.bundle import Bundle

from ..support.notebook import NOTEBOOK, executed


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("notebook") / "demo"
    generate_demo(out, identities=4, cameras=2, distractors=1)
    return out


@pytest.fixture(scope="module")
def people(demo: Path, tiny_bundle: Bundle):
    sss.ingest(demo / "gallery", store=demo / "store", model=tiny_bundle.path)
    with sss.open(demo / "store") as opened:
        yield opened


@pytest.fixture
def query(demo: Path) -> Path:
    return min((demo / "queries").iterdir())


def test_the_notebook_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    kinds = [[sorted(out.get("data", out)) for out in cell.get("outputs", [])] for cell in kept["cells"]]
    done = executed(json.loads(json.dumps(kept)))
    shown = [[sorted(out.get("data", out)) for out in cell.get("outputs", [])] for cell in done["cells"]]
    assert shown == kinds
    text = json.dumps(done)
    assert text.count("data:image/jpeg") >= 3 * 9
    assert "unknown field 'colour'" in text


def test_a_query_is_the_same_in_every_form(people: sss.Gallery, query: Path) -> None:
    (plain,) = people.search(query, k=3)
    with Image.open(query) as image:
        for form in (image, np.asarray(image), query.read_bytes(), str(query)):
            (answer,) = people.search(form, k=3)
            assert [(r.id, r.score) for r in answer.results] == [(r.id, r.score) for r in plain.results]


def test_images_of_any_mode_and_orientation(people: sss.Gallery, query: Path) -> None:
    with Image.open(query) as image:
        forms = [image.convert(mode) for mode in ("L", "RGBA", "P", "CMYK", "1", "I;16")]
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter, as telephones have it
        held = io.BytesIO()
        image.transpose(Image.Transpose.ROTATE_90).save(held, "PNG", exif=exif)
    turned = people.search(held.getvalue(), k=1)[0]
    with Image.open(held) as image:
        assert people.search(image, k=1)[0].results[0].score == turned.results[0].score
    assert turned.results[0].score == people.search(query, k=1)[0].results[0].score
    answers = people.search(*forms, k=1)
    assert [answer.error for answer in answers] == [None] * len(forms)


def test_what_cannot_be_read_is_one_line(people: sss.Gallery, query: Path) -> None:
    with pytest.raises(sss.SiameseSearchError, match="image: not an image in one of") as caught:
        people.search(b"nothing")
    assert caught.value._render_traceback_() == [f"ImageError: {caught.value}"]
    good, bad = people.search(query, query.read_bytes()[:300], k=1)
    assert good.error is None
    assert bad.error is not None
    assert bad.query == "image 2"


def test_encode_gives_the_vectors_of_a_gallery(tiny_bundle: Bundle, demo: Path) -> None:
    model = sss.load_model(tiny_bundle.path, threads=1)
    paths = sorted((demo / "gallery").iterdir())
    vectors = model.encode(paths, batch_size=3)
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(paths), model.dim))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(model.encode(demo / "gallery"), vectors)  # bit for bit, whatever the batch
    assert np.array_equal(model.encode(paths[0]), vectors[:1])
    with Image.open(paths[1]) as image:
        mixed = model.encode([paths[0], np.asarray(image), image, paths[1].read_bytes()])
    assert np.array_equal(mixed, vectors[[0, 1, 1, 1]])
    assert model.encode([]).shape == (0, model.dim)
    with pytest.raises(sss.SiameseSearchError, match="image 2: image: "):
        model.encode([paths[0], b"nothing"])


def test_results_show_themselves(people: sss.Gallery, query: Path, demo: Path) -> None:
    answers = people.search(demo / "queries", k=2)
    assert isinstance(answers, Results)
    assert isinstance(answers[:1], Results)
    html = answers[:1]._repr_html_()
    assert html.count("data:image/jpeg") == 3
    assert "<script" not in html
    many = Results(list(answers) * 20)._repr_html_()
    assert f"the first 10 of {20 * len(answers)} queries" in many
    named = people.search(query.read_bytes(), k=1, where="camera=99")
    assert "no results" in named._repr_html_()


def test_names_in_what_is_shown_are_escaped(people: sss.Gallery, query: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "<script>alert(1)<.jpg"
    hostile.write_bytes(query.read_bytes())
    html = people.search(hostile, k=1)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_report_shows_and_draws_itself(demo: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    report = sss.evaluate(demo / "gallery", model=tiny_bundle.path, use_cameras=False)
    html = report._repr_html_()
    assert html.count("<svg") == 3
    assert f"{report.ranking.rank1:.1%}" in html
    figure = report.plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(figure.axes) == 3
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
