"""Updates and acting as CUDA graphs, without a GPU: recorded operations are replayed."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import build_networks
import fast_gpu.acting
import fast_gpu.updates
from evaluation import RolloutSettings, exploring_action, rollout
from fast_cpu.dropout import Dropout
from fast_gpu.acting import graphed_acting
from fast_gpu.updates import GraphedUpdates
from get_args import parse_args
from gpu_check.resume import difference
from gpu_check.runs import RUNS, trains_as_graphs
from lamb import Lamb
from replay_buffer import ReplayBuffer, Sampler
from tasks import get_task
from tests.test_evaluation import LinearEnvs, actor_for, golden_file, linear_task
from tests.test_replay_buffer import dataset_of, episode
from trainer import Trainer

CPU = torch.device("cpu")
SMALL = "--embed_dim 16 --n_layer 1 --n_head 2 --batch_size 4 --K 3 --warmup_steps 9 --dropout 0.5"


class Recorded(TorchDispatchMode):
    """A stand-in for `Graph`: records the operations of the second call, then repeats them.

    Like a CUDA graph it repeats them on the same tensors, with the Python numbers of that call.
    """

    def __init__(self, function, name):
        super().__init__()
        self._function = function
        self.forget()

    def forget(self):
        self._calls, self._operations = 0, []

    def __call__(self):
        self._calls += 1
        if self._calls == 1:
            self._function()
        elif self._calls == 2:
            with self:
                self._function()
        else:
            self._replay()

    @torch.no_grad()
    def _replay(self):
        for func, args, kwargs, results in self._operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor):
                    old.detach().copy_(new)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, results))
        return results


def capturable_lamb(*args, **kwargs):
    return Lamb(*args, **{**kwargs, "capturable": True})


def adamw_as_on_a_gpu(parameters, lr, weight_decay):
    lr = torch.tensor(lr)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setattr(fast_gpu.updates, "Graph", Recorded)
    monkeypatch.setattr(fast_gpu.acting, "Graph", Recorded)
    # its random numbers come from NumPy
    monkeypatch.setattr(Dropout, "_draws_here", lambda self, x: False)
    monkeypatch.setattr(build_networks, "Lamb", capturable_lamb)
    monkeypatch.setattr(build_networks, "adamw", adamw_as_on_a_gpu)


def trained(flags, graphed, change=None):
    """A trainer after updates on a buffer that changes and then grows.

    Before update number `change` the coefficients of the losses change.
    """
    words = f"{flags} {SMALL}".split()
    settings = parse_args(words, recurrent="--arch" in words)
    task = get_task(settings.env)
    torch.manual_seed(0)
    trainer = Trainer(settings, task, CPU)
    if graphed:
        trainer._graphs = GraphedUpdates(trainer._update, CPU)
    trainer.start_phase(settings.actor_rl_coeff, settings.actor_sup_coeff)
    trainer.nets.actor.train()
    sizes = {"obs_dim": task.obs_dim, "act_dim": task.act_dim}
    episodes = [episode(6, i, **sizes) for i in range(4)]
    buffer = ReplayBuffer(dataset_of(episodes, spare=20), 5, 0.01)
    sample = Sampler(buffer, settings.batch_size, settings.K)
    for tick in range(9):
        if tick == change:
            trainer.set_coefficients(5.0, 0.0)
        trainer.update_on(sample, with_actor=tick % settings.num_actor_update_interval == 0)
        buffer.add(episode(5, tick, **sizes))
    return trainer


@pytest.mark.parametrize("name", [*filter(trains_as_graphs, RUNS)])
def test_replayed_updates_equal_the_others(name):
    """Also the learning rate of the warm-up, bias corrections, a moving window, and storage."""
    states = [trained(RUNS[name], graphed).state_dict() for graphed in (False, True)]
    assert difference(*states)[0] < 1e-6
    assert states[0]["actor_updates"] == states[1]["actor_updates"]
    ours, theirs = (state["actor_optimizer"]["param_groups"][0] for state in states)
    assert ours.get("step") == theirs.get("step")


def test_new_coefficients_are_used():
    """A graph has the numbers of its capture."""
    kept, *states = [
        trained(RUNS["TD3+ODT"], graphed, change).state_dict()
        for graphed, change in [(True, None), (False, 6), (True, 6)]
    ]
    assert difference(*states)[0] < 1e-6 < difference(kept, states[0])[0]


@pytest.mark.parametrize("stochastic", [0, 1])
def test_graphed_acting_equals_a_rollout(stochastic, monkeypatch):
    """Padded histories of all episodes, two rollouts in a row, against unpadded running ones."""
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    data = dict(np.load(golden_file("rollout_stoc0.npz")))
    task = linear_task(data)
    actor = actor_for(task, stochastic=bool(stochastic), ordering=True)
    moments = np.full(task.obs_dim, 0.1), np.full(task.obs_dim, 2.0)
    settings = RolloutSettings(task, 3, *moments)
    graphs: dict = {}
    for _ in range(2):
        plain = rollout(actor, LinearEnvs(data), settings, 1.0)
        with monkeypatch.context() as patch:
            patch.setattr(
                "evaluation._acting",
                lambda actor, *rest: graphed_acting(graphs, actor, *rest),
            )
            graphed = rollout(actor, LinearEnvs(data), settings, 1.0)
        assert [e.length for e in plain] == [e.length for e in graphed]
        for ours, theirs in zip(graphed, plain, strict=True):
            np.testing.assert_allclose(
                ours.trajectory.actions, theirs.trajectory.actions, rtol=1e-4, atol=1e-5
            )
    assert len(graphs) == 1


def test_graphed_acting_explores_anew_at_each_step(monkeypatch):
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    data = dict(np.load(golden_file("rollout_stoc0.npz")))
    task = linear_task(data)
    actor, n = actor_for(task, stochastic=True), len(data["x0"])
    settings = RolloutSettings(task, 3, np.zeros(task.obs_dim), np.ones(task.obs_dim))
    choose = partial(exploring_action, noise=torch.randn, std=0.0)
    acting = graphed_acting({}, actor, choose, settings, n)
    obs, everyone = np.zeros((n, task.obs_dim)), np.arange(n)
    with torch.no_grad():
        steps = [acting.step(everyone, obs, np.ones(n)) for _ in range(5)]
    actions, log_probs = (np.stack(x) for x in zip(*steps, strict=True))
    assert len(np.unique(actions[:, 0, 0])) == 5 and (log_probs != 0).all()
