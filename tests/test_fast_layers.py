"""The fast layers, compared with PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from decision_transformer import TransformerSize
from decision_transformer.gpt2 import SelfAttention
from fast_cpu.dropout import Dropout, keep_noise
from fast_cpu.linear import fusable, is_packed, linear, packed


def gradients_of(function, *inputs):
    """Output of a function and gradients for a fixed output gradient."""
    leaves = [x.detach().clone().requires_grad_(True) for x in inputs]
    y = function(*leaves)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
    return [y.detach(), *(x.grad for x in leaves)]


@settings(max_examples=25)
@given(
    rows=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    inner=st.integers(1, 40),
    outer=st.integers(1, 40),
    relu=st.booleans(),
    part=st.booleans(),
)
def test_linear_equals_pytorch(rows, inner, outer, relu, part):
    x, weight = torch.randn(*rows, inner), torch.randn(inner, 2 * outer)
    bias = torch.randn(outer)
    used = slice(outer, None) if part else slice(0, outer)

    def plain(x, weight, bias):
        y = x @ weight[:, used] + bias
        return F.relu(y) if relu else y

    ours = gradients_of(lambda x, w, b: linear(x, w[:, used], b, relu), x, weight, bias)
    for a, b in zip(ours, gradients_of(plain, x, weight, bias), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
def test_packed_weight_gives_the_same_product(dtype, relu):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 16), torch.randn(16, 24), torch.randn(24)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    ready = packed(weight)
    assert is_packed(ready) == fusable(weight)
    torch.testing.assert_close(linear(x, ready, bias, relu), linear(x, weight, bias, relu))


def test_linear_without_onednn_gives_the_same_product():
    x, weight, bias = torch.randn(3, 8), torch.randn(8, 5), torch.randn(5)
    fused = gradients_of(lambda x, w, b: linear(x, w, b, True), x, weight, bias)
    with torch.backends.mkldnn.flags(enabled=False):
        plain = gradients_of(lambda x, w, b: linear(x, w, b, True), x, weight, bias)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_linear_supports_a_gradient_for_the_weight_only():
    x, weight, bias = torch.randn(3, 8), torch.randn(8, 5, requires_grad=True), torch.randn(5)
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0)[:, None].expand(8, 5))


@pytest.mark.parametrize("steps", [2, 14, 59])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("queries", [None, slice(1, None, 3)])
@pytest.mark.parametrize("spare", [0, 5])
def test_attention_equals_scaled_dot_product_attention(steps, padded, queries, spare):
    """Also with spare keys, as compiled for a GPU."""
    size = TransformerSize(embed_dim=24, n_layer=1, n_head=3).gpt2_config()
    attention, x = SelfAttention(size).eval(), torch.randn(5, steps, 24)
    mask = torch.ones(steps, steps, dtype=torch.bool).tril().expand(5, -1, -1)
    if padded:
        keep = torch.arange(steps) >= torch.randint(steps, (5, 1))
        mask = (mask & keep[:, None]) | torch.eye(steps, dtype=torch.bool)
    rows = slice(None) if queries is None else queries
    bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, rows]
    bias = F.pad(bias, (0, spare), value=-torch.inf)

    def theirs(x):
        q, k, v = (
            part.unflatten(-1, (3, -1)).transpose(1, 2)
            for part in (x @ attention.c_attn.weight + attention.c_attn.bias).chunk(3, dim=-1)
        )
        out = F.scaled_dot_product_attention(q[:, :, rows], k, v, attn_mask=mask[:, None, rows])
        return out.transpose(1, 2).flatten(2) @ attention.c_proj.weight + attention.c_proj.bias

    ours = gradients_of(lambda x: attention(x, bias if padded else bias[0, 0], queries), x)
    for a, b in zip(ours, gradients_of(theirs, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_is_a_scaled_bernoulli(p, dtype):
    """Over more than one block; the kept share is within 5 standard deviations."""
    torch.manual_seed(0)
    noise = keep_noise(torch.empty(700_003, dtype=dtype), p)
    kept = noise != 0
    deviation = (p * (1 - p) / noise.numel()) ** 0.5
    assert abs(kept.double().mean().item() - (1 - p)) < 5 * deviation + 1e-5
    scale = torch.tensor(1 / (1 - round(p * 65536) / 65536), dtype=dtype)
    torch.testing.assert_close(noise[kept].unique(), scale[None])
    # neighbours share a random word but are independent
    both = (kept[:-1] & kept[1:]).double().mean().item()
    assert abs(both - (1 - p) ** 2) < 10 * deviation + 1e-5


def test_noise_depends_on_the_seed_and_does_not_repeat():
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append([keep_noise(torch.empty(5, 7, 11), 0.3) for _ in range(2)])
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[0][1])


def test_dropout_and_its_gradient_use_the_same_noise():
    dropout, x, residual = Dropout(0.25), torch.randn(40, 50), torch.randn(40, 50)
    for function in (dropout, lambda y: dropout.add(residual, y)):
        torch.manual_seed(1)
        y, grad = gradients_of(function, x)
        torch.manual_seed(1)
        noise = keep_noise(x, 0.25)
        base = 0 if function is dropout else residual
        torch.testing.assert_close(y, base + x * noise)
        upstream = torch.linspace(-1, 1, x.numel()).view(x.shape)
        torch.testing.assert_close(grad, upstream * noise)
    dropout.eval()
    assert torch.equal(dropout(x), x)
    assert torch.equal(dropout.add(residual, x), residual + x)
    assert torch.equal(Dropout(0.0)(x), x)
