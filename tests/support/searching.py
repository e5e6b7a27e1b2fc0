"""A searcher that is asked and answers in one call."""

from siamese_search.options import request
from siamese_search.retrieval import searcher
from siamese_search.retrieval.options import SearchOptions


class Searcher(searcher.Searcher):
    @request(SearchOptions)
    def search(self, queries, k=10, where=(), *, like=(), unlike=(), options):
        asked = self.probes(queries, like, unlike, together=options.together, flip=options.flip)
        return list(self.answers(asked, k, where, options))
