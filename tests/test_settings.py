import os
import tempfile
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.cli.main import COMMANDS, command_of
from siamese_search.errors import EXIT_USAGE, SettingsError
from siamese_search.settings import OUTPUTS, Settings, load_settings

VALUES = {
    "store": st.sampled_from(["s1", "s2", "/a b/c", "http://host:6334"]),
    "gallery": st.sampled_from(["one", "two"]),
    "model": st.sampled_from(["", "runs/x"]),
    "threads": st.integers(0, 64),
    "batch_size": st.integers(1, 512),
    "data": st.sampled_from(["d1", "d2"]),
}


def source():
    return st.fixed_dictionaries({}, optional=VALUES)


def toml(values):
    return "".join(f"{k} = {v!r}\n" if isinstance(v, int) else f'{k} = "{v}"\n' for k, v in values.items())


def load(tmp_path, text=None, env=None, user=None):
    if text is not None:
        (tmp_path / "sss.toml").write_text(text)
    if user is not None:
        (tmp_path / "xdg" / "sss").mkdir(parents=True, exist_ok=True)
        (tmp_path / "xdg" / "sss" / "sss.toml").write_text(user)
    return load_settings(tmp_path, {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), **(env or {})})


def test_without_any_source_the_defaults_hold(tmp_path):
    settings = load_settings(tmp_path, {})
    assert settings == Settings()
    assert (settings.store, settings.gallery, settings.model, settings.threads) == (".sss", "default", "", 0)
    assert settings.origin("store") == "default"


@given(user=source(), project=source(), env=source())
def test_the_later_source_wins_key_by_key(user, project, env):
    # An empty variable counts as unset; an empty value in a file counts.
    variables = {f"SSS_{k.upper()}": str(v) for k, v in env.items()}
    effective_env = {k: v for k, v in env.items() if str(v)}
    with tempfile.TemporaryDirectory() as name:
        settings = load(Path(name), toml(project), variables, toml(user))
        expected = {k: getattr(Settings(), k) for k in VALUES} | user | project | effective_env
        assert {k: getattr(settings, k) for k in VALUES} == expected
        for key in VALUES:
            if key in effective_env:
                assert settings.origin(key) == f"SSS_{key.upper()}"
            elif key in project:
                assert settings.origin(key) == str(Path(name) / "sss.toml")
            elif key in user:
                assert settings.origin(key) == str(Path(name) / "xdg/sss/sss.toml")
            else:
                assert settings.origin(key) == "default"


def test_command_tables_are_merged_key_by_key_and_dashes_are_underscores(tmp_path):
    settings = load(
        tmp_path,
        "batch-size = 8\n[train]\nepochs = 3\n[search]\nexclude-self = true\n",
        user="[train]\nepochs = 9\nlearning-rate = 0.1\n",
    )
    assert settings.batch_size == 8
    assert settings.commands == {"train": {"epochs": 3, "learning_rate": 0.1}, "search": {"exclude_self": True}}
    assert settings.origin("train.epochs") == str(tmp_path / "sss.toml")
    assert settings.origin("train.learning_rate") == str(tmp_path / "xdg/sss/sss.toml")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("stor = 'x'", ["unknown key 'stor'", "did you mean 'store'", "batch_size, data, gallery"]),
        ("zzz = 1", ["unknown key 'zzz'", "known: batch_size"]),
        ("threads = 'two'", ["threads must be a whole number", "a string ('two')"]),
        ("threads = true", ["threads must be a whole number", "true or false"]),
        ("threads = 1.5", ["threads must be a whole number", "a fraction (1.5)"]),
        ("threads = -1", ["threads must be from 0 to"]),
        ("batch_size = 0", ["batch_size must be from 1 to"]),
        ("store = 3", ["store must be a string", "a whole number (3)"]),
        ("store = ''", ["store must not be empty"]),
        ("store = ['a']", ["store must be a string", "a list"]),
        ("[store]\npath = 'x'", ["store must be a string", "a table"]),
        ('store = "a\\u0000b"', ["NUL"]),
        ("store = ", ["not valid TOML"]),
        ("threads = " + "9" * 5000, ["not valid TOML"]),
        ("a = " + "[" * 3000 + "]" * 3000, ["not valid TOML"]),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_would_be_right(tmp_path, text, parts):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "sss.toml"))
    assert "\n" not in message
    assert all(part in message for part in parts), message
    assert caught.value.exit_code == EXIT_USAGE


def test_a_variable_of_the_wrong_type_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"^SSS_THREADS must be a whole number, not 'many'$"):
        load_settings(tmp_path, {"SSS_THREADS": "many"})
    with pytest.raises(SettingsError, match=r"^SSS_BATCH_SIZE must be from 1"):
        load_settings(tmp_path, {"SSS_BATCH_SIZE": "0"})


def test_files_that_are_no_text_or_cannot_be_read(tmp_path):
    (tmp_path / "sss.toml").write_bytes(b"store = '\xff'")
    with pytest.raises(SettingsError, match="UTF-8"):
        load_settings(tmp_path, {})
    (tmp_path / "sss.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(SettingsError, match="no settings file"):
        load_settings(tmp_path, {})
    (tmp_path / "sss.toml").unlink()
    (tmp_path / "sss.toml").mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path, {})


def test_a_file_from_windows_begins_with_a_mark(tmp_path):
    (tmp_path / "sss.toml").write_bytes(b"\xef\xbb\xbfgallery = 'mine'\r\n")
    assert load_settings(tmp_path, {}).gallery == "mine"


def test_where_the_users_file_is(tmp_path):
    (tmp_path / ".config/sss").mkdir(parents=True)
    (tmp_path / ".config/sss/sss.toml").write_text("gallery = 'mine'")
    work = tmp_path / "work"
    work.mkdir()
    assert load_settings(work, {"HOME": str(tmp_path)}).gallery == "mine"
    assert load_settings(work, {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "relative"}).gallery == "mine"
    assert load_settings(work, {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(work)}).gallery == "default"
    assert load_settings(work, {}).gallery == "default"


def test_a_tilde_is_the_home_directory_in_paths_only(tmp_path):
    settings = load(tmp_path, "store = '~/s'\nmodel = '~'\ndata = '~x'\ngallery = '~g'")
    assert settings.store == str(Path("~/s").expanduser())
    assert settings.model == str(Path.home())
    assert (settings.data, settings.gallery) == ("~x", "~g")


def test_command_tables_are_checked_against_the_options_there_are(tmp_path):
    known = {"train": ["epochs", "learning-rate"], "search": ["k"]}
    load(tmp_path, "[train]\nlearning-rate = 1\n").check_commands(known)
    with pytest.raises(SettingsError, match="unknown section 'trian'; did you mean 'train'") as caught:
        load(tmp_path, "[trian]\nepochs = 1\n").check_commands(known)
    assert str(caught.value).startswith(str(tmp_path / "sss.toml"))
    with pytest.raises(SettingsError, match=r"unknown key in \[train\] 'epoch'; did you mean 'epochs'"):
        load(tmp_path, "[train]\nepoch = 1\n").check_commands(known)
    with pytest.raises(SettingsError, match="unknown section 'empty'"):
        load(tmp_path, "[empty]\n").check_commands(known)


def test_a_pipe_is_no_settings_file_and_holds_nobody(tmp_path):
    os.mkfifo(tmp_path / "sss.toml")
    with pytest.raises(SettingsError, match="not a regular file; this is no settings file"):
        load_settings(tmp_path, {})


def test_settings_may_be_a_link(tmp_path):
    (tmp_path / "shared.toml").write_text("gallery = 'mine'")
    (tmp_path / "sss.toml").symlink_to("shared.toml")
    assert load_settings(tmp_path, {}).gallery == "mine"


@pytest.mark.parametrize("key", ["save", "undo-file", "report"])
def test_the_project_chooses_no_outputs(tmp_path, key):
    text = f'[search]\n{key} = "{tmp_path}/thesis.html"\n'
    with pytest.raises(SettingsError, match=rf"sss\.toml: \[search\] {key} chooses what is written"):
        load(tmp_path, text)
    (tmp_path / "sss.toml").unlink()
    assert load(tmp_path, user=text).commands["search"] == {key.replace("-", "_"): f"{tmp_path}/thesis.html"}


def test_every_option_that_names_a_file_is_an_output_or_known_to_be_read():
    read = {"teacher", "init", "holdout_ids", "images_root", "queries", "model", "store", "compare"}
    read |= {"labels", "key_file", "evaluation", "ingest_failures"}
    for name in COMMANDS:
        for one in command_of(name).params:
            metavar = str(getattr(one, "metavar", "") or "")
            names_a_file = isinstance(one.type, click.Path) or metavar.startswith(("FILE", "DIR"))
            if one.param_type_name == "option" and names_a_file:
                assert one.name in OUTPUTS | read, (name, one.name)
