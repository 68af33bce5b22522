"""The flag table: one frozen dataclass with every setting of a run.

The command line (get_args.py), its checks and docs/FLAGS.md are all made from this table, so a
flag is declared once. Names and defaults are those of the published runs' command lines
(Yan, Schwing, Wang 2024, arXiv 2410.24108), so that their commands run as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RL_ALGORITHMS = ("TD3", "DDPG", "SAC", "AWAC", "IQL", "PPO", "AWR")
SWITCH = (0, 1)
# intervals in mathematical notation; a number flag without one takes any finite value
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
) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
        default: Its default value.
        group: One of `GROUPS`.
        text: What it does, with the unit.
        within: The interval of a number, for example "(0, 1]".
        choices: All values it can take.
        short: A second name, for example "-lr".
        shown_default: What help prints as the default, where that is not the value itself.
    """
    about = {"group": group, "help": text, "within": within, "choices": choices}
    about |= {"short": short, "shown_default": shown_default}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """Every setting of a run; field names are flag names. See docs/FLAGS.md."""

    # fmt: off
    env: str = flag("hopper-medium-v2", DATA, "D4RL task: environment and offline dataset")
    dataset: str = flag("", DATA, "dataset to read instead of DATA_DIR/ENV.hdf5: an HDF5 file of "
        "D4RL's layout, a pickle file (*.pkl) of trajectories, or minari:ID",
        shown_default="DATA_DIR/ENV.hdf5")
    data_dir: str = flag(str(Path(__file__).resolve().parent / "data"), DATA,
        "folder with the datasets", shown_default="data beside main.py")
    env_backend: str = flag("native", DATA, "engine of the environments: the one of this "
        "repository, or the benchmark's original gym, d4rl and mujoco-py in a process of their own",
        choices=("native", "d4rl"))
    legacy_python: str = flag("", DATA, "interpreter (Python 3.8 to 3.10) with that original stack",
        shown_default="$ODT_LEGACY_PYTHON, else .venv-legacy/bin/python beside main.py")
    custom_dataset: int = flag(0, DATA, "1 says that the dataset is one of your own, and that "
        "--dataset must name it", choices=SWITCH)
    remove_trivial_trajs: int = flag(1, DATA, "1 keeps only the first 9 one-step trajectories of "
        "an antmaze dataset", choices=SWITCH)
    delayed_reward: int = flag(0, DATA, "M > 1 pays rewards every M steps only, in the dataset "
        "and in the environment; 0 pays every step", within=NOT_NEGATIVE)

    policy: str = flag("transformer", MODEL, "decision transformer, or an MLP that sees the state "
        "alone (TD3+BC)", choices=("transformer", "mlp"))
    K: int = flag(20, MODEL, "context length in training, in environment steps",
        within=AT_LEAST_ONE)
    eval_context_length: int = flag(5, MODEL, "context length when acting, in environment steps; "
        "at most K", within=AT_LEAST_ONE)
    embed_dim: int = flag(512, MODEL, "width of the transformer, a multiple of --n_head; or of the "
        "MLP's hidden layers",
        within=AT_LEAST_ONE)
    n_layer: int = flag(4, MODEL, "transformer blocks, or the MLP's hidden layers",
        within=AT_LEAST_ONE)
    n_head: int = flag(4, MODEL, "attention heads per block", within=AT_LEAST_ONE)
    activation_function: str = flag("relu", MODEL, "activation in the transformer's MLPs, or in "
        "the MLP's hidden layers",
        choices=("relu", "gelu", "gelu_new", "silu", "tanh"))
    dropout: float = flag(0.1, MODEL, "dropout of attention weights and residual branches",
        within="[0, 1)")
    ordering: int = flag(0, MODEL, "1 adds a learned embedding of the absolute timestep to every "
        "token", choices=SWITCH)
    stoc: int = flag(1, MODEL, "1 stochastic policy (tanh-squashed Gaussian), 0 deterministic "
        "policy", choices=SWITCH)
    init_temperature: float = flag(0.1, MODEL, "initial entropy temperature of a stochastic "
        "policy", within=POSITIVE)

    batch_size: int = flag(256, OPTIMISATION, "sub-trajectories per batch", within=AT_LEAST_ONE)
    learning_rate: float = flag(1e-4, OPTIMISATION, "actor's learning rate",
        within=NOT_NEGATIVE, short="-lr")
    weight_decay: float = flag(5e-4, OPTIMISATION, "actor's weight decay",
        within=NOT_NEGATIVE, short="-wd")
    actor_optimizer: str = flag("lamb", OPTIMISATION, "actor's optimiser; adamw with "
        "--weight_decay 0 is Adam", choices=("lamb", "adamw"))
    warmup_steps: int = flag(10_000, OPTIMISATION, "actor updates over which the learning rate "
        "rises linearly", within=AT_LEAST_ONE)
    lr_scheduler: int = flag(1, OPTIMISATION, "1 warms the actor's learning rate up, 0 keeps it "
        "constant", choices=SWITCH)
    grad_clip: int = flag(1, OPTIMISATION, "1 clips the norm of the actor's gradient to 0.25",
        choices=SWITCH)
    temperature_learnable: int = flag(1, OPTIMISATION, "factor on the temperature's learning rate "
        "of 1e-4; 0 keeps the temperature", within=NOT_NEGATIVE)
    actor_sup_coeff: float = flag(1.0, OPTIMISATION, "weight of the supervised loss in the "
        "actor's loss (online; in pretraining 1 unless --RL_from_start 1)", within=NOT_NEGATIVE)
    use_entropy_reg: int = flag(1, OPTIMISATION, "1 adds the entropy bonus to the supervised loss "
        "of a stochastic policy and trains the temperature", choices=SWITCH)

    max_pretrain_iters: int = flag(1, PRETRAIN, "pretraining iterations; 0 skips pretraining",
        within=NOT_NEGATIVE)
    num_updates_per_pretrain_iter: int = flag(5000, PRETRAIN, "actor updates per pretraining "
        "iteration", within=AT_LEAST_ONE)
    RL_from_start: int = flag(0, PRETRAIN, "1 uses --actor_rl_coeff and --actor_sup_coeff in "
        "pretraining too", choices=SWITCH)

    max_online_iters: int = flag(1500, ONLINE, "online iterations; 0 skips fine-tuning",
        within=NOT_NEGATIVE)
    max_online_transitions: int = flag(0, ONLINE, "environment steps after which fine-tuning "
        "ends; 0 is the task's budget (600000 for hopper, halfcheetah, walker2d and ant, 1050000 "
        "for the others)", within=NOT_NEGATIVE)
    num_updates_per_online_iter: int = flag(300, ONLINE, "actor updates per online iteration",
        within=AT_LEAST_ONE)
    num_online_rollouts: int = flag(1, ONLINE, "episodes collected at a time",
        within=AT_LEAST_ONE)
    minimum_sapairs_per_iter: int = flag(0, ONLINE, "collect episodes until an online iteration "
        "has at least this many environment steps", within=NOT_NEGATIVE)
    force_no_minimum: int = flag(0, ONLINE, "1 silences the warning about a random dataset "
        "without --minimum_sapairs_per_iter", choices=SWITCH)
    replay_size: int = flag(1000, ONLINE, "capacity of the replay buffer, in trajectories",
        within=AT_LEAST_ONE)
    online_rtg: int = flag(7200, ONLINE, "return asked for when collecting, in training rewards")
    eval_rtg: int = flag(3600, ONLINE, "return asked for when evaluating, in training rewards")
    online_data_mode: str = flag("eval", ONLINE, "dropout off (eval) or on (train) while "
        "collecting", choices=("eval", "train"))
    expl_noise: float = flag(0.1, ONLINE, "standard deviation of the exploration noise that a "
        "deterministic policy adds to its actions", within=NOT_NEGATIVE)
    eval_interval: int = flag(10, ONLINE, "online iterations from one evaluation to the next",
        within=AT_LEAST_ONE)
    num_eval_episodes: int = flag(10, ONLINE, "episodes per evaluation, run in parallel",
        within=AT_LEAST_ONE)

    rl_algo: str = flag("TD3", RL, "algorithm of the RL gradient and of the critic",
        choices=RL_ALGORITHMS)
    actor_rl_coeff: float = flag(0.1, RL, "weight of the RL loss in the actor's loss; 0 is plain "
        "ODT", within=NOT_NEGATIVE)
    normalized_rl_coeff: int = flag(0, RL, "1 divides --actor_rl_coeff by the scale of Q in the "
        "batch", choices=SWITCH)
    gamma: float = flag(0.99, RL, "discount per step; 1 needs a time-aware critic",
        within=STEP_SIZE)
    num_actor_update_interval: int = flag(2, RL, "critic updates per actor update",
        within=AT_LEAST_ONE)

    TD3_policy_noise: float = flag(0.2, ALGORITHM, "standard deviation of the noise on target "
        "actions", within=NOT_NEGATIVE)
    TD3_noise_clip: float = flag(0.5, ALGORITHM, "largest magnitude of that noise",
        within=NOT_NEGATIVE)
    TD3_tau: float = flag(0.005, ALGORITHM, "step of the target networks", within=STEP_SIZE)
    DDPG_tau: float = flag(0.005, ALGORITHM, "step of the target networks", within=STEP_SIZE)
    SAC_tau: float = flag(0.005, ALGORITHM, "step of the target networks", within=STEP_SIZE)
    AWAC_beta: float = flag(1.0, ALGORITHM, "temperature of the advantage weights",
        within=POSITIVE)
    AWAC_tau: float = flag(0.005, ALGORITHM, "step of the target networks", within=STEP_SIZE)
    AWAC_soft_flag: int | None = flag(None, ALGORITHM, "0 no entropy terms, 1 entropy in the "
        "critic's target, 2 in the actor's loss too; required by AWAC", choices=(0, 1, 2))
    AWAC_normalize_adv: int | None = flag(None, ALGORITHM, "1 weights by a softmax over the "
        "batch; required by AWAC", choices=SWITCH)
    IQL_ratio: float = flag(0.7, ALGORITHM, "expectile of the V loss", within="(0, 1)")
    IQL_beta: float = flag(3.0, ALGORITHM, "inverse temperature of the advantage weights",
        within=NOT_NEGATIVE)
    IQL_tau: float = flag(0.005, ALGORITHM, "step of the target networks", within=STEP_SIZE)
    PPO_eps_clip: float = flag(0.2, ALGORITHM, "clip range of the probability ratio",
        within=POSITIVE)
    PPO_td_lambda: float = flag(0.98, ALGORITHM, "lambda of the TD(lambda) returns",
        within=FRACTION)
    PPO_old_logprob_generated_in_training: int = flag(0, ALGORITHM, "1 recomputes the old "
        "log-probabilities at the iteration's start, 0 records them at the rollout",
        choices=SWITCH)
    AWR_beta: float = flag(1.0, ALGORITHM, "temperature of the advantage weights",
        within=POSITIVE)
    AWR_normalize_adv: int = flag(0, ALGORITHM, "1 normalises the advantages", choices=SWITCH)
    AWR_buffer_size: int = flag(50_000, ALGORITHM, "transitions that the online buffer keeps",
        within=AT_LEAST_ONE)
    AWR_td_lambda: float = flag(0.98, ALGORITHM, "lambda of the TD(lambda) returns",
        within=FRACTION)

    critic_learning_rate: float = flag(0.001, CRITIC, "critic's learning rate (AdamW)",
        within=NOT_NEGATIVE)
    critic_activation: str = flag("relu", CRITIC, "activation of the hidden layers",
        choices=("relu", "tanh", "leakyrelu", "swish"))
    critic_normalization: str = flag("layernorm", CRITIC, "kind of normalisation of the hidden "
        "layers, where there is one", choices=("layernorm", "affinenorm", "adanorm"))
    override_layernorm: int = flag(0, CRITIC, "1 forces that normalisation on, -1 off; 0 is off "
        "for hopper, halfcheetah, walker2d and ant and on for the others", choices=(-1, 0, 1))
    critic_time_aware: int = flag(0, CRITIC, "what Q sees of the timestep: 0 nothing, 1 a learned "
        "embedding, 2 its binary digits", choices=(0, 1, 2))
    critic_time_dim: int = flag(10, CRITIC, "size of that embedding, or number of digits",
        within=AT_LEAST_ONE)
    arch: str = flag("RNN", CRITIC, "recurrent critics only: the recurrent layers",
        choices=("RNN", "LSTM"))

    prev_policy_coeff: float = flag(0.0, ABLATION, "weight of the squared distance to the actions "
        "of the policy at the online iteration's start, a KL-style regulariser (published "
        "ablation: 0.05)", within=NOT_NEGATIVE)
    rtg_curriculum_iters: int = flag(0, ABLATION, "online iterations over which the return asked "
        "for when collecting rises linearly to --online_rtg; 0 asks for that at once",
        within=NOT_NEGATIVE)
    rtg_curriculum_start: int | None = flag(None, ABLATION, "return that it rises from, in "
        "training rewards; required by --rtg_curriculum_iters")
    jump_start_steps: int = flag(0, ABLATION, "first steps of each collected episode for which "
        "the pretrained policy acts, falling linearly to 0 (JSRL)", within=NOT_NEGATIVE)
    jump_start_iters: int = flag(100, ABLATION, "online iterations over which they fall",
        within=AT_LEAST_ONE)

    save_dir: str = flag("./exp", LOGGING, "folder under which runs make their own folders")
    run_dir: str = flag("", LOGGING, "folder of this run: new, or empty",
        shown_default="SAVE_DIR/ENV/METHOD/seedN/TIME")
    resume: str = flag("", LOGGING, "folder of an interrupted run: goes on from its last "
        "checkpoint with its recorded settings; flags given beside this one replace them",
        shown_default="a new run")
    checkpoint_interval: int = flag(10, LOGGING, "iterations between checkpoints; there is one at "
        "the end of each phase too", within=AT_LEAST_ONE)
    keep_checkpoints: int = flag(2, LOGGING, "how many of the newest checkpoints stay",
        within=AT_LEAST_ONE)
    exp_name: str = flag("default", LOGGING, "name of the experiment, part of the run's folder "
        "unless it is 'default'")
    suffix: str = flag("", LOGGING, "appended to the method in the run's folder and name")
    log_to_tb: bool = flag(True, LOGGING, "TensorBoard logs in the run's folder", short="-w")
    wandb_mode: str = flag("disabled", LOGGING, "Weights & Biases: nothing, local files, or the "
        "service", choices=("disabled", "offline", "online"))
    wandb_entity: str = flag("", LOGGING, "user or team on Weights & Biases",
        shown_default="your account's own")
    wandb_project: str = flag("odt-rl-gradients", LOGGING, "project on Weights & Biases")
    wandb_artifacts: int = flag(0, LOGGING, "1 keeps the checkpoints as an artifact on Weights & "
        "Biases when the run ends or is stopped", choices=SWITCH)
    video_debug: int = flag(0, LOGGING, "1 records videos of evaluation episodes", choices=SWITCH)

    seed: int = flag(10, MACHINE, "seed of Python, NumPy and PyTorch", within="[0, 4294967295]")
    device: str = flag("auto", MACHINE, "auto, cpu, cuda or cuda:N; auto is the GPU with most free "
        "memory, or the CPU where there is none")
    force_device: int = flag(-1, MACHINE, "CUDA device number, overrides --device; -1 leaves it "
        "to --device", within="[-1, inf)")
    precision: str = flag("fp32", MACHINE, "arithmetic of the policy: fp32; tf32 (CUDA only) "
        "rounds the factors of matrix products to 10 bits; bf16 computes the transformer in "
        "bfloat16 with float32 weights", choices=("fp32", "tf32", "bf16"))
    compile: int = flag(0, MACHINE, "1 compiles the policy and replays its forward and backward "
        "passes as CUDA graphs (CUDA only)", choices=SWITCH)
    # fmt: on

    # the name that --env had on the command line where that was an alias of the task; no flag
    env_alias: str = field(default="", compare=False)
    # whether the critics are recurrent: the entry point's choice; no flag
    recurrent: bool = False
