"""Trained policies outside their runs: export, load, evaluate."""

from policy_export.policy import Policy, load_policy, open_policy, save_policy

__all__ = ["Policy", "load_policy", "open_policy", "save_policy"]
