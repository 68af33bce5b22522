"""What the four tasks of the Adroit hand share: the model, controls, success, states.

The models are gymnasium-robotics' XML files.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from d4rl_envs.base import MujocoEnv
from d4rl_envs.engine import mujoco
from d4rl_envs.errors import UserError
from d4rl_envs.physics import NullRotations


def adroit_model(name: str, visuals: bool) -> mujoco.MjModel:
    """The compiled model of a task, with the benchmark's actuator gains.

    Args:
        name: "pen", "hammer", "door" or "relocate".
        visuals: Keep meshes and textures, for rendering; slower to load, same dynamics.
    """
    # importing the package would be slow
    package = find_spec("gymnasium_robotics")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "Adroit tasks need gymnasium-robotics; pip install gymnasium-robotics==1.4.2"
        )
    assets = Path(package.submodule_search_locations[0]) / "envs" / "assets" / "adroit_hand"
    spec = mujoco.MjSpec.from_file(str(assets / f"adroit_{name}.xml"))
    if not visuals:
        spec.compiler.discardvisual = True
        for site in spec.sites:
            site.material = ""  # compilation discards materials
    model = spec.compile()
    for joints, gain in ((("WRJ1", "WRJ0"), 10.0), (("FFJ3", "THJ0"), 1.0)):
        first, last = (model.actuator(f"A_{joint}").id for joint in joints)
        model.actuator_gainprm[first : last + 1, :3] = (gain, 0.0, 0.0)
        model.actuator_biasprm[first : last + 1, :3] = (0.0, -gain, 0.0)
    return model


class AdroitEnv(MujocoEnv):
    """A hand task. Actions are target joint positions: -1 and 1 are the ends of a joint's range.

    An episode is a success once the goal was achieved in more than `success_steps` steps.
    """

    name: ClassVar[str]
    obs_dim: ClassVar[int]
    success_steps: ClassVar[int] = 25
    camera = "fixed"

    def __init__(self, render_mode: str | None = None) -> None:
        model = adroit_model(self.name, visuals=render_mode is not None)
        super().__init__(model, 5, self.obs_dim, render_mode)
        self.null_rotations = NullRotations(model)
        low, high = model.actuator_ctrlrange.T
        self.act_mid, self.act_half = (low + high) / 2, (high - low) / 2
        self.achieved = False
        self._achieved_steps = 0

    def bind_views(self) -> None:
        super().bind_views()
        self.qpos0 = self.model.qpos0

    def body(self, name: str) -> np.ndarray:
        """Position (3,) of a body, a view into `data`."""
        return self.data.xpos[self.model.body(name).id]

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a site, a view into `data`."""
        return self.data.site_xpos[self.model.site(name).id]

    def place_objects(self) -> None:
        """Draw the positions of the episode's objects and targets."""
        raise NotImplementedError

    def reward(self) -> tuple[float, bool]:
        """Shaped reward of the current state, and whether the goal is achieved in it."""
        raise NotImplementedError

    def failed(self) -> bool:
        """Whether the current state terminates the episode."""
        return False

    @property
    def success(self) -> bool:
        return self._achieved_steps > self.success_steps

    def placed(self) -> dict[str, np.ndarray]:
        """What resets randomise, views into `model` by D4RL's names."""
        raise NotImplementedError

    def get_env_state(self) -> dict[str, np.ndarray]:
        """State of the hand, the objects and the target, by D4RL's names."""
        placed = {name: view.copy() for name, view in self.placed().items()}
        return {"qpos": self.qpos.copy(), "qvel": self.qvel.copy(), **placed}

    def set_env_state(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Continue from a state of `get_env_state`.

        Raises:
            UserError: an entry is missing.
        """
        placed = self.placed()
        missing = {"qpos", "qvel", *placed} - set(state_dict)
        if missing:
            raise UserError(
                f"state_dict has no {', '.join(sorted(missing))}; pass one from get_env_state()"
            )
        self.set_state(state_dict["qpos"], state_dict["qvel"])
        for name, view in placed.items():
            view[:] = state_dict[name]
        self.forward()

    def info(self, applied: np.ndarray) -> dict[str, Any]:
        return {"goal_achieved": bool(self.achieved), "success": self.success}

    def forward(self) -> None:
        """MuJoCo 2.1.0 stored the solver's warm start before the no-slip iterations, not after."""
        self.null_rotations.apply(self.qpos, self.qpos0)
        options = self.model.opt
        iterations, options.noslip_iterations = options.noslip_iterations, 0
        super().forward()
        options.noslip_iterations = iterations
        mujoco.mj_forward(self.model, self.data)

    def integrate(self) -> None:
        for _ in range(self.frame_skip):
            self.null_rotations.apply(self.qpos, self.qpos0)
            mujoco.mj_step(self.model, self.data)

    def reset_state(self) -> None:
        self.achieved = False
        self._achieved_steps = 0
        self.place_objects()
        self.set_state(self.init_qpos, self.init_qvel)

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.simulate(self.act_mid + action * self.act_half)
        reward, self.achieved = self.reward()
        self._achieved_steps += self.achieved
        return self.observation(), reward, self.diverged or self.failed()
