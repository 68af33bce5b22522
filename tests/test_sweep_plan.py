"""From a sweep's file to its runs: what the files that ship say, and what is refused."""

import csv
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from get_args import parse_args
from scripts.sweep import main
from sweeps.plan import read_sweep
from sweeps.published import METHOD_FLAGS, SUITE_TASKS, TASK_FLAGS
from tasks import TASKS
from tests.conftest import ROOT, shared_file
from tests.test_published import shell_settings, table_settings

SHIPPED = sorted((ROOT / "sweeps").glob("*.yaml"))
TABLES = [path for path in SHIPPED if path.stem.startswith("table")]
# first letters of the rows of the published tables
ROW = {"Ho": "hopper", "Ha": "halfcheetah", "Wa": "walker2d", "An": "ant", "P": "pen",
       "H": "hammer", "D": "door", "R": "relocate"}  # fmt: skip
LEVEL = {"M": "medium", "MR": "medium-replay", "R": "random", "H": "human", "C": "cloned",
         "E": "expert"}  # fmt: skip
ROWS = {
    "U-v2": "antmaze-umaze-v2", "UD-v2": "antmaze-umaze-diverse-v2",
    "MP-v2": "antmaze-medium-play-v2", "MD-v2": "antmaze-medium-diverse-v2",
    "LP-v2": "antmaze-large-play-v2", "LD-v2": "antmaze-large-diverse-v2",
    "Open-v0": "maze2d-open-v0", "Umaze-v2": "maze2d-umaze-v1",
    "Medium-v2": "maze2d-medium-v1", "Large-v2": "maze2d-large-v1",
}  # fmt: skip


def write_sweep(folder: Path, **fields: Any) -> Path:
    """A small sweep with some fields replaced; those that are None are left out."""
    content = {
        "tasks": ["maze2d-umaze-v1"],
        "methods": ["TD3+ODT", "ODT"],
        "seeds": [1, 2],
    } | fields
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def task_of(row: str) -> str:
    if row in ROWS:
        return ROWS[row]
    family, level, version = row.split("-")
    return f"{ROW[family]}-{LEVEL[level]}-{version}"


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_tables_have_the_published_rows_and_methods(path: Path) -> None:
    """What the sweep leaves out is told in the file's comment."""
    number = path.stem.removeprefix("table")
    with shared_file("spec/paper_results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == f"T{number}"]
    published = {task_of(row["row"]) for row in rows if not row["row"].startswith("Av")}
    sweep = read_sweep(path, Path("exp"))
    assert {run.task for run in sweep.runs} == published
    methods = {row["method"] for row in rows}
    ours = {run.method.removesuffix("-MLP") for run in sweep.runs}
    assert ours == methods - {"PDT"}
    assert all(method in path.read_text() for method in methods)
    counts = Counter((run.task, run.method) for run in sweep.runs)
    assert set(counts.values()) == {5}


def test_every_published_table_ships() -> None:
    assert [path.stem for path in TABLES] == ["table1", "table10", "table11", "table2", "table3"]


def test_sweeps_shell_scripts_and_readme_are_the_same_commands() -> None:
    """tests/test_published.py compares the shell scripts with README and the published program."""
    suites = {"table1": "mujoco", "table2": "adroit", "table3": "antmaze", "table11": "maze2d"}
    for path in TABLES:
        delay = "5" if path.stem == "table10" else "0"
        suite = suites.get(path.stem, "mujoco")
        methods = ",".join(dict.fromkeys(run.method for run in read_sweep(path, Path("exp")).runs))
        words = ["--method", methods, "--seeds", "16", "--delayed_reward", delay]
        ours = [run.settings for run in read_sweep(path, Path("exp")).runs if run.seed == 16]
        named = ["--exp_name", path.stem]
        assert set(ours) == set(shell_settings(suite, *words, "--", *named))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_commands_of_a_dry_run_give_the_settings(path: Path, tmp_path, capsys) -> None:
    assert main([str(path), "--save_dir", str(tmp_path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = read_sweep(path, tmp_path).runs
    assert len(lines) == len(runs)
    for line, run in zip(lines, runs, strict=True):
        words = shlex.split(line)
        assert words[:2] == ["python", "main.py"]
        where = {"run_dir": str(tmp_path / run.sweep / run.task / run.method / f"seed{run.seed}")}
        assert vars(parse_args(words[2:])) == vars(run.settings) | where
    assert not list(tmp_path.iterdir())


def test_flags_come_in_their_order(tmp_path) -> None:
    path = write_sweep(
        tmp_path,
        tasks=["maze2d-*"],
        methods=["ODT", {"ODT-wide": {"actor_rl_coeff": 0.0, "embed_dim": 1024, "K": 7}}],
        seeds=[3],
        flags={"replay_size": 77, "gamma": 0.9, "embed_dim": 512, "use_entropy_reg": 1},
        task_flags={"maze2d-l*": {"gamma": 0.8}, "*-v1": {"log_to_tb": False}},
    )
    runs = {(r.task, r.method): r.settings for r in read_sweep(path, tmp_path, ["--K", "9"]).runs}
    assert len(runs) == 2 * len(SUITE_TASKS["maze2d"])
    for (task, method), settings in runs.items():
        assert (settings.replay_size, settings.K, settings.seed) == (77, 9, 3)
        assert settings.gamma == (0.8 if "large" in task else 0.9)
        assert settings.log_to_tb == ("v1" not in task)
        assert settings.embed_dim == (1024 if method == "ODT-wide" else 512)
        assert settings.suffix == ("-wide" if method == "ODT-wide" else "")
        assert (
            settings.num_updates_per_pretrain_iter
            == table_settings(task).num_updates_per_pretrain_iter
        )


def test_without_published_flags_there_are_those_of_the_file_alone(tmp_path) -> None:
    path = write_sweep(tmp_path, published_flags=False, methods=["ODT"], name="plain", seeds=[1])
    (run,) = read_sweep(path, tmp_path).runs
    given = ["--env", "maze2d-umaze-v1", "--seed", "1", *METHOD_FLAGS["ODT"], "--exp_name", "plain"]
    assert run.settings == parse_args(given)


@hypothesis.settings(deadline=None, max_examples=20)
@given(
    tasks=st.lists(st.sampled_from(sorted(TASKS)), min_size=1, max_size=4, unique=True),
    methods=st.lists(st.sampled_from(sorted(METHOD_FLAGS)), min_size=1, unique=True),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True),
)
def test_runs_are_the_product(tasks, methods, seeds, tmp_path_factory) -> None:
    path = write_sweep(tmp_path_factory.mktemp("s"), tasks=tasks, methods=methods, seeds=seeds)
    runs = read_sweep(path, Path("exp")).runs
    assert [(run.task, run.method, run.seed) for run in runs] == [
        (task, method, seed) for task in tasks for method in methods for seed in seeds
    ]
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        assert run.settings == parse_args(
            ["--env", run.task, "--seed", str(run.seed), *TASK_FLAGS[run.task],
             *METHOD_FLAGS[run.method], "--exp_name", "small"]
        )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tasks": ["hoper-medium-v2"]}, "hoper-medium-v2: unknown task; the nearest names are"),
        ({"tasks": ["pen-*-v9"]}, "pen-*-v9: unknown task"),
        ({"tasks": []}, "tasks: is missing or empty"),
        ({"methods": None}, "methods: is missing or empty"),
        ({"methods": ["ODT+TD3"]}, "ODT+TD3: unknown method"),
        ({"methods": [{"a/b": {}}]}, "a/b: use letters"),
        ({"methods": [{"new": {"embed_dimm": 3}}]}, "embed_dimm: unknown flag; did you mean"),
        ({"methods": [{"new": ["embed_dim"]}]}, "is not a table of flags"),
        ({"methods": ["ODT", "ODT"]}, "each name once"),
        ({"seeds": [1, "two"]}, "seeds"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": [-1]}, "--seed -1"),
        ({"seeds": 3}, "seeds: 3 is of the wrong kind"),
        ({"seedz": [1]}, "seedz: unknown field; did you mean seeds?"),
        ({"flags": {"embed_dim": "wide"}}, "--embed_dim: invalid int value: 'wide'"),
        ({"flags": {"embed_dim": [32, 64]}}, "is not one value"),
        ({"flags": {"embed_dim": 30}}, "--embed_dim 30 is not a multiple of --n_head 4"),
        ({"flags": {"K": 1, "eval_context_length": 2}}, "--eval_context_length 2"),
        ({"flags": {"run_dir": "x"}}, "run_dir: is set by the sweep itself"),
        ({"task_flags": {"hopper-*": {"K": 1}}}, "hopper-*: fits none of the tasks"),
        ({"name": "a/b"}, "name 'a/b'"),
        ({"cpus": 0}, "cpus 0"),
        ({"gpus": 2}, "gpus 2"),
        ({"retries": -1}, "retries -1"),
        ({"published_flags": "no"}, "published_flags: 'no' is of the wrong kind"),
    ],
)
def test_bad_files_are_one_line_and_leave_nothing(fields, said, tmp_path, capsys) -> None:
    path = write_sweep(tmp_path, **fields)
    assert main([str(path), "--save_dir", str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize("text", ["tasks: [", "- a", "", "!!python/object:os.system {}", "a: \x00"])
def test_files_that_are_no_sweep(text, tmp_path, capsys) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "pen-*"], "--tasks pen-*: not in this sweep: maze2d-umaze-v1"),
        (["--methods", "TD3"], "--methods TD3: not in this sweep: TD3+ODT, ODT"),
        (["--seeds", "3"], "--seeds 3: not in this sweep: 1, 2"),
        (["--cpus", "0"], "cpus 0"),
        (["--", "--emb_dim", "3"], "unrecognized arguments: --emb_dim"),
        (["--", "--seed", "3"], "--seed is set by the sweep itself"),
        (["--", "--resume=x"], "--resume"),
        (["--dryrun"], "did you mean --dry-run?"),
        (["--dry-run", "--here"], "not allowed with"),
    ],
)
def test_bad_command_lines_are_one_line(words, said, tmp_path, capsys) -> None:
    path = write_sweep(tmp_path)
    try:
        code = main([str(path), "--save_dir", str(tmp_path / "exp"), *words])
    except SystemExit as ended:
        code = int(str(ended.code))
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "exp").exists()


def test_only_some_runs(tmp_path, capsys) -> None:
    path = write_sweep(tmp_path, tasks=["maze2d-*"], seeds=[1, 2, 3])
    words = ["--tasks", "*-v1", "--methods", "ODT", "--seeds", "1,3"]
    assert main([str(path), "--save_dir", str(tmp_path / "e"), *words, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 * 2


def test_missing_datasets_are_told_before_anything_starts(data_dir, tmp_path, capsys) -> None:
    tasks = ["maze2d-umaze-v1", "maze2d-medium-v1", "pen-human-v1"]
    path = write_sweep(tmp_path, tasks=tasks, flags={"data_dir": str(data_dir)})
    assert main([str(path), "--save_dir", str(tmp_path / "exp"), "--here"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "download_d4rl_basic.py --only maze2d-medium-v1" in lines[0]
    assert "download_advanced.py --only pen-human-v1" in lines[1]
    assert not (tmp_path / "exp").exists()
