"""RL gradients: one module per algorithm, each a set of pure loss functions and a small class.

Module and class are named after the algorithm: `--rl_algo TD3` is `rl_gradients.td3.TD3`. The names
are listed in get_args.RL_ALGORITHMS.
"""

from importlib import import_module

from get_args import Settings
from rl_gradients.common import Networks, RLGradient
from rl_gradients.on_policy import OnPolicyGradient

__all__ = ["Networks", "OnPolicyGradient", "RLGradient", "algorithm_class", "make_rl_gradient"]


def algorithm_class(name: str) -> type[RLGradient]:
    """The class of an algorithm."""
    algorithm: type[RLGradient] = getattr(import_module(f"rl_gradients.{name.lower()}"), name)
    return algorithm


def make_rl_gradient(settings: Settings) -> RLGradient:
    """The algorithm selected by `--rl_algo`."""
    return algorithm_class(settings.rl_algo)(settings)
