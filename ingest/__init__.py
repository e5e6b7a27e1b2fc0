"""The batch-ingest worker: scan, plan, decode, embed, commit.

``run_ingest`` is the pipeline over an open gallery. Names are loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"pipeline": ["run_ingest"], "summary": ["Failure", "IngestSummary", "Progress"]}
)
