"""The one-step bandit: problem, training, command line and conclusion."""

import csv
import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from critic import EnsembleLinear
from motivation import motivation
from motivation.bandit import METHODS, Bandit, BanditSettings, History, offline_actions, reward
from motivation.motivation import conclusion, shares
from tests.commands import as_command
from tests.conftest import ROOT

main = as_command(motivation.main)

CPU = torch.device("cpu")
SMALL = ["--seeds", "3", "--pretrain_epochs", "1", "--online_epochs", "2", "--device", "cpu"]


@given(st.floats(-1, 1, width=32))
def test_reward_matches_the_paper(action):
    expected = (action + 1) ** 2 if action <= 0 else 1 - 2 * action
    assert reward(torch.tensor(action)).item() == pytest.approx(expected, abs=1e-6)
    assert reward(torch.tensor(action)) <= reward(torch.tensor(0.0)) == 1.0


def test_offline_data_match_the_paper():
    actions = offline_actions(50, torch.Generator().manual_seed(0))
    assert actions.shape == (50, 128)
    low, high = actions[:, :100], actions[:, 100:]
    assert low.min() >= -1 and low.max() <= -0.95 and high.min() >= 0.5 and high.max() <= 1
    # they fill their regions and differ by seed
    assert low.max() - low.min() > 0.049 and high.max() - high.min() > 0.48
    assert len(actions.unique(dim=0)) == 50
    assert reward(actions).max() <= 0.0025 + 1e-6


def test_methods_of_a_seed_start_equal_and_seeds_differ():
    bandit = Bandit(BanditSettings(seeds=3), CPU)
    for x in (*bandit.actor.parameters(), *bandit.critic.parameters(), bandit.actions):
        odt, ddpg, both = x.unflatten(0, (len(METHODS), 3))
        assert torch.equal(odt, ddpg) and torch.equal(odt, both)
        assert not torch.equal(odt[0], odt[1])


def test_stacked_networks_train_like_single_ones():
    settings = BanditSettings(seeds=2, batch_size=128)
    bandit = Bandit(settings, CPU)
    alone = [torch.nn.Linear(a, b) for a, b in ((1, 128), (128, 128), (128, 1))]
    stack = [layer for layer in bandit.critic if isinstance(layer, EnsembleLinear)]
    for mine, theirs in zip(alone, stack, strict=True):
        mine.weight.data.copy_(theirs.weight[1])
        mine.bias.data.copy_(theirs.bias[1, 0])
    network = torch.nn.Sequential(alone[0], torch.nn.ReLU(), alone[1], torch.nn.ReLU(), alone[2])
    optimiser = torch.optim.Adam(network.parameters(), settings.critic_lr)
    actions = bandit.actions[1]
    torch.nn.functional.mse_loss(network(actions[:, None])[:, 0], reward(actions)).backward()
    optimiser.step()
    bandit.train(torch.zeros(6), torch.ones(6))
    for mine, theirs in zip(alone, stack, strict=True):
        torch.testing.assert_close(mine.weight.data, theirs.weight.data[1], rtol=0, atol=1e-5)


def test_an_epoch_is_one_pass_over_all_data(monkeypatch):
    bandit = Bandit(BanditSettings(seeds=2, batch_size=48), CPU)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(bandit, "_update", lambda actions, *_: seen.append(actions))
    bandit.train(torch.zeros(6), torch.ones(6))
    assert [batch.shape[1] for batch in seen] == [48, 48, 32]
    passed = torch.cat(seen, dim=1)
    assert not torch.equal(passed, bandit.actions)
    assert torch.equal(passed.sort(dim=1).values, bandit.actions.sort(dim=1).values)


def test_collected_actions_are_near_the_policy():
    bandit = Bandit(BanditSettings(seeds=2, new_samples=500), CPU)
    chosen = bandit.policy(torch.ones(6, 1))
    bandit.collect()
    collected = bandit.actions[:, 128:]
    assert collected.shape == (6, 500)
    off = collected - chosen
    assert off.abs().max() <= 0.01 + 1e-6 and off.min() < -0.009 and off.max() > 0.009


@pytest.fixture(scope="module")
def history():
    return Bandit(BanditSettings(seeds=12), CPU).run()


def test_conclusion_matches_the_paper(history):
    found = shares(history)
    assert found["DDPG"][2][0] > 0.5 and found["ODT+DDPG"][2][0] > 0.5
    assert found["ODT"][2][1] < 0.5
    text = conclusion(history)
    assert text.startswith("The hidden optimum at 0 is found by DDPG (")
    assert " and ODT+DDPG (" in text and "; it is not found by ODT (" in text


def test_critics_find_the_peak(history):
    for method in ("DDPG", "ODT+DDPG"):
        values = history.values[-1, METHODS.index(method)].mean(dim=0)
        assert history.grid[values.argmax()].abs() < 0.1
        assert (values - reward(history.grid)).abs().mean() < 0.1


def test_reversed_gradient_finds_nothing():
    history = Bandit(BanditSettings(seeds=8, rl_coeff=-1.0), CPU).run()
    assert all(high < 0.5 for _, _, (_, high) in shares(history).values())
    assert conclusion(history).startswith("The hidden optimum at 0 is not found by ODT (")


def ended(odt, ddpg, both):
    actions = torch.tensor([odt, ddpg, both])[None]
    empty = torch.zeros(1, 3, len(odt), 2)
    return History(actions, empty, empty, torch.tensor([-1.0, 1.0]), 0, [0])


def test_conclusion_follows_from_the_numbers():
    found, missed = [0.05] * 20, [0.2] * 20
    text = conclusion(ended(found, missed, found[:10] + missed[:10]))
    assert text == (
        "The hidden optimum at 0 is found by ODT (20 of 20 runs, 95% interval 84% to 100%; mean "
        "reward 0.90); it is not found by DDPG (0 of 20 runs, 95% interval 0% to 16%; mean reward "
        "0.60); there are too few runs to decide about ODT+DDPG (10 of 20 runs, 95% interval 30% "
        "to 70%; mean reward 0.75)."
    )


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_command_writes_figures_tables_and_a_conclusion(tmp_path):
    script = [sys.executable, str(ROOT / "motivation" / "motivation.py")]
    done = subprocess.run(
        [*script, *SMALL, "--out", str(tmp_path / "new")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    out = tmp_path / "new"
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] + "\n" == (out / "conclusion.txt").read_text()
    rows = read(out / "epochs.csv")
    assert [row["method"] for row in rows[:3]] == list(METHODS)
    assert [row["phase"] for row in rows[::3]] == ["pretrain", "pretrain", "online", "online"]
    assert [int(row["online_samples"]) for row in rows[::3]] == [0, 0, 64, 128]
    ends = read(out / "runs.csv")
    assert len(ends) == 9
    for method, row in zip(METHODS, rows[-3:], strict=True):
        paid = [float(end["reward"]) for end in ends if end["method"] == method]
        assert float(row["reward_mean"]) == pytest.approx(np.mean(paid), abs=1e-6)
        assert float(row["reward_low"]) <= float(row["reward_mean"]) <= float(row["reward_high"])
    assert json.loads((out / "settings.json").read_text())["seeds"] == 3
    for name in ("reward", "critic", "action", "policy"):
        assert matplotlib.image.imread(out / f"{name}.png").std() > 0.01


def test_same_seed_gives_the_same_numbers():
    a, b, c = (
        Bandit(BanditSettings(seeds=2, pretrain_epochs=1, online_epochs=1, seed=seed), CPU).run()
        for seed in (3, 3, 4)
    )
    assert torch.equal(a.actions, b.actions) and not torch.equal(a.actions, c.actions)


def test_one_seed_without_epochs_has_no_intervals(tmp_path):
    flags = ["--seeds", "1", "--pretrain_epochs", "0", "--online_epochs", "0", "--device", "cpu"]
    assert main([*flags, "--out", str(tmp_path)]) == 0
    rows = read(tmp_path / "epochs.csv")
    assert len(rows) == 3 and {row["reward_low"] for row in rows} == {""}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "--seeds 0: out of range; use a number in [1, inf)"),
        (["--actor_lr", "0"], "--actor_lr 0.0"),
        (["--rl_coeff", "-1"], "--rl_coeff -1.0"),
        (["--target_return", "nan"], "--target_return nan: not finite"),
        (["--rl_rtg", "none"], "--rl_rtg"),
        (["--sedes", "3"], "did you mean --seed"),
        (["--device", "tpu"], "--device tpu"),
    ],
    ids=str,
)
def test_invalid_flags_are_one_line(tmp_path, capsys, flags, message):
    code = main(["--out", str(tmp_path / "out"), *flags])
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unwritable_output_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SMALL, "--out", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --out {tmp_path / 'file'}") and error.count("\n") == 1
