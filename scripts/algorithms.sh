#!/usr/bin/env bash
# The runs of docs/ALGORITHMS.md: every method on two tasks with a small model, on the CPU.
set -uo pipefail
set -f # no file name expansion

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python}
DATA_DIR=${DATA_DIR:-$ROOT/data}
OUT=${OUT:-$ROOT/exp/algorithms}
TASKS=${TASKS:-hopper-medium-v2 maze2d-umaze-v1}
METHODS=${METHODS:-ODT TD3 TD3+ODT DDPG+ODT TD3+BC SAC+ODT AWAC+ODT IQL+ODT PPO+ODT AWR+ODT}
SEEDS=${SEEDS:-16 17 18}

if [ $# -gt 0 ]; then
    cat <<END
usage: [VARIABLE=VALUE ...] scripts/algorithms.sh

Skips runs that are finished and starts all others from scratch. Results: OUT/TASK/METHOD/seedN.

  TASKS     $TASKS
  METHODS   $METHODS
            also TD3+ODT-previous, TD3+ODT-curriculum, TD3+ODT-jumpstart (ablations) and
            TD3+ODT-bf16 (--precision bf16)
  SEEDS     $SEEDS
  OUT       $OUT
  DATA_DIR  $DATA_DIR (datasets)
  PYTHON    $PYTHON (interpreter)
END
    [ "$1" = --help ] || [ "$1" = -h ] || exit 2
    exit 0
fi

COMMON="--device cpu --embed_dim 64 --n_layer 2 --n_head 2 --batch_size 64 --learning_rate 0.001
    --warmup_steps 500 --max_pretrain_iters 1 --num_updates_per_pretrain_iter 1500
    --max_online_iters 24 --num_updates_per_online_iter 150 --minimum_sapairs_per_iter 1000
    --eval_interval 3 --num_eval_episodes 10 --num_actor_update_interval 1 --log_to_tb 0"

task_flags() {
    case $1 in
    hopper-medium-v2) echo "--K 5 --eval_context_length 5 --replay_size 200" ;;
    maze2d-umaze-v1)
        echo "--num_updates_per_pretrain_iter 3000 --num_updates_per_online_iter 300 --K 1" \
            "--eval_context_length 1 --eval_rtg 60 --online_rtg 60 --weight_decay 0.0001" \
            "--critic_learning_rate 0.0002 --replay_size 1250"
        ;;
    *) return 1 ;;
    esac
}

method_flags() {
    local deterministic="--stoc 0 --use_entropy_reg 0" stochastic="--stoc 1 --use_entropy_reg 0"
    case $1 in
    ODT) echo "--actor_rl_coeff 0 --stoc 1 --use_entropy_reg 1" ;;
    TD3) echo "--rl_algo TD3 $deterministic --actor_sup_coeff 0" ;;
    TD3+ODT) echo "--rl_algo TD3 $deterministic" ;;
    DDPG+ODT) echo "--rl_algo DDPG $deterministic" ;;
    TD3+BC)
        echo "--rl_algo TD3 $deterministic --policy mlp --embed_dim 256 --actor_rl_coeff 2.5" \
            "--normalized_rl_coeff 1 --RL_from_start 1 --actor_optimizer adamw" \
            "--learning_rate 0.0003 --weight_decay 0 --lr_scheduler 0 --grad_clip 0"
        ;;
    SAC+ODT) echo "--rl_algo SAC $stochastic" ;;
    AWAC+ODT) echo "--rl_algo AWAC $stochastic --AWAC_soft_flag 0 --AWAC_normalize_adv 0" ;;
    IQL+ODT) echo "--rl_algo IQL $stochastic" ;;
    PPO+ODT) echo "--rl_algo PPO $stochastic" ;;
    AWR+ODT) echo "--rl_algo AWR $stochastic" ;;
    TD3+ODT-previous) echo "$(method_flags TD3+ODT) --prev_policy_coeff 0.05" ;;
    TD3+ODT-curriculum)
        echo "$(method_flags TD3+ODT) --rtg_curriculum_iters 12 --rtg_curriculum_start 0"
        ;;
    TD3+ODT-jumpstart)
        echo "$(method_flags TD3+ODT) --jump_start_steps 150 --jump_start_iters 12"
        ;;
    TD3+ODT-bf16) echo "$(method_flags TD3+ODT) --precision bf16" ;;
    *) return 1 ;;
    esac
}

# run_one TASK METHOD SEED: one run, unless it is finished
run_one() {
    local task=$1 method=$2 seed=$3 folder=$OUT/$1/$2/seed$3
    [ -f "$folder.done" ] && return
    rm -rf "$folder"
    mkdir -p "$OUT/$task/$method"
    echo "$task $method seed $seed"
    # unquoted, to split the flags into words
    # shellcheck disable=SC2046,SC2086
    if "$PYTHON" "$ROOT/main.py" --env "$task" --seed "$seed" --data_dir "$DATA_DIR" $COMMON \
        $(task_flags "$task") $(method_flags "$method") "--suffix=${method#"${method%%-*}"}" \
        --run_dir "$folder" >"$folder.log" 2>&1; then
        touch "$folder.done"
    else
        echo "error: run failed; see $folder.log" >&2
        failed=1
    fi
}

for task in $TASKS; do
    task_flags "$task" >/dev/null || { echo "error: TASKS: unknown task $task; see --help" >&2; exit 2; }
done
for method in $METHODS; do
    method_flags "$method" >/dev/null || { echo "error: METHODS: unknown method $method; see --help" >&2; exit 2; }
done
failed=0
for seed in $SEEDS; do
    for method in $METHODS; do
        for task in $TASKS; do
            run_one "$task" "$method" "$seed"
        done
    done
done
exit $failed
