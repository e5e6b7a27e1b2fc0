import json
import os
from pathlib import Path

from siamese_search.retrieval.results import QueryResult, SearchResult


def test_json_has_exactly_the_fields_of_the_contract():
    result = SearchResult(1, 0.123456789, None, None, Path("/a.jpg"), "a.jpg", {"frame": 3})
    assert QueryResult("q.jpg", (result,)).to_json() == {
        "query": "q.jpg",
        "results": [
            {
                "rank": 1, "score": 0.123457, "identity": None, "camera": None, "path": "/a.jpg",
                "key": "a.jpg", "metadata": {"frame": 3}, "match": None,
            }
        ],
    }  # fmt: skip


def test_groups_and_errors_add_their_fields():
    result = SearchResult(1, 1.0, "ann", "1", Path("a"), "a", sightings=3, cameras=("1", "2"))
    answer = result.to_json()
    assert (answer["sightings"], answer["cameras"]) == (3, ["1", "2"])
    assert QueryResult("q", error="empty file").to_json() == {"query": "q", "results": [], "error": "empty file"}


def test_the_path_in_json_is_the_path():
    path = Path(os.fsdecode(b"/caf\xe9.jpg"))
    result = SearchResult(1, 1.0, None, None, path, "k")
    text = json.dumps(QueryResult(str(path), (result,)).to_json())
    answer = json.loads(text)
    assert os.fsencode(answer["query"]) == os.fsencode(answer["results"][0]["path"]) == b"/caf\xe9.jpg"
