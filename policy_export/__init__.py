"""Trained policies outside their runs: export, load, act, evaluate."""

from policy_export.agent import Agent, load
from policy_export.policy import Policy, load_policy, open_policy, save_policy

__all__ = ["Agent", "Policy", "load", "load_policy", "open_policy", "save_policy"]
