"""Keys, sessions and tokens, each by itself."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("fastapi", reason="the [web] extra is not installed")

from siamese_search.errors import UsageError
from siamese_search.web import security
from siamese_search.web.security import Security, allowed_hosts, cookie_name, is_loopback, read_key
from siamese_search.web.views import local

KEY = "0123456789abcdef-key"


def test_a_key_comes_from_a_file_of_ones_own_or_the_variable(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o600)
    assert read_key(file, {}) == KEY
    assert read_key(None, {"SSS_SERVE_KEY": KEY}) == KEY
    assert read_key(None, {}) is None


@pytest.mark.parametrize(("mode", "text", "why"), [
    (0o640, KEY, "others can read this key"),
    (0o604, KEY, "others can read this key"),
    (0o600, "short", "at least 16 letters"),
    (0o600, "sixteen letters and spaces", "at least 16 letters"),
    (0o600, "", "at least 16 letters"),
])  # fmt: skip
def test_a_key_that_protects_nobody_is_refused(tmp_path, mode, text, why):
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(UsageError, match=why):
        read_key(file, {})


def test_a_key_file_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_key(tmp_path / "missing", {})


def test_only_the_key_is_known():
    guarded = Security(KEY)
    assert guarded.knows(KEY)
    assert not any(map(guarded.knows, ["", KEY[:-1], KEY + "x", KEY.upper(), "\udcff"]))
    assert not Security(None).knows("")


def test_the_metrics_have_a_key_of_their_own_or_none():
    guarded = Security(KEY, metrics_key="metrics-0123456789")
    assert guarded.knows_for_metrics("metrics-0123456789")
    assert not guarded.knows("metrics-0123456789")
    assert not any(map(guarded.knows_for_metrics, ["", KEY, "metrics"]))
    assert not Security(KEY).knows_for_metrics("")
    for key in (None, "metrics-0123456789"):
        with pytest.raises(UsageError, match="SSS_SERVE_METRICS_KEY opens the metrics of a server that asks"):
            Security(key, metrics_key="metrics-0123456789")


def test_a_session_is_ours_or_none():
    ours, others = Security(KEY), Security("another key of 20 ch")
    text = ours.new_session(signed_in=True)
    assert ours.session(text) == (text, True)
    assert Security(KEY).session(text) == (text, True), "a restart signs nobody out"
    assert others.session(text) is None
    anonymous = ours.new_session(signed_in=False)
    assert ours.session(anonymous) == (anonymous, False)
    for forged in ("in" + anonymous.removeprefix("out"), text[:-1], text + "0", "", "....", "\udcff.é", "in.x.y.z"):
        assert ours.session(forged) is None
    ours.end(text)
    assert ours.session(text) is None


def test_a_session_ends(monkeypatch):
    guarded = Security(KEY)
    text = guarded.new_session(signed_in=True)
    now = time.time()
    monkeypatch.setattr(security.time, "time", lambda: now + 13 * 3600)
    assert guarded.session(text) is None


def test_tokens_differ_by_session_and_are_no_sessions():
    guarded = Security(None)
    one, two = (guarded.new_session(signed_in=False) for _ in range(2))
    assert guarded.token(one) == guarded.token(one) != guarded.token(two)
    assert guarded.session(guarded.token(one)) is None


def test_who_tries_too_many_keys_has_to_wait(monkeypatch):
    guarded = Security(KEY, failed=3)
    now = time.monotonic()
    monkeypatch.setattr(security.time, "monotonic", lambda: now)
    for _ in range(3):
        assert not guarded.blocked("10.0.0.1")
        guarded.failed("10.0.0.1")
    assert guarded.blocked("10.0.0.1")
    assert not guarded.blocked("10.0.0.2")
    monkeypatch.setattr(security.time, "monotonic", lambda: now + 61)
    assert not guarded.blocked("10.0.0.1")


def test_which_addresses_are_this_machine():
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "example.org", ""]))


def test_a_server_of_this_machine_answers_to_its_own_names():
    assert "example.org" not in allowed_hosts("127.0.0.1", ())
    assert "gallery.example.org" in allowed_hosts("127.0.0.1", ("Gallery.example.org",))
    assert allowed_hosts("0.0.0.0", ()) is None
    assert "example.org" not in allowed_hosts("0.0.0.0", ("gallery",))


def test_signing_in_leads_to_pages_of_ours_only():
    assert local("/identity?name=a%20b") == "/identity?name=a%20b"
    for elsewhere in ("//example.org", "/\\example.org", "https://example.org", "", "/a\r\nset-cookie: x"):
        assert local(elsewhere) == "/"


def test_two_servers_of_one_machine_have_two_cookies():
    names = {cookie_name(host) for host in ("localhost:8000", "localhost:8001", "localhost", "x:1;Path=/")}
    assert names == {"sss_session_8000", "sss_session_8001", "sss_session"}
