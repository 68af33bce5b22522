"""The loss functions: values, gradients by finite differences, padding never contributes."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import decision_transformer.losses as actor_losses
from decision_transformer.losses import action_distance_loss, supervised_loss
from decision_transformer.policy import Deterministic, TanhGaussian
from get_args import RL_ALGORITHMS, Settings
from rl_gradients import algorithm_class, awac, common, iql, on_policy, ppo, sac, td3
from tasks import TASKS
from trainer import Trainer
from trajectories import Batch

B, K, ACT = 3, 4, 2
CPU = torch.device("cpu")
MASK = torch.tensor([[False, False, True, True], [True] * 4, [False, True, True, True]])


def steps(mask):
    """Indices of the unpadded steps."""
    return [(b, k) for b in range(len(mask)) for k in range(len(mask[0])) if mask[b][k]]


def mean(term, mask, over_all=False):
    """Sum of term(b, k) over unpadded steps, divided by their number or by that of all steps."""
    where = steps(mask)
    return sum(term(b, k) for b, k in where) / (mask.size if over_all else len(where))


def clip(x, low, high):
    return min(max(x, low), high)


@dataclass
class Case:
    """A loss and an independent formula for it.

    Attributes:
        loss: (*inputs, mask) -> 0-d tensor.
        formula: The same for NumPy arrays, as a float.
        trained: Shape (*, B, K) of each input with a gradient.
        given: Shapes of the inputs without; they come last.
    """

    loss: Callable
    formula: Callable
    trained: list[tuple[int, ...]]
    given: list[tuple[int, ...]]


STEP, TWO = (B, K), (2, B, K)
CASES = {
    "twin_q_loss": Case(
        lambda q, y, m: common.twin_q_loss(q, y, m)[0],
        lambda q, y, m: mean(
            lambda b, k: (q[0, b, k] - y[b, k]) ** 2 + (q[1, b, k] - y[b, k]) ** 2, m, True
        ),
        [TWO],
        [STEP],
    ),
    "value_loss": Case(
        on_policy.value_loss,
        lambda v, y, m: mean(lambda b, k: 0.5 * (v[b, k] - y[b, k]) ** 2, m, True),
        [STEP],
        [STEP],
    ),
    "expectile_loss": Case(
        lambda a, m: iql.expectile_loss(a, 0.8, m),
        lambda a, m: mean(lambda b, k: abs(0.8 - (a[b, k] < 0)) * a[b, k] ** 2, m, True),
        [STEP],
        [],
    ),
    "deterministic_policy_loss": Case(
        lambda q, m: td3.deterministic_policy_loss(q, m)[0],
        lambda q, m: -mean(lambda b, k: q[b, k], m),
        [STEP],
        [],
    ),
    "soft_policy_loss": Case(
        lambda q, log_prob, m: sac.soft_policy_loss(
            q, common.masked_mean(-log_prob, m), torch.tensor(0.3), m
        ),
        lambda q, log_prob, m: mean(lambda b, k: 0.3 * log_prob[b, k] - q[b, k], m),
        [STEP, STEP],
        [],
    ),
    "weighted_regression_loss": Case(
        lambda log_prob, w, m: common.weighted_regression_loss(w, log_prob, m),
        lambda log_prob, w, m: -mean(lambda b, k: w[b, k] * log_prob[b, k], m),
        [STEP],
        [STEP],
    ),
    "clipped_surrogate_loss": Case(
        lambda x, a, m: ppo.clipped_surrogate_loss(x, a, 0.2, m)[0],
        lambda x, a, m: (
            -mean(
                lambda b, k: min(
                    math.exp(x[b, k]) * a[b, k], clip(math.exp(x[b, k]), 0.8, 1.2) * a[b, k]
                ),
                m,
            )
        ),
        [STEP],
        [STEP],
    ),
    "action_distance_loss": Case(
        lambda a, old, m: action_distance_loss(a.movedim(0, -1), old.movedim(0, -1), m),
        lambda a, old, m: mean(
            lambda b, k: (a[0, b, k] - old[0, b, k]) ** 2 + (a[1, b, k] - old[1, b, k]) ** 2, m
        ),
        [TWO],
        [TWO],
    ),
}


def draw(case, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = case.trained + case.given
    x = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    for each in x[: len(case.trained)]:
        each.requires_grad_()
    return x


def test_every_loss_has_a_case():
    modules = {inspect.getmodule(algorithm) for algorithm in map(algorithm_class, RL_ALGORITHMS)}
    found = {
        name
        for module in modules | {actor_losses, common, on_policy}
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name.endswith("_loss")
    }
    # supervised_loss is tested separately
    assert found == {*CASES, "supervised_loss"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_loss_and_gradient_equal_the_formula(name, seed):
    """The formula's gradient is a central difference, independent of autograd."""
    case = CASES[name]
    x = draw(case, seed)
    loss = case.loss(*x, MASK)
    plain = [each.detach().numpy().copy() for each in x]
    mask = MASK.numpy()
    assert loss.item() == pytest.approx(case.formula(*plain, mask), rel=1e-6)
    loss.backward()
    step = 1e-5
    for tensor, array in zip(x, plain, strict=True):
        if not tensor.requires_grad:
            continue
        slopes = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            above = case.formula(*plain, mask)
            array[index] = value - step
            slopes[index] = (above - case.formula(*plain, mask)) / (2 * step)
            array[index] = value
        np.testing.assert_allclose(tensor.grad.numpy(), slopes, rtol=1e-5, atol=1e-8)
        assert slopes.any()


GARBAGE = st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, 0.0])
MASKS = arrays.arrays(bool, (B, K)).filter(lambda mask: mask.any())


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(mask=MASKS, garbage=GARBAGE, seed=st.integers(0, 1000))
def test_padding_changes_neither_loss_nor_gradient(name, mask, garbage, seed):
    case, mask = CASES[name], torch.from_numpy(mask)
    results = []
    for filling in (0.0, garbage):
        x = draw(case, seed)
        spoilt = [torch.where(mask, each, filling).detach() for each in x]
        for each in spoilt[: len(case.trained)]:
            each.requires_grad_()
        loss = case.loss(*spoilt, mask)
        loss.backward()
        results.append([loss.detach(), *(each.grad for each in spoilt[: len(case.trained)])])
    for clean, spoilt in zip(*results, strict=True):
        assert torch.equal(clean, spoilt)
    for gradient in results[1][1:]:
        assert not gradient[..., ~mask].any()


@settings(max_examples=25)
@given(mask=MASKS, garbage=GARBAGE, beta=st.floats(0.2, 5.0))
def test_padding_gets_no_weight_in_the_softmax(mask, garbage, beta):
    mask = torch.from_numpy(mask)
    advantage = torch.randn(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spoilt = torch.where(mask, advantage, garbage)
    weights = awac.softmax_weights(spoilt, beta, mask)
    assert not weights[~mask].any()
    total = sum(math.exp(advantage[i].item() / beta) for i in steps(mask))
    for i in steps(mask):
        assert weights[i].item() == pytest.approx(math.exp(advantage[i].item() / beta) / total)


def log_normal(u, loc, std):
    return -0.5 * ((u - loc) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)


def random_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Batch(
        states=randn(B, K, 4),
        next_states=randn(B, K, 4),
        actions=0.9 * randn(B, K, ACT).tanh(),
        rewards=randn(B, K),
        dones=torch.where(MASK, 0.0, 2.0),
        rtg=randn(B, K + 1, 1),
        timesteps=torch.arange(K).expand(B, K),
        mask=MASK,
        rows=torch.arange(B * K).reshape(B, K),
    )


def supervised_formula(batch, loc, std, entropy, weight):
    """For NumPy arrays; deterministic if std is None."""
    actions, mask = batch.actions.numpy(), MASK.numpy()

    def term(b, k):
        if std is None:
            return sum((loc[b, k, i] - actions[b, k, i]) ** 2 for i in range(ACT)) / ACT
        return -sum(
            log_normal(math.atanh(a), loc[b, k, i], std[b, k, i]) - math.log(1 - a * a)
            for i, a in enumerate(actions[b, k])
        )

    return mean(term, mask) - weight * entropy


@pytest.mark.parametrize("stochastic", [False, True])
def test_supervised_loss_equals_the_formula(stochastic):
    batch = random_batch()
    loc = torch.randn(B, K, ACT, dtype=torch.float64, requires_grad=True)
    std = torch.rand(B, K, ACT, dtype=torch.float64).add(0.5).requires_grad_()
    entropy = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def loss(loc, std, entropy):
        if not stochastic:
            return supervised_loss(Deterministic(loc), batch, None, 0.0)[0]
        return supervised_loss(TanhGaussian(loc, std), batch, entropy, 0.3)[0]

    inputs = (loc, std, entropy)
    plain = [x.detach().numpy() for x in inputs]
    if stochastic:
        expected = supervised_formula(batch, plain[0], plain[1], plain[2], 0.3)
    else:
        expected = supervised_formula(batch, plain[0], None, 0.0, 0.0)
    assert loss(*inputs).item() == pytest.approx(expected)
    trained = inputs if stochastic else (loc,)
    assert torch.autograd.gradcheck(lambda *x: loss(*x, *inputs[len(x) :]), trained)
    gradients = torch.autograd.grad(loss(*inputs), trained)
    assert not gradients[0][~MASK].any()
    assert gradients[0][MASK].all()


SMALL = replace(
    Settings(), embed_dim=16, n_layer=1, n_head=2, dropout=0.0, use_entropy_reg=0,
    AWAC_soft_flag=2, AWAC_normalize_adv=1, num_actor_update_interval=1, warmup_steps=1,
)  # fmt: skip


def spoilt_batch(algorithm, filling):
    """A batch, on-policy if the algorithm is, with `filling` in all loss inputs at padding."""
    batch = random_batch()
    numbers = {name: x.float() for name, x in vars(batch).items() if x.is_floating_point()}
    batch, spoilt = replace(batch, **numbers), ["rewards", "dones"]
    if isinstance(algorithm, on_policy.OnPolicyGradient):
        extra = dict.fromkeys(("returns", "advantages", "log_probs"), batch.rewards)
        batch, spoilt = on_policy.OnlineBatch(**vars(batch), **extra), [*spoilt, *extra]
    return replace(
        batch, **{name: torch.where(MASK, getattr(batch, name), filling) for name in spoilt}
    )


def weights_of(trainer):
    nets = (trainer.nets.actor, trainer.nets.critic)
    return [p.detach().clone() for net in nets for p in net.parameters()]


@pytest.mark.parametrize("algorithm", RL_ALGORITHMS)
@pytest.mark.parametrize("critics", [{}, {"recurrent": True}, {"recurrent": True, "arch": "LSTM"}])
def test_padding_changes_no_update(algorithm, critics):
    trained = []
    for filling in (0.0, math.nan):
        torch.manual_seed(3)
        settings = replace(SMALL, rl_algo=algorithm, **critics)
        trainer = Trainer(settings, TASKS["maze2d-umaze-v1"], CPU)
        trainer.start_phase(0.5, 1.0)
        trainer.phase_iterations = 1  # AWR's gradient starts in the second iteration
        batch, before = spoilt_batch(trainer.algorithm, filling), weights_of(trainer)
        extra = batch if isinstance(batch, on_policy.OnlineBatch) else None
        for _ in range(2):
            trainer.update_critic(batch)
            trainer.update_actor(batch, extra)
        trained.append(weights_of(trainer))
        assert not all(map(torch.equal, before, trained[-1]))
    assert all(map(torch.equal, *trained))


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG", "SAC", "AWAC"])
def test_target_actions_stay_inside_the_bounds(algorithm, monkeypatch):
    """A tanh rounds to 1, where no action of the data is."""
    trainer = Trainer(replace(SMALL, rl_algo=algorithm), TASKS["maze2d-umaze-v1"], CPU)
    weights = dict(trainer.nets.actor_target.named_parameters())
    weights["predict_action.mu.bias"].fill_(100.0)
    target, seen = trainer.nets.critic_target, list[torch.Tensor]()
    q = target.q

    def watched(states, actions, *args, **options):
        seen.append(actions)
        return q(states, actions, *args, **options)

    monkeypatch.setattr(target, "q", watched)
    trainer.update_critic(spoilt_batch(trainer.algorithm, 0.0))
    assert 1 - 2e-6 < torch.cat(seen).max() < 1


def test_a_failing_actor_loss_leaves_the_critic_trainable(monkeypatch):
    """As when a CUDA graph cannot capture it, and the update then runs without one."""
    trainer = Trainer(SMALL, TASKS["maze2d-umaze-v1"], CPU)
    trainer.start_phase(0.5, 1.0)

    def fail(*args):
        raise RuntimeError("not capturable")

    monkeypatch.setattr(trainer.algorithm, "actor_loss", fail)
    with pytest.raises(RuntimeError, match="not capturable"):
        trainer.update_actor(spoilt_batch(trainer.algorithm, 0.0))
    assert all(p.requires_grad for p in trainer.nets.critic.parameters())
