"""How large a store of many images gets, and what it costs to fill and to search: arithmetic, nothing else.

``quantities`` reads ``1e9`` and ``128GB``; ``figures`` holds every constant with its source; ``embedded`` is the size
of a directory store, ``cluster`` that of Qdrant servers, ``work`` the time of an ingest, a re-index and a query;
``plan`` puts them together.
"""

from siamese_search.planning.plan import Plan, Question, plan

__all__ = ["Plan", "Question", "plan"]
