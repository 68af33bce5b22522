"""scripts/plot_paths.py: paths of a policy through its maze."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from d4rl_envs.maze2d import BALL_RADIUS
from policy_export.playing import play
from run.files import CHECKPOINT_FOLDER, PRETRAINED_FILE
from scripts import plot_paths
from scripts.plot_paths import draw, draw_panel
from tasks import get_task
from tests.commands import as_command
from tests.test_policy_file import SMALL, policy_with
from tests.tiny_runs import DETERMINISTIC, refusal, run

main = as_command(plot_paths.main)

SHORT = [*DETERMINISTIC, "--K", "1", "--eval_context_length", "1", "--max_online_iters", "1"]
# walls are solid, but contacts are soft
DEPTH = 0.03


@pytest.mark.parametrize(
    ("env", "radius"), [("maze2d-medium-v1", BALL_RADIUS), ("antmaze-umaze-v2", 0.0)]
)
def test_no_path_leads_through_a_wall(env, radius):
    task = get_task(env)
    episodes = play(policy_with(SMALL, task), 3, 1.0)
    axes = Figure().subplots()
    draw_panel(axes, task, episodes, "now")
    drawn = [np.array(line.get_data()) for line in axes.lines]
    paths = [path for path in drawn if path.shape[1] > 1]
    assert [path.shape[1] for path in paths] == [episode.length for episode in episodes]
    x, y = np.concatenate(paths, axis=1)
    walls = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(walls) > 10
    for wall in walls:
        away_x = np.maximum(wall.get_x() - x, x - wall.get_x() - 1)
        away_y = np.maximum(wall.get_y() - y, y - wall.get_y() - 1)
        assert np.maximum(away_x, away_y).min() > radius - DEPTH


@pytest.mark.usefixtures("short_horizons")
def test_figure_shows_the_run_before_and_after(data_dir, tmp_path, capsys):
    assert run(data_dir, tmp_path / "run", *SHORT) == 0
    panels = draw(tmp_path / "run", 2).axes
    titles = [axes.get_title() for axes in panels]
    assert titles[0].startswith("after pretraining: score ")
    assert "online steps: score " in titles[1]
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "paths.png")]) == 0
    assert (tmp_path / "paths.png").stat().st_size > 10_000
    capsys.readouterr()
    (tmp_path / "run" / CHECKPOINT_FOLDER / PRETRAINED_FILE).unlink()
    code = main([str(tmp_path / "run"), "--out", str(tmp_path / "again.png")])
    assert "pass a run after its pretraining" in refusal(capsys, code)


@pytest.mark.usefixtures("short_horizons")
def test_other_tasks_are_refused(data_dir, tmp_path, capsys):
    assert run(data_dir, tmp_path / "run", *SHORT, env="hopper-medium-v2") == 0
    capsys.readouterr()
    code = main([str(tmp_path / "run"), "--out", str(tmp_path / "paths.png")])
    assert "hopper-medium-v2: not a maze" in refusal(capsys, code)
