"""Exporting a policy as one `torch.export` program, which needs PyTorch but not this repository."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from policy_export.policy import Policy
from trajectories import MAX_TIMESTEPS, clamp_action

PROGRAM_FILE = "policy.pt2"


class ActingProgram(nn.Module):
    """The network of a policy with its pre-processing: normalisation, scaling, padding.

    C is the context length of the run's evaluations. Histories shorter than C are padded at the
    left; padded steps have timestep -1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.actor, self.rtg_scale = policy.actor, policy.task.rtg_scale
        for name, values in (("mean", policy.state_mean), ("std", policy.state_std)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32))

    def forward(self, observations: Tensor, actions: Tensor, rtg: Tensor, steps: Tensor) -> Tensor:
        """The actions (B, act_dim) of the last step.

        Args:
            observations: (B, C, obs_dim) float32, as from the environment.
            actions: (B, C, act_dim) float32; the last one is not used.
            rtg: (B, C) float32 return-to-go, in training rewards.
            steps: (B, C) int64 steps since the episode's start, -1 at padding.
        """
        states = (observations - self.mean) / self.std
        timesteps = steps.clamp(0, MAX_TIMESTEPS - 1)
        scaled = (rtg * self.rtg_scale)[..., None]
        return clamp_action(self.actor(states, actions, scaled, timesteps, steps >= 0).mean[:, -1])


def save_program(policy: Policy, folder: Path) -> None:
    """Write the policy to FOLDER/policy.pt2, for any batch size.

    Load it with `torch.export.load(path).module()`.
    """
    program = copy.deepcopy(ActingProgram(policy)).cpu().eval().requires_grad_(False)
    task = policy.task
    size = (2, policy.settings.eval_context_length)
    shapes = ((*size, task.obs_dim), (*size, task.act_dim), size)
    inputs = (*(torch.zeros(shape) for shape in shapes), torch.zeros(size, dtype=torch.int64))
    with torch.no_grad():
        exported = torch.export.export(
            program, inputs, dynamic_shapes=({0: Dim("batch")},) * len(inputs)
        )
    torch.export.save(exported, folder / PROGRAM_FILE)
