from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from fingerprint import fingerprint_of  # noqa: E402

from siamese_search.errors import UsageError  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.model.weights_file import load_network, save_bundle, stored_state, transfer  # noqa: E402

SMALL = NetworkSpec(backbone="test_efficientnet", dim=16, height=64, width=32)


def test_the_default_is_efficientnet_b0_with_512_dimensions() -> None:
    network = APNNetwork(NetworkSpec()).eval()
    with torch.inference_mode():
        features, necked = network(torch.zeros(1, 3, 128, 64))
    assert features.shape == (1, 512)
    assert torch.equal(features, necked)
    assert network.embedding.in_features == 1280


def test_normalise_matches_the_formula() -> None:
    network = APNNetwork(SMALL)
    image = torch.arange(64 * 32 * 3, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 64, 32, 3)
    out = network.normalise(image)
    y, x = 10, 20
    for channel in range(3):
        expected = (float(image[0, y, x, channel]) / 255 - SMALL.mean[channel]) / SMALL.std[channel]
        assert float(out[0, channel, y, x]) == pytest.approx(expected, abs=1e-5)


def test_last_stride_1_doubles_the_final_map_and_dilates_nothing() -> None:
    wide = APNNetwork(NetworkSpec(backbone="efficientnet_b0", last_stride=1)).eval()
    plain = APNNetwork(NetworkSpec(backbone="efficientnet_b0")).eval()
    x = torch.zeros(1, 3, 128, 64)
    with torch.inference_mode():
        assert plain.backbone.forward_features(x).shape[2:] == (4, 2)
        assert wide.backbone.forward_features(x).shape[2:] == (8, 4)
    assert all(m.dilation == (1, 1) for m in wide.modules() if isinstance(m, torch.nn.Conv2d))


def test_gem_with_p_1_is_the_average() -> None:
    network = APNNetwork(NetworkSpec(backbone="test_efficientnet", dim=8, height=64, width=32, pool="gem"))
    features = torch.rand(2, 5, 3, 2) + 0.1
    network.pool.p.data.fill_(1.0)
    assert torch.allclose(network.pool(features), features.mean(dim=(2, 3)), atol=1e-5)


def test_unknown_backbone_names_near_ones() -> None:
    with pytest.raises(UsageError, match="efficientnet_b"):
        APNNetwork(NetworkSpec(backbone="efficientnet_b99"))


def test_weights_survive_the_bundle(tmp_path) -> None:
    torch.manual_seed(1)
    network = APNNetwork(SMALL).eval()
    bundle = save_bundle(network, tmp_path / "b", {"heldout_identities": ["7"]})
    again = load_network(bundle).eval()
    x = torch.randn(3, 3, 64, 32)
    with torch.inference_mode():
        similarity = (network.embed(x) * again.embed(x)).sum(1)
    assert float(similarity.min()) > 0.9999
    assert bundle.heldout_identities == ["7"]


def test_the_fingerprint_covers_weights_and_preprocessing() -> None:
    torch.manual_seed(1)
    network = APNNetwork(SMALL)
    state = stored_state(network)
    first = fingerprint_of(state, SMALL)
    assert first == fingerprint_of(dict(reversed(state.items())), SMALL)
    other = {name: value.clone() for name, value in state.items()}
    other["embedding.bias"][0] += 1
    assert fingerprint_of(other, SMALL) != first
    moved = NetworkSpec(**{**SMALL.to_json(), "mean": (0.5, 0.5, 0.5)})
    assert fingerprint_of(state, moved) != first


def test_fingerprints_of_existing_bundles_never_change() -> None:
    """Galleries hold these values: a new field of NetworkSpec must not enter the digest of old networks."""
    values = {"w": torch.arange(6, dtype=torch.float32).reshape(2, 3)}
    reid = NetworkSpec(backbone="test_efficientnet", dim=16, height=64, width=32, pool="gem", neck="bn", last_stride=1)
    assert fingerprint_of(values, NetworkSpec()) == ("a8e07813e602cf78ed1dc1ff02c7ccbb7d3660e694bf64353f6fb5a62a62f1d6")
    assert fingerprint_of(values, reid) == "2c944acbef75aded5595e8babbfcd52ecaea18d85dd4cc595768449b77dabe78"
    network = APNNetwork(SMALL)
    state = network.state_dict()
    for name, tensor in state.items():
        state[name] = torch.arange(tensor.numel()).reshape(tensor.shape).remainder(97).to(tensor.dtype)
    network.load_state_dict(state)
    assert fingerprint_of(stored_state(network), SMALL) == (
        "246ccd94d4fddd15f4f9eb14748b3399e6bd40240f53462f5ddaffe0bb7a3633"
    )


def test_transfer_takes_what_fits(tmp_path) -> None:
    bundle = save_bundle(APNNetwork(SMALL), tmp_path / "b", {})
    wider = APNNetwork(NetworkSpec(backbone="test_efficientnet", dim=24, height=96, width=32))
    fresh = transfer(wider, bundle)
    assert fresh == ["embedding.bias", "embedding.weight"]
    source, target = load_network(bundle).state_dict(), wider.state_dict()
    name = "backbone.conv_stem.weight"
    assert torch.equal(source[name], target[name])
    other = APNNetwork(NetworkSpec(backbone="test_resnet", dim=16, height=64, width=32))
    with pytest.raises(Exception, match="its backbone is 'test_efficientnet'"):
        transfer(other, bundle)
