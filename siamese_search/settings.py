"""Settings: defaults < user ``sss.toml`` < ``./sss.toml`` < ``SSS_*`` variables, as one frozen dataclass.

The user's file is ``$XDG_CONFIG_HOME/sss/sss.toml`` (``~/.config`` where that is unset). Where each value came from is
kept, so that a message can name it. The table ``[server]`` is :class:`ServerSettings`; one per command (``[train]``
with ``epochs = 3``) has the defaults of its options, which :meth:`Settings.check_commands` checks.

``./sss.toml`` may come with somebody else's data. It can therefore not say what weakens the care taken of the API key
(``insecure``, ``trusted_hosts``, ``server.grpc_port``, ``server.ca_file``), who is let into ``sss serve``, nor what is
written (:data:`OUTPUTS`): only the user's own file and variables can.
"""

from __future__ import annotations

import difflib
import errno
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from siamese_search.errors import SettingsError, printable
from siamese_search.io.files import expanded, read_regular

QUANTISATIONS = ("none", "int8", "int4", "binary")

#: More shards than this a gallery cannot have.
MOST_SHARDS = 1024

FILE_NAME = "sss.toml"
ENV_PREFIX = "SSS_"
DEFAULT_ORIGIN = "default"

#: A settings file is a page of text; anything larger was named by mistake.
_MAX_FILE_BYTES = 1 << 20

#: Smallest and largest value of each number. ``threads`` = 0 means: as many as there are cores.
_BOUNDS: dict[str, tuple[int, int]] = {
    "threads": (0, 1024),
    "batch_size": (1, 65536),
    "grpc_port": (0, 65535),
    "wait": (0, 86400),
    "shards": (0, MOST_SHARDS),
    "replicas": (0, 64),
    "write_consistency": (0, 64),
    "m": (0, 256),
    "ef_construct": (0, 4096),
}

_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    list: "a list of strings",
}

#: What ``./sss.toml`` cannot say; the last three open ``sss serve`` to others.
_USER_ONLY = frozenset(
    {"insecure", "trusted_hosts", "server.grpc_port", "server.ca_file", "host", "key_file", "allow_host"}
)
#: Options of commands that name what is written: a stranger's settings could name any file of the user's.
OUTPUTS = frozenset(
    {"save", "star", "plot", "report", "out", "resume", "failures", "undo_file", "health_file", "calibrate"}
)
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of galleries on a server. 0 leaves a number to the server's own configuration.

    All but the first three take effect where a collection is made (``sss ingest``, ``sss reindex``).

    grpc_port: of the server's gRPC interface; 0 speaks REST alone. The user's own settings only: a key goes there.
    ca_file: the certificates (PEM) of the authorities to trust, in place of the system's. The user's own settings only.
    wait: seconds for which a writer waits for a server that does not answer; a search waits 10 at most.
    shards, replicas, write_consistency: as in Qdrant (shard_number, replication_factor, write_consistency_factor).
    on_disk: vectors are served from disk, not from memory.
    quantisation: none, int8, int4 (servers from 1.18) or binary; all are rescored with the full vectors.
    m, ef_construct: of the HNSW graph.
    """

    grpc_port: int = 0
    ca_file: str = ""
    wait: int = 300
    shards: int = 0
    replicas: int = 0
    write_consistency: int = 0
    on_disk: bool = False
    quantisation: str = "none"
    m: int = 0
    ef_construct: int = 0


SERVER_KEYS = tuple(server_field.name for server_field in fields(ServerSettings))


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command shares.

    store: directory of the vector store (``~`` is expanded; relative to the working directory), or the URL of a
        Qdrant server.
    gallery: name of the gallery inside the store.
    model: directory of a model bundle, or ``fast``; empty for the bundled one.
    threads: CPU threads of the model; 0 chooses by the machine.
    batch_size: images per forward pass.
    data: directory of the training images when ``sss train`` gets none.
    insecure: plain HTTP may be spoken to hosts other than this machine.
    trusted_hosts: ``host`` or ``host:port`` that get the API key though their URL stands in ``./sss.toml``.
    server: the table ``[server]``.
    commands: per command, its options' defaults, with ``_`` in the names: ``{"train": {"epochs": 3}}``.
    origins: key (``store``, ``train.epochs``) -> where its value came from: a file or a variable's name.
    user_file: the user's own file, whether it exists or not; empty where no home is known.
    """

    store: str = ".sss"
    gallery: str = "default"
    model: str = ""
    threads: int = 0
    batch_size: int = 64
    data: str = "data"
    insecure: bool = False
    trusted_hosts: tuple[str, ...] = ()
    server: ServerSettings = field(default_factory=ServerSettings)
    commands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    user_file: str = ""

    def origin(self, key: str) -> str:
        """Where the value of ``key`` came from; ``default`` for one that nobody set."""
        return self.origins.get(key, DEFAULT_ORIGIN)

    def project_values(self) -> list[str]:
        """Texts in force that came from ``./sss.toml``, not from the user: stores, models, options."""
        values: dict[str, Any] = {key: getattr(self, key) for key in _TYPES}
        for command, options in self.commands.items():
            values |= {f"{command}.{key}": value for key, value in options.items()}
        ours = (DEFAULT_ORIGIN, self.user_file)
        return [
            value
            for key, value in values.items()
            if isinstance(value, str) and self.origin(key) not in ours and not self.origin(key).startswith(ENV_PREFIX)
        ]

    def check_commands(self, known: Mapping[str, Collection[str]]) -> None:
        """Check the command tables against the options there are.

        known: command name -> its option names (``-`` and ``_`` are the same). Raises SettingsError, naming
        the file, for a table that is no command or a key that is no option of it.
        """
        commands = {_plain(name): set(map(_plain, options)) for name, options in known.items()}
        for command, options in self.commands.items():
            if command not in commands:
                origin = next((self.origin(f"{command}.{key}") for key in options), FILE_NAME)
                raise SettingsError(_unknown(origin, "section", command, commands))
            for key in options:
                if key not in commands[command]:
                    origin = self.origin(f"{command}.{key}")
                    raise SettingsError(_unknown(origin, f"key in [{command}]", key, commands[command]))


#: Key -> type, of what stands outside of tables.
_TYPES: dict[str, type] = {
    one.name: list if one.default == () else type(one.default)
    for one in fields(Settings)
    if one.name != "user_file" and one.default is not MISSING
}


def load_settings(cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Settings:
    """Read all sources and merge them, key by key (also inside the command tables).

    cwd: where ``./sss.toml`` is looked for. env: the environment; an empty variable counts as unset. Raises
    SettingsError, naming the file or variable and the key.
    """
    cwd = Path.cwd() if cwd is None else cwd
    env = os.environ if env is None else env
    values: dict[str, Any] = {"server": {}, "commands": {}}
    origins: dict[str, str] = {}
    own = _user_file(env)
    if own is not None:
        _merge_file(own, values, origins, own=True)
    here = cwd / FILE_NAME
    if own is None or not (own.exists() and here.exists() and own.samefile(here)):
        _merge_file(here, values, origins, own=False)
    for found, keys, prefix in ((values, tuple(_TYPES), ""), (values["server"], SERVER_KEYS, "server.")):
        for key in keys:
            variable = ENV_PREFIX + (prefix + key).replace(".", "_").upper()
            if text := env.get(variable, ""):
                found[key] = check_value(variable, key, _from_text(variable, _kind(key), text))
                origins[prefix + key] = variable
    values["server"] = ServerSettings(**values["server"])
    return Settings(**values, origins=origins, user_file="" if own is None else printable(own))


def variables() -> set[str]:
    """The environment variables of the settings that all commands share, and of servers."""
    return {ENV_PREFIX + key.upper() for key in [*_TYPES, *(f"server_{key}" for key in SERVER_KEYS)]}


def _user_file(env: Mapping[str, str]) -> Path | None:
    """The user's file, or None where no home is known. XDG says: ignore a relative XDG_CONFIG_HOME."""
    configured = Path(env.get("XDG_CONFIG_HOME", ""))
    if configured.is_absolute():
        return configured / "sss" / FILE_NAME
    home = env.get("HOME") or env.get("USERPROFILE")
    return Path(home) / ".config" / "sss" / FILE_NAME if home else None


def _merge_file(path: Path, values: dict[str, Any], origins: dict[str, str], *, own: bool) -> None:
    """Lay one file's values over those of the sources before it. own: it is the user's, not the project's."""
    name = printable(path)
    for raw_key, value in _read_toml(path).items():
        key = _plain(raw_key)
        if key == "server" and isinstance(value, dict):
            for option, setting in value.items():
                plain = _plain(option)
                if plain not in SERVER_KEYS:
                    raise SettingsError(_unknown(name, "key in [server]", option, SERVER_KEYS))
                _check_owner(name, f"server.{plain}", own)
                values["server"][plain] = check_value(f"{name}: server.{plain}", plain, setting)
                origins[f"server.{plain}"] = name
        elif isinstance(value, dict) and key not in _TYPES:
            section = values["commands"].setdefault(key, {})
            for option, setting in value.items():
                plain = _plain(option)
                _check_owner(name, plain, own)  # [search] insecure = true is --insecure
                if plain in OUTPUTS and not own:
                    raise SettingsError(
                        f"{name}: [{raw_key}] {option} chooses what is written, which only your own settings"
                        " (~/.config/sss/sss.toml) or the command line can, because this file may come with"
                        " somebody else's data"
                    )
                section[plain] = setting
                origins[f"{key}.{plain}"] = name
        elif key in _TYPES:
            _check_owner(name, key, own)
            values[key] = check_value(f"{name}: {key}", key, value)
            origins[key] = name
        else:
            raise SettingsError(_unknown(name, "key", raw_key, _TYPES))


def _check_owner(name: str, key: str, own: bool) -> None:
    if key in _USER_ONLY and not own:
        raise SettingsError(
            f"{name}: {key} can be set in your own settings only (~/.config/sss/sss.toml), because it weakens"
            " the care taken of keys and of who is let in"
        )


def _read_toml(path: Path) -> dict[str, Any]:
    """One TOML file; a file that is not there is an empty one."""
    try:
        return tomllib.loads(read_regular(path, _MAX_FILE_BYTES).decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        reason = error.strerror or type(error).__name__
        more = "; this is no settings file" if error.errno in (errno.EFBIG, errno.EINVAL) else ""
        raise SettingsError(f"{printable(path)}: cannot be read: {reason}{more}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{printable(path)}: not UTF-8 text; save it as UTF-8") from None
    except (RecursionError, ValueError) as error:  # TOMLDecodeError, and a number of thousands of digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise SettingsError(f"{printable(path)}: not valid TOML: {reason}") from None


def _from_text(variable: str, kind: type, text: str) -> str | int | list[str]:
    """The value of an environment variable, in the type of its key."""
    if kind is str:
        return text
    if kind is list:
        return [one.strip() for one in text.split(",") if one.strip()]
    try:
        return _TRUTH[text.lower()] if kind is bool else int(text)
    except (KeyError, ValueError):
        wanted = "1 or 0" if kind is bool else "a whole number"
        raise SettingsError(f"{variable} must be {wanted}, not {text[:80]!r}") from None


def _kind(key: str) -> type:
    """Of a key, or of one of the table ``[server]``."""
    return _TYPES.get(key) or type(getattr(ServerSettings(), key))


def check_value(where: str, key: str, value: Any) -> Any:
    """The value, of the right type and in range; strings that are paths have ``~`` expanded.

    key: of the settings, or of their table ``[server]``. Raises SettingsError that begins with ``where``.
    """
    kind: Any = _kind(key)
    # bool is an int to Python, but `threads = true` is a mistake.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SettingsError(f"{where} must be {_TYPE_NAMES[kind]}, not {_toml_name(value)}")
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        if not all(isinstance(one, str) and one for one in value):
            raise SettingsError(f"{where} must be a list of strings")
        return tuple(value)
    if isinstance(value, int):
        low, high = _BOUNDS[key]
        if not low <= value <= high:
            raise SettingsError(f"{where} must be from {low} to {high}, not {value}")
        return value
    if "\x00" in value:
        raise SettingsError(f"{where} must not hold a NUL character")
    if key == "quantisation" and value not in QUANTISATIONS:
        raise SettingsError(f"{where} must be one of {', '.join(QUANTISATIONS)}, not {value[:80]!r}")
    if not value and key not in ("model", "ca_file"):
        raise SettingsError(f"{where} must not be empty")
    if key != "gallery" and value.startswith("~") and value[1:2] in ("", "/", os.sep):
        return str(expanded(value))
    return value


def _toml_name(value: Any) -> str:
    """A TOML value for a message: short, with its type."""
    name = (_TYPE_NAMES | {float: "a fraction", list: "a list", dict: "a table"}).get(type(value), "a list")
    short = isinstance(value, bool | int | float | str) and len(repr(value)) < 80
    return f"{name} ({value!r})" if short else name


def _unknown(origin: str, what: str, key: str, known: Collection[str]) -> str:
    """``sss.toml: unknown key 'stor'; did you mean 'store'? Known: …``"""
    close = difflib.get_close_matches(_plain(key), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{origin}: unknown {what} {key[:80]!r}; {hint}known: {', '.join(sorted(known))}"


def _plain(name: str) -> str:
    """``batch-size`` and ``batch_size`` are the same key."""
    return name.replace("-", "_")
