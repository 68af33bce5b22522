"""The original engine in a worker process: protocol, semantics, faults, command line.

A fake interpreter runs the worker with fake environments. Tests with the original engine run if
ODT_LEGACY_PYTHON is the path of an interpreter that has it.
"""

import ast
import json
import os
import re
import shlex
import signal
import stat
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import d4rl_envs
import tasks
from d4rl_envs import legacy, parity
from d4rl_envs.adroit import DoorEnv, HammerEnv, PenEnv, RelocateEnv
from d4rl_envs.legacy import LegacyEnvVector, legacy_python
from d4rl_envs.legacy_worker import decode_arrays, decode_header, encode, header_size
from d4rl_envs.tasks import FAMILIES
from d4rl_envs.vector import NOT_FINITE
from get_args import parse_args
from main import main
from run.setting_checks import check_settings
from tasks import get_task
from tests.conftest import ROOT
from tests.data_files import random_arrays, write
from tests.tiny_runs import DETERMINISTIC, metrics_of, refusal, run, same_weights
from utils import UserError

MAZE = replace(get_task("maze2d-umaze-v1"), horizon=6)
HOPPER = get_task("hopper-medium-v2")
NUMBERS = arrays(
    st.sampled_from([np.float64, np.int64, bool]), array_shapes(min_dims=0, min_side=0)
)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Path of a fake interpreter with fake environments."""
    monkeypatch.delenv("FAKE_LEGACY", raising=False)
    path = tmp_path / "python3.8"
    script = shlex.join([sys.executable, str(ROOT / "tests" / "fake_legacy.py")])
    path.write_text(f'#!/bin/sh\nexec {script} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def vector(fake):
    """A function that makes vectors, which are closed after the test."""
    made = []

    def make(task=MAZE, seeds=(0, 1, 2)):
        made.append(LegacyEnvVector(task, seeds, fake))
        return made[-1]

    yield make
    for each in made:
        each.close()


class TestProtocol:
    @given(content=st.dictionaries(st.text(max_size=5), NUMBERS, max_size=4), text=st.text())
    def test_round_trip(self, content, text):
        frame = encode({"request": text}, content)
        size = header_size(frame[:4])
        header, payload = decode_header(frame[4 : 4 + size])
        assert header["request"] == text
        assert len(frame) == 4 + size + payload
        got = decode_arrays(header, frame[4 + size :])
        assert got.keys() == content.keys()
        for name, array in content.items():
            assert got[name].dtype == array.dtype
            np.testing.assert_array_equal(got[name], array)

    @settings(max_examples=300)
    @given(text=st.binary(max_size=60))
    def test_random_bytes_are_rejected(self, text):
        with pytest.raises((ValueError, KeyError, TypeError)):
            decode_header(text)

    def test_header_size_is_limited(self):
        with pytest.raises(ValueError, match="4294967295 bytes"):
            header_size(struct.pack("<I", 2**32 - 1))

    def test_worker_is_self_contained_python_3_8(self):
        tree = ast.parse(legacy.WORKER.read_text(), feature_version=(3, 8))
        nodes = list(ast.walk(tree))
        imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        imported |= {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}
        own = {"numpy", "gym", "gym.utils", "gym.envs.mujoco", "mujoco_py"}
        assert {
            name for name in imported if name.split(".")[0] not in sys.stdlib_module_names
        } == own
        late = {"removeprefix", "removesuffix", "strict"}
        assert not late & {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert not late & {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword)}


class TestSemantics:
    def test_shapes_and_types(self, vector):
        pool = vector()
        assert pool.num_envs == 3
        assert pool.reset().shape == (3, 4)
        obs, rewards, terminated, truncated = pool.step(np.zeros((2, 2)), np.array([2, 0]))
        assert obs.shape == (2, 4)
        assert obs.dtype == rewards.dtype == np.float64
        assert rewards.shape == terminated.shape == truncated.shape == (2,)
        assert terminated.dtype == truncated.dtype == bool
        assert pool.success() is None
        assert "gym 0.23.1" in pool.engine
        with pytest.raises(UserError, match="cannot render"):
            pool.render()

    def test_rewards_are_raw_and_actions_clipped(self, vector):
        pool = vector(HOPPER, [0])
        before = pool.reset()
        obs, rewards, _, _ = pool.step(np.array([[7.0, -0.5, 0.25]], np.float32))
        assert rewards == pytest.approx(0.75)
        np.testing.assert_allclose(obs, before + 0.25)

    def test_truncation_and_termination(self, vector):
        pool = vector()
        pool.reset()
        for step in range(1, 7):
            _, _, terminated, truncated = pool.step(np.zeros((3, 2)))
            assert truncated.all() == (step == 6)
            assert not terminated.any()
        hopper = vector(HOPPER, [0])
        hopper.reset()
        assert [bool(hopper.step(np.zeros((1, 3)))[2][0]) for _ in range(9)] == [False] * 8 + [True]

    def test_indices_step_only_these_environments(self, vector):
        together, apart = vector(), vector()
        np.testing.assert_array_equal(together.reset(), apart.reset())
        actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, 2))
        both = [together.step(a)[0] for a in actions]
        for i in (2, 0, 1):
            for t, a in enumerate(actions):
                got = apart.step(a[[i]], np.array([i]))[0]
                np.testing.assert_array_equal(got, both[t][[i]])

    @pytest.mark.parametrize("name", ["maze2d-umaze-v1", "antmaze-umaze-v2"])
    def test_generators_are_independent_and_resume(self, vector, name):
        task = get_task(name)
        pool = vector(task, [7, 8])
        first = pool.reset()
        np.testing.assert_array_equal(vector(task, [8, 7]).reset(), first[::-1])
        saved = json.loads(json.dumps(pool.rng_states()))
        expected = [pool.reset(np.array([1]))[0], pool.reset(np.array([1]))[0]]
        resumed = vector(task, [0, 0])
        resumed.set_rng_states(saved)
        got = [resumed.reset()[1], resumed.reset()[1]]
        np.testing.assert_array_equal(got, expected)
        with pytest.raises(UserError, match="2 saved generators for 3"):
            vector(task).set_rng_states(saved)

    def test_success(self, vector):
        maze = vector(get_task("antmaze-umaze-v2"), [0, 1])
        maze.reset()
        for _ in range(4):
            assert not maze.success().any()
            maze.step(np.zeros((1, 8)), np.array([1]))
        assert maze.success().tolist() == [False, True]
        pen = vector(get_task("pen-human-v1"), [0])
        pen.reset()
        held = []
        for _ in range(45):  # the goal is achieved in every other step
            pen.step(np.zeros((1, 24)))
            held.append(bool(pen.success()[0]))
        assert held.index(True) == 40
        pen.reset()
        assert not pen.success().any()

    def test_success_criteria_equal_the_native_ones(self):
        hand = {env.name: env.success_steps for env in (PenEnv, HammerEnv, DoorEnv, RelocateEnv)}
        assert {"antmaze": 0} | hand == legacy.SUCCESS_STEPS
        assert set(legacy.SUCCESS_STEPS) <= set(FAMILIES)

    def test_state(self, vector):
        state = vector(get_task("antmaze-umaze-v2"), [0])
        state.reset()
        assert set(state.state()) == {
            "qpos", "qvel", "warmstart", "body_pos", "body_quat", "goal",
        }  # fmt: skip

    def test_actions_are_checked(self, vector):
        pool = vector()
        pool.reset()
        with pytest.raises(UserError, match=r"expected \(3, 2\)"):
            pool.step(np.zeros((3, 3)))
        with pytest.raises(UserError, match="NaN"):
            pool.step(np.full((3, 2), np.nan))


class TestFaults:
    def error(self, fake, task=MAZE) -> str:
        """The error message of a few steps."""
        pool = None
        with pytest.raises(UserError) as error:
            pool = LegacyEnvVector(task, [0, 1], fake)
            pool.reset()
            for _ in range(4):
                pool.step(np.zeros((2, task.act_dim)))
        if pool:
            pool.close()
        message = str(error.value)
        assert "\n" not in message
        return message

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("exit", r"died \(exit code 3\); its last output: out of luck; .* `make legacy`"),
            ("kill", r"died \(signal 9\)"),
            ("no mujoco", r"failed \(ModuleNotFoundError: No module named 'mujoco_py'\); .*docs"),
            ("babble", "sent an invalid message"),
            ("wide", r"observations have shape \(2, 5\), expected \(2, 4\)"),
        ],
    )
    def test_fault_is_a_one_line_error(self, fake, monkeypatch, fault, message):
        monkeypatch.setenv("FAKE_LEGACY", fault)
        assert re.search(message, self.error(fake))

    def test_missing_answer_is_an_error(self, fake, monkeypatch):
        monkeypatch.setenv("FAKE_LEGACY", "hang")
        monkeypatch.setattr(legacy, "ANSWER_TIMEOUT", 0.5)
        assert "did not answer within 0.5 s" in self.error(fake)

    def test_exception_ends_only_its_episode(self, vector, monkeypatch, caplog):
        monkeypatch.setenv("FAKE_LEGACY", "raise")
        monkeypatch.setattr("d4rl_envs.vector._logged", set())
        pool = vector()
        pool.reset()
        actions = np.array([[0.0, 0.0], [-1.0, -1.0], [-1.0, -1.0]])  # the last two become negative
        for _ in range(3):
            obs, rewards, terminated, _ = pool.step(actions)
        assert pool.faulted.tolist() == terminated.tolist() == [True, False, False]
        assert pool.faults == {"RuntimeError": 1}
        assert not obs[0].any()
        assert rewards.tolist() == [0, -2, -2]
        assert "Got MuJoCo Warning: Unknown warning" in caplog.text
        assert pool.reset(np.array([0])).any()
        assert not pool.faulted.any()
        assert not pool.step(actions[:1], np.array([0]))[2].any()

    def test_nan_ends_the_episode(self, vector, monkeypatch):
        monkeypatch.setenv("FAKE_LEGACY", "nan")
        pool = vector()
        pool.reset()
        for _ in range(3):
            pool.step(np.zeros((3, 2)))
        assert pool.faults == {NOT_FINITE: 3}

    def test_missing_interpreter_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.delenv("ODT_LEGACY_PYTHON", raising=False)
        monkeypatch.setattr(legacy, "_ROOT", tmp_path)
        with pytest.raises(
            UserError, match=r"\.venv-legacy/bin/python: no interpreter .*make legacy"
        ):
            legacy_python()
        (tmp_path / "text").write_text("")
        for path in ("/nowhere/python", str(tmp_path), str(tmp_path / "text")):
            with pytest.raises(UserError, match="--legacy_python or ODT_LEGACY_PYTHON"):
                legacy_python(path)
        (tmp_path / "text").chmod(0o755)
        (tmp_path / "text").write_bytes(b"\x7fELF nonsense")
        with pytest.raises(UserError, match="cannot be executed"):
            LegacyEnvVector(MAZE, [0], str(tmp_path / "text"))

    def test_order_of_interpreters(self, fake, tmp_path, monkeypatch):
        monkeypatch.setattr(legacy, "_ROOT", tmp_path)
        own = tmp_path / ".venv-legacy" / "bin" / "python"
        own.parent.mkdir(parents=True)
        own.symlink_to(fake)
        monkeypatch.delenv("ODT_LEGACY_PYTHON", raising=False)
        assert legacy_python() == own
        monkeypatch.setenv("ODT_LEGACY_PYTHON", sys.executable)
        assert str(legacy_python()) == sys.executable
        assert str(legacy_python(fake)) == fake

    def test_worker_ignores_signals_to_the_job(self, vector):
        pool = vector()
        for kind in (signal.SIGINT, signal.SIGTERM):
            pool._worker._process.send_signal(kind)
            assert pool.reset().shape == (3, 4)

    def test_worker_ends_with_its_vector(self, fake):
        pool = LegacyEnvVector(MAZE, [0], fake)
        process = pool._worker._process
        pool.close()
        assert process.returncode == 0
        pool.close()
        with pytest.raises(UserError, match="was closed"):
            pool.reset()
        pool = LegacyEnvVector(MAZE, [0], fake)
        process = pool._worker._process
        del pool
        assert process.returncode == 0

    def test_worker_ends_with_its_parent(self, fake):
        code = (
            "import os, sys; from d4rl_envs.legacy import LegacyEnvVector;"
            "from d4rl_envs.tasks import get_task;"
            "v = LegacyEnvVector(get_task('maze2d-umaze-v1'), [0], sys.argv[1]);"
            "print(v._worker._process.pid, flush=True); os.kill(os.getpid(), 9)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, fake], cwd=ROOT, capture_output=True, text=True
        )
        pid = int(done.stdout)
        for _ in range(100):
            if not _runs(pid):
                return
            time.sleep(0.1)
        pytest.fail("the worker outlived its parent")


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


class TestCommandLine:
    @pytest.fixture
    def data_dir(self, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir()
        name = "maze2d-umaze-v1"
        write(folder / f"{name}.hdf5", random_arrays(get_task(name), 200, seed=0))
        return folder

    @pytest.fixture(autouse=True)
    def short_horizon(self, monkeypatch):
        monkeypatch.setitem(tasks.TASKS, MAZE.name, MAZE)

    def test_run_and_resume(self, data_dir, tmp_path, fake):
        flags = [*DETERMINISTIC, "--env_backend", "d4rl", "--legacy_python", fake]
        flags += ["--eval_interval", "1"]
        assert run(data_dir, tmp_path / "whole", *flags, "--max_online_iters", "2") == 0
        rows = metrics_of(tmp_path / "whole")
        assert [row["phase"] for row in rows] == ["pretrain", "online", "online"]
        assert all(row["evaluation/length_mean_gm"] == 6 for row in rows)
        config = json.loads((tmp_path / "whole" / "config.json").read_text())
        assert config["settings"]["env_backend"] == "d4rl"
        assert config["engine"].startswith("mujoco-py 2.0.2.13, gym 0.23.1")

        assert run(data_dir, tmp_path / "part", *flags, "--max_online_iters", "1") == 0
        part = ["--resume", str(tmp_path / "part")]
        assert main([*part, "--max_online_iters", "2"]) == 0
        assert metrics_of(tmp_path / "part") == rows
        assert same_weights(tmp_path / "whole", tmp_path / "part")
        assert main([*part, "--env_backend", "native"]) == 2

    def test_unusable_interpreter_is_an_error(self, data_dir, tmp_path, fake, capsys, monkeypatch):
        flags = [*DETERMINISTIC, "--env_backend", "d4rl", "--legacy_python"]
        code = run(data_dir, tmp_path / "run", *flags, "/nowhere")
        assert "/nowhere: no interpreter" in refusal(capsys, code)
        assert not (tmp_path / "run").exists()
        monkeypatch.setenv("FAKE_LEGACY", "no mujoco")
        code = run(data_dir, tmp_path / "run", *flags, fake)
        assert "No module named 'mujoco_py'" in refusal(capsys, code)
        assert not (tmp_path / "run").exists()
        monkeypatch.setenv("FAKE_LEGACY", "kill")
        code = run(data_dir, tmp_path / "run", *flags, fake)
        assert "died (signal 9)" in refusal(capsys, code)

    def test_videos_are_rejected(self):
        chosen = parse_args([*DETERMINISTIC, "--env_backend", "D4RL", "--video_debug", "1"])
        with pytest.raises(UserError, match="--video_debug 1"):
            check_settings(chosen)


def test_parity_command_rejects_invalid_arguments(fake, capsys):
    assert parity.main(["walker3d", "--legacy_python", fake]) == 2
    assert parity.main(["hopper-medium-v2", "--steps", "0"]) == 2
    assert parity.main(["hopper-medium-v2", "--legacy_python", "/nowhere"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


# bounds per family: differences of any single step, and of the tenth open-loop step
REAL = {
    "hopper-medium-v2": (1e-12, 1e-12),
    "halfcheetah-medium-v2": (1e-9, 1e-8),
    "walker2d-medium-v2": (1e-11, 1e-11),
    "ant-medium-v2": (1e-11, 1e-10),
    "maze2d-umaze-v1": (0.0, 0.0),
    "antmaze-umaze-v2": (1e-12, 1e-12),
    "pen-human-v1": (1e-9, 1e-9),
    "hammer-human-v1": (1e-8, 1e-8),
    "door-human-v1": (1e-8, 1e-8),
    "relocate-human-v1": (1e-9, 1e-9),
}
real = pytest.mark.skipif(
    not os.environ.get("ODT_LEGACY_PYTHON"), reason="ODT_LEGACY_PYTHON is not set"
)


@real
@pytest.mark.parametrize("name", REAL)
def test_original_engine_has_the_same_dynamics(name):
    single, tenth = REAL[name]
    task = get_task(name)
    recording = parity.record(task, 40, seed=3)
    env = d4rl_envs.make(task)
    steps = parity.single_steps(env, recording)
    assert steps.observation.max() <= single
    assert steps.reward.max() <= single
    assert not steps.done.any()
    loop = parity.open_loop(env, recording)
    assert loop.observation[9] <= tenth
    assert np.abs(recording.observations).max() > 0


@real
def test_original_engine_trains_and_resumes(tmp_path, monkeypatch):
    task = replace(HOPPER, horizon=25)
    monkeypatch.setitem(tasks.TASKS, task.name, task)
    write(tmp_path / "hopper-medium-v2.hdf5", random_arrays(task, 200, seed=0))
    flags = [*DETERMINISTIC, "--env_backend", "d4rl", "--max_online_iters"]
    assert run(tmp_path, tmp_path / "whole", *flags, "2", env=task.name) == 0
    rows = metrics_of(tmp_path / "whole")
    assert 1 <= rows[-1]["evaluation/length_mean_gm"] <= 25
    assert run(tmp_path, tmp_path / "part", *flags, "1", env=task.name) == 0
    assert main(["--resume", str(tmp_path / "part"), "--max_online_iters", "2"]) == 0
    # the two runs evaluated in different iterations, so only collection is compared
    assert metrics_of(tmp_path / "part")[-1]["aug_traj/return"] == rows[-1]["aug_traj/return"]
