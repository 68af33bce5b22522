"""The four figures of the bandit: reward, critic, action and policy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from motivation.bandit import METHODS, OFFLINE, OPTIMUM, History, reward
from reporting.intervals import bootstrap, mean_over_runs
from reporting.style import plain_axes

COLOURS = {"ODT": "#6b6b6b", "DDPG": "#1f77b4", "ODT+DDPG": "#d95f02"}


def reward_figure(history: History) -> Figure:
    """Mean reward of the policy's action after each epoch."""
    figure, (axes,) = _new_figure()
    _draw_means(axes, history, reward(history.actions))
    axes.axhline(1.0, color="#2a9d5c", linestyle="--", linewidth=1, label="optimum")
    axes.set_ylabel("reward of the policy's action")
    axes.legend(frameon=False)
    return figure


def action_figure(history: History) -> Figure:
    """The policy's action at the target return after each epoch."""
    figure, (axes,) = _new_figure()
    for i, (_, low, high) in enumerate(OFFLINE):
        axes.axhspan(low, high, color="0.9", label="offline data" if i == 0 else None)
    _draw_means(axes, history, history.actions)
    axes.axhline(OPTIMUM, color="#2a9d5c", linestyle="--", linewidth=1, label="optimum")
    axes.set_ylabel("action at the target return")
    axes.set_ylim(-1.05, 1.05)
    figure.legend(frameon=False, fontsize="small", ncols=5, loc="outside lower center")
    return figure


def critic_figure(history: History) -> Figure:
    """The critic's estimates for all actions, from pretraining (light) to the last epoch (dark)."""
    shown = ("DDPG", "ODT+DDPG")
    figure, panels = _new_figure(len(shown))
    grid = history.grid
    for axes, method in zip(panels, shown, strict=True):
        _draw_epochs(axes, history, history.values[:, METHODS.index(method)], COLOURS[method])
        axes.plot(grid, reward(grid), color="#2a9d5c", linewidth=1.5, label="true reward")
        for i, (_, low, high) in enumerate(OFFLINE):
            axes.axvspan(low, high, color="0.9", label="offline data" if i == 0 else None)
        axes.set_title(method)
        axes.set_xlabel("action")
        axes.legend(frameon=False, loc="lower left", fontsize="small")
    panels[0].set_ylabel("reward and the critic's estimate")
    return figure


def policy_figure(history: History) -> Figure:
    """The action for each target return, from pretraining (light) to the last epoch (dark)."""
    figure, panels = _new_figure(len(METHODS))
    for axes, method in zip(panels, METHODS, strict=True):
        _draw_epochs(axes, history, history.policies[:, METHODS.index(method)], COLOURS[method])
        actions = torch.cat([torch.linspace(low, high, 50) for _, low, high in OFFLINE])
        axes.scatter(reward(actions), actions, s=8, color="0.3", zorder=3, label="offline data")
        axes.axhline(OPTIMUM, color="#2a9d5c", linestyle="--", linewidth=1, label="optimum")
        axes.set_title(method)
        axes.set_xlabel("target return")
        axes.set_ylim(-1.05, 1.05)
    panels[0].set_ylabel("action")
    panels[-1].legend(frameon=False, loc="upper right", fontsize="small")
    return figure


def _new_figure(panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.6 * panels if panels > 1 else 5.6, 3.6), layout="constrained")
    all_axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for axes in all_axes:
        plain_axes(axes)
        if axes is not all_axes[0]:
            axes.tick_params(labelleft=False)
    return figure, all_axes


def _draw_means(axes: Axes, history: History, values: torch.Tensor) -> None:
    """Draw the mean over runs of (E + 1, M, S) values, with its interval, by epoch."""
    epochs = np.arange(len(values))
    for i, method in enumerate(METHODS):
        mean, low, high = bootstrap([values[:, i].T.numpy()], mean_over_runs)
        axes.plot(epochs, mean, "o-", markersize=3, color=COLOURS[method], label=method)
        axes.fill_between(epochs, low, high, color=COLOURS[method], alpha=0.2, linewidth=0)
    start = history.pretrained
    axes.axvline(start, color="0.5", linestyle=":", linewidth=1)
    axes.text(start + 0.15, 0.66, "online", color="0.4", transform=axes.get_xaxis_transform(),
              rotation=90, va="center")  # fmt: skip
    axes.set_xlabel("epoch")


def _draw_epochs(axes: Axes, history: History, curves: torch.Tensor, colour: str) -> None:
    """Draw means over runs of (E + 1, S, G) curves for some epochs, the last with its interval."""
    first, last = history.pretrained, len(curves) - 1
    shown = sorted({first + round((last - first) * part) for part in (0, 1 / 8, 1 / 4, 1 / 2, 1)})
    shades = LinearSegmentedColormap.from_list("shades", ["white", colour])(
        np.linspace(0.3, 1.0, len(shown))
    )
    for epoch, shade in zip(shown, shades, strict=True):
        label = "pretrained" if epoch == first else f"online epoch {epoch - first}"
        axes.plot(history.grid, curves[epoch].mean(dim=0), color=shade, label=label)
    _, low, high = bootstrap([curves[last].numpy()], mean_over_runs)
    axes.fill_between(history.grid, low, high, color=colour, alpha=0.2, linewidth=0)


FIGURES: dict[str, Callable[[History], Figure]] = {
    "reward": reward_figure,
    "critic": critic_figure,
    "action": action_figure,
    "policy": policy_figure,
}
