"""The verbs as functions: the command line is a thin skin over these, so a script and the shell do the same.

What is not given comes from the settings (``sss.toml``, ``SSS_*`` variables, defaults). Every failure is a
:class:`~siamese_search.errors.SiameseSearchError` of one line. Each name is loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "curation": ["duplicates", "export", "label", "propose_identities"],
        "evaluation": ["calibrate", "compare_models", "evaluate"],
        "handle": ["Gallery", "open"],
        "maintenance": [
            "describe", "drop", "drop_old", "galleries", "optimise", "pull", "push", "reindex", "rollback", "verify",
        ],
        "model": ["load_model", "quantise_model"],
        "retrieval": ["compare", "map_gallery", "search", "timeline"],
        "training": ["adapt", "new_run_directory", "sweep", "train"],
        "worker": ["ProgressBar", "ingest"],
    },
)  # fmt: skip
