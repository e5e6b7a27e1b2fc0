"""Any ``model.json`` at all: a bundle that says what it is, or one line that says why not."""

from __future__ import annotations

import copy
import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siamese_search.errors import BundleError
from siamese_search.model.bundle import load_bundle

#: What has stood where a number, a text or a list belongs.
VALUES = [
    None, True, False, 0, 1, -1, 1.5, 2**31, 2**63, 10**400, float("inf"), float("-inf"), float("nan"), "", "x", "1",
    "\ud800", "a" * 64, "\x1b[2J\n", [], [1], [[]], {}, {"a": 1}, {"bytes": -1, "sha256": "0" * 64},
]  # fmt: skip
#: Texts that are no description at all.
TEXTS = [
    "",
    "null",
    "[]",
    "1e999",
    "{",
    "{}",
    '{"format": 1}',
    '{"format": NaN}',
    "[" * 100_000,
    '{"a":' * 5_000,
    "9" * 5_000,
]

FILES = {"model.onnx": b"a graph", "model.safetensors": b"weights"}
META = {
    "format": 1,
    "fingerprint": "0" * 64,
    "embedding_dim": 32,
    "input": {"height": 64, "width": 32, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "heldout_identities": ["0001"],
    "metrics": {"rank1": 0.5},
    "calibration": {
        "false_match_rates": [0.1, 0.01], "thresholds": [0.3, 0.5], "slope": 9.0, "offset": -3.0, "genuine_pairs": 10,
        "impostor_pairs": 100,
    },
    "files": {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in FILES.items()
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzz")
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    return directory


def reads_or_says_why(directory, text):
    (directory / "model.json").write_bytes(text)
    said = ""
    try:
        found = load_bundle(directory)
        found.calibration  # noqa: B018 - read when it is asked for
        assert 1 <= found.dim <= 65_536
        assert all(8 <= side <= 4096 for side in found.input_size)
        assert len(found.fingerprint) == 64
        assert all(isinstance(one, str) for one in found.heldout_identities)
        for name in ("model.onnx", "model.safetensors"):
            found.read_checked(name)
    except BundleError as error:
        said = str(error)
    assert said.isprintable(), said


def test_the_corpus(bundle):
    reads_or_says_why(bundle, json.dumps(META).encode())
    assert load_bundle(bundle).calibration is not None  # sound as it is
    for text in TEXTS:
        reads_or_says_why(bundle, text.encode())


def _places(value, path=()):
    yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from _places(inner, (*path, key))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_any_place_is_a_bundle_or_one_line(bundle, data):
    meta = copy.deepcopy(META)
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        place = data.draw(st.sampled_from(sorted(_places(meta), key=str)), "place")
        value = data.draw(st.sampled_from(VALUES), "value")
        if not place:
            continue
        inside = meta
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = copy.deepcopy(value)
    reads_or_says_why(bundle, json.dumps(meta).encode())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 20), st.binary(max_size=4), st.integers(0, 8))
def test_any_bytes_are_a_bundle_or_one_line(bundle, at, put, gone):
    text = json.dumps(META).encode()
    at %= len(text) + 1
    reads_or_says_why(bundle, text[:at] + put + text[at + gone :])
