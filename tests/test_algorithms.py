"""Every RL gradient through the command line: runs, goes on where it was interrupted."""

import shlex

import numpy as np
import pytest

from main import EXIT_INTERRUPTED, main
from tests.documented_metrics import documented_metrics
from tests.tiny_runs import interrupted_run, metrics_of, run, same_weights

pytestmark = pytest.mark.usefixtures("short_horizons")

COMMON = "--use_entropy_reg 0 --num_actor_update_interval 1 --stoc 1 --rl_algo "
MLP = " --policy mlp --n_layer 1 "
VARIANTS = {
    "DDPG": "DDPG",
    "deterministic DDPG, AdamW": "DDPG --stoc 0 --actor_optimizer adamw",
    "TD3+BC": "TD3 --stoc 0 --normalized_rl_coeff 1 --RL_from_start 1" + MLP,
    "stochastic TD3+BC": "TD3 --precision bf16" + MLP,
    "SAC with an MLP": "SAC" + MLP,
    "IQL with an MLP": "IQL --actor_sup_coeff 0 --RL_from_start 1" + MLP,
    "PPO with an MLP": "PPO --PPO_old_logprob_generated_in_training 1" + MLP,
    "SAC": "SAC",
    "AWAC": "AWAC --AWAC_soft_flag 2 --AWAC_normalize_adv 0",
    "deterministic AWAC": "AWAC --AWAC_soft_flag 1 --AWAC_normalize_adv 1 --stoc 0",
    "IQL": "IQL --critic_time_aware 2",
    "PPO": "PPO --critic_time_aware 1",
    "PPO, recomputed": "PPO --PPO_old_logprob_generated_in_training 1",
    "AWR": "AWR --AWR_normalize_adv 1 --AWR_buffer_size 100",
    "deterministic AWR": "AWR --stoc 0",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_runs_and_resumes(data_dir, tmp_path, name):
    flags = shlex.split(COMMON + VARIANTS[name])
    flags += shlex.split("--max_online_iters 3 --eval_interval 1 --K 3 --eval_context_length 2")
    assert run(data_dir, tmp_path / "whole", *flags) == 0
    rows = metrics_of(tmp_path / "whole")
    named = {key for row in rows for key in row if "/" in key}
    assert named <= documented_metrics()
    assert all(np.isfinite(value) for row in rows for key, value in row.items() if "/" in key)
    assert rows[-1]["training/rl_loss"] != 0

    assert interrupted_run(data_dir, tmp_path / "part", *flags, when=1) == EXIT_INTERRUPTED
    assert main(["--resume", str(tmp_path / "part")]) == 0
    assert metrics_of(tmp_path / "part") == rows
    assert same_weights(tmp_path / "part", tmp_path / "whole")


def test_awr_starts_its_gradient_in_the_second_iteration(data_dir, tmp_path):
    flags = shlex.split(COMMON + "AWR --max_online_iters 3 --actor_rl_coeff 0.3")
    assert run(data_dir, tmp_path / "run", *flags) == 0
    coefficients = [row["training/rl_coeff"] for row in metrics_of(tmp_path / "run")]
    assert coefficients == pytest.approx([0.0, 0.0, 0.3, 0.3])
