"""What a progress display says where there is no terminal."""

from __future__ import annotations

import pytest

from siamese_search.cli import progress
from siamese_search.cli.progress import Bar


def test_a_line_now_and_then_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar("ingest", "images") as bar:
        for second in range(1, 61):
            now[0] = float(second)
            bar.update(100 * second, 60_000, rate=50.0, extra="bottleneck: embed")
        now[0] = 80.0
        bar.update(6000, None)
    assert capsys.readouterr().err.splitlines() == [
        "ingest: 1500 of 60000 images, 50/s, 20 min left, bottleneck: embed",
        "ingest: 3000 of 60000 images, 50/s, 19 min left, bottleneck: embed",
        "ingest: 4500 of 60000 images, 50/s, 18 min left, bottleneck: embed",
        "ingest: 6000 of 60000 images, 50/s, 18 min left, bottleneck: embed",
        "ingest: 6000 images, 75/s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (12_000, "3 h 20 min")]
)
def test_an_estimate_is_as_precise_as_it_deserves(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text
