"""`python -m d4rl_envs`: programs that import d4rl and gym."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import d4rl_envs.__main__ as launcher
from tasks import TASKS
from tests.conftest import ROOT, shared_file
from tests.data_files import random_arrays, write
from tests.test_d4rl_package import PROJECT
from tests.test_envs_d4rl_api import NAMES, recorded

NAME = "hopper-medium-v2"
D3RLPY_VARIABLE = "ODT_D3RLPY_PYTHON"

# what programs for D4RL do, in one
CLIENT = """
import copy, json, multiprocessing, subprocess, sys
import gym
import h5py
import numpy as np
import d4rl, d4rl.gym_mujoco
from d4rl.infos import DATASET_URLS, REF_MAX_SCORE, REF_MIN_SCORE
from d4rl.locomotion.wrappers import NormalizedBoxEnv
from d4rl.offline_env import OfflineEnv, download_dataset_from_url, get_keys, set_dataset_path
from d4rl.pointmaze.maze_model import MazeEnv

NAME = "hopper-medium-v2"

def start(seed):
    env = gym.make(NAME)
    env.seed(seed)
    return env.reset().tolist()

class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return 2 * reward

if __name__ == "__main__":
    set_dataset_path(sys.argv[1])
    env = Doubled(gym.make(NAME))
    env.seed(7)
    env.action_space.seed(7)
    copy.deepcopy(env.action_space)
    obs, done, steps = env.reset(), False, 0
    while not done:
        obs, reward, done, info = env.step(env.action_space.sample())
        steps += 1
    assert env.action_space.contains(np.zeros(3, np.float32)) and isinstance(done, bool)
    assert isinstance(env.unwrapped, OfflineEnv) and env.spec.id == NAME
    maze = gym.make("maze2d-umaze-v1")
    maze.reset()
    for _ in range(300):
        _, _, timeout, info = maze.step(maze.action_space.sample())
    dataset = env.get_dataset()
    with h5py.File(download_dataset_from_url(env.dataset_url)) as file:
        assert get_keys(file) == list(dataset)
    transitions = d4rl.qlearning_dataset(env, dataset=dataset, terminate_on_end=True)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        workers = pool.map(start, [7, 8])
    code = "import d4rl, gym; print(gym.make('pen-human-v1').action_space.shape[0])"
    print(json.dumps({
        "steps": steps,
        "horizon": env.unwrapped.spec.max_episode_steps,
        "limit": gym.make(NAME)._max_episode_steps,
        "timeout": [timeout, info.get("TimeLimit.truncated")],
        "scores": [env.get_normalized_score(REF_MAX_SCORE[NAME]), env.ref_min_score,
                   d4rl.get_normalized_score(NAME, REF_MIN_SCORE[NAME])],
        "returned": d4rl.reverse_normalized_score(NAME, 1.0),
        "url": DATASET_URLS[NAME] == env.dataset_url,
        "files": [env.dataset_filepath, maze.dataset_filepath],
        "rows": [len(dataset["rewards"]), len(transitions["rewards"]),
                 len(d4rl.qlearning_dataset(env)["rewards"])],
        "episodes": sum(1 for _ in d4rl.sequence_dataset(env)),
        "workers": [workers[0] == start(7), workers[1] == workers[0]],
        "subprocess": int(subprocess.check_output([sys.executable, "-c", code])),
        "numpy": np.bool8 is np.bool_,
        "argv": sys.argv[2:],
    }))
"""


def run(*arguments: str, python: str = sys.executable, **variables: str):
    return subprocess.run(
        [python, "-W", "ignore", "-m", "d4rl_envs", *arguments],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_client_runs_unchanged(tmp_path):
    pytest.importorskip("gym")
    arrays = random_arrays(TASKS[NAME], 100, seed=0)
    write(tmp_path / "hopper_medium-v2.hdf5", arrays)
    client = tmp_path / "client.py"
    client.write_text(CLIENT)
    done = run(str(client), str(tmp_path), "--flag")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ends = arrays["terminals"] | arrays["timeouts"]
    assert 5 < found.pop("steps") < 100
    assert found == {
        "horizon": 1000,
        "limit": 1000,
        "timeout": [True, True],
        "scores": [1.0, TASKS[NAME].ref_min_score, 0.0],
        "returned": TASKS[NAME].ref_max_score,
        "url": True,
        "files": [
            str(tmp_path / name)
            for name in ("hopper_medium-v2.hdf5", "maze2d-umaze-sparse-v1.hdf5")
        ],
        "rows": [100, 99, 99 - int(arrays["timeouts"][:-1].sum())],
        "episodes": int(ends.sum()),
        "workers": [True, False],
        "subprocess": 24,
        "numpy": True,
        "argv": ["--flag"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_episodes_equal_d4rls_recordings(name):
    pytest.importorskip("gym")
    from d4rl_envs.gym_env import OfflineEnv

    arrays, facts = recorded(name)
    env = OfflineEnv(name)
    env.seed(7)
    first = env.reset()
    if name.startswith("antmaze"):  # D4RL's seed does not reach its generator
        env.set_state(arrays["first"][:15], arrays["first"][15:])
        env.set_target_goal(facts["target"])
    else:
        np.testing.assert_allclose(first, arrays["first"], rtol=0, atol=1e-9)
    for step, action in enumerate(arrays["actions"]):
        obs, reward, done, info = env.step(action)
        np.testing.assert_allclose(obs, arrays["observations"][step], rtol=0, atol=1e-9)
        assert reward == pytest.approx(arrays["rewards"][step], abs=1e-9)
        assert (done, sorted(info)) == (arrays["dones"][step], facts["infos"])
    assert env.get_normalized_score(1.0) == pytest.approx(facts["score_of_1"], rel=1e-12)


def test_other_processes_have_no_d4rl():
    if "d4rl" in {path.name for folder in sys.path for path in Path(folder or ".").glob("d4rl")}:
        pytest.skip("the real d4rl is installed")
    assert importlib.util.find_spec("d4rl") is None


def test_exit_code_and_python_path_of_the_client():
    pytest.importorskip("gym")
    code = "import os, sys; print(os.environ['PYTHONPATH']); sys.exit(3)"
    before = os.environ.get("PYTHONPATH", "")
    done = run("-c", code, PYTHONPATH=os.pathsep.join(filter(None, ["theirs", before])))
    paths = done.stdout.strip().split(os.pathsep)
    assert (done.returncode, paths[:2]) == (3, [str(launcher.CLIENTS), "theirs"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.py"], "absent.py: no such file"),
        ([], "usage: python -m d4rl_envs CLIENT.py [ARGS ...]"),
        (["-m", "json.tool"], "gym: not installed, but programs for D4RL need it; pip install "
         + PROJECT["optional-dependencies"]["gym"][0]),
    ],
)  # fmt: skip
def test_what_cannot_run_is_one_line(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["d4rl_envs", *arguments])
    assert launcher.main() == 2
    assert capsys.readouterr().err.splitlines()[0] == message


D3RLPY_CLIENT = """
import d3rlpy
from d3rlpy.datasets import get_d4rl
from d3rlpy.metrics import EnvironmentEvaluator

dataset, env = get_d4rl("hopper-medium-v2")
print("loaded", dataset.size(), dataset.transition_count, env.observation_space.shape)
td3 = d3rlpy.algos.TD3PlusBCConfig(batch_size=32).create(device="cpu:0")
for _, metrics in td3.fitter(
    dataset, n_steps=20, n_steps_per_epoch=20, show_progress=False,
    evaluators={"return": EnvironmentEvaluator(env, n_trials=1)},
    logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
):
    print("trained", metrics["critic_loss"] > 0, metrics["return"] > 1)
"""


def test_d3rlpy_loads_a_dataset_and_trains(tmp_path):
    python = os.environ.get(D3RLPY_VARIABLE)
    if not python:
        pytest.importorskip(
            "d3rlpy", reason=f"needs d3rlpy, or its interpreter in {D3RLPY_VARIABLE}"
        )
        python = sys.executable
    data = shared_file(f"data/{NAME}.hdf5")
    client = tmp_path / "client.py"
    client.write_text(D3RLPY_CLIENT)
    done = run(str(client), python=python, D4RL_DATASET_DIR=str(data.parent), PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("loaded", "trained"))]
    assert lines == ["loaded 191 99878 (11,)", "trained True True"]
