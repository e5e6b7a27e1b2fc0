"""A count and its noun agree, wherever a text for people has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from siamese_search.errors import amount

ROOT = Path(__file__).parents[1]
NOUNS = "image|point|identity|file|query|pair|row|group|cluster|run|epoch|single image|camera|triplet|vector"
PLURALS = re.compile(
    rf" (?:{'|'.join(f'{one[:-1]}ies' if one[-1] == 'y' else f'{one}s' for one in NOUNS.split('|'))})\b(?!/)"
)
#: What cannot be one, or is a bound: the number as it is written there.
MANY = {
    "MAX_ROWS", "MOST_IMAGES", "MEASURED_IMAGES", "FEWEST", "_MOST", "most.images", "self._limits.points",
    "self.images_per_identity", "len(sources)", "self.impostor", "total", "held", "self.summary.images",
    "images.total()", "genuine", "len(found)", "len(names)", "len(everybody)", "len(left)", "len(right)",
    "len(comparison.right)", "count + MIN_TRAIN_IDENTITIES", "answer.points_per_shard", "len(per_query)",
    "len(records)", "len(rows)", "len(cameras)", "self.location", "connection.location",
}  # fmt: skip


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "image", "0 images"), (1, "image", "1 image"), (1300, "image", "1,300 images"), (1, "query", "1 query"),
        (2, "new identity", "2 new identities"),
    ],
)  # fmt: skip
def test_an_amount(number, noun, text):
    assert amount(number, noun) == text


def test_an_amount_of_an_odd_noun():
    assert [amount(number, "person", "people") for number in (1, 2)] == ["1 person", "2 people"]


def wrong(path: Path) -> list[str]:
    """The counts in f-strings before a plural that is written out."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    number = ast.unparse(value.value)
                    if PLURALS.match(str(text.value)) and number not in MANY:
                        found.append(f"{path.name}:{node.lineno}: {{{number}}}{text.value}")
    return found


def test_no_text_says_1_images():
    paths = [path for room in ("siamese_search", "ingest") for path in sorted((ROOT / room).rglob("*.py"))]
    assert [one for path in paths for one in wrong(path)] == []


def test_a_wrong_one_is_found(tmp_path):
    (tmp_path / "one.py").write_text("""print(f"{n:,} images changed, {amount(n, 'row')} left, {n} images/s")\n""")
    assert len(wrong(tmp_path / "one.py")) == 1
