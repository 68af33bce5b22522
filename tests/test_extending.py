"""The example of docs/EXTENDING.md: the code on the page runs and learns."""

import ast
import re
import sys
import types
from dataclasses import replace

import pytest
import torch

from rl_gradients import RLGradient, algorithm_class
from tests import test_learning
from tests.conftest import ROOT
from tests.toy_problem import SMALL, train

PAGE = (ROOT / "docs" / "EXTENDING.md").read_text()


@pytest.fixture
def crr(monkeypatch):
    """The page's algorithm, as the module rl_gradients.crr."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
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


def test_files_names_and_changed_lines_on_the_page_exist():
    for path in re.findall(r"`([\w./]+\.(?:py|md))`", PAGE):
        assert (ROOT / path).exists() or path == "rl_gradients/crr.py", path
    for name, path in re.findall(r"`(\w+)`\s(?:\(|in\s|of\s)`([\w./]+\.py)`", PAGE):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{name} in {path}"
    source = (ROOT / "get_args.py").read_text()
    for block in re.findall(r"^```diff\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line and not line.startswith("+"):
                assert f"{line[1:]}\n" in source, line
