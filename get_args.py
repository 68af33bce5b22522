"""The flag table and the command-line parser made from it.

Every flag is declared once, as a field of `Settings`; --help, docs/FLAGS.md, the checks in
run/setting_checks.py, resume, sweeps and reports all read its metadata. Names and defaults are
those of the published runs (Yan, Schwing, Wang 2024, arXiv 2410.24108), so their commands work
unchanged.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from d4rl_envs.errors import UserError
from d4rl_envs.tasks import ALIASES
from tasks import OwnTask, Task, get_task
from tasks.task_file import read_task_file

# one module and class each in rl_gradients/
RL_ALGORITHMS = ("TD3", "DDPG", "SAC", "AWAC", "IQL", "PPO", "AWR")
SWITCH = (0, 1)
# intervals of number flags; a flag without one takes any finite value
POSITIVE, NOT_NEGATIVE = "(0, inf)", "[0, inf)"
AT_LEAST_ONE = "[1, inf)"
FRACTION, STEP_SIZE = "[0, 1]", "(0, 1]"

# groups, in the order of --help and docs/FLAGS.md
DATA = "environment and data"
MODEL = "model"
OPTIMISATION = "optimisation"
PRETRAIN = "pretraining"
ONLINE = "online fine-tuning"
RL = "RL gradient"
ALGORITHM = "per algorithm"
CRITIC = "critic"
ABLATION = "ablations"
LOGGING = "logging"
MACHINE = "machine"
GROUPS = (DATA, MODEL, OPTIMISATION, PRETRAIN, ONLINE, RL, ALGORITHM, CRITIC, ABLATION, LOGGING,
          MACHINE)  # fmt: skip


def flag(
    default: Any,
    group: str,
    text: str,
    *,
    within: str = "",
    choices: tuple[Any, ...] = (),
    short: str = "",
    shown_default: str = "",
    fixed: bool = False,
    policy: str = "",
    same_numbers: bool = False,
    per_run: bool = False,
    path: bool = False,
) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
        default: Default value.
        group: One of `GROUPS`.
        text: Help text, including the unit.
        within: Interval of a number, for example "(0, 1]".
        choices: All allowed values.
        short: Short name, for example "-lr".
        shown_default: Default as printed in --help, if that is not the value itself.
        fixed: Fixed by a checkpoint: --resume rejects another value.
        policy: "model" or "acting" if an exported policy stores the setting.
        same_numbers: The results of a run do not depend on it (implied for the group LOGGING).
        per_run: Set per run by a sweep, so a sweep file must not set it.
        path: A file or folder: a leading ~ is expanded. Made absolute unless per_run.
    """
    about = {"group": group, "help": text, "within": within, "choices": choices, "short": short,
             "shown_default": shown_default, "fixed": fixed, "policy": policy,
             "same_numbers": same_numbers or group == LOGGING, "per_run": per_run,
             "path": path}  # fmt: skip
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """Every setting of a run; field names are flag names. See docs/FLAGS.md."""

    # fmt: off
    env: str = flag("hopper-medium-v2", DATA, "D4RL task: environment and offline dataset",
        fixed=True, per_run=True)
    task_file: str = flag("", DATA, "YAML file of your own task, instead of --env: a Gymnasium "
        "environment, see docs/TASKS.md", shown_default="a D4RL task", fixed=True, path=True)
    dataset: str = flag("", DATA, "dataset to use instead of DATA_DIR/ENV.hdf5: an HDF5 file in "
        "D4RL's layout, a pickle file (*.pkl) of trajectories, or minari:ID",
        shown_default="DATA_DIR/ENV.hdf5; none with --task_file", path=True)
    data_dir: str = flag(str(Path(__file__).resolve().parent / "data"), DATA,
        "folder of the datasets", shown_default="data/ next to main.py", same_numbers=True,
        path=True)
    env_backend: str = flag("native", DATA, "environment engine: native (d4rl_envs), or d4rl (the "
        "original gym, d4rl and mujoco-py in a separate process)",
        choices=("native", "d4rl"), fixed=True)
    legacy_python: str = flag("", DATA, "Python 3.8 to 3.10 interpreter with the original stack, "
        "for --env_backend d4rl", same_numbers=True, path=True,
        shown_default="$ODT_LEGACY_PYTHON, else .venv-legacy/bin/python next to main.py")
    custom_dataset: int = flag(0, DATA, "1 marks the dataset as your own; requires --dataset",
        choices=SWITCH)
    remove_trivial_trajs: int = flag(1, DATA, "1 keeps only the first 9 one-step trajectories of "
        "an antmaze dataset", choices=SWITCH, fixed=True)
    delayed_reward: int = flag(0, DATA, "M > 1 pays rewards only every M steps, in the dataset "
        "and in the environment; 0 pays every step", within=NOT_NEGATIVE, fixed=True,
        policy="acting")

    policy: str = flag("transformer", MODEL, "decision transformer, or an MLP of the current state "
        "(TD3+BC)", choices=("transformer", "mlp"), fixed=True, policy="model")
    K: int = flag(20, MODEL, "training context length, in environment steps",
        within=AT_LEAST_ONE, policy="acting")
    eval_context_length: int = flag(5, MODEL, "context length when acting, in environment steps; "
        "at most K", within=AT_LEAST_ONE, policy="acting")
    embed_dim: int = flag(512, MODEL, "width of the transformer (a multiple of --n_head) or of the "
        "MLP's hidden layers", within=AT_LEAST_ONE, fixed=True, policy="model")
    n_layer: int = flag(4, MODEL, "transformer blocks, or hidden layers of the MLP",
        within=AT_LEAST_ONE, fixed=True, policy="model")
    n_head: int = flag(4, MODEL, "attention heads per block", within=AT_LEAST_ONE, fixed=True,
        policy="model")
    activation_function: str = flag("relu", MODEL, "activation of the transformer's MLPs or of the "
        "MLP policy", choices=("relu", "gelu", "gelu_new", "silu", "tanh"), fixed=True,
        policy="model")
    dropout: float = flag(0.1, MODEL, "dropout of attention weights and residual branches",
        within="[0, 1)", policy="model")
    ordering: int = flag(0, MODEL, "1 adds a learned embedding of the absolute timestep to every "
        "token", choices=SWITCH, fixed=True, policy="model")
    stoc: int = flag(1, MODEL, "1 stochastic policy (tanh-squashed Gaussian), 0 deterministic "
        "policy", choices=SWITCH, fixed=True, policy="model")
    init_temperature: float = flag(0.1, MODEL, "initial entropy temperature of a stochastic "
        "policy", within=POSITIVE, fixed=True)

    batch_size: int = flag(256, OPTIMISATION, "sub-trajectories per batch", within=AT_LEAST_ONE)
    learning_rate: float = flag(1e-4, OPTIMISATION, "actor learning rate",
        within=NOT_NEGATIVE, short="-lr")
    weight_decay: float = flag(5e-4, OPTIMISATION, "actor weight decay",
        within=NOT_NEGATIVE, short="-wd")
    actor_optimizer: str = flag("lamb", OPTIMISATION, "actor optimiser; adamw with "
        "--weight_decay 0 is Adam", choices=("lamb", "adamw"), fixed=True)
    warmup_steps: int = flag(10_000, OPTIMISATION, "actor updates of linear learning-rate warm-up",
        within=AT_LEAST_ONE)
    lr_scheduler: int = flag(1, OPTIMISATION, "1 warms up the actor learning rate, 0 keeps it "
        "constant", choices=SWITCH)
    grad_clip: int = flag(1, OPTIMISATION, "1 clips the actor's gradient norm to 0.25",
        choices=SWITCH)
    temperature_learnable: int = flag(1, OPTIMISATION, "factor on the temperature's learning rate "
        "of 1e-4; 0 keeps the temperature fixed", within=NOT_NEGATIVE)
    actor_sup_coeff: float = flag(1.0, OPTIMISATION, "weight of the supervised loss in the "
        "actor loss (online; in pretraining it is 1 unless --RL_from_start 1)",
        within=NOT_NEGATIVE)
    use_entropy_reg: int = flag(1, OPTIMISATION, "1 adds an entropy bonus to the supervised loss "
        "of a stochastic policy and trains the temperature", choices=SWITCH)

    max_pretrain_iters: int = flag(1, PRETRAIN, "pretraining iterations; 0 skips pretraining",
        within=NOT_NEGATIVE)
    num_updates_per_pretrain_iter: int = flag(5000, PRETRAIN, "actor updates per pretraining "
        "iteration", within=AT_LEAST_ONE)
    init_from: str = flag("", PRETRAIN, "run, checkpoint file or exported policy whose networks "
        "replace pretraining: a run's are those at the end of its pretraining",
        shown_default="pretrain", fixed=True, path=True)
    init_optimizer: int = flag(0, PRETRAIN, "1 takes the optimisers and the progress of the "
        "learning-rate warm-up of --init_from too, 0 starts new ones", choices=SWITCH, fixed=True)
    RL_from_start: int = flag(0, PRETRAIN, "1 uses --actor_rl_coeff and --actor_sup_coeff in "
        "pretraining too", choices=SWITCH)

    max_online_iters: int = flag(1500, ONLINE, "online iterations; 0 skips fine-tuning",
        within=NOT_NEGATIVE)
    max_online_transitions: int = flag(0, ONLINE, "environment steps after which fine-tuning "
        "ends; 0 uses the task's budget (600000 for hopper, halfcheetah, walker2d and ant, 1050000 "
        "for the others unless a task file sets it)", within=NOT_NEGATIVE)
    num_updates_per_online_iter: int = flag(300, ONLINE, "actor updates per online iteration",
        within=AT_LEAST_ONE)
    num_online_rollouts: int = flag(1, ONLINE, "episodes collected in parallel",
        within=AT_LEAST_ONE, fixed=True)
    minimum_sapairs_per_iter: int = flag(0, ONLINE, "collect at least this many environment steps "
        "per online iteration", within=NOT_NEGATIVE)
    force_no_minimum: int = flag(0, ONLINE, "1 silences the notice about random datasets "
        "without --minimum_sapairs_per_iter", choices=SWITCH, same_numbers=True)
    replay_size: int = flag(1000, ONLINE, "replay buffer capacity, in trajectories",
        within=AT_LEAST_ONE, fixed=True)
    online_rtg: int = flag(7200, ONLINE, "target return when collecting, in training rewards",
        shown_default="7200, or the task file's")
    eval_rtg: int = flag(3600, ONLINE, "target return when evaluating, in training rewards",
        shown_default="3600, or the task file's", policy="acting")
    online_data_mode: str = flag("eval", ONLINE, "dropout off (eval) or on (train) while "
        "collecting", choices=("eval", "train"))
    expl_noise: float = flag(0.1, ONLINE, "standard deviation of the exploration noise added to "
        "the actions of a deterministic policy", within=NOT_NEGATIVE)
    eval_interval: int = flag(10, ONLINE, "online iterations between evaluations",
        within=AT_LEAST_ONE)
    num_eval_episodes: int = flag(10, ONLINE, "episodes per evaluation, run in parallel",
        within=AT_LEAST_ONE, fixed=True)

    rl_algo: str = flag("TD3", RL, "algorithm of the RL gradient and the critic",
        choices=RL_ALGORITHMS, fixed=True)
    actor_rl_coeff: float = flag(0.1, RL, "weight of the RL loss in the actor loss; 0 is plain "
        "ODT", within=NOT_NEGATIVE)
    normalized_rl_coeff: int = flag(0, RL, "1 divides --actor_rl_coeff by the mean |Q| of the "
        "batch", choices=SWITCH)
    gamma: float = flag(0.99, RL, "discount per step; 1 needs a time-aware critic",
        within=STEP_SIZE)
    num_actor_update_interval: int = flag(2, RL, "critic updates per actor update",
        within=AT_LEAST_ONE)

    TD3_policy_noise: float = flag(0.2, ALGORITHM, "standard deviation of the target policy "
        "smoothing noise", within=NOT_NEGATIVE)
    TD3_noise_clip: float = flag(0.5, ALGORITHM, "clip range of that noise",
        within=NOT_NEGATIVE)
    TD3_tau: float = flag(0.005, ALGORITHM, "target network update rate", within=STEP_SIZE)
    DDPG_tau: float = flag(0.005, ALGORITHM, "target network update rate", within=STEP_SIZE)
    SAC_tau: float = flag(0.005, ALGORITHM, "target network update rate", within=STEP_SIZE)
    AWAC_beta: float = flag(1.0, ALGORITHM, "temperature of the advantage weights",
        within=POSITIVE)
    AWAC_tau: float = flag(0.005, ALGORITHM, "target network update rate", within=STEP_SIZE)
    AWAC_soft_flag: int | None = flag(None, ALGORITHM, "0 no entropy terms, 1 entropy in the "
        "critic target, 2 also in the actor loss; required by AWAC", choices=(0, 1, 2))
    AWAC_normalize_adv: int | None = flag(None, ALGORITHM, "1 uses a softmax over the batch as "
        "advantage weights; required by AWAC", choices=SWITCH)
    IQL_ratio: float = flag(0.7, ALGORITHM, "expectile of the V loss", within="(0, 1)")
    IQL_beta: float = flag(3.0, ALGORITHM, "inverse temperature of the advantage weights",
        within=NOT_NEGATIVE)
    IQL_tau: float = flag(0.005, ALGORITHM, "target network update rate", within=STEP_SIZE)
    PPO_eps_clip: float = flag(0.2, ALGORITHM, "clip range of the probability ratio",
        within=POSITIVE)
    PPO_td_lambda: float = flag(0.98, ALGORITHM, "lambda of the TD(lambda) returns",
        within=FRACTION)
    PPO_old_logprob_generated_in_training: int = flag(0, ALGORITHM, "old log-probabilities: 0 "
        "records them during the rollout, 1 recomputes them at the start of the iteration",
        choices=SWITCH)
    AWR_beta: float = flag(1.0, ALGORITHM, "temperature of the advantage weights",
        within=POSITIVE)
    AWR_normalize_adv: int = flag(0, ALGORITHM, "1 normalises the advantages", choices=SWITCH)
    AWR_buffer_size: int = flag(50_000, ALGORITHM, "the on-policy buffer keeps the newest whole "
        "trajectories with at least this many transitions", within=AT_LEAST_ONE)
    AWR_td_lambda: float = flag(0.98, ALGORITHM, "lambda of the TD(lambda) returns",
        within=FRACTION)

    critic_learning_rate: float = flag(0.001, CRITIC, "critic learning rate (AdamW)",
        within=NOT_NEGATIVE)
    critic_activation: str = flag("relu", CRITIC, "activation of the hidden layers",
        choices=("relu", "tanh", "leakyrelu", "swish"), fixed=True)
    critic_normalization: str = flag("layernorm", CRITIC, "kind of normalisation of the hidden "
        "layers, if enabled", choices=("layernorm", "affinenorm", "adanorm"), fixed=True)
    override_layernorm: int = flag(0, CRITIC, "1 enables that normalisation, -1 disables it; 0 "
        "disables it for hopper, halfcheetah, walker2d, ant and task files that do",
        choices=(-1, 0, 1), fixed=True)
    critic_time_aware: int = flag(0, CRITIC, "timestep input of Q: 0 none, 1 a learned embedding, "
        "2 binary digits", choices=(0, 1, 2), fixed=True)
    critic_time_dim: int = flag(10, CRITIC, "size of that embedding, or number of digits",
        within=AT_LEAST_ONE, fixed=True)
    arch: str = flag("RNN", CRITIC, "recurrent layers, for recurrent_main.py only",
        choices=("RNN", "LSTM"), fixed=True)

    prev_policy_coeff: float = flag(0.0, ABLATION, "weight of the squared distance to the actions "
        "of the policy at the start of the online iteration, a KL-style regulariser (published "
        "ablation: 0.05)", within=NOT_NEGATIVE, fixed=True)
    rtg_curriculum_iters: int = flag(0, ABLATION, "online iterations over which the target return "
        "when collecting rises linearly to --online_rtg; 0 disables the curriculum",
        within=NOT_NEGATIVE)
    rtg_curriculum_start: int | None = flag(None, ABLATION, "initial target return of the "
        "curriculum, in training rewards; required by --rtg_curriculum_iters",
        shown_default="with --rtg_curriculum_decay, the mean return of the dataset")
    rtg_curriculum_decay: float = flag(0.0, ABLATION, "D > 0 selects the published curriculum "
        "instead (D = 0.99): the target return of collected episode N = 0, 1, ... is EVAL_RTG - "
        "D^N (EVAL_RTG - RTG_CURRICULUM_START)", within="[0, 1)", fixed=True)
    jump_start_steps: int = flag(0, ABLATION, "a guide policy acts for this many first steps of "
        "each collected episode, decreasing to 0 (JSRL)", within=NOT_NEGATIVE, fixed=True)
    jump_start_guide: str = flag("", ABLATION, "the guide: newest checkpoint of a run, or an "
        "exported policy; of the same task, but method and architecture may differ",
        shown_default="the pretrained policy", fixed=True, path=True)
    jump_start_iters: int = flag(100, ABLATION, "online iterations over which it decreases "
        "linearly", within=AT_LEAST_ONE)
    jump_start_decay: float = flag(0.0, ABLATION, "D > 0 decreases it by the factor D per "
        "collected episode instead, rounded down (published ablation: 0.99)", within="[0, 1)",
        fixed=True)

    save_dir: str = flag("./exp", LOGGING, "parent folder of run folders", per_run=True,
        path=True, fixed=True)
    run_dir: str = flag("", LOGGING, "folder of this run; must be new or empty",
        shown_default="SAVE_DIR/ENV/METHOD/seedN/TIME", per_run=True, path=True)
    resume: str = flag("", LOGGING, "folder of an interrupted run: resumes from its last "
        "checkpoint with its saved settings; flags passed with it override them",
        shown_default="a new run", per_run=True, path=True)
    checkpoint_interval: int = flag(10, LOGGING, "iterations between checkpoints; each phase also "
        "ends with one", within=AT_LEAST_ONE)
    keep_checkpoints: int = flag(2, LOGGING, "number of newest checkpoints to keep",
        within=AT_LEAST_ONE)
    exp_name: str = flag("default", LOGGING, "experiment name, added to the name of the run "
        "folder unless it is 'default'", per_run=True)
    suffix: str = flag("", LOGGING, "appended to the method in folder and run names")
    log_to_tb: bool = flag(True, LOGGING, "write TensorBoard logs to the run folder", short="-w")
    wandb_mode: str = flag("disabled", LOGGING, "Weights & Biases: off, local files only, or "
        "online", choices=("disabled", "offline", "online"))
    wandb_entity: str = flag("", LOGGING, "Weights & Biases user or team",
        shown_default="your account's default")
    wandb_project: str = flag("odt-rl-gradients", LOGGING, "Weights & Biases project")
    wandb_artifacts: int = flag(0, LOGGING, "1 uploads the checkpoints as a Weights & Biases "
        "artifact when the run ends or is stopped", choices=SWITCH)
    video_debug: int = flag(0, LOGGING, "1 records videos of evaluation episodes", choices=SWITCH)

    seed: int = flag(10, MACHINE, "seed of Python, NumPy and PyTorch", within="[0, 4294967295]",
        per_run=True, fixed=True)
    device: str = flag("auto", MACHINE, "auto, cpu, cuda or cuda:N; auto picks the GPU with the "
        "most free memory, or the CPU if there is none", same_numbers=True)
    force_device: int = flag(-1, MACHINE, "CUDA device index, overrides --device; -1 uses "
        "--device", within="[-1, inf)", same_numbers=True)
    precision: str = flag("fp32", MACHINE, "arithmetic of the policy: fp32; tf32 (CUDA only) "
        "rounds matrix-product inputs to 10-bit mantissas; bf16 runs the transformer in "
        "bfloat16 with float32 weights", choices=("fp32", "tf32", "bf16"), policy="model")
    cuda_graphs: int = flag(1, MACHINE, "1 replays updates and acting as CUDA graphs, which is "
        "faster; no effect on a CPU", choices=SWITCH, same_numbers=True)
    compile: int = flag(0, MACHINE, "1 compiles the policy, which fuses its element-wise "
        "operations (CUDA only)", choices=SWITCH, same_numbers=True)
    # fmt: on

    # --env as given, if that was an alias of the task; not a flag
    env_alias: str = field(default="", compare=False)
    # whether the critics are recurrent, set by the entry point; not a flag
    recurrent: bool = False
    # the task of --task_file, as read or as recorded by the run to resume; not a flag
    own_task: OwnTask | None = field(default=None, hash=False)

    @property
    def task(self) -> Task:
        """The task of --task_file or --env.

        Raises:
            UserError: no such task.
        """
        return self.own_task or get_task(self.env)


# the fields that are flags, in order of declaration, and their types
FLAGS = {each.name: each for each in dataclasses.fields(Settings) if each.metadata}
TYPES = get_type_hints(Settings)
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_UNSET: Any = object()


def flags_with(key: str, value: Any = True) -> tuple[str, ...]:
    """Names of the flags whose metadata has this value, see `flag`."""
    return tuple(name for name, each in FLAGS.items() if each.metadata[key] == value)


def flag_type(name: str) -> type:
    """The type of a flag's value (int for an optional int)."""
    return int if TYPES[name] == int | None else TYPES[name]


class OneLineParser(argparse.ArgumentParser):
    """Reports errors in one line and suggests the closest flag for a misspelt one."""

    def error(self, message: str) -> NoReturn:
        unknown, _, rest = message.partition("unrecognized arguments: ")
        word = rest.split("=")[0].split(" ")[0]
        if rest and not unknown:
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            message += f"; did you mean {near[0]}?" if near else "; --help lists the flags"
        self.exit(2, f"error: {' '.join(message.split())}\n")


def _to_bool(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise argparse.ArgumentTypeError(f"{text!r}: use true or false (also 1/0, yes/no)")
    return _TRUTH[text.lower()]


def _to_switch(text: str) -> int:
    return int(_to_bool(text)) if text.lower() in _TRUTH else int(text)


def _to_input(text: str) -> str:
    """An absolute path, so that a run can be resumed from another folder."""
    named = not text or text.startswith("minari:")
    return text if named else os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111


def _to_choice(choices: Sequence[str]) -> Callable[[str], str]:
    """Accept a choice in any case and return it as written in `choices`."""
    by_lower = {choice.lower(): choice for choice in choices}
    return lambda text: by_lower.get(text.lower(), text)


def _value_parser(name: str) -> Callable[[str], Any]:
    kind, choices = flag_type(name), FLAGS[name].metadata["choices"]
    if kind is bool:
        return _to_bool
    if choices == SWITCH:
        return _to_switch
    if FLAGS[name].metadata["path"]:
        return os.path.expanduser if FLAGS[name].metadata["per_run"] else _to_input
    return _to_choice(choices) if kind is str and choices else kind


def _help(name: str) -> str:
    about = FLAGS[name].metadata
    kind = "" if about["choices"] or flag_type(name) is str else f"; {flag_type(name).__name__}"
    within = f" in {about['within']}" if about["within"] else ""
    default = about["shown_default"] or FLAGS[name].default
    return f"{about['help']}{kind}{within} (default: {default})".replace("%", "%%")


def make_parser(recurrent: bool = False) -> argparse.ArgumentParser:
    """The argument parser built from the flag table."""
    critics = "RL gradients of recurrent critics (--arch)" if recurrent else "RL gradients"
    parser = OneLineParser(
        description=f"Fine-tune a decision transformer online with {critics}.",
        usage="%(prog)s [--FLAG VALUE ...]",
        epilog="Flags with the values 0 and 1 also accept false/true and no/yes.",
        allow_abbrev=False,
    )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for name, each in FLAGS.items():
        about = each.metadata
        names = [f"--{name}"] + ([about["short"]] if about["short"] else [])
        groups[about["group"]].add_argument(
            *names,
            dest=name,
            type=_value_parser(name),
            default=each.default,
            choices=about["choices"] or None,
            metavar=None if about["choices"] else name.split("_")[-1].upper(),
            help=_help(name),
        )
    return parser


def parse_args(
    argv: Sequence[str] | None = None, recurrent: bool = False, task: OwnTask | None = None
) -> Settings:
    """Settings of a new run's command line. For --resume see run/resume.py.

    A usage error exits with code 2 and one line on standard error.

    Args:
        argv: The command line; None for the program's own.
        recurrent: Whether the critics are recurrent.
        task: The task of --task_file, if the file need not be read.

    Raises:
        UserError: --task_file is not a valid task, or --env is another one.
    """
    parser = make_parser(recurrent)
    args = parser.parse_args(argv)
    if task is None and args.task_file and not args.resume:
        task = read_task_file(Path(args.task_file))
    if task is not None:
        parser.set_defaults(env=task.name, eval_rtg=task.eval_rtg, online_rtg=task.online_rtg)
        args = parser.parse_args(argv)
        if args.env != task.name:
            raise UserError(
                f"--env {args.env}: --task_file {args.task_file} is task {task.name}; drop --env"
            )
    return make_settings(vars(args), recurrent, task)


def given_flags(argv: Sequence[str] | None, recurrent: bool) -> dict[str, Any]:
    """Values of the flags that occur on the command line, without defaults."""
    unset = argparse.Namespace(**dict.fromkeys(FLAGS, _UNSET))
    values = vars(make_parser(recurrent).parse_args(argv, unset))
    return {name: value for name, value in values.items() if value is not _UNSET}


def make_settings(
    values: Mapping[str, Any], recurrent: bool = False, task: OwnTask | None = None
) -> Settings:
    """Settings from flag values by name.

    An alias of a task becomes its name; --init_from sets --max_pretrain_iters 0.
    """
    name = values["env"]
    resolved = dict(values) | {"env": ALIASES.get(name, name)}
    if values["init_from"]:
        resolved["max_pretrain_iters"] = 0
    alias = name if name in ALIASES else ""
    return Settings(**resolved, env_alias=alias, recurrent=recurrent, own_task=task)


def to_argv(settings: Settings | Mapping[str, Any]) -> list[str]:
    """The command line that gives these settings: `parse_args(to_argv(s)) == s`."""
    given = settings if isinstance(settings, Mapping) else dataclasses.asdict(settings)
    return [f"--{name}={given[name]}" for name in FLAGS if given.get(name) is not None]
