"""MixStyle against a loop over images, and where it acts."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

import timm  # noqa: E402

from siamese_search.training.backbone import add_mixstyle, mix_styles, mixers  # noqa: E402


def test_against_a_loop_over_images_and_channels() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(5, 3, 4, 2, generator=generator) * 2 + 1
    partner = torch.tensor([3, 0, 1, 4, 2])
    share = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    out = mix_styles(features, partner, share)
    for i in range(5):
        for c in range(3):
            mine, other = features[i, c], features[partner[i], c]
            deviation = (mine.var(unbiased=False) + 1e-6).sqrt()
            wanted = share[i] * deviation + (1 - share[i]) * (other.var(unbiased=False) + 1e-6).sqrt()
            mean = share[i] * mine.mean() + (1 - share[i]) * other.mean()
            assert torch.allclose(out[i, c], (mine - mine.mean()) / deviation * wanted + mean, atol=1e-5)
    assert torch.allclose(out[4], features[4], atol=1e-5)  # all of one's own style


def test_gradients_do_not_flow_through_the_statistics() -> None:
    features = torch.randn(4, 2, 3, 3, requires_grad=True)
    mix_styles(features, torch.tensor([1, 2, 3, 0]), torch.full((4,), 0.5)).sum().backward()
    scale = features.grad.flatten(2)
    assert torch.allclose(scale, scale[..., :1].expand_as(scale))  # one factor per channel


def test_it_acts_in_training_alone_and_adds_no_weight() -> None:
    plain = timm.create_model("test_efficientnet", num_classes=0, global_pool="")
    mixed = timm.create_model("test_efficientnet", num_classes=0, global_pool="")
    mixed.load_state_dict(plain.state_dict())
    assert add_mixstyle(mixed, 1.0) == 2
    assert mixed.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(6, 3, 32, 16)
    assert torch.equal(plain.eval()(images), mixed.eval()(images))
    torch.manual_seed(0)
    assert not torch.allclose(plain.train()(images), mixed.train()(images), atol=1e-3)


def test_a_residual_network_has_stages_too_and_another_has_none() -> None:
    assert add_mixstyle(timm.create_model("resnet10t", num_classes=0), 0.5) == 2
    assert add_mixstyle(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1)), 0.5) == 0


def test_a_copy_in_evaluation_mode_mixes_nothing_while_the_original_trains() -> None:
    """The moving average of the weights is such a copy."""
    mixed = timm.create_model("test_efficientnet", num_classes=0, global_pool="")
    add_mixstyle(mixed, 1.0)
    mixed.train()
    average = copy.deepcopy(mixed).eval()
    images = torch.randn(6, 3, 32, 16)
    assert torch.equal(average(images), average(images))


def test_given_partners_and_shares_are_used_instead_of_drawn_ones() -> None:
    mixed = timm.create_model("test_efficientnet", num_classes=0, global_pool="").train()
    images = torch.randn(4, 3, 32, 16)
    plain = copy.deepcopy(mixed)(images)
    add_mixstyle(mixed, 1.0)
    for mixer in mixers(mixed):
        mixer.given = torch.arange(4), torch.ones(4)
    assert torch.allclose(copy.deepcopy(mixed)(images), plain, atol=1e-4)
    for mixer in mixers(mixed):
        mixer.given = torch.tensor([1, 2, 3, 0]), torch.zeros(4)
    assert not torch.allclose(mixed(images), plain, atol=1e-2)
