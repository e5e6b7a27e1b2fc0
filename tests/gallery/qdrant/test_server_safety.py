"""The key and the URL: what goes where, and what is never seen."""

from __future__ import annotations

import copy
import os
import pickle
import traceback

import pytest

from siamese_search.errors import SettingsError, StoreError, UsageError
from siamese_search.gallery.edge.store import EmbeddedStore
from siamese_search.gallery.qdrant.address import (
    ApiKey,
    check_encryption,
    gets_key,
    parse_address,
    read_authorities,
    read_key,
)
from siamese_search.gallery.qdrant.store import connect
from siamese_search.settings import ServerSettings, Settings, load_settings

KEY = "s3cret-KEY-0123456789"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost", "http://localhost:6333"),
        ("https://Qdrant.example:443/", "https://qdrant.example:443"),
        ("http://10.0.0.7:7000/db/", "http://10.0.0.7:7000/db"),
        ("https://[::1]:6333", "https://[::1]:6333"),
    ],
)
def test_addresses(url, shown):
    assert parse_address(url).url == shown


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{KEY}@host:6333",
        f"https://{KEY}@host",
        f"http://host/?api_key={KEY}",
        f"http://host#{KEY}",
        f"ftp://host/{KEY}",
        f"file:///{KEY}",
        f"http://:6333/{KEY}",
        f"http://host:99999/{KEY}",
        f"http://ho st/{KEY}",
        f"http://[::1/{KEY}",
        f"grpc://host:6334/{KEY}",
    ],
)
def test_urls_that_cannot_be_are_refused_without_being_repeated(url):
    with pytest.raises(UsageError) as caught:
        connect(url, settings=Settings(insecure=True))
    assert KEY not in "".join(traceback.format_exception(caught.value)).replace(url, "")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost", True),
        ("http://127.8.9.10", True),
        ("http://[::1]", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("http://127.0.0.1.example", False),
        ("http://0.0.0.0", False),
    ],
)
def test_plain_http_beyond_this_machine_must_be_asked_for(url, local):
    place = parse_address(url)
    assert place.loopback == local
    if local:
        check_encryption(place, Settings())
    else:
        with pytest.raises(UsageError, match="--insecure"):
            check_encryption(place, Settings())
    check_encryption(place, Settings(insecure=True))
    check_encryption(parse_address(url.replace("http:", "https:")), Settings())


def test_a_key_shows_itself_nowhere():
    key = ApiKey(KEY)
    assert KEY not in f"{key} {key!r} {[key]} {vars(type(key))}"
    assert key.redact(f"header {KEY}!") == "header [key]!"
    assert key.reveal() == KEY
    for escape in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            escape(key)


def test_the_key_comes_from_the_variable_or_a_private_file(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o600)
    assert read_key({}) is None
    assert read_key({"SSS_API_KEY": KEY}).reveal() == KEY
    assert read_key({"SSS_API_KEY_FILE": str(file)}).reveal() == KEY
    file.chmod(0o400)
    assert read_key({"SSS_API_KEY_FILE": str(file)}).reveal() == KEY
    with pytest.raises(SettingsError, match="both set"):
        read_key({"SSS_API_KEY": KEY, "SSS_API_KEY_FILE": str(file)})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(mode)
    with pytest.raises(SettingsError, match="chmod 600") as caught:
        read_key({"SSS_API_KEY_FILE": str(file)})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("home", ["~nobody-of-this-name", "~"])
def test_the_home_of_nobody_is_a_name_like_any_other(home, monkeypatch):
    """In a container, the user may have neither a name nor a home."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31)
    path = f"{home}/x"
    assert EmbeddedStore(path).location == path
    assert load_settings(env={"SSS_STORE": path}).store == path
    for read in (
        lambda: read_key({"SSS_API_KEY_FILE": path}),
        lambda: read_authorities(Settings(server=ServerSettings(ca_file=path))),
    ):
        with pytest.raises(SettingsError, match=rf"{home}/x.*: No such file"):
            read()


def test_key_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "empty").touch(0o600)
    for name in ("missing", "pipe", "empty", ""):
        with pytest.raises(SettingsError):
            read_key({"SSS_API_KEY_FILE": str(tmp_path / name)})


@pytest.mark.parametrize("bad", [f"{KEY} x", f"{KEY}\nx: y", f"{KEY}é", "   ", KEY * 1000])
def test_what_cannot_be_a_key_is_refused_without_being_repeated(bad):
    with pytest.raises(SettingsError) as caught:
        read_key({"SSS_API_KEY": bad})
    assert KEY not in str(caught.value)


def settings_of(tmp_path, project="", user="", env=None):
    (tmp_path / "sss.toml").write_text(project)
    (tmp_path / "xdg" / "sss").mkdir(parents=True)
    (tmp_path / "xdg" / "sss" / "sss.toml").write_text(user)
    return load_settings(tmp_path, {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), **(env or {})})


HOST = "https://db.example:6333"


@pytest.mark.parametrize(
    ("project", "user", "env", "gets"),
    [
        (f'store = "{HOST}"', "", {}, False),
        (f'store = "{HOST}/other"', "", {}, False),
        (f'[search]\nstore = "{HOST}"', "", {}, False),
        (f'[push]\nto = "{HOST}"', "", {}, False),
        (f'store = "{HOST}"', 'trusted_hosts = ["db.example"]', {}, True),
        (f'store = "{HOST}"', 'trusted_hosts = ["DB.example:6333"]', {}, True),
        (f'store = "{HOST}"', 'trusted_hosts = ["db.example:1", "example"]', {}, False),
        (f'store = "{HOST}"', "", {"SSS_TRUSTED_HOSTS": "a, db.example"}, True),
        (f'store = "{HOST}"', "", {"SSS_STORE": HOST}, True),  # the user's own word comes last
        ("", f'store = "{HOST}"', {}, True),
        ("", "", {}, True),
        ('store = "https://elsewhere.example"', "", {}, True),
    ],
)
def test_a_host_that_the_project_names_gets_no_key_unless_trusted(tmp_path, project, user, env, gets):
    settings = settings_of(tmp_path, project, user, env)
    assert gets_key(parse_address(HOST), settings) == gets


@pytest.mark.parametrize(
    "project",
    [
        "insecure = true",
        'trusted_hosts = ["db.example"]',
        "[server]\ngrpc_port = 7000",
        '[server]\nca-file = "/tmp/ca.pem"',
        "[search]\ninsecure = true",
        '[serve]\nhost = "0.0.0.0"',
        '[serve]\nkey-file = "key"',
        '[serve]\nallow-host = ["example.org"]',
    ],
)
def test_the_project_cannot_weaken_the_care_that_is_taken(tmp_path, project):
    with pytest.raises(SettingsError, match="your own settings only"):
        settings_of(tmp_path, project)


def test_the_user_can(tmp_path):
    text = 'insecure = true\ntrusted_hosts = ["a"]\n[server]\ngrpc_port = 7000\n'
    settings = settings_of(tmp_path, user=text)
    assert (settings.insecure, settings.trusted_hosts, settings.server.grpc_port) == (True, ("a",), 7000)


def test_variables_set_the_server_too(tmp_path):
    env = {"SSS_SERVER_GRPC_PORT": "7001", "SSS_SERVER_CA_FILE": "/ca.pem", "SSS_SERVER_ON_DISK": "1"}
    server = settings_of(tmp_path, user="[server]\ngrpc_port = 7000", env=env).server
    assert (server.grpc_port, server.ca_file, server.on_disk) == (7001, "/ca.pem", True)
    with pytest.raises(SettingsError, match="SSS_SERVER_WAIT must be a whole number"):
        load_settings(tmp_path, {"SSS_SERVER_WAIT": "long"})


def test_server_settings_are_merged_and_checked(tmp_path):
    settings = settings_of(tmp_path, "[server]\nshards = 3\non-disk = true", "[server]\nshards = 2\nwait = 9")
    assert (settings.server.shards, settings.server.on_disk, settings.server.wait) == (3, True, 9)


@pytest.mark.parametrize(
    "line",
    ["shard = 3", 'shards = "3"', "shards = -1", "on_disk = 1", 'quantisation = "int2"', "wait = true", "m = 1.5"],
)
def test_server_settings_that_cannot_be(tmp_path, line):
    with pytest.raises(SettingsError, match=r"sss\.toml"):
        settings_of(tmp_path, f"[server]\n{line}")


def test_a_withheld_key_is_named_when_the_server_wants_one(tmp_path, monkeypatch):
    import warnings

    from .. import memory, wire

    warnings.simplefilter("ignore")
    server = wire.Server(memory.memory_client(), key=KEY)
    url = f"http://127.0.0.1:{server.rest_port}"
    try:
        user = f"[server]\ngrpc_port = {server.grpc_port}\nwait = 1"
        settings = settings_of(tmp_path, f'store = "{url}"', user)
        monkeypatch.setenv("SSS_API_KEY", KEY)
        with pytest.raises(StoreError, match=r"was not sent.*\./sss\.toml.*trusted_hosts") as caught:
            connect(url, settings=settings).names()
        assert KEY not in "".join(traceback.format_exception(caught.value))
        trusted = Settings(server=settings.server)
        with connect(url, settings=trusted) as store:
            assert store.names() == []
    finally:
        server.stop()
