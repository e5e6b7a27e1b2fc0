"""The verbs as functions: the command line is a thin skin over these, so a script and the shell do the same.

Whatever is not given comes from the settings (``sss.toml``, ``SSS_*`` variables, defaults). Every failure is a
:class:`~siamese_search.errors.SiameseSearchError` with a one-line message. ``import siamese_search as sss`` shows them
all; :mod:`ingest.run` has the verb of the worker.
"""
