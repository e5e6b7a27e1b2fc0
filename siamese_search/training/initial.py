"""What a run starts with: its network, with weights from ImageNet, a bundle or a file, or random; heads; a teacher.

A classifier with random weights sends random gradients into weights that took long to learn (Kumar et al., "Fine-Tuning
can Distort Pretrained Features", ICLR 2022: first a linear probe, then the whole network). One pass over the images,
without augmentation, gives their embeddings; the heads then learn from those alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import (
    DataError,
    MissingExtraError,
    TrainingError,
    UsageError,
    amount,
    in_words,
    listed,
    printable,
)
from siamese_search.io.files import atomic_path, check_regular, writing
from siamese_search.io.images import read_image
from siamese_search.io.resources import available_cpus, available_memory
from siamese_search.model.bundle import bundle_of
from siamese_search.model.imagenet import fit_state, load_imagenet, read_weights
from siamese_search.model.network import APNNetwork, NetworkSpec, normalisation
from siamese_search.model.weights_file import transfer
from siamese_search.options import Progress
from siamese_search.training.augment import augment, mixed, view_draws, view_mix, view_recipe
from siamese_search.training.config import SPEC, TrainConfig, kind_of
from siamese_search.training.loop import embed_all
from siamese_search.training.trainer import Trainer


def initial_network(config: TrainConfig, init: str, say: Callable[[str], None], *, weights: bool) -> APNNetwork:
    """The network of ``config``; ``say`` is told where its weights come from and which of them are new.

    init: ``imagenet``, ``none``, ``bundled``, a bundle's directory or a file of weights. weights: False leaves the
    random ones, for a run that is resumed. Raises TrainingError, BundleError or UsageError.
    """
    mean, std = normalisation(config.backbone)
    torch.manual_seed(config.seed)
    network = APNNetwork(NetworkSpec(mean=mean, std=std, **{name: getattr(config, name) for name in SPEC}))
    kind = kind_of(init)
    if not weights or kind == "none":
        return network
    if kind == "imagenet":
        source = load_imagenet(network.backbone, config.backbone)
    elif kind == "file":
        fit, file = fit_state(network.backbone, read_weights(Path(init))), printable(init)
        if not fit.taken:
            raise TrainingError(
                f"--init {file}: none of its tensors fits {config.backbone}: check --backbone; names must be timm's or"
                " EfficientNet-PyTorch's"
            )
        source = f"{amount(fit.taken, 'tensor')} of {file}{_listed('new', fit.fresh)}{_listed('not used', fit.unused)}"
    else:
        bundle = bundle_of(init)
        source = f"{bundle.name}{_listed('new', transfer(network, bundle))}"
    say(f"initial weights: {source}")
    return network


def _listed(what: str, names: list[str]) -> str:
    return f"; {len(names)} {what}: {listed([name[:80] for name in names[:4]], len(names))}" if names else ""


#: Learning rate at the beginning; it falls to zero in a straight line. Heads are linear: they bear a high one.
_LR = 5e-3
#: Embeddings per step.
_BATCH = 256


def fit_heads(trainer: Trainer, epochs: int, progress: Progress | None = None) -> list[float]:
    """Fit ``trainer.heads`` to the embeddings that its network gives now; the network stays as it is.

    epochs: passes over the embeddings. Returns the mean loss of each; empty where there is no head to fit. Every
    process of a ``torchrun`` ends with the same heads.
    """
    if epochs == 0 or not list(trainer.heads.parameters()):
        return []
    losses = _fit(trainer, epochs, progress) if trainer.ranks.first else []
    state = {name: value.cpu() for name, value in trainer.heads.state_dict().items()}
    trainer.heads.load_state_dict(trainer.ranks.agree(state))
    return losses


def _fit(trainer: Trainer, epochs: int, progress: Progress | None) -> list[float]:
    rows = np.arange(len(trainer.labels))
    necked = embed_all(trainer.network, trainer.images, rows, trainer.device, progress)[1].to(trainer.device)
    generator = torch.Generator().manual_seed(trainer.config.seed)
    optimizer = torch.optim.Adam(trainer.heads.parameters(), lr=_LR)
    steps = epochs * -(-len(necked) // _BATCH)
    taken, losses = 0, []
    trainer.heads.train()
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(len(necked), generator=generator), _BATCH):
            for group in optimizer.param_groups:
                group["lr"] = _LR * (1.0 - taken / steps)
            loss = trainer.head_loss(necked[chosen.to(necked.device)], *trainer.targets(chosen.numpy()))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            taken += 1
            total += float(loss.detach()) * len(chosen)
        losses.append(total / len(necked))
    optimizer.zero_grad(set_to_none=True)
    return losses


#: Images that the teacher sees at a time.
_ASKED = 32


def teacher_vectors(
    path: Path, records: Sequence[ImageRecord], config: TrainConfig, *, progress: Progress | None = None
) -> NDArray[np.float32]:
    """The teacher's embeddings, float32 [1 + v, n, t], unit rows: of every record, then of each of its v views.

    path: ``.npz`` as :func:`save_vectors` writes it (arrays ``keys``, ``vectors`` [m, t] and perhaps ``views`` [v, m,
    t]); or an OpenVINO IR ``.xml`` or ``.onnx`` whose input is BGR 0–255, float [N, 3, H, W]. config: how many views,
    and their augmentation. Raises DataError for a missing key or a vector that is not finite,
    UsageError for another kind of file.
    """
    if not path.is_file():
        raise DataError(f"{printable(path)}: no such teacher file")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        vectors = _read_npz(path, records, config)
    elif suffix in (".xml", ".onnx"):
        vectors = _run_network(path, records, config, progress)
    else:
        raise UsageError(f"--teacher {printable(path)}: give an .npz, an OpenVINO .xml or an .onnx file")
    norms = np.linalg.norm(vectors, axis=2, keepdims=True)
    bad = np.flatnonzero((~np.isfinite(norms) | (norms == 0)).any(axis=(0, 2)))
    if len(bad):
        raise DataError(f"{printable(path)}: the teacher's vector of {records[bad[0]].key} is zero or not finite")
    return np.asarray(vectors / norms, np.float32)


def save_vectors(path: Path, records: Sequence[ImageRecord], vectors: NDArray[np.float32], config: TrainConfig) -> None:
    """Write vectors [1 + v, n, t] so that :func:`teacher_vectors` can read them again; views need their config."""
    arrays = {"keys": np.array([record.key for record in records]), "vectors": vectors[0]}
    if len(vectors) > 1:
        arrays |= {"views": vectors[1:].astype(np.float16), "recipe": np.array(view_recipe(config))}
    with writing(path, error=TrainingError), atomic_path(path) as aside, aside.open("wb") as handle:
        np.savez(handle, **arrays)


def _read_npz(path: Path, records: Sequence[ImageRecord], config: TrainConfig) -> NDArray[np.float32]:
    wanted = config.teacher_views
    try:
        check_regular(path, available_memory() // 2)
        with np.load(path, allow_pickle=False) as archive:
            keys = [str(key) for key in archive["keys"]]
            vectors = np.asarray(archive["vectors"], np.float32)
            views = np.asarray(archive["views"], np.float32) if wanted and "views" in archive else None
            recipe = str(archive["recipe"]) if views is not None else ""
    except Exception as error:  # zipfile, zlib and numpy raise whatever the damage provokes
        raise DataError(f"{printable(path)}: not a teacher archive with keys and vectors: {in_words(error)}") from None
    if vectors.ndim != 2 or len(vectors) != len(keys):
        raise DataError(f"{printable(path)}: {len(keys)} keys but vectors of shape {vectors.shape}")
    rows = {key: row for row, key in enumerate(keys)}
    asked = [record.key for record in records]
    missing = [key for key in asked if key not in rows]
    if missing:
        raise DataError(
            f"{printable(path)}: no teacher vector for {amount(len(missing), 'image')}, the first is {missing[0]}"
        )
    plain = vectors[[rows[key] for key in asked]][None]
    if not wanted:
        return plain
    # An image's view depends on its place among the images of the run, and on the seed.
    same = recipe == view_recipe(config) and keys == asked
    if views is None or not same or len(views) < wanted or views.shape[1:] != vectors.shape:
        raise DataError(
            f"{printable(path)}: does not hold {wanted} augmented views of these images (--teacher-views): "
            "give the teacher's network instead"
        )
    return np.concatenate((plain, views[:wanted]))


def _run_network(
    path: Path, records: Sequence[ImageRecord], config: TrainConfig, progress: Progress | None
) -> NDArray[np.float32]:
    """Every core has batches of its own: it reads them, makes their views and runs the network on them."""
    threads = available_cpus()
    run, size = _compiled(path, threads)
    views = range(1, config.teacher_views + 1)
    tables = [view_draws(config, len(records), view) for view in views]
    mixes = [view_mix(config, len(records), view) for view in views]

    def pixels_of(indices: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([read_image(records[index].path, size) for index in indices]))

    def answers(start: int) -> NDArray[np.float32]:
        plain = pixels_of(range(start, min(start + _ASKED, len(records))))
        seen = [plain.float()]
        for table, (partner, cut) in zip(tables, mixes, strict=True):
            of = slice(start, start + _ASKED)
            both = mixed(plain, pixels_of(partner[of].tolist()), cut[of]) if config.view_mix else plain
            seen.append(augment(both, replace(config, flip=0, erase=0), table[of]))
        return np.stack([run(pixels.numpy()) for pixels in seen])

    blocks: list[NDArray[np.float32]] = []
    # A thread that is one of many must not start as many again in every operation of torch.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        before = torch.get_num_threads()
        try:
            for block in pool.map(answers, range(0, len(records), _ASKED)):
                blocks.append(block)
                if progress:
                    progress(min(_ASKED * len(blocks), len(records)), len(records))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)
    return np.concatenate(blocks, axis=1)


def _compiled(path: Path, threads: int) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], tuple[int, int]]:
    """The network as a function of RGB images float32 [n, H, W, 3] in 0–255, and its input size (H, W).

    That many threads may call it at a time; each call has one core.
    """
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtraError("a teacher network (.xml or .onnx)", "openvino") from None
    try:
        if (weights := path.with_suffix(".bin")).exists():
            check_regular(weights)
        model: Any = openvino.Core().read_model(str(path))
        height, width = (int(model.inputs[0].partial_shape[axis].get_length()) for axis in (2, 3))
        model.reshape([-1, 3, height, width])
        options = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        if model.output(0).partial_shape[0].is_static:
            raise ValueError("its answer is not one vector for each image")
        compiled = openvino.compile_model(model, "CPU", options)
    except Exception as error:
        raise DataError(f"{printable(path)}: OpenVINO cannot load it as [N, 3, H, W]: {in_words(error)}") from None

    own = threading.local()  # a request for each thread

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        pixels = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)
        answer = own.request.infer([pixels])[0]
        return np.asarray(answer, np.float32).reshape(len(images), -1).copy()

    return run, (height, width)
