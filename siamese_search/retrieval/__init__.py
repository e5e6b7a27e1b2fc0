"""A query becomes ranked results: ``searcher`` ranks, ``results`` holds the answer."""
