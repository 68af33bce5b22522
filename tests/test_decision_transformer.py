"""The decision transformer: golden numbers, transformers.GPT2Model, causality, acting."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Model

from decision_transformer import DecisionTransformer, TransformerSize, gpt2
from decision_transformer.gpt2 import GPT2Decoder
from decision_transformer.policy import TanhGaussian
from fast_cpu import acting_twin
from fast_cpu.linear import packed
from tests.conftest import golden_files
from tests.golden_weights import golden_policy

FORWARDS = golden_files("dt_forward_*.npz")
# steps that the policy sees in the golden histories
CONTEXT = 3
SMALL = TransformerSize(embed_dim=32, n_layer=2, n_head=2, dropout=0.0, embed_dropout=0.0)


def small_model(**kwargs):
    return DecisionTransformer(5, 2, SMALL, **kwargs).eval()


def close(ours, theirs, tolerance=1e-5):
    theirs = torch.as_tensor(theirs)
    torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=tolerance, atol=tolerance)


def inputs(data, prefix):
    names = ("states", "actions", "rtg", "timesteps")
    return [torch.from_numpy(data[f"{prefix}/{name}"]) for name in names]


@pytest.mark.parametrize("path", FORWARDS.values(), ids=FORWARDS)
def test_forward_equals_golden(path):
    data = np.load(path)
    model = golden_policy(data)
    states, actions, rtg, timesteps = inputs(data, "in")
    mask = torch.from_numpy(data["in/padding_mask"]).bool()
    policy = model(states, actions, rtg[:, :-1], timesteps, mask)
    next_states, next_returns = model.predict_next(states, actions, rtg[:, :-1], timesteps, mask)
    close(next_states[mask], data["out/state_preds"][mask])
    close(next_returns[mask], data["out/return_preds"][mask])
    if not model.stochastic:
        close(policy.mean[mask], data["out/action_preds"][mask])
        return
    assert isinstance(policy, TanhGaussian)
    close(policy.loc[mask], data["out/action_loc"][mask])
    close(policy.std[mask], data["out/action_std"][mask])
    close(policy.mean[mask], data["out/action_mean"][mask])
    close(policy.log_prob(actions)[mask], data["out/log_likelihood"][mask], 1e-4)


@pytest.mark.parametrize("path", FORWARDS.values(), ids=FORWARDS)
def test_acting_equals_golden(path):
    """The published program pads the context to K steps with masked tokens; we do not."""
    data = np.load(path)
    model = golden_policy(data)
    histories = [name for name in data.files if name.endswith("/action")]
    assert histories
    for name in histories:
        context = [x[:, -CONTEXT:] for x in inputs(data, name.removesuffix("/action"))]
        close(model.act(*context).mean, data[name])


def batch_of(steps=4, batch=3):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, steps, 5, generator=generator),
        torch.rand(batch, steps, 2, generator=generator) * 2 - 1,
        torch.randn(batch, steps, 1, generator=generator),
        torch.arange(steps).expand(batch, steps),
    ]


def test_weights_convert_to_and_from_transformers():
    config = TransformerSize(embed_dim=32, n_layer=3, n_head=4).gpt2_config()
    ours = GPT2Decoder(config).eval()
    theirs = GPT2Model(config).eval()
    theirs.load_state_dict(ours.gpt2_state_dict())
    x = torch.randn(2, 7, 32)
    close(ours(x), theirs(inputs_embeds=x).last_hidden_state)
    other = GPT2Model(config).eval()
    torch.nn.init.zeros_(other.wpe.weight)
    ours.load_gpt2_state_dict(other.state_dict())
    close(ours(x), other(inputs_embeds=x).last_hidden_state)


def test_last_block_at_selected_positions_is_exact():
    decoder = GPT2Decoder(SMALL.gpt2_config()).eval()
    x = torch.randn(3, 8, 32)
    keep = torch.ones(3, 8, dtype=torch.bool)
    keep[0, :5] = False
    wanted = slice(1, None, 3)
    close(decoder(x, keep, wanted), decoder(x, keep)[:, wanted], 1e-6)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spare_keys_change_only_rounding(padded, dtype, monkeypatch):
    model, arrays = small_model(dtype=dtype), batch_of()
    if padded:
        arrays = (*arrays, torch.tensor([False, True, True, True]).expand(3, 4))
    expected = model(*arrays).mean[:, 1:]
    monkeypatch.setattr(gpt2, "_spare_keys", lambda x: 5)
    close(model(*arrays).mean[:, 1:], expected, 1e-6 if dtype is torch.float32 else 0.02)


def test_padding_does_not_change_real_steps():
    model = small_model()
    states, actions, rtg, timesteps = batch_of()
    mask = torch.tensor([False, True, True, True]).expand(3, 4)
    before = model(states, actions, rtg, timesteps, mask).mean[:, 1:]
    states[:, 0], actions[:, 0], rtg[:, 0] = 1e3, -1.0, 1e3
    after = model(states, actions, rtg, timesteps, mask).mean[:, 1:]
    assert torch.equal(before, after)
    close(model(*[x[:, 1:] for x in (states, actions, rtg, timesteps)]).mean, after, 1e-6)


def test_predictions_ignore_the_future():
    model = small_model(ordering=True)
    states, actions, rtg, timesteps = batch_of()
    before = model(states, actions, rtg, timesteps).mean
    states[:, 3], actions[:, 2:], rtg[:, 3] = 7.0, 0.9, 7.0
    after = model(states, actions, rtg, timesteps).mean
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_acting_equals_the_last_step_of_forward():
    model = small_model(ordering=True)
    batch = batch_of()
    close(model.act(*batch).mean, model(*batch).mean[:, -1], 1e-6)


def test_action_embedding_has_a_zero_gradient_at_one_step():
    """LAMB decays a tensor with a gradient of zero and skips one without a gradient."""
    model = small_model()
    model(*batch_of(steps=1)).mean.sum().backward()
    gradient = model.embed_action.weight.grad
    assert gradient is not None
    assert not gradient.any()
    assert model.predict_state.weight.grad is None


def test_bfloat16_is_close_to_float32():
    torch.manual_seed(0)
    full = small_model()
    half = small_model(dtype=torch.bfloat16)
    half.load_state_dict(full.state_dict())
    batch = batch_of()
    assert half(*batch).mean.dtype == torch.float32
    close(half(*batch).mean, full(*batch).mean, 3e-2)
    assert not torch.equal(half(*batch).mean, full(*batch).mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_acting_follows_the_weights(dtype):
    """The copy for acting is rebuilt when the weights change or the module is copied."""
    model, batch = small_model(dtype=dtype), batch_of()
    tolerance = 1e-6 if dtype == torch.float32 else 0.0

    @torch.inference_mode()
    def act(model):
        return model.act(*batch).mean

    before = act(model)
    assert torch.equal(before, act(model))
    close(before, model.act(*batch).mean, tolerance)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(3.0)
    assert not torch.equal(before, act(model))
    close(act(model), model.act(*batch).mean, tolerance)
    copied = deepcopy(model)
    with torch.no_grad():
        copied.transformer.h[0].mlp.c_fc.weight.zero_()
    close(act(copied), copied.act(*batch).mean, tolerance)
    model.load_state_dict(copied.state_dict())
    assert torch.equal(act(model), act(copied))


def test_acting_uses_dropout_in_training_mode_only():
    torch.manual_seed(0)
    size = replace(SMALL, dropout=0.5)
    model, batch = DecisionTransformer(5, 2, size).eval(), batch_of()

    @torch.inference_mode()
    def differ():
        return not torch.equal(model.act(*batch).mean, model.act(*batch).mean)

    assert not differ()
    model.train()
    assert differ()
    model.eval()
    assert not differ()


def test_weights_are_packed_once_until_training_resumes(monkeypatch):
    model, batch, made = small_model(), batch_of(), []

    def recording(weight):
        made.append(weight)
        return packed(weight)

    monkeypatch.setattr(acting_twin, "packed", recording)
    layers = 4 * len(model.transformer.h)
    with torch.inference_mode():
        for _ in range(3):
            model.act(*batch)
    assert len(made) == layers
    model(*batch)
    with torch.inference_mode():
        model.act(*batch)
    assert len(made) == 2 * layers


def test_initialisation_has_the_published_spread():
    torch.manual_seed(0)
    size = TransformerSize(embed_dim=64, n_layer=2, n_head=2)
    model = DecisionTransformer(5, 2, size, stochastic=True, ordering=True)
    block = "transformer.h.0"
    mlp = model.get_parameter(f"{block}.mlp.c_fc.weight")
    assert mlp.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.get_parameter(f"{block}.attn.c_attn.bias").any()
    ordering = model.get_parameter("embed_ordering.weight")
    assert ordering.std().item() == pytest.approx(1.0, rel=0.02)
    mu = model.get_parameter("predict_action.mu.weight")
    close(mu @ mu.T, torch.eye(2), 1e-5)


def test_log_density_matches_the_change_of_variables():
    """Compared with torch's transformed normal, and finite far out in the tails."""
    loc, std = torch.tensor([[0.3, -1.0]]), torch.tensor([[0.5, 1.5]])
    ours = TanhGaussian(loc, std)
    theirs = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(loc, std), [torch.distributions.TanhTransform()]
    )
    action = torch.tensor([[0.2, -0.7]])
    close(ours.log_prob(action), theirs.log_prob(action).sum(-1))
    far = TanhGaussian(loc + 30.0, std)
    sample, log_prob = far.sample_with_log_prob(torch.zeros)
    assert torch.isfinite(log_prob).all()
    assert (sample <= 1).all()
