"""The policy in five lines acts as in evaluations; its exported program acts like it."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import d4rl_envs
from policy_export import Agent, load, save_policy
from policy_export.playing import play
from policy_export.program import PROGRAM_FILE
from scripts import evaluate as evaluate_script
from scripts import export_policy
from tasks import get_task
from tests.commands import as_command
from tests.test_policy_file import SMALL, VARIANTS, policy_with
from tests.test_policy_scripts import results
from tests.tiny_runs import DETERMINISTIC, refusal, run
from utils import UserError

evaluate = as_command(evaluate_script.main)
export = as_command(export_policy.main)

pytestmark = pytest.mark.usefixtures("short_horizons")
MAZE = "maze2d-umaze-v1"


def play_one(agent, task, seed, target):
    """The actions and the raw return of an episode, played through Gymnasium's interface."""
    env = d4rl_envs.make(task)
    obs, _ = env.reset(seed=seed)
    agent.reset(target)
    actions, total = [], 0.0
    for _ in range(task.horizon):
        action = agent.act(obs)
        # `step` rescales float32 actions in float32, as D4RL does; evaluations use float64
        obs, reward, done, _, _ = env.step(action.astype(np.float64))
        agent.observe(reward)
        actions.append(action)
        total += reward
        if done:
            break
    return np.array(actions), total


@pytest.mark.parametrize("name", ["stochastic", "ordering", "bfloat16", "MLP"])
def test_actions_are_those_of_evaluations(name):
    policy = policy_with(VARIANTS[name], get_task("hopper-medium-v2"))
    agent = Agent(policy)
    for seed, target in ((0, 50.0), (5, 3000.0)):
        (episode,) = play(policy, 1, target, seed=seed)
        actions, total = play_one(agent, policy.task, seed, target)
        np.testing.assert_array_equal(actions, episode.trajectory.actions)
        assert total == episode.raw_return


def test_run_folder_gives_the_returns_of_the_evaluate_script(data_dir, tmp_path, capsys):
    flags = [*DETERMINISTIC, "--max_online_iters", "1", "--K", "4", "--eval_context_length", "2"]
    assert run(data_dir, tmp_path / "run", *flags, env="hopper-medium-v2") == 0
    capsys.readouterr()
    agent = load(str(tmp_path / "run"))
    (expected,) = results(capsys, tmp_path / "run", "--episodes", 1, "--seed", 3, "--rtg", 70)[
        "per_episode"
    ]["return"]
    assert play_one(agent, agent.policy.task, 3, 70)[1] == expected
    default = play_one(agent, agent.policy.task, 3, None)[1]
    assert default == results(capsys, tmp_path / "run", "--episodes", 1, "--seed", 3)["return_mean"]
    short = load(tmp_path / "run", context_length=1, best=True)
    assert play_one(short, agent.policy.task, 3, 70)[1] != expected


def test_batch_acts_as_in_evaluations():
    policy = policy_with(replace(SMALL, delayed_reward=5), get_task(MAZE))
    episodes = play(policy, 3, 40.0, seed=2)
    envs, agent = d4rl_envs.make_vector(policy.task, [2, 3, 4]), Agent(policy)
    agent.reset(40.0, num_envs=3)
    obs, total = envs.reset(), np.zeros(3)
    for _ in range(policy.task.horizon):
        obs, rewards, *_ = envs.step(agent.act(obs))
        agent.observe(rewards)
        total += rewards
    assert total.tolist() == [episode.raw_return for episode in episodes]


def test_finished_episodes_of_a_batch_start_over():
    """A batch whose episodes end at different steps acts like independent agents."""
    policy = policy_with(SMALL, get_task("hopper-medium-v2"))
    rng = np.random.default_rng(0)
    targets, ends = [100.0, 2000.0, 3000.0], [(3, 9), (5,), ()]
    batch, alone = Agent(policy), [Agent(policy) for _ in targets]
    batch.reset(targets)
    for agent, target in zip(alone, targets, strict=True):
        agent.reset(target)
    for t in range(12):
        obs, rewards = rng.normal(size=(3, 11)), rng.normal(size=3)
        actions = batch.act(obs)
        for i, agent in enumerate(alone):
            np.testing.assert_allclose(agent.act(obs[i]), actions[i], atol=1e-5)
        done = [t in steps for steps in ends]
        batch.observe(rewards, done)
        for i, agent in enumerate(alone):
            if done[i]:
                agent.reset(targets[i])
            else:
                agent.observe(rewards[i])
            assert agent.return_to_go == pytest.approx(batch.return_to_go[i])
    assert batch.timestep.tolist() == [2, 6, 12]


def test_wrong_use_is_a_one_line_error(tmp_path):
    agent = Agent(policy_with(SMALL))

    def refused(message, call, *args, **kwargs):
        with pytest.raises(UserError, match=message) as error:
            call(*args, **kwargs)
        assert "\n" not in str(error.value)

    obs = np.zeros(11)
    refused(r"act\(\) out of turn: call reset\(\) first", agent.act, obs)
    refused("target return nan: not finite", agent.reset, np.nan)
    refused("3 target returns for 2 environments", agent.reset, [1, 2, 3], num_envs=2)
    refused("0 environments", agent.reset, 1.0, num_envs=0)
    agent.reset(1.0)
    refused(r"observe\(\) out of turn: call act\(\) first", agent.observe, 0.0)
    refused(r"observation of shape \(10,\): expected \(11,\)", agent.act, obs[:10])
    refused("observation is NaN", agent.act, obs * np.nan)
    agent.act(obs)
    refused(r"act\(\) out of turn: call observe\(\) first", agent.act, obs)
    refused("reward is NaN or infinite", agent.observe, np.inf)
    refused(r"reward of shape \(1,\)", agent.observe, [1.0])
    refused("neither an exported policy", load, str(tmp_path))
    save_policy(agent.policy, tmp_path / "policy")
    refused("--context 9", load, tmp_path / "policy", context_length=9)


PROGRAM = """
import numpy, sys, torch
program = torch.export.load(sys.argv[1]).module()
inputs = [torch.from_numpy(x) for x in numpy.load(sys.argv[2]).values()]
numpy.save(sys.argv[3], program(*inputs).numpy())
assert "policy_export" not in sys.modules
"""


def test_program_acts_like_the_policy_without_this_repository(data_dir, tmp_path, capsys):
    flags = [*DETERMINISTIC, "--max_online_iters", "0", "--K", "4", "--eval_context_length", "3"]
    assert run(data_dir, tmp_path / "run", *flags, env="hopper-medium-v2") == 0
    out = tmp_path / "policy"
    assert export([str(tmp_path / "run"), "--out", str(out), "--torch_export"]) == 0
    agent, rng = load(out), np.random.default_rng(0)
    agent.reset(50.0)
    observations, actions, rtg = np.zeros((1, 3, 11)), np.zeros((1, 3, 3)), np.zeros((1, 3))
    steps, cases, expected = np.full((1, 3), -1), [], []
    for t in range(4):
        observations = np.roll(observations, -1, 1)
        observations[0, -1] = rng.normal(size=11)
        rtg, steps = np.roll(rtg, -1, 1), np.roll(steps, -1, 1)
        rtg[0, -1], steps[0, -1] = agent.return_to_go[0], t
        actions = np.roll(actions, -1, 1)
        cases.append([x.copy() for x in (observations, actions, rtg, steps)])
        expected.append(agent.act(observations[0, -1]))
        agent.observe(10.0)
        actions[0, -1] = expected[-1]
    inputs = [np.concatenate(parts) for parts in zip(*cases, strict=True)]
    inputs = [x.astype(np.int64 if x.dtype.kind == "i" else np.float32) for x in inputs]
    np.savez(tmp_path / "inputs.npz", *inputs)
    paths = [out / PROGRAM_FILE, tmp_path / "inputs.npz", tmp_path / "actions.npy"]
    subprocess.run([sys.executable, "-c", PROGRAM, *map(str, paths)], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "actions.npy"), expected, atol=1e-6)
    one = torch.export.load(paths[0]).module()(*(torch.from_numpy(x[:1]) for x in inputs))
    np.testing.assert_allclose(one.numpy(), expected[:1], atol=1e-6)


@pytest.fixture
def folder(tmp_path):
    save_policy(policy_with(SMALL, get_task(MAZE)), tmp_path / "policy")
    return tmp_path / "policy"


def test_several_target_returns_are_compared(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [str(folder), "--episodes", "3", "--device", "cpu"]
    assert evaluate([*command, "--rtg", "100", "-20", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{MAZE}: 3 episodes per target return, seed 0, context 4")
    assert [line.split()[0] for line in lines[2:-1]] == ["100", "-20", "50"]
    assert " to " in lines[2]
    assert lines[-1] == "wrote target_returns.png"
    assert (tmp_path / "target_returns.png").read_bytes().startswith(b"\x89PNG")
    plot = ["--plot", str(tmp_path / "new" / "b.svg")]
    several = results(capsys, folder, "--episodes", 3, "--rtg", 100, -20, *plot)
    assert several == [results(capsys, folder, "--episodes", 3, "--rtg", r) for r in (100, -20)]
    assert b"<svg" in (tmp_path / "new" / "b.svg").read_bytes()
    assert evaluate([*command, "--rtg", "5", "6", "--episodes", "1", "--verbose"]) == 0
    assert "target return 6" in capsys.readouterr().out


def test_results_are_printed_even_if_the_plot_cannot_be_written(folder, capsys, monkeypatch):
    plot = folder / "a.png"

    def full(policy, *args, **kwargs):
        plot.mkdir(exist_ok=True)
        return play(policy, *args, **kwargs)

    monkeypatch.setattr(evaluate_script, "play", full)
    command = [str(folder), "--rtg", "100", "50", "--episodes", "1", "--plot", str(plot)]
    for more in ([], ["--json"]):
        assert evaluate([*command, *more]) == 2
        printed = capsys.readouterr()
        assert "100" in printed.out and "wrote" not in printed.out
        assert f"--plot {plot}: cannot be written" in printed.err


@pytest.mark.parametrize("flags", [["--plot", "/dev/null/a.png"], ["--video", "/dev/null/a.gif"]])
def test_output_files_are_checked_before_the_episodes(folder, capsys, monkeypatch, flags):
    monkeypatch.setattr(evaluate_script, "play", None)
    message = refusal(capsys, evaluate([str(folder), *flags]))
    assert f"{' '.join(flags)}: cannot be written (" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rtg", "1", "inf"], "--rtg inf: not a finite number"),
        (["--rtg", "1", "many"], "'many' is not a number; give FOLDER before --rtg"),
        (["--rtg", "1", "2", "--video", "a.gif"], "--video a.gif: needs a single target return"),
        (["--rtg", "1", "2", "--plot", "a.doc"], "--plot a.doc: unknown file type"),
    ],
    ids=str,
)
def test_invalid_target_returns_are_one_line_errors(folder, capsys, flags, message):
    assert message in refusal(capsys, evaluate([str(folder), *flags]))
