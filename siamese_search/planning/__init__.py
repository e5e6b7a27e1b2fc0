"""How large a store of many images gets, and what it costs to fill and to search: arithmetic, nothing else."""

from siamese_search.planning.plan import Plan, Question, plan

__all__ = ["Plan", "Question", "plan"]
