"""Environments of task files: episodes as in Gymnasium, successes, and faults in one line."""

import json

import gymnasium
import numpy as np
import pytest

from tasks import make_vector
from tasks.task_file import read_task_file
from tests.test_task_file import write_task
from utils import UserError


def test_episodes_are_those_of_gymnasium_with_scaled_actions(tmp_path):
    task = read_task_file(write_task(tmp_path))
    vector = make_vector(task, [5, 6])
    env = gymnasium.make("Pendulum-v1")
    for episode in range(2):
        want = env.reset(seed=None if episode else 5)[0]
        np.testing.assert_array_equal(vector.reset()[0], want)
        for step in range(8):
            action = np.cos(step)
            want, reward, *_ = env.step(np.array([2 * action], np.float32))
            obs, rewards, terminated, truncated = vector.step(np.full((2, 1), action))
            np.testing.assert_allclose(obs[0], want, rtol=1e-6)
            assert rewards[0] == pytest.approx(reward)
            assert not terminated.any()
            assert truncated.all() == (step == 7)
    assert vector.engine == f"Pendulum-v1, Gymnasium {gymnasium.__version__}"
    states = json.loads(json.dumps(vector.rng_states()))
    want = vector.reset()
    other = make_vector(task, [7, 8])
    other.reset()
    other.set_rng_states(states)
    np.testing.assert_array_equal(other.reset(), want)


class Fragile(gymnasium.Env):
    """Truncates after three steps, a success in the second; every second episode raises."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episodes = 0, self.episodes + 1
        return self.np_random.random(2), {}

    def step(self, action):
        self.steps += 1
        if self.episodes % 2:
            raise RuntimeError("broken")
        return np.zeros(2), 1.0, False, self.steps == 3, {"is_success": self.steps == 2}


def test_truncation_success_and_exceptions(tmp_path, monkeypatch):
    monkeypatch.setattr(gymnasium, "Fragile", Fragile, raising=False)
    task = read_task_file(write_task(tmp_path, environment=None, entry_point="gymnasium:Fragile"))
    vector = make_vector(task, [0])
    vector.reset()  # the second one, after that which seeds
    ends = [bool(vector.step(np.zeros((1, 1)))[2]) for _ in range(3)]
    assert ends == [False, False, True]
    assert vector.success() == [True]
    vector.reset()
    assert vector.step(np.zeros((1, 1)))[2] == [True]
    assert vector.faulted == [True]
    assert vector.success() == [False]


class OldGym(Fragile):
    def reset(self):  # type: ignore[override]
        return np.zeros(2)


class NoInfo(Fragile):
    def reset(self, *, seed=None, options=None):
        return np.zeros(2)


class Offline(Fragile):
    def reset(self, *, seed=None, options=None):
        raise ConnectionError("no simulator\nat port 1")


class OwnGenerator(Fragile):
    @property  # type: ignore[misc]
    def np_random(self):
        return np.random.RandomState(0)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OldGym, "reset raised TypeError: "),
        (NoInfo, "reset returns an observation of shape ()"),
        (Offline, "reset raised ConnectionError: no simulator at port 1; fix"),
        (OwnGenerator, "np_random cannot be set to a NumPy generator; use"),
    ],
)
def test_an_environment_that_cannot_be_reset_is_refused(tmp_path, monkeypatch, kind, message):
    monkeypatch.setattr(gymnasium, "Broken", Fragile, raising=False)
    path = write_task(tmp_path, environment=None, entry_point="gymnasium:Broken")
    task = read_task_file(path)
    monkeypatch.setattr(gymnasium, "Broken", kind)
    path.write_text(path.read_text() + " ")
    for attempt in (lambda: read_task_file(path), lambda: make_vector(task, [0])):
        with pytest.raises(UserError) as error:
            attempt()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_an_environment_that_cannot_be_closed_is_no_fault(tmp_path, monkeypatch):
    def close(_):
        raise RuntimeError("closed already")

    monkeypatch.setattr("gymnasium.envs.classic_control.PendulumEnv.close", close)
    make_vector(read_task_file(write_task(tmp_path)), [0]).close()


def test_an_episode_without_a_report_is_no_success(tmp_path):
    """Some environments report only successes, or only in the last step."""
    task = read_task_file(write_task(tmp_path))
    vector = make_vector(task, [0, 1])
    vector.reset()
    assert vector.success() is None
    step = vector.envs[1].env.step
    vector.envs[1].env.step = lambda action: (*step(action)[:4], {"success": True})
    vector.step(np.zeros((2, 1)))
    np.testing.assert_array_equal(vector.success(), [False, True])
    vector.reset()
    np.testing.assert_array_equal(vector.success(), [False, False])
    resumed = make_vector(task, [0, 1])
    resumed.set_rng_states(json.loads(json.dumps(vector.rng_states())))
    np.testing.assert_array_equal(resumed.success(), [False, False])
