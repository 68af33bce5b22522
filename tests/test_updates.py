"""Whole updates - losses, optimisers, targets - against golden numbers."""

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

import trainer as trainer_module
from get_args import Settings
from run.training_log import RunningMeans
from tests.conftest import golden_files
from tests.golden_weights import (
    SizedTask,
    golden_critic,
    golden_critic_state,
    golden_policy,
    load_critic,
    load_policy,
    weights,
)
from trainer import Trainer
from trajectories import Batch

FILES = golden_files("update_*.npz")
LOSSES = ("actor_loss", "nll", "entropy", "rl_loss", "sup_loss", "rl_coeff")


def golden_settings(given):
    """Settings with the values of a golden file."""
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
    """A trainer with a golden file's sizes, weights and noise, and the iterator of the noise."""
    actor = golden_policy(data, "model", given["n_head"])
    normalization = "layernorm" if given.get("ln") else None
    critic = golden_critic(
        data, "critic", normalization=normalization, time_aware=given.get("time", 0)
    )
    monkeypatch.setattr(trainer_module, "make_actor", lambda *_: actor)
    monkeypatch.setattr(trainer_module, "make_critic", lambda *_: critic)
    task = SizedTask(
        "golden", "golden", 0, 0.0, 1.0, 0, 0.0, "",
        obs_dim=data["batch0/states"].shape[-1], act_dim=data["batch0/actions"].shape[-1],
    )  # fmt: skip
    trainer = Trainer(golden_settings(given), task, torch.device("cpu"))
    trainer.set_coefficients(given["rl"], given["sup"])
    for load, net, name in (
        (load_policy, trainer.nets.actor_target, "model"),
        (load_critic, trainer.nets.critic_target, "critic"),
    ):
        load(net, weights(data, name, int(data[f"{name}_target_base"])))
    count = sum(name.startswith("noise") for name in data.files)
    draws = iter([torch.from_numpy(data[f"noise{j}"]) for j in range(count)])

    def noise(shape):
        draw = next(draws)
        assert draw.numel() == np.prod(shape)
        return draw.reshape(tuple(shape))

    monkeypatch.setattr(trainer, "noise", noise)
    return trainer, draws


def check_weights(ours, data, prefix):
    """Compare tensors stored completely, or as their first numbers, sum and 2-norm."""
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
            theirs, tensor = torch.stack(first), tensor.flatten()[: len(first)]
        assert (tensor - theirs).abs().max() <= bound, name


@pytest.mark.parametrize("stem", FILES)
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
    for i in range(len(data["log/critic_loss"])):
        trainer.update(golden_batch(data, i), with_actor=i % given["inter"] == 0)
    assert next(draws, None) is None, "a draw of the golden update was not used"

    for name in LOSSES:
        np.testing.assert_allclose(
            logged[name], data[f"log/{name}"], rtol=2e-5, atol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(logged["critic_MSE_loss"], data["log/critic_loss"], rtol=2e-5)
    nets = trainer.nets
    if given["stoc"]:
        log_temperature = nets.log_temperature.item()
        np.testing.assert_allclose(log_temperature, data["log/log_temperature"], rtol=1e-5)
    check_weights(nets.actor.state_dict(), data, "final_model")
    check_weights(nets.actor_target.state_dict(), data, "final_model_target")
    for prefix, critic in (("critic", nets.critic), ("critic_target", nets.critic_target)):
        check_weights(golden_critic_state(critic.state_dict()), data, f"final_{prefix}")


def test_running_means_and_their_reset():
    means = RunningMeans()
    for value in (1.0, 2.0, 6.0):
        means.add({"a": torch.tensor(value)})
    mean, deviation = means.read()["a"]
    assert mean == pytest.approx(3.0)
    assert deviation == pytest.approx(np.std([1.0, 2.0, 6.0]))
    means.add({"a": torch.tensor(7.0)})
    assert means.read() == {"a": (7.0, 0.0)}


def test_running_means_of_a_resumed_iteration_have_the_same_digits(tmp_path):
    """Sums in float64 depend on the order of the additions."""
    values = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    whole, resumed = RunningMeans(), RunningMeans()
    for i, (a, b) in enumerate(values):
        if i == 144:
            torch.save(resumed.state_dict(), tmp_path / "means.pt")
            resumed = RunningMeans()
            resumed.load_state_dict(torch.load(tmp_path / "means.pt", weights_only=True))
        for means in (whole, resumed):
            means.add({"a": a, "b": b} if i % 2 else {"b": b})
    assert resumed.read() == whole.read()
