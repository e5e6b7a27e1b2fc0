"""``forked_client.py SOCKET -m MODULE …`` is what ``python -m MODULE …`` is, forked by the server of ``forked.py``.

The process there has this one's descriptors, directory and variables; signals go on to it, and this one ends as it
does. Where the server cannot do that, this process becomes a Python of its own. Few imports: each costs every command.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def _end_as(code: int) -> None:
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def main(address: str, arguments: list[str]) -> None:
    """Send the request: its length, directory, number of arguments, arguments, variables; take the exit code."""
    parts = [os.getcwdb(), str(len(arguments)).encode(), *map(os.fsencode, arguments)]  # noqa: PTH109
    request = b"\0".join(parts + [name + b"=" + value for name, value in os.environb.items()])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # until it is known who gets them
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
            connection.sendall(request)
            taken = connection.recv(1) == b"y"
        except OSError:
            taken = False
        if taken:
            for number in _PASSED_ON:
                signal.signal(number, lambda number, _: connection.send(bytes([number])))
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _end_as(int.from_bytes(connection.recv(4), "big", signed=True))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
