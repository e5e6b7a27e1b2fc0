from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from siamese_search.training.backbone import TrimmedConv2d, trim  # noqa: E402


@pytest.mark.parametrize("size", [(4, 2), (1, 1), (2, 9), (8, 4), (3, 3)])
@pytest.mark.parametrize("kernel", [3, 5, 7, (5, 3)])
def test_outputs_and_gradients_are_those_of_the_whole_kernel(
    size: tuple[int, int], kernel: int | tuple[int, int]
) -> None:
    torch.manual_seed(0)
    half = kernel // 2 if isinstance(kernel, int) else tuple(k // 2 for k in kernel)
    whole = nn.Conv2d(6, 6, kernel, padding=half, groups=6, bias=False).double()
    trimmed = nn.Conv2d(6, 6, kernel, padding=half, groups=6, bias=False).double()
    trimmed.load_state_dict(whole.state_dict())
    assert trim(trimmed) == 1
    images = torch.randn(3, 6, *size, dtype=torch.float64)
    grad = torch.randn(3, 6, *size, dtype=torch.float64)
    found = []
    for conv in (whole, trimmed):
        x = images.clone().requires_grad_()
        out = conv(x)
        out.backward(grad)
        found.append((out.detach(), x.grad, conv.weight.grad))
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, atol=1e-12)


def test_others_are_left_alone() -> None:
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, stride=2),
        nn.Conv2d(4, 4, 3, padding=0, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 4, padding=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
    )
    assert trim(others) == 0
    assert not any(isinstance(module, TrimmedConv2d) for module in others)
