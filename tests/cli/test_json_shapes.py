"""docs/cli-json.md shows what the commands print: the same keys, the same types, key by key."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from siamese_search.gallery import open_gallery
from siamese_search.model.bundle import Bundle

Run = Callable[..., CompletedProcess[str]]
DOCUMENT = Path(__file__).parents[2] / "docs" / "cli-json.md"

#: Objects whose keys are data, not contract.
FREE = {"metadata", "fields", "metrics", "grid", "values"}


def documented(heading: str) -> Any:
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n.*?^```json\n(.*?)^```", text, re.S | re.M)
    assert found, heading
    return json.loads(found[1])


def same_shape(shown: Any, real: Any, where: str = "$") -> None:
    """``real`` has the keys and types of ``shown``; ``null`` on either side fits anything."""
    if shown is None or real is None:
        return
    if isinstance(shown, bool) or not isinstance(shown, (int, float)):
        assert type(shown) is type(real), where
    else:
        assert isinstance(real, (int, float)), where
        assert not isinstance(real, bool), where
    if isinstance(shown, dict) and where.rpartition(".")[2] not in FREE:
        assert list(shown) == list(real), where
        for key in shown:
            same_shape(shown[key], real[key], f"{where}.{key}")
    if isinstance(shown, list) and shown:
        for item in real:
            same_shape(shown[0], item, f"{where}[]")


def answer(done: CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_demo(sss: Run, tmp_path: Path) -> None:
    made = answer(sss("demo", tmp_path / "d", "--identities", "2", "--distractors", "0", "--json"))
    same_shape(documented("sss demo --json"), made)
    assert made["images"] == len(list((tmp_path / "d").rglob("*.jpg")))
    assert made["identities"] == ["0001", "0002"]


def test_ingest_and_its_failures(sss: Run, query: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "good.jpg").write_bytes(query.read_bytes())
    (photos / "broken.jpg").write_bytes(query.read_bytes()[:300])
    options = ("--store", tmp_path / "store", "--model", tiny_bundle.path, "--json")
    done = sss("ingest", photos, *options)
    made = answer(done, code=3)
    same_shape(documented("sss ingest --json"), made)
    assert (made["seen"], made["new"], made["unchanged"]) == (2, 1, 0)
    assert [Path(failure["path"]).name for failure in made["failed"]] == ["broken.jpg"]
    assert "sss: warning: skipped" in done.stderr
    assert "broken.jpg" in done.stderr
    again = answer(sss("ingest", photos, *options), code=3)
    assert (again["new"], again["unchanged"], again["images_per_second"]) == (0, 1, 0)


def test_search_and_its_failures(sss: Run, query: Path, demo_store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    done = sss("search", query, broken, "--store", demo_store, "-k", "3", "--format", "json")
    answers = answer(done, code=3)
    same_shape(documented("sss search --format json"), answers[:1])
    assert [entry["query"] for entry in answers] == [str(query), str(broken)]
    assert [result["rank"] for result in answers[0]["results"]] == [1, 2, 3]
    scores = [result["score"] for result in answers[0]["results"]]
    assert scores == sorted(scores, reverse=True)
    assert (answers[1]["results"], answers[1]["error"]) == ([], "empty file")
    assert Path(answers[0]["results"][0]["path"]).is_file()


def test_reranked_search(sss: Run, query: Path, demo_store: Path) -> None:
    how = ("--store", demo_store, "-k", "6", "--rerank", "--candidates", "5")
    (plain,) = answer(sss("search", query, "--store", demo_store, "-k", "6", "--format", "json"))
    (found,) = answer(sss("search", query, *how, "--format", "json"))
    assert found["candidates"] == 5
    assert {hit["key"] for hit in found["results"][:5]} == {hit["key"] for hit in plain["results"][:5]}
    assert ["reranked" in hit for hit in found["results"]] == [True] * 5 + [False]
    assert all(0 <= hit["reranked"] <= 1 for hit in found["results"][:5])
    scores = {hit["key"]: hit["score"] for hit in plain["results"]}
    assert all(hit["score"] == scores[hit["key"]] for hit in found["results"])
    shown = sss("search", query, *how).stdout
    assert "re-ranked" in shown.splitlines()[2]
    assert "ordered by k-reciprocal re-ranking of the nearest 5;" in shown
    header, *rows = sss("search", query, *how, "--format", "csv").stdout.splitlines()
    assert header.split(",")[8] == "reranked"
    assert [row.split(",")[8] == "" for row in rows] == [False] * 5 + [True]


def test_timeline(sss: Run, demo: Path, query: Path, demo_store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    how = ("--store", demo_store, "--timeline")
    lines = answer(sss("search", query, broken, *how, "--format", "json"), code=3)
    same_shape(documented("sss search --timeline --format json"), lines[:1])
    found, unreadable = lines
    assert unreadable["error"] == "empty file"
    assert found["time_field"] == "frame"
    assert {hit["identity"] for hit in found["sightings"]} == {found["identity"]}
    files = {path.name for path in (demo / "gallery").glob(f"{found['identity']}_*.jpg")}
    assert {hit["key"] for hit in found["sightings"]} == files
    assert found["total"] == len(files)
    places = [(hit["metadata"]["sequence"], hit["time"]) for hit in found["sightings"]]
    assert places == sorted(places)
    table = sss("search", query, *how).stdout
    assert f"identity {found['identity']}, {len(files)} sightings" in table.splitlines()[0]
    assert "only there do order and gaps mean time" in table
    paths = sss("search", query, *how, "--format", "paths").stdout.splitlines()
    assert [Path(path).name for path in paths] == [hit["key"] for hit in found["sightings"]]
    header, *rows = sss("search", query, *how, "-k", "2", "--format", "csv").stdout.splitlines()
    assert header.startswith("query,time,gap,came_from,rank,")
    assert len(rows) == 2
    (line,) = sss("search", query, *how, "--time-field", "camera", "--format", "jsonl").stdout.splitlines()
    cameras = [hit["camera"] for hit in json.loads(line)["sightings"]]
    assert cameras == sorted(cameras)


def test_grouped_search_lines(sss: Run, demo: Path, demo_store: Path) -> None:
    done = sss("search", demo / "queries", "--store", demo_store, "--group-by", "identity", "--format", "jsonl")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 6
    for line in lines:
        identities = [result["identity"] for result in line["results"] if result["identity"] != "0000"]
        assert len(identities) == len(set(identities))
        assert line["results"][0]["sightings"] >= 1
        assert isinstance(line["results"][0]["cameras"], list)


def test_plot(sss: Run, demo_store: Path) -> None:
    plotted = answer(sss("plot", "--store", demo_store, "--method", "pca", "--json"))
    same_shape(documented("sss plot --json"), plotted)
    assert plotted["total"] == len(plotted["points"]) > 0


def test_compare(sss: Run, query: Path, tiny_bundle: Bundle) -> None:
    done = sss("compare", query, query, "--threshold", "0.5", "--model", tiny_bundle.path, "--format", "json")
    compared = answer(done)
    same_shape(documented("sss compare --format json"), compared)
    assert (compared["same"], compared["threshold"], compared["false_match_rate"]) == (True, 0.5, None)


def test_quantise(sss: Run, demo: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    made = answer(
        sss(
            "quantise",
            demo / "gallery",
            "--model",
            tiny_bundle.path,
            "--out",
            tmp_path / "small",
            "--count",
            "8",
            "--json",
        )
    )
    same_shape(documented("sss quantise --json"), made)
    assert (made["calibrated_on"], made["measured_on"]) == (8, 8)
    assert 0.5 < made["least_cosine"] <= made["mean_cosine"] <= 1.0
    assert made["fingerprint"] != tiny_bundle.fingerprint
    again = sss("quantise", demo / "gallery", "--model", tmp_path / "small", "--out", tmp_path / "smaller")
    assert again.returncode == 2
    assert "int8 model already" in again.stderr


def test_evaluate(sss: Run, demo: Path, tiny_bundle: Bundle) -> None:
    done = sss("evaluate", demo / "gallery", "--queries", demo / "queries", "--model", tiny_bundle.path, "--json")
    report = answer(done)
    same_shape(documented("sss evaluate --json"), report)
    assert (report["queries"], report["gallery"], report["protocol"]) == (6, 26, "market")
    assert (report["flip"], report["reranked"], report["quantised"]) == (False, None, [])
    assert report["kept_calibration"] is None  # the tiny model has none


def test_evaluate_two_models(sss: Run, demo: Path, tiny_bundle: Bundle) -> None:
    both = ("evaluate", demo / "gallery", "--compare", tiny_bundle.path, tiny_bundle.path)
    pair = answer(sss(*both, "--json"))
    for side in ("a", "b"):
        same_shape(documented("sss evaluate --json"), pair[side])
    assert set(pair["differences"]) == {"rank1", "mAP", "mINP"}
    assert set(pair["differences"]["mAP"]) == {"a", "b", "difference", "low", "high", "better"}
    shown = sss(*both).stdout
    assert "95% interval" in shown
    assert "intervals by bootstrap over identities" in shown


def test_evaluate_with_the_extras_of_test_time(sss: Run, demo: Path, tiny_bundle: Bundle) -> None:
    report = answer(
        sss(
            "evaluate",
            demo / "gallery",
            "--model",
            tiny_bundle.path,
            "--flip",
            "--rerank",
            "--quantise",
            "int8",
            "--json",
        )
    )
    same_shape(documented("sss evaluate --json"), report)
    assert report["flip"] is True
    assert [one["quantisation"] for one in report["quantised"]] == ["int8"]
    assert (report["reranked"]["k1"], report["reranked"]["lambda"]) == (20, 0.3)
    assert [note.split(" ")[0] for note in report["notes"][-2:]] == ["flip", "re-ranked"]


def test_sweep_and_its_failures(sss: Run, demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    options = (
        "--preset", "apn", "--backbone", "test_efficientnet", "--dim", "8", "--epochs", "1", "--height", "32",
        "--width", "16", "--init", "none", "--holdout", "2", "--out", "s", "--margin",
        "0.5,1e39",
    )  # fmt: skip
    shape = documented("sss sweep --json")
    planned = answer(sss("sweep", demo / "gallery", *options, "--dry-run", "--json", cwd=tmp_path))
    same_shape(shape, planned)
    assert [run["state"] for run in planned["runs"]] == ["planned", "planned"]
    done = sss("sweep", demo / "gallery", *options, "--json", cwd=tmp_path)
    made = answer(done, code=3)
    same_shape(shape, made)
    good, bad = made["runs"]
    assert (good["values"], good["state"], good["reason"]) == ({"margin": 0.5}, "done", None)
    assert (bad["state"], bad["mAP"]) == ("failed", None)
    assert "the loss became inf" in bad["reason"]
    assert "sss: warning: margin=1e+39 failed: the loss became inf" in done.stderr
    # Each run is a bundle, and evaluate finds in it what the sweep found.
    report = answer(sss("evaluate", "--model", good["bundle"], "--json", cwd=tmp_path))
    assert report["exact"]["mAP"] == pytest.approx(good["mAP"], abs=1e-6)
    assert report["verification"]["auc"] == pytest.approx(good["auc"], abs=1e-6)
    shown = sss("sweep", "--resume", "s", cwd=tmp_path)
    assert shown.returncode == 3
    heading, first, second = (line for line in shown.stdout.splitlines() if re.search(r"\w", line))
    assert " ".join(heading.split()) == "margin AUC TPR@FPR 1 % TPR@FPR 10 % rank-1 mAP"
    assert first.split()[0] == "0.5"
    assert "failed: the loss became inf" in second


def test_info(sss: Run, demo_store: Path, tmp_path: Path) -> None:
    facts = answer(sss("info", "--store", demo_store, "--json"))
    same_shape(documented("sss info --json"), facts)
    assert facts["galleries"][0]["points"] == 26
    assert answer(sss("info", "--store", tmp_path / "none", "--json"))["galleries"] == []


def test_calibrate(sss: Run, demo_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(demo_store, store)
    made = answer(sss("calibrate", "--store", store, "--json"))
    same_shape(documented("sss calibrate --json"), made)
    assert made["identities"] == 6
    back = answer(sss("calibrate", "--undo", "--store", store, "--json"))
    same_shape(documented("sss calibrate --json"), back)
    assert back["calibration"] is None


def test_optimise_and_verify(sss: Run, demo_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(demo_store, store)
    done = answer(sss("optimise", "--index", "yes", "--store", store, "--json"))
    same_shape(documented("sss optimise --json"), done)
    assert (done["changed"], done["indexed_points"]) == (True, 26)
    assert answer(sss("optimise", "--store", store, "--json"))["changed"] is False
    sound = answer(sss("verify", "--store", store, "--json"))
    assert (sound["points"], sound["problems"]) == (26, [])
    with open_gallery(store, mode="w") as gallery:
        point = next(gallery.scroll(with_vectors=True))
        gallery.upsert([point.id], point.vector[None], [{**point.payload, "path": "/nowhere/x.jpg"}])
    found = sss("verify", "--store", store, "--json")
    wrong = answer(found, code=3)
    same_shape(documented("sss verify --json"), wrong)
    assert (wrong["missing"], wrong["problems"][0]["path"]) == (1, "/nowhere/x.jpg")
    assert "warning: missing /nowhere/x.jpg: no such file" in found.stderr
    assert answer(sss("verify", "--store", store, "--vectors-only", "--json"))["problems"] == []


def test_upkeep(sss: Run, demo_store: Path, tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path) -> None:
    store, far = tmp_path / "store", tmp_path / "far"
    pulled = answer(sss("pull", demo_store, "--store", store, "--json"))
    assert (pulled["from"], pulled["to"], pulled["copied"]) == (str(demo_store), str(store), 26)
    pushed = answer(sss("push", far, "--store", store, "--json"))
    assert list(pulled) == list(pushed)
    same_shape(documented("sss push --json"), pushed)
    made = answer(sss("reindex", "--model", other_bundle.path, "--store", store, "--json"))
    same_shape(documented("sss reindex --json"), made)
    assert (made["images"], made["embedded"], made["recall"]) == (26, 26, 1.0)
    held = answer(sss("info", "--store", store, "--json"))
    same_shape(documented("sss info --json"), held)
    assert held["galleries"][0]["previous"]["fingerprint"] == tiny_bundle.fingerprint
    back = answer(sss("rollback", "--store", store, "--json"))
    assert back == {"model": tiny_bundle.name, "former_model": other_bundle.name}
    same_shape(documented("sss rollback --json"), back)
    assert answer(sss("reindex", "--drop-old", "--store", store, "--json")) == {"generations_dropped": 1}
    dropped = answer(sss("drop", "default", "--yes", "--store", store, "--json"))
    same_shape(documented("sss drop --json"), dropped)
    assert answer(sss("info", "--store", store, "--json"))["galleries"] == []


def test_care(sss: Run, demo_store: Path, tmp_path: Path) -> None:
    """Export labels, take some away, propose others, apply and undo them; find a copy."""
    store = tmp_path / "store"
    shutil.copytree(demo_store, store)
    here = ("--store", store)
    exported = answer(sss("export", tmp_path / "g.csv", "--no-vectors", *here, "--json"))
    same_shape(documented("sss export --json"), exported)
    assert (exported["points"], exported["vectors"], exported["format"]) == (26, False, "csv")
    rows = (tmp_path / "g.csv").read_text().splitlines()
    at = rows[0].split(",").index("identity")
    cells = [line.split(",") for line in rows[1:]]
    edited = [",".join([*row[:at], "<none>" if row[at] == "0001" else "", *row[at + 1 :]]) for row in cells]
    (tmp_path / "g.csv").write_text("\n".join([rows[0], *edited]) + "\n")
    table = ("label", tmp_path / "g.csv", *here, "--json")
    planned = answer(sss(*table, "--dry-run"))
    shape = documented("sss label --json")
    same_shape(shape, planned)
    assert planned["changed"] == sum(row[at] == "0001" for row in cells) > 1
    done = answer(sss(*table, "--undo-file", tmp_path / "undo.csv"))
    same_shape(shape, done)
    assert {**done, "seconds": 0, "undo": None, "dry_run": True} == {**planned, "seconds": 0}
    review = tmp_path / "review.csv"
    found = answer(sss("cluster", review, *here, "--json", "--save", tmp_path / "sheet.png", "--min-score", "0.1"))
    same_shape(documented("sss cluster --json"), found)
    distractors = sum(row[at] == "0000" for row in cells)
    assert found["images"] == done["changed"] + distractors
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert answer(sss("label", review, *here, "--json"))["fields"].keys() <= {"identity"}
    assert answer(sss("label", tmp_path / "undo.csv", *here, "--json"))["changed"] == done["changed"]
    everyone = answer(sss("cluster", review, "--all", *here, "--json"))
    assert everyone["images"] == 26
    bad = sss("label", review, *here, "--columns", "weather")
    assert (bad.returncode, bad.stdout) == (1, "")

    with open_gallery(store, mode="w") as gallery:
        point = next(gallery.scroll(with_vectors=True))
        copy = tmp_path / "copy.jpg"
        shutil.copyfile(point.payload["path"], copy)
        twin = {**point.payload, "key": "copy.jpg", "path": str(copy)}
        gallery.upsert(["00000000-0000-0000-0000-000000000001"], point.vector[None], [twin])
    listed = sss("duplicates", *here, "--format", "json")
    groups = answer(listed)
    same_shape(documented("sss duplicates --format json"), groups)
    assert [group["kind"] for group in groups] == ["identical"]
    spare = sss("duplicates", *here, "--format", "paths").stdout.splitlines()
    assert spare == [groups[0]["images"][1]["path"]]
    assert "1 group, 1 image to spare" in sss("duplicates", *here).stdout
    assert len(sss("duplicates", *here, "--format", "csv").stdout.splitlines()) == 3
    assert len(sss("duplicates", *here, "--format", "jsonl").stdout.splitlines()) == 1
    with open_gallery(store, mode="w") as gallery:
        gallery.set_payload(["00000000-0000-0000-0000-000000000001"], [{"identity": "somebody else"}])
    for format in ("table", "paths"):
        assert "1 group of several identities" in sss("duplicates", *here, "--format", format).stderr


def test_plan(sss: Run) -> None:
    options = ("--images", "100M", "--storage", "float16", "--quantise", "int4")
    planned = answer(sss("plan", *options, "--json"))
    same_shape(documented("sss plan --json"), planned)
    assert planned["images"] == 100_000_000
    assert [row["storage"] for row in planned["server"] if row["asked"]] == [planned["storage"]]


def test_every_command_with_json_is_documented() -> None:
    from siamese_search.cli.main import COMMANDS

    text = DOCUMENT.read_text(encoding="utf-8")
    for name in set(COMMANDS) - {"serve"}:  # its JSON is that of an API: docs/serve.md
        assert f"## sss {name} --" in text
