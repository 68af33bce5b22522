#!/usr/bin/env bash
# Run the published commands of one suite, one after another. Called by mujoco.sh, adroit.sh,
# antmaze.sh and maze2d.sh; the flags are in sweeps/published.txt.
set -uo pipefail
set -f # no file name expansion

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TABLE=$ROOT/sweeps/published.txt
SUITE=${1:-}
PYTHON=${PYTHON:-python}

die() {
    echo "error: $*" >&2
    exit 2
}

# flags_of KIND NAME: the flags of all lines of the table with this name, on one line
flags_of() {
    local kind line names flags found=""
    # no -r, so that a backslash at the end of a line continues it
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
    # unquoted, to normalise the spaces
    # shellcheck disable=SC2086
    echo $found
}

# names_of KIND: all names of this kind, each once, in the order of the table
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

Runs main.py with the published flags, one run after another.

  --method M[,M...]      $(names_of method | sed 's/ /, /g') (default: TD3+ODT)
  --seeds N[,N...]       seeds (default: 16, the seed of the published commands)
  --tasks T[,T...]       tasks or patterns such as '*-medium-*' (default: all)
  --delayed_reward M     pay rewards only every M steps; published: 5 (default: 0, every step)
  --dry-run              print the commands and exit
  -h, --help             show this help

Flags of main.py after -- are added to every command; the last value of a flag counts.
The environment variable PYTHON sets the interpreter (default: python).

tasks: $(names_of "$SUITE")

Exit codes: 0 all runs finished, 1 some failed, 2 invalid arguments or a run refused by main.py,
75 stopped. scripts/sweep.py runs many at a time, resumes interrupted runs and skips finished ones.
END
}

# select_tasks PATTERN,PATTERN...: the tasks of the suite that match a pattern
select_tasks() {
    local patterns=${1//,/ } pattern name chosen=" " matched
    [ -n "${patterns// /}" ] || die "--tasks: no task given"
    for pattern in $patterns; do
        matched=0
        for name in $(names_of "$SUITE"); do
            # unquoted, to match a pattern
            # shellcheck disable=SC2053
            if [[ $name == $pattern ]]; then
                matched=1
                case $chosen in *" $name "*) ;; *) chosen="$chosen$name " ;; esac
            fi
        done
        [ $matched = 1 ] || die "--tasks $pattern: no such task; scripts/$SUITE.sh --help lists them"
    done
    tasks=$chosen
}

select_methods() {
    local name known
    known=$(names_of method)
    methods=${1//,/ }
    [ -n "${methods// /}" ] || die "--method: no method given"
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
    [ -n "${seeds// /}" ] || die "--seeds: no seed given"
    for seed in $seeds; do
        [[ $seed =~ ^[0-9]{1,10}$ && $((10#$seed)) -le 4294967295 ]] ||
            die "--seeds $seed: invalid seed; use integers from 0 to 4294967295"
    done
}

select_delay() {
    [[ $1 =~ ^[0-9]{1,9}$ && $((10#$1)) -ne 1 ]] ||
        die "--delayed_reward $1: invalid delay; use 0 for no delay, or an integer above 1"
    delay=$((10#$1))
}

# run_one TASK METHOD SEED FLAGS...: print or run one command
run_one() {
    local task=$1 method=$2 seed=$3 command code
    shift 3
    # unquoted, to split the flags into words
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
        echo "$task $method seed $seed: exit code $code; continuing with the next run" >&2
        failed=$((failed + 1))
        ;;
    esac
}

[[ $SUITE =~ ^(mujoco|adroit|antmaze|maze2d)$ ]] ||
    die "run mujoco.sh, adroit.sh, antmaze.sh or maze2d.sh instead"
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
    *) die "$1: unknown option; see scripts/$SUITE.sh --help, and pass flags of main.py after --" ;;
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
