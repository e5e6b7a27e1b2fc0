"""What an ingest is asked for, and a watch: one request each, for every way to ask."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from siamese_search import options as shared
from siamese_search.errors import MissingExtraError, UsageError, printable
from siamese_search.options import Request, Switch, option

if TYPE_CHECKING:
    from ingest.scan import Prune, Shard
    from siamese_search.model.embedder import Device
    from siamese_search.settings import Settings
    from siamese_search.workspace import StrPath


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions(Request):
    """See :func:`ingest.run.ingest`. What is ``None`` comes from the settings. decode_threads: 0 chooses."""

    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()
    model: StrPath | None = shared.model()
    layout: str = shared.layout()
    pattern: str | None = shared.pattern()
    images_root: StrPath | None = option(
        None, "Where the names in a CSV begin; / for whole paths anywhere.  [default: beside the CSV]", metavar="DIR"
    )
    source: str | None = option(None, "Name of the source.  [default: the directory's full path]", metavar="NAME")
    batch_size: int | None = shared.batch_size()
    threads: int | None = shared.threads()
    device: Device = shared.embedding_device()
    reembed: bool = option(False, "Embed everything again, unchanged files too.")
    checksum: bool = option(
        False,
        "Compare files by content, not by time; moved ones keep their point. Reads every file, and embeds"
        " again what was stored without.",
    )
    prune: Prune = option(
        "no",
        "",
        choices=("no", "safe", "anyway"),
        switches=(
            Switch("prune", "safe", "Remove images whose file under DIR has gone."),
            Switch(
                "prune_anyway",
                "anyway",
                "The same, even where it is over a fifth of them or some cannot be looked for.",
            ),
        ),
    )
    follow_links: bool = option(False, "Follow symbolic links to folders, and out of DIR.")
    storage: str | None = shared.storage()
    quantise: str | None = shared.quantise()
    shard: str | Shard | None = option(
        None,
        "Only part I (from 0) of N, by a hash of each file's name; auto/N in an indexed Kubernetes job.",
        metavar="I/N",
    )
    failures: StrPath | None = option(None, "List every skipped file there, as lines of JSON.", metavar="FILE")
    engine: Literal["process", "ray"] = option(
        "process",
        "Where the work is done: in this process, or by the workers of a Ray cluster ([ray] extra).",
        choices=("process", "ray"),
    )
    decode_threads: int = 0

    def __post_init__(self) -> None:
        """Refuse what names no shard, and what only a run over all files can do.

        A file that moved from one shard's key to another's is found by the shard that has its new key, which looks for
        the point with its content. Were the first shard to prune meanwhile, the point and its labels would be gone.
        """
        Request.__post_init__(self)
        if self.part is not None and self.checksum and self.prune != "no":
            raise UsageError(
                f"shard {self.part}: checksums and pruning together need all files, or a file that moved between shards"
                " would lose its labels; prune afterwards, in one run without --shard"
            )

    @property
    def part(self) -> Shard | None:
        """The shard. Raises UsageError for text that names none."""
        if not isinstance(self.shard, str):
            return self.shard
        from ingest.scan import parse_shard  # numpy, which the probe of a container does not load

        return parse_shard(self.shard)

    def base(self) -> Path | None:
        """The directory that the names in a CSV are relative to, where somebody said."""
        return None if self.images_root is None else Path(self.images_root).resolve()

    def batch(self) -> int:
        """Images per forward pass, 64 where nobody said."""
        return self.batch_size or 64

    def settled(self, settings: Settings) -> Self:
        """With the settings' place and numbers where nobody said."""
        names = ("store", "gallery", "model", "batch_size", "threads")
        unsaid = {name: getattr(settings, name) for name in names if getattr(self, name) is None}
        return replace(self, **unsaid)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions(IngestOptions):
    """An ingest that goes on (``watch``: the command line's way to say so); reembed is of the first one, prune of all.

    settle_seconds: a file is read once nothing has happened to it for so long. patient: wait for a store that is away
    from the start.
    """

    watch: bool = option(False, "Go on: ingest what is new or changed, remove what is deleted.")
    settle_seconds: float = 0.5
    rescan_minutes: float = option(
        60.0, "With --watch: time between full scans, which find what was missed; 0 for never.", low=0, metavar="N"
    )
    poll: bool = option(False, "With --watch: for network shares, which tell nobody of changes.")
    patient: bool = False


@dataclass(frozen=True, slots=True)
class RayOptions(Request):
    """Which cluster, as seen from one of its machines, and how much of it. verbose: let Ray print what it likes."""

    address: str | None = option(
        None,
        "With --engine ray: a running cluster.  [default: RAY_ADDRESS, else one on this machine]",
        metavar="HOST:PORT",
    )
    workers: int | None = option(
        None,
        "With --engine ray.  [default: one per GPU, else one per --threads CPUs, 4 by default]",
        kind=int,
        low=1,
        metavar="N",
    )
    verbose: bool = False

    def check(self) -> None:
        """Raise UsageError for what cannot work and MissingExtraError without Ray; neither starts anything."""
        if self.address is not None and self.address.startswith("ray://"):
            raise UsageError(
                f"{printable(self.address)}: Ray Data does not work over Ray's client; run the command on a machine of"
                " the cluster with --address HOST:PORT (of the head node, port 6379), or through: ray job submit"
            )
        # Looked for, not imported: that takes seconds, and an ingest with nothing new needs none of it.
        if any(importlib.util.find_spec(name) is None for name in ("ray", "pyarrow", "pandas")):
            raise MissingExtraError("--engine ray", "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions(WatchOptions):
    """What ``python -m ingest`` was asked for. metrics_port: ``None`` for no metrics; 0 for one that the log names."""

    roots: Sequence[str] = ()
    metrics_port: int | None = option(
        None, "Serve Prometheus metrics at /metrics.", kind=int, low=0, high=65535, metavar="PORT"
    )
    metrics_host: str = option("127.0.0.1", "Address to serve them at.", metavar="HOST")
    health_file: Path | None = option(None, "Say there how it fares.", kind=Path, metavar="FILE")
