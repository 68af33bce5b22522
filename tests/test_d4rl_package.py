"""The package that `pip install .` installs: its files, its dependencies, its use elsewhere."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

import d4rl_envs
from d4rl_envs.engine import TESTED_VERSION
from d4rl_envs.errors import UserError
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network from a copy of the repository's Python files."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    unneeded = (".*", "__pycache__", "site", "build", "exp", "runs", "wandb", "golden", "*.hdf5")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*unneeded))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--wheel-dir", str(folder), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_has_the_environments_alone(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        metadata = file.read(f"d4rl_envs-{PROJECT['version']}.dist-info/METADATA").decode()
    package = ROOT / "d4rl_envs"
    assert names == {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    assert wheel.stat().st_size < 200_000
    required = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra)", metadata, flags=re.MULTILINE)
    assert sorted(required) == ["filelock", "gymnasium", "h5py", "mujoco", "numpy", "tqdm"]
    assert "# D4RL without mujoco-py" in metadata


def test_wheel_works_outside_the_repository(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = (
        "import d4rl_envs, gymnasium, sys\n"
        "print(d4rl_envs.__file__)\n"
        "for task in {t.family: t for t in d4rl_envs.TASKS.values()}.values():\n"
        "    env = gymnasium.make(task.name)\n"
        "    env.reset(seed=0)\n"
        "    env.step(env.action_space.sample())\n"
        "    print(task.family)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True,
    )  # fmt: skip
    place, *families, torch = done.stdout.splitlines()
    assert place == str(tmp_path / "site" / "d4rl_envs" / "__init__.py")
    assert families == list(d4rl_envs.tasks.FAMILIES)
    assert torch == "False"


def test_every_imported_package_is_a_dependency():
    imported = set()
    for path in (ROOT / "d4rl_envs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    # legacy_worker.py runs in an environment of its own, clients/ on top of the program's
    imported -= {"mujoco_py", "gym", "d4rl", *sys.stdlib_module_names}
    declared = {re.split("[<>=]", text)[0] for text in PROJECT["dependencies"]}
    assert imported == declared | {"d4rl_envs"}


def test_versions_equal_those_of_the_requirements():
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    dependencies = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["hand"]
    pinned = [text for text in dependencies if "==" in text]
    assert f"mujoco=={TESTED_VERSION}" in pinned
    assert len(pinned) == 2
    assert set(pinned) <= set(pins)
    for name in ("gymnasium", "h5py", "numpy", "tqdm"):
        assert any(pin.startswith(f"{name}==") for pin in pins)
    for file in ("requirements-legacy.txt", "requirements-dev.txt"):
        lines = (ROOT / file).read_text().splitlines()
        assert PROJECT["optional-dependencies"]["gym"][0] in lines


def test_hand_without_its_models_names_the_package(monkeypatch):
    monkeypatch.setattr("d4rl_envs.hand.find_spec", lambda _: None)
    with pytest.raises(UserError) as error:
        d4rl_envs.make(d4rl_envs.get_task("pen-human-v1"))
    (hand,) = PROJECT["optional-dependencies"]["hand"]
    assert str(error.value) == f"Adroit tasks need gymnasium-robotics; pip install {hand}"
