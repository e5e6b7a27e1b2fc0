"""The verbs as functions: the command line is a thin skin over these, so a script and the shell do the same.

What is not given comes from the settings (``sss.toml``, ``SSS_*`` variables, defaults). Every failure is a
:class:`~siamese_search.errors.SiameseSearchError` of one line. Names stand in ``__init__.pyi`` and are loaded late.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
