"""``sss ingest --engine ray`` and URLs, as a user types them."""

import json

import pytest
from fakes import write_market
from web import serve

from siamese_search.cli.main import main


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--address", "head:6379"], "--address and --workers are for --engine ray"),
        (["--workers", "2"], "--address and --workers are for --engine ray"),
        (["--engine", "ray", "--watch"], "--watch runs in one process"),
        (["--engine", "ray", "--address", "ray://head:10001"], "ray job submit"),
        (["--engine", "spark"], "'spark' is not one of"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_code_2(argv, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("ray")
    assert main(["ingest", str(tmp_path), *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / ".sss").exists()


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("ftp://host/a", [], "ftp://host/a: images are read from directories, s3://, gs:// and https://"),
        ("http://example.org/a.jpg?token=secret", [], "http://example.org/a.jpg: plain http://"),
        ("https://example.org/photos/?token=secret", [], "https://example.org/photos/: a web server lists nothing"),
        ("https://example.org/list.csv", ["--watch"], "list.csv: --watch needs files on this machine"),
    ],
)
def test_urls_that_cannot_be_ingested(url, options, words, tmp_path, capsys, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.chdir(tmp_path)
    assert main(["ingest", url, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "secret" not in err
    assert not (tmp_path / ".sss").exists()


def test_a_list_of_urls_is_ingested_and_searched(sss, tiny_bundle, tmp_path):
    pytest.importorskip("aiohttp")
    files = write_market(tmp_path / "images", identities=2)
    with serve() as site:
        site.files |= {f"/p/{file.name}": file.read_bytes() for file in files}
        site.files["/list.csv"] = "\n".join(
            ["path,identity", *(f"/p/{file.name}?token=secret,{file.name[:4]}" for file in files), "/p/gone.jpg,x"]
        ).encode()
        done = sss("ingest", f"{site.url}/list.csv?token=secret", "--json", "--model", tiny_bundle.path, cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["new"], answer["failed"]) == (8, [{"path": f"{site.url}/p/gone.jpg", "reason": "no such file"}])
        found = sss("search", files[0], "-k", 1, "--format", "json", "--save", "sheet.png", cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        (result,) = json.loads(found.stdout)[0]["results"]
        assert result["path"] == f"{site.url}/p/{files[0].name}"
        table = sss("search", files[0], "-k", 1, cwd=tmp_path, env={"COLUMNS": "200"})
        assert f"{site.url}/p/{files[0].name}" in table.stdout
        assert "secret" not in done.stderr + done.stdout + found.stdout + table.stdout
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.slow
def test_on_ray_stdout_is_the_answer_and_stderr_is_ours(sss, demo, demo_store, tiny_bundle, tmp_path):
    pytest.importorskip("ray.data")
    done = sss(
        "ingest", demo / "gallery", "--engine", "ray", "--threads", 1, "--json", "--store", tmp_path / "store",
        "--model", tiny_bundle.path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["new"] == answer["seen"] > 0
    assert answer["workers"] >= 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("ingest: ")]
    assert len(lines) == 1, done.stderr  # the layout
    for store in (tmp_path / "store", demo_store):
        galleries = sss("info", "--store", store, "--json")
        assert json.loads(galleries.stdout)["galleries"][0]["points"] == answer["new"]
    again = sss("ingest", demo / "gallery", "--engine", "ray", "--json", "--store", tmp_path / "store")
    assert json.loads(again.stdout)["unchanged"] == answer["new"]
    assert "workers" not in json.loads(again.stdout)  # nothing to embed: Ray was not started
