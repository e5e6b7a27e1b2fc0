"""Siamese Search: re-identification retrieval (train, ingest, search, evaluate).

The public names are loaded on first use, so that ``import siamese_search`` costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"
