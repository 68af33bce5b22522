"""The command line: parity with the published flags and commands, refusals, round trips."""

import csv
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from get_args import FLAGS, Settings, flag_type, flags_with, make_parser, parse_args, to_argv
from run.resume import read_settings
from run.setting_checks import check_settings, inside, notices
from scripts.write_flag_docs import PATH, flag_docs
from tests.conftest import GOLDEN, ROOT, shared_file
from utils import UserError

OWN_FLAGS = {
    "env_backend": ("str", "native"),
    "legacy_python": ("str", ""),
    "task_file": ("str", ""),
    "dataset": ("str", ""),
    "policy": ("str", "transformer"),
    "actor_optimizer": ("str", "lamb"),
    "DDPG_tau": ("float", 0.005),
    "prev_policy_coeff": ("float", 0.0),
    "rtg_curriculum_iters": ("int", 0),
    "rtg_curriculum_start": ("int", None),
    "jump_start_steps": ("int", 0),
    "jump_start_guide": ("str", ""),
    "rtg_curriculum_decay": ("float", 0.0),
    "jump_start_iters": ("int", 100),
    "init_from": ("str", ""),
    "init_optimizer": ("int", 0),
    "jump_start_decay": ("float", 0.0),
    "run_dir": ("str", ""),
    "resume": ("str", ""),
    "max_online_transitions": ("int", 0),
    "precision": ("str", "fp32"),
    "cuda_graphs": ("int", 1),
    "compile": ("int", 0),
    "wandb_mode": ("str", "disabled"),
    "wandb_entity": ("str", ""),
    "wandb_project": ("str", "odt-rl-gradients"),
    "wandb_artifacts": ("int", 0),
    "data_dir": ("str", str(ROOT / "data")),
    "checkpoint_interval": ("int", 10),
    "keep_checkpoints": ("int", 2),
}
ODT = "--actor_rl_coeff 0 --use_entropy_reg 1 --stoc 1 --actor_sup_coeff 1"
DETERMINISTIC = ["--stoc=0", "--use_entropy_reg=0"]
TD3 = "--actor_rl_coeff 0.1 --use_entropy_reg 0 --stoc 0 --actor_sup_coeff 0"
RISING = ["--rtg_curriculum_start", "100"]
NOT_TD3 = ["--num_actor_update_interval=1", "--use_entropy_reg=0"]


def published_flags() -> list[dict[str, str]]:
    with (GOLDEN / "flags.csv").open() as file:
        return list(csv.DictReader(file))


def published_commands() -> list[list[str]]:
    """Arguments of every published command, braces expanded."""
    commands = []
    for line in (GOLDEN / "readme_commands.txt").read_text().splitlines():
        head, *groups = re.split(r"\{([^}]*)\}", line)
        options = [part.split(",") if i % 2 == 0 else [part] for i, part in enumerate(groups)]
        commands += [shlex.split(head + "".join(words)) for words in itertools.product(*options)]
    return [command[2:] for command in commands]


def test_golden_copies_are_current() -> None:
    assert (GOLDEN / "flags.csv").read_text() == shared_file("spec/flags.csv").read_text()
    text = shared_file("spec/original-readme.md").read_text()
    lines = [line.strip() for line in text.splitlines() if line.startswith("python main.py")]
    assert (GOLDEN / "readme_commands.txt").read_text().splitlines() == lines


@pytest.mark.parametrize("row", published_flags(), ids=lambda row: row["flag"])
def test_flag_has_the_published_name_type_and_default(row: dict[str, str]) -> None:
    long, *short = row["flag"].split()
    name = long.removeprefix("--")
    assert flag_type(name).__name__ == row["type"]
    default = "auto" if name == "device" else row["default"]
    if "None" in default:
        assert FLAGS[name].default is None
    elif row["type"] == "bool":
        assert str(FLAGS[name].default) == default
    else:
        assert FLAGS[name].default == flag_type(name)(default)
        assert type(FLAGS[name].default) is flag_type(name)
    options = [a.option_strings for a in make_parser()._actions if a.dest == name]
    assert options == [[long, *short]]


def test_there_are_no_other_flags() -> None:
    published = {row["flag"].split()[0].removeprefix("--") for row in published_flags()}
    assert set(FLAGS) - published == set(OWN_FLAGS)
    for name, (kind, default) in OWN_FLAGS.items():
        assert (flag_type(name).__name__, FLAGS[name].default) == (kind, default)
    assert all(flag.metadata["help"] for flag in FLAGS.values())


def test_short_names_set_the_long_flag() -> None:
    settings = parse_args(["-lr", "0.5", "-wd", "0.25", "-w", "no"])
    assert (settings.learning_rate, settings.weight_decay) == (0.5, 0.25)
    assert settings.log_to_tb is False


@pytest.mark.parametrize("word, value", [("True", True), ("yes", True), ("0", False)])
def test_log_to_tb_takes_words(word: str, value: bool) -> None:
    assert parse_args(["--log_to_tb", word]).log_to_tb is value


@pytest.mark.parametrize("word, value", [("true", 1), ("No", 0), ("1", 1), ("0", 0)])
def test_switches_take_words(word: str, value: int) -> None:
    assert parse_args(["--stoc", word]).stoc == value


def test_a_leading_tilde_is_expanded_in_paths() -> None:
    for name in flags_with("path"):
        value = getattr(make_parser().parse_args([f"--{name}=~/x"]), name)
        assert value == str(Path.home() / "x")
    assert parse_args(["--suffix=~x"]).suffix == "~x"
    assert parse_args(["--dataset=mine.hdf5"]).dataset == str(Path.cwd() / "mine.hdf5")
    assert parse_args(["--dataset=minari:a/b-v0"]).dataset == "minari:a/b-v0"


def test_all_published_commands_are_there() -> None:
    commands = published_commands()
    # 12 Adroit, 6 AntMaze, 13 MuJoCo, 4 Maze2D
    assert len(commands) == 35
    assert len({" ".join(command) for command in commands}) == 35


COMMANDS, README = ROOT / "docs" / "COMMANDS.md", ROOT / "README.md"


def commands_of(page: Path) -> list[Settings]:
    """Settings of every main.py command on a page, as written; lines may end in a backslash."""
    text = page.read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [
        parse_args(shlex.split(line, comments=True)[2:])
        for line in lines
        if line.startswith("python main.py --env")
    ]


def documented_settings() -> list[Settings]:
    """Settings of every command in docs/COMMANDS.md, for every dataset of its tables."""
    rows = [re.findall(r"`([a-z0-9-]+-v\d)`", line) for line in COMMANDS.read_text().splitlines()]
    found = []
    for settings in commands_of(COMMANDS):
        row = next((row for row in rows if settings.env in row), [settings.env])
        for env in row:
            minimum = 1000 if "random" in env else settings.minimum_sapairs_per_iter
            found.append(replace(settings, env=env, minimum_sapairs_per_iter=minimum))
    return found


def test_commands_page_lists_the_published_commands() -> None:
    published = {parse_args(command) for command in published_commands()}
    # the one published command that omits the minimum of collected steps by mistake
    slip = [s for s in published if "random" in s.env and s.minimum_sapairs_per_iter == 0]
    assert [s.env for s in slip] == ["ant-random-v2"]
    assert set(documented_settings()) == published - set(slip)
    text = COMMANDS.read_text()
    assert f"`{ODT}`" in text and f"`{TD3}`" in text and "`--delayed_reward 5`" in text


def test_readme_commands_are_published_commands() -> None:
    settings = commands_of(README)
    families = [each.env.split("-")[0] for each in settings]
    assert families == ["maze2d", "hopper", "antmaze", "pen"]
    assert set(settings) <= set(documented_settings())


@pytest.mark.parametrize(
    "page",
    ["CONTRIBUTING.md", "docs/COMMANDS.md", "docs/FIDELITY.md", "docs/QUICKSTART.md", "README.md"],
)
def test_files_named_on_a_page_exist(page: str) -> None:
    names = re.findall(
        r"`([a-z_0-9/]+(?:\.py|\.sh|\.ya?ml|\.txt|\.md|/))`", (ROOT / page).read_text()
    )
    run_folder = {"checkpoints/", "guide/", "tensorboard/", "wandb/", "videos/"}
    made_by_users = run_folder | {"exp/make_run/", "site/"}
    assert {name for name in names if not (ROOT / name).exists()} <= made_by_users


@pytest.mark.parametrize("extra", ["", ODT, TD3, "--delayed_reward 5"])
@pytest.mark.parametrize("command", published_commands(), ids=" ".join)
def test_published_command_is_accepted(command: list[str], extra: str) -> None:
    settings = parse_args(command + extra.split())
    check_settings(settings)
    given_flags = dict(zip(command[::2], command[1::2], strict=True))
    assert settings.env == given_flags["--env"].replace("medium-random", "random")
    assert settings.seed == 16
    missing = "--minimum_sapairs_per_iter" not in given_flags and "random" in settings.env
    assert any("minimum_sapairs" in notice for notice in notices(settings)) == missing


REFUSED = [
    (["--env", "hopper-medum-v2"], "hopper-medium-v2"),
    (["--task_file", "/nowhere.yaml"], "--task_file /nowhere.yaml: cannot be read"),
    (["--K", "0"], "--K"),
    (["--eval_context_length", "0"], "--eval_context_length"),
    (["--eval_context_length", "6", "--K", "5"], "--eval_context_length"),
    (["--embed_dim", "10", "--n_head", "4"], "--n_head"),
    (["--embed_dim", "-8"], "--embed_dim"),
    (["--n_layer", "0"], "--n_layer"),
    (["--n_head", "0"], "--n_head"),
    (["--dropout", "1"], "--dropout"),
    (["--dropout", "nan"], "--dropout"),
    (["--gamma", "0"], "--gamma"),
    (["--gamma", "1.01"], "--gamma"),
    (["--gamma", "1"], "--critic_time_aware"),
    (["--batch_size", "0"], "--batch_size"),
    (["--replay_size", "0"], "--replay_size"),
    (["--num_actor_update_interval", "0"], "--num_actor_update_interval"),
    (["--max_pretrain_iters", "-1"], "--max_pretrain_iters"),
    (["--max_online_iters", "-1"], "--max_online_iters"),
    (["--max_online_transitions", "-1"], "--max_online_transitions"),
    (["--num_updates_per_pretrain_iter", "0"], "--num_updates_per_pretrain_iter"),
    (["--num_updates_per_online_iter", "0"], "--num_updates_per_online_iter"),
    (["--num_online_rollouts", "0"], "--num_online_rollouts"),
    (["--num_eval_episodes", "0"], "--num_eval_episodes"),
    (["--eval_interval", "0"], "--eval_interval"),
    (["--minimum_sapairs_per_iter", "-1"], "--minimum_sapairs_per_iter"),
    (["--warmup_steps", "0"], "--warmup_steps"),
    (["--init_temperature", "0"], "--init_temperature"),
    (["--learning_rate", "inf"], "--learning_rate"),
    (["--learning_rate", "-1"], "--learning_rate"),
    (["--critic_learning_rate", "-1"], "--critic_learning_rate"),
    (["--TD3_tau", "0"], "--TD3_tau"),
    (["--TD3_policy_noise", "-0.1"], "--TD3_policy_noise"),
    (["--expl_noise", "-0.1"], "--expl_noise"),
    (["--IQL_ratio", "1"], "--IQL_ratio"),
    (["--AWAC_beta", "0"], "--AWAC_beta"),
    (["--AWR_beta", "0"], "--AWR_beta"),
    (["--AWR_buffer_size", "0"], "--AWR_buffer_size"),
    (["--PPO_td_lambda", "1.5"], "--PPO_td_lambda"),
    (["--seed", "-1"], "--seed"),
    (["--delayed_reward", "1"], "--delayed_reward"),
    (["--delayed_reward", "-5"], "--delayed_reward"),
    (["--custom_dataset", "1"], "--dataset"),
    (["--critic_time_aware", "2", "--critic_time_dim", "9"], "--critic_time_dim"),
    (["--critic_time_dim", "0"], "--critic_time_dim"),
    (["--device", "cuda:x"], "--device"),
    (["--force_device", "-2"], "--force_device"),
    (["--exp_name", "a/b"], "--exp_name"),
    (["--suffix", "../b"], "--suffix"),
    (["--save_dir", ""], "--save_dir"),
    (["--data_dir", ""], "--data_dir"),
    (["--stoc", "0"], "--use_entropy_reg"),
    (["--actor_rl_coeff", "0", "--use_entropy_reg", "0"], "--use_entropy_reg 1"),
    (["--actor_rl_coeff", "0", "--use_entropy_reg", "0", "--stoc", "0"], "--stoc 1"),
    (["--actor_rl_coeff", "0", "--actor_sup_coeff", "0"], "--actor_sup_coeff"),
    (["--actor_rl_coeff", "-0.1"], "--actor_rl_coeff"),
    *[
        (["--rl_algo", algo, "--use_entropy_reg", "0"], "--num_actor_update_interval 1")
        for algo in ("DDPG", "SAC", "AWAC", "IQL", "PPO", "AWR")
    ],
    *[
        (["--rl_algo", algo, "--num_actor_update_interval", "1"], "--use_entropy_reg 0")
        for algo in ("SAC", "AWAC", "PPO", "AWR")
    ],
    *[(["--rl_algo", a, *NOT_TD3, "--stoc", "0"], "--stoc 1") for a in ("SAC", "PPO")],
    (["--rl_algo", "AWAC", *NOT_TD3, "--AWAC_normalize_adv", "0"], "--AWAC_soft_flag"),
    (["--DDPG_tau", "0"], "--DDPG_tau"),
    (["--policy", "mlp", "--ordering", "1"], "--ordering"),
    (["--policy", "mlp", "--rtg_curriculum_iters", "3", *RISING], "--rtg_curriculum_iters"),
    (["--rtg_curriculum_iters", "3"], "--rtg_curriculum_start"),
    (["--rtg_curriculum_iters", "-3"], "--rtg_curriculum_iters"),
    (RISING, "--rtg_curriculum_iters"),
    (["--rtg_curriculum_iters", "3", "--rtg_curriculum_start", "7200"], "--online_rtg 7200"),
    (["--rtg_curriculum_decay", "0.9", "--rtg_curriculum_iters", "3"], "two schedules"),
    (["--rtg_curriculum_decay", "1"], "--rtg_curriculum_decay"),
    (["--rtg_curriculum_decay", "0.9", "--rtg_curriculum_start", "3600"], "--eval_rtg 3600"),
    (["--policy", "mlp", "--rtg_curriculum_decay", "0.9"], "--rtg_curriculum_decay"),
    (["--jump_start_decay", "0.9"], "--jump_start_steps"),
    (["--jump_start_guide", "exp/run"], "--jump_start_steps"),
    (["--jump_start_decay", "-0.5", "--jump_start_steps", "5"], "--jump_start_decay"),
    (
        ["--jump_start_decay", "0.9", "--jump_start_steps", "5", "--jump_start_iters", "7"],
        "--jump_start_iters 7",
    ),
    (["--prev_policy_coeff", "-1"], "--prev_policy_coeff"),
    (["--jump_start_steps", "5", "--max_pretrain_iters", "0"], "--max_pretrain_iters"),
    (["--jump_start_steps", "5", "--rl_algo", "PPO", *NOT_TD3], "--rl_algo PPO"),
    (["--init_optimizer", "1"], "--init_from"),
    (["--jump_start_steps", "-5"], "--jump_start_steps"),
    (["--jump_start_iters", "0"], "--jump_start_iters"),
    (["--rl_algo", "AWAC", *NOT_TD3, "--AWAC_soft_flag", "1"], "--AWAC_normalize_adv"),
]


@pytest.mark.parametrize("argv, named", REFUSED, ids=[" ".join(argv) for argv, _ in REFUSED])
def test_impossible_settings_are_refused(argv: list[str], named: str) -> None:
    with pytest.raises(UserError) as error:
        check_settings(parse_args(argv))
    message = str(error.value)
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "name, value",
    [
        ("activation_function", "sine"),
        ("critic_activation", "gelu"),
        ("critic_normalization", "batchnorm"),
        ("rl_algo", "DQN"),
        ("policy", "lstm"),
        ("actor_optimizer", "sgd"),
        ("precision", "fp16"),
        ("online_data_mode", "test"),
        ("wandb_mode", "on"),
        ("arch", "GRU"),
        ("stoc", 2),
        ("override_layernorm", -2),
    ],
)
def test_unknown_choice_is_refused_by_parser_and_check(
    name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse_args([f"--{name}={value}"])
    assert leaving.value.code == 2
    assert f"--{name}" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"--{name}"):
        check_settings(replace(Settings(), **{name: value}))


@pytest.mark.parametrize("name, value", [("K", 2.5), ("K", True), ("env", 3), ("gamma", "0.9")])
def test_wrong_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--{name}"):
        check_settings(replace(Settings(), **{name: value}))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--rl_algo", "sac", *NOT_TD3],
        ["--rl_algo", "Iql", "--num_actor_update_interval=1"],
        ["--rl_algo", "PPO", *NOT_TD3],
        ["--rl_algo", "AWR", *NOT_TD3, "--stoc=0"],
        ["--rl_algo", "AWAC", *NOT_TD3, "--AWAC_soft_flag=0", "--AWAC_normalize_adv=0"],
        ["--gamma", "1", "--critic_time_aware", "1"],
        ["--custom_dataset", "1", "--dataset", "mine.hdf5"],
        ["--max_pretrain_iters", "0", "--max_online_iters", "0"],
        ["--env", "pen-human-v1", "--critic_time_aware", "2", "--critic_time_dim", "7"],
    ],
    ids=" ".join,
)
def test_possible_settings_pass(argv: list[str]) -> None:
    settings = parse_args(argv)
    check_settings(settings)
    assert settings.rl_algo == settings.rl_algo.upper()


def test_recurrent_critics_have_fewer_options() -> None:
    for argv in (["--critic_activation=swish"], ["--critic_normalization=adanorm"]):
        check_settings(parse_args(argv))
        with pytest.raises(UserError, match="recurrent"):
            check_settings(parse_args(argv, recurrent=True))
    check_settings(parse_args(["--arch=lstm"], recurrent=True))
    assert parse_args(["--arch=lstm"]).arch == "LSTM"


def test_alias_of_a_task_is_resolved_with_a_notice() -> None:
    settings = parse_args(["--env", "hopper-medium-random-v2", "--force_no_minimum", "1"])
    assert settings.env == "hopper-random-v2"
    assert notices(settings) == ["--env hopper-medium-random-v2 is an alias of hopper-random-v2"]


def test_random_dataset_without_minimum_is_warned_about() -> None:
    env = ["--env", "ant-random-v2"]
    assert "--minimum_sapairs_per_iter" in notices(parse_args(env))[0]
    for silencing in ("--force_no_minimum=1", "--minimum_sapairs_per_iter=1000"):
        assert notices(parse_args([*env, silencing])) == []
    assert notices(parse_args([])) == []


def test_flags_that_an_mlp_does_not_read_are_noticed() -> None:
    mlp = ["--policy=mlp", "--embed_dim=30", "--n_layer=2", "--K=7"]
    assert notices(parse_args(mlp)) == []
    check_settings(parse_args(mlp))  # whatever --n_head is
    (notice,) = notices(parse_args([*mlp, "--eval_rtg=60", "--dropout=0.2", "--n_head=2"]))
    assert "--n_head, --dropout, --eval_rtg" in notice
    assert notices(parse_args(["--eval_rtg=60"])) == []


def test_a_v_critic_that_does_not_see_the_time_is_noticed() -> None:
    argv = [*NOT_TD3, "--critic_time_aware=1"]
    for algorithm in ("PPO", "AWR"):
        (notice,) = notices(parse_args([*argv, "--rl_algo", algorithm]))
        assert "--critic_time_aware 1 has no effect" in notice
    assert notices(parse_args([*argv, "--rl_algo=IQL"])) == []


def test_imitation_by_an_mlp_needs_no_entropy() -> None:
    """That is asked of the online decision transformer only."""
    check_settings(parse_args(["--policy=mlp", "--actor_rl_coeff=0", *DETERMINISTIC]))


def test_normalisation_without_effect_is_noticed() -> None:
    argv = ["--critic_normalization=adanorm"]
    assert "no effect" in notices(parse_args(argv))[0]
    assert notices(parse_args([*argv, "--override_layernorm=1"])) == []
    assert notices(parse_args([*argv, "--env=pen-human-v1"])) == []
    off = [*argv, "--env=pen-human-v1", "--override_layernorm=-1"]
    assert "no effect" in notices(parse_args(off))[0]


@pytest.mark.parametrize(
    "argv, named",
    [
        (["--foo"], "--foo"),
        (["--stock", "1"], "did you mean --stoc?"),
        (["--embed", "64"], "--embed"),
        (["--K", "two"], "--K"),
        (["--K", "2.5"], "--K"),
        (["--K"], "--K"),
        (["--log_to_tb", "maybe"], "--log_to_tb"),
        (["stray\nword"], "stray word"),
    ],
    ids=str,
)
def test_parser_errors_are_one_line(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse_args(argv)
    out, err = capsys.readouterr()
    assert leaving.value.code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert named in err


def values_of(name: str) -> st.SearchStrategy:
    about, kind = FLAGS[name].metadata, flag_type(name)
    if about["choices"]:
        return st.sampled_from(about["choices"])
    if kind is bool:
        return st.booleans()
    if kind is str:
        # a leading ~ is expanded in paths, and input paths are made absolute
        text = st.text(st.characters(codec="utf-8", exclude_characters="\0~"))
        is_input = about["path"] and not about["per_run"]
        return text.map(os.path.abspath) if is_input else text
    if kind is int:
        return st.integers(-(2**40), 2**40)
    return st.floats(allow_nan=False)


@given(st.fixed_dictionaries({}, optional={name: values_of(name) for name in FLAGS}))
def test_settings_survive_the_command_line(values: dict) -> None:
    for name in ("resume", "task_file"):  # read files
        values.pop(name, None)
    if values.get("env") == "hopper-medium-random-v2":
        values.pop("env")
    if values.get("init_from"):
        values["max_pretrain_iters"] = 0
    settings = Settings(**values)
    assert parse_args(to_argv(settings)) == settings


@given(st.floats(allow_nan=False), st.floats(0, 5), st.floats(0, 5))
def test_inside_agrees_with_comparison(value: float, low: float, width: float) -> None:
    high = low + width
    assert inside(value, f"({low}, {high})") == (low < value < high)
    assert inside(value, f"[{low}, {high}]") == (low <= value <= high)
    assert inside(value, f"[{low}, inf)") == (low <= value < float("inf"))


def test_resume_takes_recorded_settings_and_lets_flags_replace_them(tmp_path) -> None:
    recorded = parse_args(["--seed=3", "--K=7", "--env=pen-human-v1", "--suffix=-x"])
    (tmp_path / "config.json").write_text(json.dumps({"settings": asdict(recorded)}))
    resumed = read_settings(["--resume", str(tmp_path), "--K", "20", "-wd", "0.5"])
    folder = str(tmp_path)
    assert resumed == replace(recorded, K=20, weight_decay=0.5, resume=folder, run_dir=folder)


def test_resume_keeps_what_the_checkpoint_depends_on(tmp_path) -> None:
    recorded = {"settings": asdict(parse_args(["--embed_dim=64"]))}
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    resume = ["--resume", str(tmp_path)]
    assert read_settings([*resume, "--embed_dim=64"]).embed_dim == 64
    for change in ("--embed_dim=512", "--env=pen-human-v1", "--stoc=0", "--num_eval_episodes=3",
                   "--policy=mlp", "--actor_optimizer=adamw", "--jump_start_steps=3",
                   "--seed=3"):  # fmt: skip
        with pytest.raises(UserError, match=change.split("=")[0]):
            read_settings([*resume, change])


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"settings": 3}', "{"])
def test_resume_without_settings_is_refused(tmp_path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="--resume"):
        read_settings(["--resume", str(tmp_path)])


def test_reading_the_command_line_starts_quickly_without_training_code() -> None:
    slow = ["trainer", "wandb", "tensorboard", "matplotlib"]
    code = f"import sys, get_args, logger; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_flag_page_is_current() -> None:
    page = flag_docs()
    assert PATH.read_text() == page, "run python scripts/write_flag_docs.py"
    assert page.count("| `--") == len(FLAGS)
    assert str(ROOT) not in page
