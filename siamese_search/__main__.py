"""``python -m siamese_search`` is ``sss``."""

import signal
import sys


def main() -> int:
    """Run ``sss``; who interrupts it before it has begun, or while it ends, is answered as by any program."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from siamese_search.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
