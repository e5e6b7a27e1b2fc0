"""How large a store of many images gets, and what it costs to fill and to search: arithmetic, nothing else.

``figures`` holds every constant with its source, and reads ``1e9`` and ``128GB``; ``sizes`` is the size of a directory
store and of one on Qdrant servers; ``plan`` adds the time of an ingest, a re-index and a query, and puts them together.
"""

from siamese_search.planning.plan import Plan, Question, plan

__all__ = ["Plan", "Question", "plan"]
