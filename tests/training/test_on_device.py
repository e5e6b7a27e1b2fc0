"""What lies on the training device, and a step there: on the CPU, on CUDA too where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.training import backbone  # noqa: E402
from siamese_search.training import data as pixels_module  # noqa: E402
from siamese_search.training import trainer as trainer_module  # noqa: E402
from siamese_search.training.augment import augment, draw, view_mix  # noqa: E402
from siamese_search.training.config import PRESETS  # noqa: E402
from siamese_search.training.data import PixelSource  # noqa: E402
from siamese_search.training.trainer import Trainer  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICES = ["cpu", *(["cuda"] if CUDA else [])]
STRONG = PRESETS["reid"].with_options(
    backbone="test_efficientnet", dim=16, height=32, width=16, batch_size=8, images_per_identity=2, zoom=0.2,
    tint=0.2, grey=0.5, blur=0.3, detail=1.0, mixstyle=0.5, ema=0.9, epochs=2,
)  # fmt: skip


@pytest.fixture
def source(people: Path):
    found = PixelSource(sorted(people.iterdir()), (32, 16), threads=1)
    yield found
    found.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("free", [0, 1 << 40], ids=["moved", "resident"])
def test_pixels_on_a_device_are_those_on_the_host(
    source: PixelSource, monkeypatch: pytest.MonkeyPatch, device: str, free: int
) -> None:
    monkeypatch.setattr(pixels_module, "free_bytes", lambda _: free)
    where = torch.device(device)
    for indices in (np.array([3, 0, 3]), np.arange(20)):
        found = source.get_tensor(indices, where)
        assert found.device.type == device
        assert np.array_equal(found.cpu().numpy(), source.get(indices))
    source.resize((16, 8))
    assert np.array_equal(source.get_tensor(np.arange(5), where).cpu().numpy(), source.get(np.arange(5)))


def make_trainer(device: str, config=STRONG) -> Trainer:
    class Images:
        def get(self, indices: np.ndarray) -> np.ndarray:
            drawn = np.random.default_rng(1).integers(0, 256, (24, 32, 16, 3), dtype=np.uint8)
            return drawn[indices]

    torch.manual_seed(3)
    spec = NetworkSpec(backbone="test_efficientnet", dim=16, height=32, width=16, neck="bn")
    teacher = np.random.default_rng(2).normal(size=(2, 24, 12)).astype(np.float32)
    teacher /= np.linalg.norm(teacher, axis=2, keepdims=True)
    return Trainer(APNNetwork(spec), config, Images(), np.repeat(np.arange(6), 4), teacher=teacher, device=device)


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_masks_on_cuda_give_the_pixels_of_the_cpu() -> None:
    images = torch.randint(0, 256, (32, 64, 32, 3), dtype=torch.uint8)
    random = draw(32, torch.Generator().manual_seed(5))
    here, there = augment(images, STRONG, random), augment(images.cuda(), STRONG, random.cuda()).cpu()
    # An edge of a rectangle may be rounded to the next pixel, and products may be rounded to fewer bits.
    assert float(((here - there).abs() > 1.0).float().mean()) < 0.005


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_a_step_on_cuda_gives_the_loss_of_the_cpu() -> None:
    config = STRONG.with_options(mixstyle=0.0)
    here, there = make_trainer("cpu", config), make_trainer("cuda", config)
    batch = next(iter(here.sampler.epoch(0)))
    assert there._step(batch)[0] == pytest.approx(here._step(batch)[0], rel=0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_a_student_sees_the_mixed_people_that_its_teacher_saw(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    still = dict.fromkeys(
        ("zoom", "tint", "grey", "blur", "detail", "jitter", "crop", "erase", "flip", "mixstyle"), 0.0
    )
    alone = {"identity_weight": 0.0, "triplet_weight": 0.0}
    config = STRONG.with_options(teacher_views=1, view_mix=0.5, **alone, **still)
    trainer = make_trainer(device, config)
    seen = []

    def spy(images, *args):
        seen.append(images.cpu())
        return augment(images, *args)

    monkeypatch.setattr(trainer_module, "augment", spy)
    every = np.arange(24).reshape(3, 8)
    for epoch in (0, 1):  # the plain images, then view 1
        trainer.progress.epoch = epoch
        for batch in every:
            assert np.isfinite(trainer._step(batch)[0])
    plain, view = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert np.array_equal(plain.numpy(), trainer.images.get(np.arange(24)))
    partner, cut = view_mix(config, 24, 1)
    for row in range(24):
        for y in range(32):
            source = row if (y + 0.5) / 32 < float(cut[row]) else int(partner[row])
            assert torch.equal(view[row, y], plain[source, y])
    assert (view != plain).any()


def losses(trainer: Trainer, steps: int = 3) -> list[float]:
    found = []
    for batch in list(trainer.sampler.epoch(0))[:steps]:
        found.append(trainer._step(batch)[0])
        trainer.progress.global_step += 1
    return found


@pytest.mark.parametrize("mixstyle", [0.0, 0.5, 1.0])
def test_recorded_passes_draw_and_compute_what_launched_ones_do(
    monkeypatch: pytest.MonkeyPatch, mixstyle: float
) -> None:
    """Recording is replaced by a few runs, as come before a recording: the styles come from the given memory."""
    config = STRONG.with_options(mixstyle=mixstyle)
    recordings = []

    def fake(module, inputs):
        for _ in range(3):
            module(inputs)
        kept = [mixer.given for mixer in backbone.mixers(module.network.backbone)]
        recordings.append(inputs.shape)

        def run(images):
            for mixer, given in zip(backbone.mixers(module.network.backbone), kept, strict=True):
                mixer.given = given
            return module(images)

        return run

    monkeypatch.setattr(backbone, "record", fake)
    launched, replayed = make_trainer("cpu", config), make_trainer("cpu", config)
    replayed._passes._record = True
    assert losses(replayed) == pytest.approx(losses(launched), rel=1e-3)
    assert len(recordings) == 1


def test_where_nothing_can_be_recorded_kernels_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("not permitted when stream is capturing")

    monkeypatch.setattr(backbone, "record", refuse)
    launched, refused = make_trainer("cpu"), make_trainer("cpu")
    refused._passes._record = True
    assert losses(refused) == losses(launched)


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_recorded_passes_on_cuda_give_the_losses_of_launched_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = make_trainer("cuda")
    found = losses(replayed)
    assert all(run is not None for run in replayed._passes._recorded.values())
    monkeypatch.setattr(backbone, "RECORD", False)
    assert found == pytest.approx(losses(make_trainer("cuda")), rel=0.05)


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_a_step_on_cuda_waits_once() -> None:
    """The loss is read in every step; nothing else may wait for the device."""
    trainer = make_trainer("cuda")
    batches = list(trainer.sampler.epoch(0))
    trainer._step(batches[0])  # kernels are chosen, memory is taken
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer._step(batches[1])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in caught if "synchron" in str(warning.message)]
    assert len(waits) <= 1, waits
