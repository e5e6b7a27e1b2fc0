"""A query becomes ranked results: ``search`` ranks, ``results`` holds the answer, ``sheet`` draws it."""
