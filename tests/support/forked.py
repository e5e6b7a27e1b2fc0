"""Python processes that need not import again what another has imported: forked from it, else as if started anew.

``with served("numpy") as python:`` gives the first words of a command line, to be used as ``[sys.executable]`` is:
``[*python, "-m", MODULE, …]`` or ``[*python, "-c", CODE, …]``. Each is a process of its own, with its own descriptors,
directory, variables, signals and exit code. It is started anew where a variable differs that a library may have read
while it was imported. Not for tests of imports, of memory, of SIGKILL, or of bits that must not hang on the hash seed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

#: What is read when it is used, never when a module is imported.
FREE = ("SSS_", "XDG_", "PYTEST_")
FREE_NAMES = {
    "COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "HOME", "PATH", "PWD", "OLDPWD", "SHLVL", "_", "WORLD_SIZE",
}  # fmt: skip
_HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


@contextlib.contextmanager
def served(*modules: str, home: Path | None = None) -> Iterator[list[str]]:
    """The first words of command lines; the server has imported ``modules`` (``PACKAGE.*`` is all in one) and ends
    with this block or process.
    """
    if not sys.platform.startswith("linux"):
        yield [sys.executable]
        return
    with tempfile.TemporaryDirectory(prefix="sss-forked-") as directory:
        address = os.path.join(directory, "socket")  # noqa: PTH118
        server = subprocess.Popen(
            [sys.executable, __file__, address, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **({"HOME": str(home)} if home else {})},
            start_new_session=True,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"ready\n"
            yield [sys.executable, "-IS", str(Path(__file__).with_name("forked_client.py")), address]
        finally:
            server.stdin.close()
            server.wait(30)
            server.stdout.close()


def _fixed(variables: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in variables.items() if not k.startswith(FREE) and k not in FREE_NAMES}


class _Server:
    """One thread: takes requests, forks, passes signals on, tells exit codes. Its standard input is its life."""

    def __init__(self, address: str, started_with: dict[str, str]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._fixed = _fixed(started_with)
        self._set = {k: v for k, v in os.environ.items() if started_with.get(k) != v}  # by an import
        self._running: dict[int, socket.socket] = {}

    def serve(self) -> list[str]:
        """Returns in each child, which is what it was asked to be but for its arguments: those."""
        woken, wake = os.pipe()
        for end in (woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([0, woken, self._listener, *self._running.values()], [], [])
            if 0 in ready:
                for pid in self._running:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            for pid, connection in list(self._running.items()):
                if connection in ready:
                    self._pass_on(pid, connection)
            if woken in ready:
                os.read(woken, 1000)
                self._reap()
            if self._listener in ready and (arguments := self._start()) is not None:
                os.close(woken)
                os.close(wake)
                return arguments

    @staticmethod
    def _pass_on(pid: int, connection: socket.socket) -> None:
        """The signals that the client got; where it has gone, the process goes, too."""
        try:
            numbers = connection.recv(100)
        except OSError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._running.pop(pid) as connection, contextlib.suppress(OSError):
                connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))

    def _start(self) -> list[str] | None:
        """In the child its arguments; in the server, or where nothing was forked, nothing."""
        connection, _ = self._listener.accept()
        length, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
        request = b""
        while piece := connection.recv(int.from_bytes(length, "big") - len(request)):
            request += piece
        if len(request) < int.from_bytes(length, "big"):  # it has gone
            return self._refuse(connection, descriptors)
        directory, count, *rest = map(os.fsdecode, request.split(b"\0"))
        arguments, pairs = rest[: int(count)], rest[int(count) :]
        variables = dict(pair.split("=", 1) for pair in pairs)
        if _fixed(variables) != self._fixed or arguments[0] not in ("-m", "-c"):
            return self._refuse(connection, descriptors)
        connection.sendall(b"y")
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        pid = os.fork()
        if pid == 0:
            self._become(connection, descriptors, directory, variables)
            return arguments
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        self._running[pid] = connection
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    @staticmethod
    def _refuse(connection: socket.socket, descriptors: list[int]) -> None:
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _become(
        self, connection: socket.socket, descriptors: list[int], directory: str, variables: dict[str, str]
    ) -> None:
        """This process of the server becomes the one that was asked for."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for other in (connection, self._listener, *self._running.values()):
            other.close()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
            os.close(descriptor)
        os.chdir(directory)
        os.environ.clear()
        os.environ.update({**self._set, **variables})
        for place, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
            former = getattr(sys, name)  # of what can seek, or not, as the server's could
            told = {"encoding": former.encoding, "errors": former.errors, "closefd": False}
            stream = open(place, mode, buffering=1 if place == 2 or os.isatty(place) else -1, **told)  # noqa: SIM115, PTH123
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def _run(arguments: list[str]) -> None:
    """As the interpreter's own ``-m`` and ``-c``."""
    option, what, *rest = arguments
    sys.path.insert(0, os.getcwd() if option == "-m" else "")  # noqa: PTH109
    sys.argv = [option, *rest]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


def _be_silent() -> None:
    """Nanobind counts what ``gc.freeze`` has kept from being freed as leaked, and says so after the last line."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _import(name: str) -> None:
    """The module of this name; with ``.*`` the package and all in it."""
    package = importlib.import_module(name.removesuffix(".*"))
    if name.endswith(".*"):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


if __name__ == "__main__":
    del sys.path[0]  # this directory
    started_with = dict(os.environ)
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):  # of what an extra installs
            _import(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing in a forked process"  # noqa: PTH208
    gc.collect()
    gc.freeze()
    atexit.register(_be_silent)
    _run(_Server(sys.argv[1], started_with).serve())
