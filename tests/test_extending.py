"""The examples of docs/EXTENDING.md: the code on the page runs and learns."""

import ast
import json
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rl_gradients import RLGradient, algorithm_class
from tests import test_learning
from tests.conftest import ROOT
from tests.tiny_runs import TINY
from tests.toy_problem import SMALL, train

PAGE = (ROOT / "docs" / "EXTENDING.md").read_text()
NEW_FILES = ("rl_gradients/crr.py", "d4rl_envs/slider.py")


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    """The code blocks of a kind, each with the file that the text before it mentions last."""
    for block in re.finditer(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        yield re.findall(r"`([\w./]+\.(?:py|md))`", PAGE[: block.start()])[-1], block[1]


def apply(change: str, text: str) -> str:
    """The text with a diff applied."""
    lines = change.splitlines(keepends=True)
    old, new = (
        "".join(x[1:] for x in lines if x[0] in kinds or x == "\n") for kinds in (" -", " +")
    )
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the repository with all examples."""
    copy = tmp_path_factory.mktemp("extended") / "copy"
    unused = (".*", "__pycache__", "exp", "runs", "site", "tests", "images", "*.hdf5", "wandb")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*unused))
    for path, code in blocks("python"):
        assert not (copy / path).exists()
        (copy / path).write_text(code)
    for path, change in blocks("diff"):
        (copy / path).write_text(apply(change, (copy / path).read_text()))
    return copy


PROGRAM = """
import sys
from data_sources.command import main as get_data
from main import main
folder = sys.argv[1]
data = ["--only", "slider-random-v2", "--source", "generate", "--steps", "600"]
assert get_data("download_gym_datasets.py", [*data, "--data_dir", folder]) == 0
sys.exit(main(["--data_dir", folder, "--run_dir", f"{folder}/run", *sys.argv[2:]]))
"""


def test_all_examples_train_together(extended, tmp_path):
    flags = "--env slider-random-v2 --rl_algo CRR --stoc 0 --use_entropy_reg 0 --sup_loss huber "
    flags += "--num_actor_update_interval 1 --exploration cauchy --max_online_iters 2 --K 3 "
    flags += "--eval_context_length 2 --eval_rtg 0 --online_rtg 0 --eval_interval 1 --expl_noise 1"
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), *TINY, *flags.split()]
    done = subprocess.run(words, cwd=extended, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert len(rows) == 3
    for row in rows:
        # a start within 1 of the middle: at most 1 per step if the slider stays there
        assert row["evaluation/length_mean_gm"] == 100
        assert row["evaluation/raw_return_mean"] < 0
        assert 0 < row["training/sup_loss"] < 0.1 * 2  # of linear growth beyond 0.1
        assert 0 <= row["training/advantage_weight"] <= 1
    # of Cauchy noise with scale 1, about half is beyond 1
    assert all(0.2 < row["aug_traj/saturated"] < 0.9 for row in rows[1:])
    config = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (config["sup_loss"], config["exploration"]) == ("huber", "cauchy")


@pytest.fixture
def crr(monkeypatch):
    """The page's algorithm, as the module rl_gradients.crr."""
    (code,) = (code for path, code in blocks("python") if path == "rl_gradients/crr.py")
    module = types.ModuleType("rl_gradients.crr")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "docs/EXTENDING.md", "exec"), module.__dict__)
    return algorithm_class("CRR")


def test_the_example_trains_a_stochastic_actor_and_the_critic(crr):
    assert issubclass(crr, RLGradient)
    settings = replace(SMALL, rl_algo="CRR")
    weights = []
    for updates in (0, 3):
        trainer = train(settings, 1.0, 0.0, iterations=1, updates=updates, pretraining=3)
        nets = (trainer.nets.actor, trainer.nets.critic)
        weights.append([p.detach() for net in nets for p in net.parameters()])
        assert all(p.isfinite().all() for p in weights[-1])
    changed = [not torch.equal(*pair) for pair in zip(*weights, strict=True)]
    assert sum(changed) > len(changed) / 2


def test_the_example_passes_the_learning_test(crr, monkeypatch):
    (row,) = re.findall(r'"CRR": (\{.*\})', PAGE)
    monkeypatch.setitem(test_learning.VARIANTS, "CRR", ast.literal_eval(row))
    test_learning.test_each_algorithm_learns_only_with_the_right_sign("CRR", monkeypatch)


def test_files_and_names_on_the_page_exist():
    for path in re.findall(r"`([\w./]+\.(?:py|md))`", PAGE):
        assert (ROOT / path).exists() or path in NEW_FILES, path
    for name, path in re.findall(r"`(\w+)`\s(?:\(|in\s|of\s)`([\w./]+\.py)`", PAGE):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{name} in {path}"
