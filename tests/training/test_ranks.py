"""Two real processes over gloo, started by torchrun, against one process that does their work in turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from siamese_search.errors import DataError, UsageError  # noqa: E402
from siamese_search.training import ranks as distributed  # noqa: E402
from siamese_search.training.ranks import Ranks  # noqa: E402

OPTIONS = [
    "--backbone", "simple_cnn", "--init", "none", "--height", "32", "--width", "16", "--dim", "8",
    "--batch-size", "4", "--images-per-identity", "2", "--warmup-epochs", "0", "--holdout", "2", "--threads", "1",
]  # fmt: skip


def torchrun(*arguments: str, processes: int = 2) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        "-m", "siamese_search", "train", *arguments,
    ]  # fmt: skip


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


def test_every_rank_gets_as_many_batches_and_none_twice() -> None:
    for world in (1, 2, 3, 5):
        for steps in range(world, 14):
            shares = [list(Ranks(rank, world).shard(range(steps), steps)) for rank in range(world)]
            assert {len(share) for share in shares} == {Ranks(0, world).steps(steps)}
            together = sorted(batch for share in shares for batch in share)
            assert together == list(range(steps - steps % world))


def test_fewer_batches_than_processes_is_said() -> None:
    with pytest.raises(DataError, match="an epoch has 2 batches for 4 processes"):
        Ranks(0, 4).steps(2)


def test_alone_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with distributed.joined("cpu") as ranks:
        assert ranks == distributed.SINGLE
        assert ranks.agree({"a": 1}) == {"a": 1}
        values = torch.tensor([1.0, 2.0])
        assert ranks.mean(values) is values
        assert ranks.any(True)
        assert not ranks.any(False)


def test_damaged_variables_are_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="must be whole numbers"), distributed.joined("cpu"):
        pass


WORKER = """
import sys, numpy as np, torch
from safetensors.torch import save_file
from siamese_search.model.network import APNNetwork, NetworkSpec
from siamese_search.training.ranks import joined
from siamese_search.training.config import REID
from siamese_search.training.trainer import Trainer

config = REID.with_options(backbone="simple_cnn", dim=8, height=16, width=16, batch_size=4, images_per_identity=2,
    warmup_epochs=0, epochs=1, grad_clip=0, flip=0, crop=0, erase=0, jitter=0, optimizer="adam", weight_decay=0)
class Images:
    def get(self, indices):
        return np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), np.uint8)[indices]
torch.set_num_threads(1)
with joined("cpu") as ranks:
    torch.manual_seed(0)
    network = APNNetwork(NetworkSpec("simple_cnn", 8, 16, 16, neck="bn"))
    trainer = Trainer(network, config, Images(), np.repeat(np.arange(8), 4), ranks=ranks)
    steps = []
    trainer.train_epoch(steps.append)
    state = {k: v.clone().contiguous() for k, v in network.state_dict().items()}
    save_file(state, f"{sys.argv[1]}/rank{ranks.rank}.safetensors", metadata={"losses": repr([s.loss for s in steps])})
"""


def new_network():
    from siamese_search.model.network import APNNetwork, NetworkSpec

    torch.manual_seed(0)
    return APNNetwork(NetworkSpec("simple_cnn", 8, 16, 16, neck="bn"))


def expected_of_two_ranks() -> dict[str, torch.Tensor]:
    """The oracle: one process computes both gradients from the same weights, averages them, and steps."""
    from siamese_search.training.config import REID
    from siamese_search.training.trainer import Trainer

    config = REID.with_options(
        backbone="simple_cnn", dim=8, height=16, width=16, batch_size=4, images_per_identity=2, warmup_epochs=0,
        epochs=1, grad_clip=0, flip=0, crop=0, erase=0, jitter=0, optimizer="adam", weight_decay=0,
    )  # fmt: skip

    class Images:
        def get(self, indices):
            return np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), np.uint8)[indices]

    network = new_network()
    trainer = Trainer(network, config, Images(), np.repeat(np.arange(8), 4))
    batches = list(trainer.sampler.epoch(0))
    pairs = len(batches) // 2
    network.train()
    for step in range(pairs):
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.learning_rate(step / pairs)
        start = {k: v.clone() for k, v in network.named_buffers()}
        gradients, buffers = [], []
        for batch in batches[2 * step : 2 * step + 2]:
            for name, buffer in network.named_buffers():
                buffer.copy_(start[name])
            images = torch.from_numpy(Images().get(batch)).float()
            features, necked = network(network.normalise(images))
            loss, _ = trainer._loss(features, necked, batch, batch.shape)
            trainer.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            gradients.append([p.grad.clone() for p in trainer._parameters])
            buffers.append({k: v.clone() for k, v in network.named_buffers()})
        for parameter, first, second in zip(trainer._parameters, *gradients, strict=True):
            parameter.grad = (first + second) / 2
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_((buffers[0][name] + buffers[1][name]) / 2)
        trainer.optimizer.step()
    return network.state_dict()


def test_two_processes_step_by_the_mean_of_their_gradients(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = run([*launch, str(script), str(tmp_path)])
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    expected = expected_of_two_ranks()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    # Adam turns a gradient of nothing but rounding into a whole step: compare how far all weights are apart.
    untrained = new_network().state_dict()
    apart = sum(float((first[name] - expected[name]).double().square().sum()) for name in first)
    moved = sum(float((expected[name] - untrained[name]).double().square().sum()) for name in first)
    assert apart < 1e-4 * moved


@pytest.mark.slow
def test_torchrun_trains_a_bundle_and_resumes_to_the_same_bits(people: Path, tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    done = run(torchrun(str(people), "--out", str(whole), "--epochs", "3", *OPTIONS))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held out") == 1  # one process speaks
    model = json.loads((whole / "model.json").read_text())
    assert len(model["heldout_identities"]) == 2

    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        torchrun(str(people), "--out", str(halved), "--epochs", "3", *OPTIONS),
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (halved / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    if not (halved / "model.json").exists():  # it may have been done already
        done = run(torchrun("--resume", str(halved), "--threads", "1"))
        assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(path / "model.safetensors") for path in (whole, halved))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_error_of_the_first_process_ends_all(people: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").touch()
    done = run(torchrun(str(people), "--out", str(tmp_path), "--epochs", "1", *OPTIONS))
    assert done.returncode != 0
    assert "already holds a run" in done.stderr
