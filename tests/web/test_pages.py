"""What the pages say, and where they lead, asked in this process: names as they are written, and no dead end."""

from __future__ import annotations

import re
import unicodedata

import pytest

pytest.importorskip("fastapi", reason="the [web] extra is not installed")

from fastapi.testclient import TestClient
from markupsafe import Markup

from siamese_search.errors import NotThereError
from siamese_search.gallery import open_gallery
from siamese_search.model.bundle import load_bundle
from siamese_search.web.app import create_app
from siamese_search.web.options import ServeOptions
from siamese_search.web.service import GalleryService
from siamese_search.workspace import reference

#: As a Mac's keyboard may send it: the letter and its accent apart.
APART = unicodedata.normalize("NFD", "Zoë Ångström")


class Visitor:
    """A browser without scripts."""

    def __init__(self, store, name="default"):
        self.service = GalleryService(ServeOptions(store=str(store), gallery=name))
        self.http = TestClient(create_app(self.service), base_url="http://127.0.0.1:8000")

    def see(self, path):
        """(status, the text between the tags of its main part)."""
        answer = self.http.get(path)
        return answer.status_code, text_of(answer.text)

    def send(self, path, start="/identities", **fields):
        """What comes of a form that stands on the page ``start``."""
        page = self.http.get(start)
        (token,) = set(re.findall(r'name="csrf_token" value="(\w+)"', page.text))
        fields["csrf_token"] = token
        return self.http.post(path, data=fields, headers={"referer": f"http://127.0.0.1:8000{start}"})


def text_of(page):
    main = page[page.index("<main") : page.index("</main>")]
    return " ".join(Markup(re.sub(r"<(?!/?span|/?code)", " <", main)).striptags().split())


@pytest.fixture
def visitor(copied):
    visitor = Visitor(copied)
    yield visitor
    visitor.service.close()


def test_an_identity_is_found_by_its_name_in_whatever_form_it_is_written(visitor):
    answer = visitor.send("/identity/rename", "/identity?name=0001", name="0001", to=f" {APART} ")
    assert answer.status_code == 200, text_of(answer.text)
    name = unicodedata.normalize("NFC", APART)
    assert f"Renamed 0001 to {name}. Undo {name}" in text_of(answer.text).replace(" best shot", "")
    holdings, labels = visitor.service.holdings, visitor.service.labels
    assert holdings.identity(APART).name == holdings.identity(name).name == name
    into = holdings.identity("0002").total
    merged = labels.merge(["0002"], APART)
    assert merged.changed == into
    labels.undo(merged.undo)
    assert labels.merge([APART, name], "0002").changed == holdings.identity("0002").total - into
    with pytest.raises(NotThereError):
        labels.rename(APART, "x")


def test_what_is_refused_leads_back_to_the_form(visitor):
    start = "/identity?name=0001"
    answer = visitor.send("/identity/rename", start, name="0001", to="0002")
    assert answer.status_code == 409
    assert f'href="{start}">Back</a>' in answer.text
    for page in ("/nowhere", "/identity/rename"):  # a browser that loads it again
        status, said = visitor.see(page)
        assert status in (404, 405)
        assert "There is no such page: begin with the search." in said
        assert "Back" not in said
    token = {"referer": "http://127.0.0.1:8000//example.org/"}
    assert 'href="/">Back' in visitor.http.post("/undo", data={"change": "x"}, headers=token).text


def test_names_of_files_and_people_are_not_given_a_capital(visitor):
    visitor.service.labels.rename("0001", "ada")
    files = {"images": ("label.py", b"import this")}
    (token,) = set(re.findall(r'name="csrf_token" value="(\w+)"', visitor.http.get("/").text))
    said = text_of(visitor.http.post("/search", data={"csrf_token": token}, files=files).text)
    assert "label.py: not an image" in said
    point = visitor.service.holdings.identity("ada").best
    _, said = visitor.see(f"/?like={point}")
    assert "Ada" not in said
    assert " ada" in said
    noted = visitor.service.labels.assign([point], {"identity": "bob"})
    assert "Set identity bob of 1 image." in visitor.see(f"/gallery?edit={noted.undo}")[1]


def test_an_empty_gallery_says_so_and_how_to_fill_it(tmp_path):
    with open_gallery(str(tmp_path), "new", model=reference(load_bundle(None)), create=True, mode="w"):
        pass
    visitor = Visitor(tmp_path, "new")
    assert f"The gallery is empty, and sss ingest --store {tmp_path} --gallery new DIR fills it." in visitor.see("/")[1]
    assert "No image of this gallery has a name." in visitor.see("/identities")[1]
    visitor.service.close()


def test_the_gallerys_page_says_what_its_model_measured(visitor):
    found = visitor.see("/gallery")[1]
    assert re.search(r"measured rank-1 \d+\.\d%, mAP \d+\.\d% on \d+ held-out identities", found), found
