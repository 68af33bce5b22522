"""The worked example of docs/EXTENDING.md: it is executed as printed, and learns."""

import ast
import re
import sys
import types
from dataclasses import replace

import pytest
import torch

from rl_gradients import RLGradient
from tests import test_learning
from tests.conftest import ROOT
from tests.toy_problem import SMALL, train

PAGE = (ROOT / "docs" / "EXTENDING.md").read_text()


@pytest.fixture
def crr(monkeypatch):
    """The algorithm of the page, as the module rl_gradients.crr."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    module = types.ModuleType("rl_gradients.crr")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "docs/EXTENDING.md", "exec"), module.__dict__)
    return module.CRR


@pytest.mark.parametrize("stoc", [0, 1])
def test_a_few_updates_train_actor_and_critic(crr, stoc):
    assert issubclass(crr, RLGradient)
    settings = replace(SMALL, rl_algo="CRR", stoc=stoc)
    weights = []
    for updates in (0, 3):
        trainer = train(settings, 1.0, 0.0, iterations=1, updates=updates, pretraining=3)
        nets = (trainer.nets.actor, trainer.nets.critic)
        weights.append([p.detach() for net in nets for p in net.parameters()])
        assert all(p.isfinite().all() for p in weights[-1])
    changed = [not torch.equal(*pair) for pair in zip(*weights, strict=True)]
    assert sum(changed) > len(changed) / 2


def test_the_example_passes_the_tests_of_learning(crr, monkeypatch):
    (row,) = re.findall(r'"CRR": (\{.*\})', PAGE)
    monkeypatch.setitem(test_learning.VARIANTS, "CRR", ast.literal_eval(row))
    for sup_coeff in (0.0, 1.0):
        test_learning.test_the_policy_approaches_the_optimum("CRR", sup_coeff)
    test_learning.test_a_gradient_of_the_wrong_sign_is_noticed("CRR", monkeypatch)


def test_files_and_names_on_the_page_exist():
    for path in re.findall(r"`([\w./]+\.(?:py|md))`", PAGE):
        assert (ROOT / path).exists() or path == "rl_gradients/crr.py", path
    sources = [(ROOT / name).read_text() for name in ("settings.py", "rl_gradients/__init__.py")]
    for block in re.findall(r"^```diff\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line and not line.startswith("+"):
                assert any(f"{line[1:]}\n" in source for source in sources), line
