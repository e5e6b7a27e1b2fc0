"""The verbs as functions: the command line is a thin skin over these, so a script and the shell do the same.

What is not given comes from the settings (``sss.toml``, ``SSS_*`` variables, defaults). Every failure is a
:class:`~siamese_search.errors.SiameseSearchError` of one line. Each name is loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adaptation": ["adapt"],
        "calibration": ["calibrate"],
        "curation": ["duplicates", "export", "label", "propose_identities"],
        "evaluation": ["compare_models", "evaluate"],
        "handle": ["Gallery", "open"],
        "maintenance": [
            "describe", "drop", "drop_old", "galleries", "optimise", "pull", "push", "reindex", "rollback", "verify",
        ],
        "model": ["load_model"],
        "progress": ["ProgressBar"],
        "retrieval": ["compare", "map_gallery", "search", "timeline"],
        "training": ["new_run_directory", "quantise_model", "sweep", "train"],
        "worker": ["ingest"],
    },
)  # fmt: skip
