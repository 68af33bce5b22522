"""Steps in D4RL's datasets, collected by good policies in the old engine, are reproduced.

Datasets have single precision and lack the solver's warm starts, which limits the accuracy.
"""

import h5py
import numpy as np
import pytest

import d4rl_envs
from tests.conftest import shared_file

KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")
# leading positions missing from observations; steps do not depend on them
HIDDEN = {"hopper": 1, "halfcheetah": 1, "ant": 2}


def dataset(name):
    with h5py.File(shared_file(f"data/{name}.hdf5")) as file:
        arrays = [file[key][:] for key in KEYS]
    obs, actions, rewards = (array.astype(np.float64) for array in arrays[:3])
    return obs, np.clip(actions, -1, 1), rewards, arrays[3] | arrays[4]


@pytest.mark.parametrize(
    ("name", "typical", "worst"),
    [
        ("hopper-medium-v2", 2e-6, 1e-5),
        ("halfcheetah-medium-v2", 1e-5, 1e-3),
        ("ant-medium-v2", 2e-6, 1e-4),
        ("maze2d-umaze-v1", 1e-6, 1e-5),
        ("antmaze-umaze-v2", 2e-6, 1e-4),
        ("antmaze-medium-play-v2", 2e-6, 1e-4),
    ],
)
def test_single_steps(name, typical, worst):
    task = d4rl_envs.get_task(name)
    obs, actions, _, ends = dataset(name)
    env = d4rl_envs.make(task)
    env.reset(seed=0)
    hidden = HIDDEN.get(task.family, 0)
    nq, nv = env.model.nq, env.model.nv
    walls = [i for i in range(env.model.ngeom) if env.model.geom(i).name[:4] in ("wall", "bloc")]
    candidates = np.flatnonzero(~ends[:-1])
    errors, touching = [], 0
    for i in np.random.default_rng(0).choice(candidates, 1000, replace=False):
        qpos = np.concatenate((np.zeros(hidden), obs[i, : nq - hidden]))
        qvel = obs[i, nq - hidden : nq - hidden + nv]
        if task.family == "hopper" and np.abs(qvel).max() >= 10:  # clipped in the dataset
            continue
        env.set_state(qpos, qvel)
        after, _, _ = env.advance(actions[i])
        errors.append(np.abs(after - obs[i + 1]).max())
        touching += int(np.isin(env.data.contact.geom, walls).any())
    assert len(errors) > 900
    assert np.quantile(errors, 0.9) < typical
    assert max(errors) < worst
    if task.family == "antmaze":
        assert touching > 10


@pytest.mark.parametrize(
    ("family", "moved", "site", "columns", "achieving"),
    [
        ("door", "frame", "S_handle", slice(32, 35), 15.0),
        ("hammer", "nail_board", "S_target", slice(42, 45), 90.0),
    ],
)
def test_expert_episodes(family, moved, site, columns, achieving):
    """The first observation gives the position of the object; all steps follow from it."""
    task = d4rl_envs.get_task(f"{family}-expert-v1")
    obs, actions, rewards, ends = dataset(task.name)
    env = d4rl_envs.make(task)
    for start in (np.flatnonzero(ends)[:3] + 1).tolist():
        env.reset(seed=0)
        position = env.model.body(moved).pos
        position += obs[start, columns] - env.data.site(site).xpos
        env.set_state(env.init_qpos, env.init_qvel)
        for i in range(start, start + 199):
            after, reward, terminated = env.advance(actions[i])
            np.testing.assert_allclose(after, obs[i + 1], rtol=0, atol=1e-4)
            np.testing.assert_allclose(reward, rewards[i], rtol=1e-5, atol=1e-4)
            assert not terminated
        # only steps with the goal achieved have the largest bonus
        assert env.success == (np.sum(rewards[start : start + 199] > achieving) > 25)
