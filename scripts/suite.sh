#!/usr/bin/env bash
# The published runs of one suite of tasks, one after the other. mujoco.sh, adroit.sh, antmaze.sh
# and maze2d.sh beside this file call it with their suite; sweeps/published.txt has the flags.
set -uo pipefail
set -f # names and patterns are words here, never files

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TABLE=$ROOT/sweeps/published.txt
SUITE=${1:-}
PYTHON=${PYTHON:-python}

die() {
    echo "error: $*" >&2
    exit 2
}

# flags_of KIND NAME: the flags of every line of the table that has this name, in one line
flags_of() {
    local kind line names flags found=""
    # no -r: a backslash at a line's end is to go on in the next
    # shellcheck disable=SC2162
    while read line; do
        kind=${line%% *}
        [ "$kind" = "$1" ] || continue
        names=${line%%:*}
        case " ${names#"$kind"} " in
        *" $2 "*)
            flags=${line#*:}
            found="$found $flags"
            ;;
        esac
    done <"$TABLE"
    # one space between words
    # shellcheck disable=SC2086
    echo $found
}

# names_of KIND: every name of that kind, each once, in the table's order
names_of() {
    local kind line names name seen=" "
    # shellcheck disable=SC2162
    while read line; do
        kind=${line%% *}
        [ "$kind" = "$1" ] || continue
        names=${line%%:*}
        for name in ${names#"$kind"}; do
            case $seen in *" $name "*) ;; *) seen="$seen$name " ;; esac
        done
    done <"$TABLE"
    # shellcheck disable=SC2086
    echo $seen
}

usage() {
    cat <<END
usage: scripts/$SUITE.sh [OPTIONS] [-- FLAG VALUE ...]

Runs main.py with the published flags, one run after the other.

  --method M[,M...]      $(names_of method | sed 's/ /, /g') (default: TD3+ODT)
  --seeds N[,N...]       (default: 16, that of the published commands)
  --tasks T[,T...]       tasks, or patterns such as '*-medium-*' (default: all of them)
  --delayed_reward M     rewards are paid every M steps only; published: 5 (default: 0, at once)
  --dry-run              print the commands, run nothing
  -h, --help             this text

What follows -- is added to every command: main.py's flags, the last value counts.
\$PYTHON is the interpreter (default: python).

tasks: $(names_of "$SUITE")

Exit codes: 0 all runs ended well, 1 some failed, 2 bad arguments or a run that main.py refused,
75 stopped. scripts/sweep.py runs many at a time, goes on with interrupted ones and skips those done.
END
}

# select_tasks PATTERN,PATTERN...: the suite's tasks that fit one of them
select_tasks() {
    local patterns=${1//,/ } pattern name chosen=" " fits
    [ -n "${patterns// /}" ] || die "--tasks: names no task"
    for pattern in $patterns; do
        fits=0
        for name in $(names_of "$SUITE"); do
            # the right side is meant to be a pattern
            # shellcheck disable=SC2053
            if [[ $name == $pattern ]]; then
                fits=1
                case $chosen in *" $name "*) ;; *) chosen="$chosen$name " ;; esac
            fi
        done
        [ $fits = 1 ] || die "--tasks $pattern: no such task; scripts/$SUITE.sh --help lists them"
    done
    tasks=$chosen
}

select_methods() {
    local name known
    known=$(names_of method)
    methods=${1//,/ }
    [ -n "${methods// /}" ] || die "--method: names no method"
    for name in $methods; do
        case " $known " in
        *" $name "*) ;;
        *) die "--method $name: unknown method; use ${known// /, }" ;;
        esac
    done
}

select_seeds() {
    local seed
    seeds=${1//,/ }
    [ -n "${seeds// /}" ] || die "--seeds: names no seed"
    for seed in $seeds; do
        [[ $seed =~ ^[0-9]{1,10}$ && $((10#$seed)) -le 4294967295 ]] ||
            die "--seeds $seed: not a seed; use integers from 0 to 4294967295"
    done
}

select_delay() {
    [[ $1 =~ ^[0-9]{1,9}$ && $((10#$1)) -ne 1 ]] ||
        die "--delayed_reward $1: use 0 for no delay, or an integer M > 1"
    delay=$((10#$1))
}

# run_one TASK METHOD SEED FLAGS...: one command, printed or run
run_one() {
    local task=$1 method=$2 seed=$3 command code
    shift 3
    # words of the table, split here
    # shellcheck disable=SC2046
    set -- --env "$task" --seed "$seed" $(flags_of "$SUITE" "$task") \
        $(flags_of method "$method") $([ "$delay" = 0 ] || echo "--delayed_reward $delay") "$@"
    if [ $dry_run = 1 ]; then
        command=$(printf ' %q' "$@")
        echo "python main.py$command"
        return
    fi
    "$PYTHON" "$ROOT/main.py" "$@"
    code=$?
    case $code in
    0) ;;
    2 | 75 | 130) exit "$code" ;;
    *)
        echo "$task $method seed $seed: exit code $code; going on with the next run" >&2
        failed=$((failed + 1))
        ;;
    esac
}

[[ $SUITE =~ ^(mujoco|adroit|antmaze|maze2d)$ ]] ||
    die "call mujoco.sh, adroit.sh, antmaze.sh or maze2d.sh"
shift
tasks=$(names_of "$SUITE") methods=TD3+ODT seeds=16 delay=0 dry_run=0 failed=0
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    --dry-run) dry_run=1 ;;
    --)
        shift
        break
        ;;
    --method | --seeds | --tasks | --delayed_reward)
        [ $# -gt 1 ] || die "$1: needs a value"
        case $1 in
        --method) select_methods "$2" ;;
        --seeds) select_seeds "$2" ;;
        --tasks) select_tasks "$2" ;;
        --delayed_reward) select_delay "$2" ;;
        esac
        shift
        ;;
    *) die "$1: unknown option; scripts/$SUITE.sh --help lists them, main.py's flags go after --" ;;
    esac
    shift
done
for task in $tasks; do
    for method in $methods; do
        for seed in $seeds; do
            run_one "$task" "$method" "$seed" "$@"
        done
    done
done
if [ "$failed" != 0 ]; then
    echo "$failed runs failed" >&2
    exit 1
fi
