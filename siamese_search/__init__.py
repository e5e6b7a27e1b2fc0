"""Siamese Search: re-identification retrieval. The four verbs are here::

    import siamese_search as sss

    sss.ingest("photos/")
    for hit in sss.search("query.jpg", k=5)[0].results:
        print(hit.rank, hit.identity, hit.score, hit.path)

The public names stand in ``__init__.pyi`` and are loaded on first use, so that ``import siamese_search`` costs nothing.
"""

import lazy_loader

from siamese_search._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
# ``from siamese_search import *`` must not hide Python's own ``open``.
__all__ = [name for name in __all__ if name != "open"]
