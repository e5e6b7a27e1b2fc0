"""The vector store: one contract, several engines. Nothing here knows about images.

The names below load on first use, so that importing this package imports no engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese_search.gallery.checks import VerifyReport, verify_vectors
    from siamese_search.gallery.opening import list_galleries, open_gallery, open_store

__all__ = ["VerifyReport", "list_galleries", "open_gallery", "open_store", "verify_vectors"]


def __getattr__(name: str) -> Any:
    if name in ("list_galleries", "open_gallery", "open_store"):
        from siamese_search.gallery import opening

        return getattr(opening, name)
    if name in ("VerifyReport", "verify_vectors"):
        from siamese_search.gallery import checks

        return getattr(checks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
