"""The vector store: one contract, several engines. Nothing here knows about images.

The names below load on first use, so that importing this package imports no engine.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"opening": ["list_galleries", "open_gallery", "open_store"]}
)
