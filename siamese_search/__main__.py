"""``python -m siamese_search`` is ``sss``."""

from __future__ import annotations

import sys

from siamese_search.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
