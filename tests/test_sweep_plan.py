"""Sweep files: the runs of the shipped files, the order of flags, and rejected files."""

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
from scripts import sweep as sweep_script
from sweeps.plan import read_sweep
from sweeps.published import METHOD_FLAGS, TASK_FLAGS
from tasks import get_task
from tests.commands import as_command
from tests.conftest import ROOT, shared_file
from tests.test_published import SUITE_TASKS, shell_settings, table_settings

main = as_command(sweep_script.main)

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
    """A small sweep with some fields replaced, or left out if None."""
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


ADROIT = [
    f"{hand}-{level}-v1"
    for hand in ("pen", "hammer", "door", "relocate") for level in ("cloned", "expert")
]  # fmt: skip
HALFCHEETAH, CLONED = "halfcheetah-medium-replay-v2", "hammer-cloned-v1"
# values of a flag by task in the paper's ablations, see spec/ablations.md
FIGURES = {
    "5a": ("actor_rl_coeff", dict.fromkeys(
        [HALFCHEETAH, "hammer-human-v1"], (10, 1, 0.1, 0.01, 0.001)
    )),
    "5b-halfcheetah": ("eval_context_length", {HALFCHEETAH: (20, 10, 5, 1)}),
    "5b-hammer": ("eval_context_length", {CLONED: (1, 2, 3, 5)}),
    "8": ("rl_algo", {"hopper-medium-v2": ("TD3", "SAC", "AWAC", "AWR", "PPO")}),
    "9": ("rl_algo", {"hopper-medium-v2": ("TD3", "SAC")}),
    "11": ("rl_algo", dict.fromkeys(
        ["hopper-random-v2", "antmaze-large-play-v2", "antmaze-large-diverse-v2"], ("TD3", "IQL")
    )),
    "20": ("K", {CLONED: (20, 10, 5, 3, 2, 1)}),
    "22": ("override_layernorm", dict.fromkeys(
        ["pen-cloned-v1", "halfcheetah-medium-v2", HALFCHEETAH], (1, -1)
    )),
    "23": ("K", {"hopper-medium-v2": (1, 2, 20)}),
    "24": ("prev_policy_coeff", dict.fromkeys(ADROIT, (0, 0.05, 0, 0))),
    "24-oracle": ("jump_start_steps", dict.fromkeys(ADROIT, (100,))),
}  # fmt: skip
# settings of all runs of a figure
FIXED: dict[str, dict[str, Any]] = {
    "8": {"actor_sup_coeff": 0}, "9": {"actor_rl_coeff": 0.1, "actor_sup_coeff": 1},
    "20": {"eval_context_length": 1}, "23": {"recurrent": True, "arch": "LSTM"},
    "24-oracle": {"jump_start_decay": 0.99},
}  # fmt: skip


def test_every_published_ablation_ships() -> None:
    ours = {path.stem.removeprefix("figure") for path in SHIPPED if "figure" in path.stem}
    assert ours == set(FIGURES)
    text = (ROOT / "docs" / "SWEEPS.md").read_text()
    assert all(f"`sweeps/{path.name}`" in text for path in SHIPPED)


@pytest.mark.parametrize("figure", FIGURES)
def test_ablations_have_the_published_settings(figure: str) -> None:
    flag, published = FIGURES[figure]
    runs = read_sweep(ROOT / "sweeps" / f"figure{figure}.yaml", Path("exp")).runs
    ours: dict[str, list[Any]] = {}
    for run in runs:
        if run.seed == 16:
            ours.setdefault(run.task, []).append(getattr(run.settings, flag))
        for name, value in FIXED.get(figure, {}).items():
            assert getattr(run.settings, name) == value
    assert {task: tuple(values) for task, values in ours.items()} == published


def test_figure_24_has_the_published_schedules() -> None:
    runs = read_sweep(ROOT / "sweeps" / "figure24.yaml", Path("exp")).runs
    for run in runs:
        s = run.settings
        jump, curriculum = run.method.endswith("jumpstart"), run.method.endswith("curriculum")
        # all of a pen episode, half of the others
        steps = get_task(run.task).horizon // (1 if "pen" in run.task else 2)
        assert (s.jump_start_steps, s.jump_start_decay) == ((steps, 0.99) if jump else (0, 0))
        assert s.rtg_curriculum_decay == (0.99 if curriculum else 0)


def test_oracles_of_figure_24_are_runs_of_table_2() -> None:
    oracles = {
        str(run.folder): run.task
        for run in read_sweep(ROOT / "sweeps" / "table2.yaml", Path("exp")).runs
        if run.method == "IQL-MLP" and run.seed == 16
    }
    for run in read_sweep(ROOT / "sweeps" / "figure24-oracle.yaml", Path("exp")).runs:
        assert oracles[run.settings.jump_start_guide] == run.task


def test_sweeps_and_shell_scripts_have_the_same_commands() -> None:
    """tests/test_published.py compares the shell scripts with the published commands."""
    suites = {"table1": "mujoco", "table2": "adroit", "table3": "antmaze", "table11": "maze2d"}
    for path in TABLES:
        delay = "5" if path.stem == "table10" else "0"
        suite = suites.get(path.stem, "mujoco")
        methods = ",".join(dict.fromkeys(run.method for run in read_sweep(path, Path("exp")).runs))
        words = ["--method", methods, "--seeds", "16", "--delayed_reward", delay]
        ours = [run.settings for run in read_sweep(path, Path("exp")).runs if run.seed == 16]
        name = ["--exp_name", path.stem]
        assert set(ours) == set(shell_settings(suite, *words, "--", *name))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_dry_run_prints_commands_with_the_runs_settings(path: Path, tmp_path, capsys) -> None:
    assert main([str(path), "--save_dir", str(tmp_path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = read_sweep(path, tmp_path).runs
    assert len(lines) == len(runs)
    for line, run in zip(lines, runs, strict=True):
        words = shlex.split(line)
        assert words[:2] == ["python", run.program]
        where = {"run_dir": str(tmp_path / run.sweep / run.task / run.method / f"seed{run.seed}")}
        recurrent = run.program == "recurrent_main.py"
        assert vars(parse_args(words[2:], recurrent)) == vars(run.settings) | where
    assert not list(tmp_path.iterdir())


def test_later_flags_override_earlier_ones(tmp_path) -> None:
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


def test_published_flags_can_be_left_out(tmp_path) -> None:
    path = write_sweep(tmp_path, published_flags=False, methods=["ODT"], name="plain", seeds=[1])
    (run,) = read_sweep(path, tmp_path).runs
    given = ["--env", "maze2d-umaze-v1", "--seed", "1", *METHOD_FLAGS["ODT"], "--exp_name", "plain"]
    assert run.settings == parse_args(given)


@hypothesis.settings(max_examples=20)
@given(
    tasks=st.lists(st.sampled_from(sorted(TASK_FLAGS)), min_size=1, max_size=4, unique=True),
    methods=st.lists(st.sampled_from(sorted(METHOD_FLAGS)), min_size=1, unique=True),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True),
)
def test_runs_are_the_product_of_all_lists(tasks, methods, seeds, tmp_path_factory) -> None:
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
    ("fields", "message"),
    [
        (
            {"tasks": ["hoper-medium-v2"]},
            "hoper-medium-v2: unknown task; similar names: hopper",
        ),
        ({"tasks": ["pen-*-v9"]}, "pen-*-v9: unknown task"),
        ({"tasks": ["hopper-expert-v2"]}, "hopper-expert-v2: no published flags; similar names: "),
        ({"tasks": []}, "tasks: missing or empty"),
        ({"methods": None}, "methods: missing or empty"),
        ({"methods": ["ODT+TD3"]}, "ODT+TD3: unknown method"),
        ({"methods": [{"a/b": {}}]}, "a/b: use letters"),
        ({"methods": [{"new": {"embed_dimm": 3}}]}, "embed_dimm: unknown flag; did you mean"),
        ({"methods": [{"new": ["embed_dim"]}]}, "is not a mapping of flags"),
        ({"methods": ["ODT", "ODT"]}, "each name once"),
        ({"seeds": [1, "two"]}, "seeds"),
        ({"seeds": [1, 1]}, "use distinct integers"),
        ({"seeds": [-1]}, "--seed -1"),
        ({"seeds": 3}, "seeds: 3 has the wrong type"),
        ({"seedz": [1]}, "seedz: unknown field; did you mean seeds?"),
        ({"flags": {"embed_dim": "wide"}}, "--embed_dim: invalid int value: 'wide'"),
        ({"flags": {"embed_dim": [32, 64]}}, "is not a single value"),
        ({"flags": {"embed_dim": 30}}, "--embed_dim 30"),
        ({"flags": {"K": 1, "eval_context_length": 2}}, "--eval_context_length 2"),
        ({"flags": {"run_dir": "x"}}, "run_dir: set by the sweep itself"),
        ({"task_flags": {"hopper-*": {"K": 1}}}, "hopper-*: matches none of the tasks"),
        ({"task_flags": {3: {"K": 1}}}, "task_flags: 3: matches none of the tasks"),
        ({"name": "a/b"}, "name 'a/b'"),
        ({"cpus": 0}, "cpus 0"),
        ({"gpus": 2}, "gpus 2"),
        ({"retries": -1}, "retries -1"),
        ({"published_flags": "no"}, "published_flags: 'no' has the wrong type"),
    ],
)
def test_invalid_files_are_one_line(fields, message, tmp_path, capsys) -> None:
    path = write_sweep(tmp_path, **fields)
    assert main([str(path), "--save_dir", str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "exp").exists()


SEARCH = {"trials": 3, "flags": {"learning_rate": {"loguniform": ["1e-5", 1e-3]}}}


def search_of(folder: Path, **fields: Any) -> Path:
    return write_sweep(folder, methods=["ODT"], seeds=[1], search=SEARCH | fields)


def test_trials_are_sampled_once_and_more_can_be_added(tmp_path, capsys) -> None:
    pytest.importorskip("ray.tune")
    flags = {
        "learning_rate": {"loguniform": ["1e-5", 1e-3]}, "embed_dim": {"choice": [64, 128]},
        "dropout": {"quniform": [0, 0.3, 0.1]}, "K": {"randint": [5, 9]},
    }  # fmt: skip
    few = read_sweep(search_of(tmp_path, flags=flags), tmp_path / "exp").runs
    many = read_sweep(search_of(tmp_path, flags=flags, trials=8), tmp_path / "exp").runs
    assert [run.folder.name for run in few] == ["trial000", "trial001", "trial002"]
    assert many[:3] == few and len({run.sampled for run in many}) == 8
    for run in many:
        s = run.settings
        assert 1e-5 <= s.learning_rate <= 1e-3 and s.embed_dim in (64, 128) and 5 <= s.K < 9
        assert s.dropout in (0, 0.1, 0.2, 0.3) and s.seed == 1
        assert len(f"{s.learning_rate:g}") <= 9
        assert dict(run.sampled) == {name: getattr(s, name) for name in flags}
    assert main([str(search_of(tmp_path, flags=flags)), "--dry-run"]) == 0
    commands = [parse_args(shlex.split(c)[2:]) for c in capsys.readouterr().out.splitlines()]
    assert [c.learning_rate for c in commands] == [run.settings.learning_rate for run in few]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trials": 0}, "search: trials 0: use 1 or more"),
        ({"trials": "ten"}, "search: trials: 'ten' is not of type int"),
        ({"flags": {}}, "search: needs the fields trials and flags"),
        ({"trial": 3}, "search: trial: unknown field; use trials, flags"),
        ({"algorithm": "grid"}, "search: algorithm grid: use random or optuna"),
        ({"flags": {"lr": {"uniform": [0, 1]}}}, "search: flags: lr: unknown flag"),
        ({"flags": {"seed": {"choice": [1, 2]}}}, "search: flags: seed: set by the sweep itself"),
        ({"flags": {"K": 5}}, "search: flags: K: 5 is not a distribution"),
        ({"flags": {"K": {"normal": [1, 2]}}}, "K: normal: unknown distribution; use choice"),
        ({"flags": {"K": {"randint": 5}}}, "K: randint: 5 is not a list"),
        ({"flags": {"K": {"randint": [9, 5]}}}, "K: randint: [9, 5]: not possible (9 is not below"),
        ({"flags": {"K": {"randint": [5]}}}, "K: randint: [5]: not possible"),
        ({"flags": {"gamma": {"uniform": [0, ".inf"]}}}, "'.inf'"),
        ({"flags": {"gamma": {"loguniform": [0, 1]}}}, "gamma: loguniform: [0, 1]: not possible"),
        ({"flags": {"gamma": {"uniform": [2, 3]}}}, "trial000 (gamma 2."),
        ({"flags": {"K": {"uniform": [5, 9]}}}, "--K: invalid int value: '"),
        ({"flags": {"embed_dim": {"choice": [30]}}}, "trial000 (embed_dim 30): --embed_dim 30"),
    ],
)
def test_invalid_searches_are_one_line(fields, message, tmp_path, capsys) -> None:
    pytest.importorskip("ray.tune")
    path = search_of(tmp_path, **fields)
    assert main([str(path), "--save_dir", str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and error.count("\n") == 1
    assert message in error


def test_trials_of_a_search_share_task_method_and_seed(tmp_path, capsys) -> None:
    pytest.importorskip("ray.tune")
    for fields in ({"seeds": [1, 2]}, {"tasks": ["maze2d-*"]}, {"methods": ["ODT", "TD3"]}):
        path = write_sweep(
            tmp_path, **{"methods": ["ODT"], "seeds": [1], "search": SEARCH, **fields}
        )
        assert main([str(path)]) == 2
        assert f"search: {next(iter(fields))}: has " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["tasks: [", "- a", "", "!!python/object:os.system {}", "a: \x00"])
def test_other_files_are_rejected_in_one_line(text, tmp_path, capsys) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "pen-*"], "--tasks pen-*: not in this sweep; use maze2d-umaze-v1"),
        (["--methods", "TD3"], "--methods TD3: not in this sweep; use TD3+ODT, ODT"),
        (["--seeds", "3"], "--seeds 3: not in this sweep; use 1, 2"),
        (["--cpus", "0"], "cpus 0"),
        (["--", "--emb_dim", "3"], "unrecognized arguments: --emb_dim"),
        (["--", "--seed", "3"], "--seed: set by the sweep itself"),
        (["--", "--resume=x"], "--resume"),
        (["--", "--exp_name", "x"], "--exp_name: set by the sweep itself"),
        (["--dryrun"], "did you mean --dry-run?"),
        (["--dry-run", "--here"], "not allowed with"),
    ],
)
def test_invalid_command_lines_are_one_line(words, message, tmp_path, capsys) -> None:
    path = write_sweep(tmp_path)
    code = main([str(path), "--save_dir", str(tmp_path / "exp"), *words])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "exp").exists()


def test_options_select_runs(tmp_path, capsys) -> None:
    path = write_sweep(tmp_path, tasks=["maze2d-*"], seeds=[1, 2, 3])
    words = ["--tasks", "*-v1", "--methods", "ODT", "--seeds", "1,3"]
    assert main([str(path), "--save_dir", str(tmp_path / "e"), *words, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 * 2


def test_missing_datasets_are_reported_before_the_start(data_dir, tmp_path, capsys) -> None:
    tasks = ["maze2d-umaze-v1", "maze2d-medium-v1", "pen-human-v1"]
    path = write_sweep(tmp_path, tasks=tasks, flags={"data_dir": str(data_dir)})
    assert main([str(path), "--save_dir", str(tmp_path / "exp"), "--here"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "download_d4rl_basic.py --only maze2d-medium-v1" in lines[0]
    assert "download_advanced.py --only pen-human-v1" in lines[1]
    assert not (tmp_path / "exp").exists()
