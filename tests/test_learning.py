"""Each RL gradient finds the optimum of a toy problem, where imitation stays far from it."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from get_args import RL_ALGORITHMS
from rl_gradients import algorithm_class
from tests.toy_problem import SMALL, regret, train

# settings in addition to those shared by all algorithms
VARIANTS: dict[str, dict[str, Any]] = {
    "TD3": {"stoc": 0, "TD3_tau": 0.05},
    "DDPG": {"stoc": 0, "DDPG_tau": 0.05},
    "SAC": {"SAC_tau": 0.05, "init_temperature": 0.02},
    "AWAC": {"AWAC_tau": 0.05, "AWAC_beta": 0.1, "AWAC_soft_flag": 0, "AWAC_normalize_adv": 0},
    "IQL": {"IQL_tau": 0.05, "IQL_beta": 10.0, "IQL_ratio": 0.8},
    "PPO": {},
    "AWR": {"AWR_beta": 0.1},
}
MORE_VARIANTS: dict[str, dict[str, Any]] = {
    "stochastic TD3": {"rl_algo": "TD3", "TD3_tau": 0.05},
    "MLP TD3": {"rl_algo": "TD3", **VARIANTS["TD3"], "policy": "mlp"},
    "MLP SAC": {"rl_algo": "SAC", **VARIANTS["SAC"], "policy": "mlp"},
    "deterministic AWAC": {"rl_algo": "AWAC", **VARIANTS["AWAC"], "stoc": 0},
    "recomputed PPO": {"rl_algo": "PPO", "PPO_old_logprob_generated_in_training": 1},
}


@cache
def regret_of_imitation(stoc):
    return regret(train(replace(SMALL, stoc=stoc), 0.0, 1.0))


def learns(settings, sup_coeff):
    """Whether RL at least halves the regret of the supervised loss alone."""
    learned = regret(train(settings, settings.actor_rl_coeff, sup_coeff))
    return learned < 0.5 * regret_of_imitation(settings.stoc)


def negated(loss):
    def opposite(*args):
        value, info = loss(*args)
        return -value, info

    return opposite


@pytest.mark.parametrize("stoc", [0, 1])
def test_imitation_stays_near_the_data(stoc):
    """The data's mean action has regret 1.44."""
    assert 1.0 < regret_of_imitation(stoc) < 2.5


@pytest.mark.parametrize("algorithm", RL_ALGORITHMS)
def test_each_algorithm_learns_only_with_the_right_sign(algorithm, monkeypatch):
    settings = replace(SMALL, rl_algo=algorithm, **VARIANTS.get(algorithm, {}))
    assert learns(settings, sup_coeff=0.0)
    assert learns(settings, sup_coeff=1.0)
    chosen = algorithm_class(algorithm)
    monkeypatch.setattr(chosen, "actor_loss", negated(chosen.actor_loss))
    wrong = regret(train(settings, settings.actor_rl_coeff, 1.0, iterations=3))
    assert wrong > regret_of_imitation(settings.stoc)


@pytest.mark.parametrize("name", MORE_VARIANTS)
def test_variants_learn_by_rl_alone(name):
    assert learns(replace(SMALL, **MORE_VARIANTS[name]), sup_coeff=0.0)
