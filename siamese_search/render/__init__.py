"""Every picture, page and curve. Those that commands and verbs draw stand in ``__init__.pyi``, loaded on first use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
