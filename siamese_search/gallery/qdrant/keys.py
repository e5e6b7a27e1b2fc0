"""The API key: where it comes from, and that it is never seen again."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from siamese_search.errors import SettingsError, printable

KEY_VARIABLE = "SSS_API_KEY"
FILE_VARIABLE = "SSS_API_KEY_FILE"
_MAX_BYTES = 8192


class ApiKey:
    """A key that shows itself in no ``repr``, message or traceback; only :meth:`reveal` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def redact(self, text: str) -> str:
        """The text with the key blotted out."""
        return text.replace(self._value, "[key]")

    def __repr__(self) -> str:
        return "ApiKey([key])"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("an API key is not written anywhere")


def read_key(env: Mapping[str, str] | None = None) -> ApiKey | None:
    """The key in ``SSS_API_KEY``, or in the file named by ``SSS_API_KEY_FILE``; None where neither is set.

    Raises SettingsError, which never repeats the key, for both at once, for a file that cannot be read or that
    others than its owner may read (its mode must be 0600 or narrower), and for what cannot be a key.
    """
    env = os.environ if env is None else env
    text, file = env.get(KEY_VARIABLE, ""), env.get(FILE_VARIABLE, "")
    if text and file:
        raise SettingsError(f"{KEY_VARIABLE} and {FILE_VARIABLE} are both set: unset one")
    if file:
        return _checked(_read_file(Path(file).expanduser()), printable(file))
    return _checked(text, KEY_VARIABLE) if text else None


def _read_file(path: Path) -> str:
    try:
        # Non-blocking: opening a pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                raise SettingsError(
                    f"{printable(path)}: not a file; {FILE_VARIABLE} names the file with the key"
                )
            if state.st_mode & 0o077:
                mode = stat.S_IMODE(state.st_mode)
                raise SettingsError(
                    f"{printable(path)}: others may read this key (mode {mode:04o}): chmod 600 {printable(path)}"
                )
            data = os.read(handle, _MAX_BYTES + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise SettingsError(f"{printable(path)}: the key cannot be read: {error.strerror}") from None
    return data.decode("utf-8", "replace")


def _checked(text: str, where: str) -> ApiKey:
    value = text.strip()
    if not value:
        raise SettingsError(f"{where}: the API key is empty")
    # Checked here, because the libraries below repeat a header value that they refuse.
    if len(value) > _MAX_BYTES or not all(33 <= ord(one) <= 126 for one in value):
        raise SettingsError(
            f"{where}: not an API key: it holds blanks or characters beyond ASCII, or is too long"
        )
    return ApiKey(value)
