"""Each RL gradient through the command line: it runs, and resumes after an interruption."""

import shlex

import numpy as np
import pytest

from main import main
from run.stopping import EXIT_INTERRUPTED
from tests.documented_metrics import documented_metrics
from tests.tiny_runs import interrupted_run, metrics_of, run, same_weights

pytestmark = pytest.mark.usefixtures("short_horizons")

COMMON = (
    "--use_entropy_reg 0 --num_actor_update_interval 1 --max_online_iters 2 --eval_interval 1 "
    "--K 3 --eval_context_length 2 --rl_algo "
)
VARIANTS = {
    "deterministic DDPG with AdamW": "DDPG --stoc 0 --actor_optimizer adamw",
    "TD3+BC": "TD3 --stoc 0 --normalized_rl_coeff 1 --RL_from_start 1 --policy mlp",
    "TD3 in bf16": "TD3 --precision bf16",
    "SAC with an MLP in bf16": "SAC --policy mlp --precision bf16",
    "deterministic AWAC": "AWAC --AWAC_soft_flag 1 --AWAC_normalize_adv 1 --stoc 0",
    "IQL": "IQL --critic_time_aware 2 --actor_sup_coeff 0 --RL_from_start 1",
    "PPO": "PPO --critic_time_aware 1",
    "recomputed PPO": "PPO --PPO_old_logprob_generated_in_training 1",
    "deterministic AWR": "AWR --stoc 0 --AWR_normalize_adv 1 --AWR_buffer_size 100",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_an_interrupted_run_resumes_identically(data_dir, tmp_path, name):
    flags = shlex.split(COMMON + VARIANTS[name])
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run(data_dir, whole, *flags) == 0
    rows = metrics_of(whole)
    logged = {key for row in rows for key in row if "/" in key}
    assert logged <= documented_metrics()
    assert all(np.isfinite(value) for row in rows for key, value in row.items() if "/" in key)
    assert rows[-1]["training/rl_loss"] != 0

    assert interrupted_run(data_dir, part, *flags, when=1) == EXIT_INTERRUPTED
    assert main(["--resume", str(part)]) == 0
    assert metrics_of(part) == rows
    assert same_weights(part, whole)


def test_awr_gradient_starts_in_the_second_iteration(data_dir, tmp_path):
    flags = shlex.split(COMMON + "AWR --actor_rl_coeff 0.3")
    assert run(data_dir, tmp_path / "run", *flags) == 0
    coefficients = [row["training/rl_coeff"] for row in metrics_of(tmp_path / "run")]
    assert coefficients == pytest.approx([0.0, 0.0, 0.3])
