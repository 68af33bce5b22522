"""RL gradients: one file per algorithm, each a set of pure loss functions and a small class.

`ALGORITHMS` is the table that `--rl_algo` chooses from.
"""

from rl_gradients.awac import AWAC
from rl_gradients.awr import AWR
from rl_gradients.common import Info, Networks, RLGradient
from rl_gradients.ddpg import DDPG
from rl_gradients.iql import IQL
from rl_gradients.on_policy import OnPolicyGradient
from rl_gradients.ppo import PPO
from rl_gradients.sac import SAC
from rl_gradients.td3 import TD3
from settings import Settings
from utils import UserError

ALGORITHMS: dict[str, type[RLGradient]] = {
    "TD3": TD3,
    "DDPG": DDPG,
    "SAC": SAC,
    "AWAC": AWAC,
    "IQL": IQL,
    "PPO": PPO,
    "AWR": AWR,
}

__all__ = ["ALGORITHMS", "Info", "Networks", "OnPolicyGradient", "RLGradient", "make_rl_gradient"]


def make_rl_gradient(settings: Settings) -> RLGradient:
    """The algorithm of `--rl_algo`, with its settings.

    Raises:
        UserError: an algorithm that is not in the table.
    """
    if settings.rl_algo not in ALGORITHMS:
        raise UserError(
            f"--rl_algo {settings.rl_algo}: not available; use one of {', '.join(ALGORITHMS)}"
        )
    return ALGORITHMS[settings.rl_algo](settings)
