"""The one-step bandit that motivates RL gradients (section 3.1 of the paper)."""
