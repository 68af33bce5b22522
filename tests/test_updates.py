"""Whole updates - losses, optimisers, targets - against golden numbers."""

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

import trainer as trainer_module
from critic import Critic, CriticConfig
from decision_transformer import DecisionTransformer, TransformerSize
from get_args import RL_ALGORITHMS, Settings
from run.training_log import RunningMeans
from tasks import TASKS
from tests.conftest import GOLDEN
from tests.golden_weights import golden_critic_state, golden_weights, load_critic, load_policy
from trainer import Trainer
from trajectories import Batch

OBS, ACT = 5, 2
FILES = {path.stem: path for path in sorted(GOLDEN.glob("update_*.npz"))}
KNOWN = [
    stem
    for stem, path in FILES.items()
    if json.loads(np.load(path)["settings"].item())["algo"] in RL_ALGORITHMS
]


def golden_settings(given):
    """The settings of a run that a golden file's settings describe."""
    renamed = {
        "rl_algo": given["algo"],
        "use_entropy_reg": given["entropy"],
        "actor_rl_coeff": given["rl"],
        "actor_sup_coeff": given["sup"],
        "num_actor_update_interval": given["inter"],
        "learning_rate": given["lr"],
        "warmup_steps": given["warmup"],
        "critic_learning_rate": given["critic_lr"],
        "temperature_learnable": given["temperature_lr"] / trainer_module.TEMPERATURE_LR,
    }
    same = {name: given[name] for name in vars(Settings()) if name in given}
    return replace(Settings(), **same, **renamed)


def golden_batch(data, i):
    load = lambda name: torch.from_numpy(data[f"batch{i}/{name}"])  # noqa: E731
    return Batch(
        states=load("states"),
        next_states=load("next_states"),
        actions=load("actions"),
        rewards=load("rewards")[..., 0],
        dones=load("dones").float(),
        rtg=load("rtg"),
        timesteps=load("timesteps"),
        mask=load("padding_mask").bool(),
        rows=load("timesteps"),
    )


def golden_trainer(data, given, monkeypatch):
    """A trainer with the golden file's sizes, weights and noise."""
    size = TransformerSize(
        given["embed_dim"], given["n_layer"], given["n_head"], dropout=0.0, embed_dropout=0.0
    )
    monkeypatch.setattr(
        trainer_module,
        "make_actor",
        lambda settings, task: DecisionTransformer(
            OBS, ACT, size, stochastic=bool(given["stoc"]), ordering=bool(given.get("ordering"))
        ),
    )
    config = CriticConfig(
        normalization="layernorm" if given.get("ln") else None, time_aware=given.get("time", 0)
    )
    monkeypatch.setattr(
        trainer_module,
        "make_critic",
        lambda settings, task, algorithm: Critic(
            OBS, ACT, config, num_q=algorithm.num_q, with_v=algorithm.with_v
        ),
    )
    trainer = Trainer(golden_settings(given), TASKS["maze2d-umaze-v1"], torch.device("cpu"))
    trainer.rl_coeff, trainer.sup_coeff = given["rl"], given["sup"]
    nets = trainer.nets
    load_policy(nets.actor, golden_weights(data, "model"))
    load_policy(nets.actor_target, golden_weights(data, "model", int(data["model_target_base"])))
    load_critic(nets.critic, golden_weights(data, "critic"))
    target_base = int(data["critic_target_base"])
    load_critic(nets.critic_target, golden_weights(data, "critic", target_base))
    draws = iter(data[f"noise{j}"] for j in range(1000) if f"noise{j}" in data)

    def noise(shape):
        draw = torch.from_numpy(next(draws))
        assert draw.numel() == np.prod(shape)
        return draw.reshape(tuple(shape))

    monkeypatch.setattr(trainer, "noise", noise)
    return trainer, draws


def check_weights(ours, data, prefix):
    """Compare tensors that are stored whole, or as first 512 numbers, sum and 2-norm."""
    names = [name for name in data.files if name.startswith(f"{prefix}/")]
    assert names
    for name in names:
        theirs = torch.from_numpy(data[name]).double()
        tensor = ours[name.removeprefix(f"{prefix}/")].double()
        if name.endswith("c_attn.bias"):
            # the keys' bias has no gradient: its updates are rounding noise
            theirs, tensor = (x.view(3, -1)[[0, 2]] for x in (theirs, tensor))
        bound = 5e-4 * theirs.abs().max()
        if theirs.shape != tensor.shape:
            *first, total, norm = theirs
            bound = 5e-4 * max(first)
            assert (tensor.sum() - total).abs() < bound * tensor.numel() ** 0.5, name
            assert (tensor.norm() - norm).abs() < 5e-4 * norm, name
            theirs, tensor = torch.stack(first), tensor.flatten()[:512]
        assert (tensor - theirs).abs().max() <= bound, name


@pytest.mark.parametrize("stem", KNOWN)
def test_updates_equal_golden(stem, monkeypatch):
    data = np.load(FILES[stem])
    given = json.loads(data["settings"].item())
    trainer, draws = golden_trainer(data, given, monkeypatch)
    trainer.nets.actor.train()
    logged = defaultdict(list)

    def record(info):
        for name, value in info.items():
            logged[name].append(value.item())

    monkeypatch.setattr(trainer, "_log", record)
    for i in range(4):
        trainer.update(golden_batch(data, i), with_actor=i % given["inter"] == 0)
    assert next(draws, None) is None, "a draw of the golden update was not used"

    for name in ("actor_loss", "nll", "entropy", "rl_loss", "sup_loss", "rl_coeff"):
        np.testing.assert_allclose(
            logged[name], data[f"log/{name}"], rtol=2e-5, atol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(logged["critic_MSE_loss"], data["log/critic_loss"], rtol=2e-5)
    if given["stoc"]:
        log_temperature = trainer.nets.log_temperature.item()
        np.testing.assert_allclose(log_temperature, data["log/log_temperature"], rtol=1e-5)

    nets = trainer.nets
    check_weights(nets.actor.state_dict(), data, "final_model")
    check_weights(nets.actor_target.state_dict(), data, "final_model_target")
    for prefix, critic in (("critic", nets.critic), ("critic_target", nets.critic_target)):
        check_weights(golden_critic_state(critic.state_dict()), data, f"final_{prefix}")


def test_running_means():
    means = RunningMeans()
    for value in (1.0, 2.0, 6.0):
        means.add({"a": torch.tensor(value)})
    means.add({"b": torch.tensor(5.0)})
    (mean, deviation), b = means.read()["a"], means._sums["b"]
    assert mean == pytest.approx(3.0)
    assert deviation == pytest.approx(np.std([1.0, 2.0, 6.0]))
    means.add({"a": torch.tensor(7.0)})
    assert means.read() == {"a": (7.0, 0.0)}
    assert b[0].item() == 0.0
