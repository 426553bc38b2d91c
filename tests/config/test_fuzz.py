"""Random settings on the command line: each is accepted, or refused in one line with exit status 2."""

import contextlib
import functools
import io
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nabla_reasoner.__main__ import WRONG, main
from nabla_reasoner.config import build
from nabla_reasoner.config.compose import compose_cells

KNOWN = compose_cells(["method=nabla_reasoner"])[0].content()
NARROW = ["policy=tiny-base", "task=products", "seed=0", "method=nabla_reasoner"]


@pytest.fixture(scope="module", autouse=True)
def outlines_read_once() -> Iterator[None]:
    """Read each folder's model without weights once: most random settings leave the models as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "outline", functools.lru_cache(maxsize=None, typed=True)(build.outline))
        yield


def key_paths(tree: dict, prefix: str = "") -> list[str]:
    """Dotted names of all settings of a cell, groups of settings included."""
    paths = []
    for key, value in tree.items():
        paths.append(f"{prefix}{key}")
        paths += key_paths(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return paths


VALUES = st.one_of(
    st.integers(-3, 10**12).map(str),
    st.floats().map(str),
    st.sampled_from(["null", "true", "[]", "{}", "[1,2]", "{a: 1}", "''", "nan", "inf", "-1e400", "1e-400", "${seed}"]),
    st.sampled_from(["${nothing}", "a,b", "range(1,5)", "glob(*)", "0x10", "!!python/object:os.system", "../../etc"]),
    st.text(max_size=12),
)
SETTING = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(key_paths(KNOWN)), VALUES)


def answer(words: list[str]) -> tuple[int, str]:
    """Exit status and error text of a plan with these settings."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = main(["plan", "table1", *NARROW, *words])
    return status, errors.getvalue()


def assert_accepted_or_refused(words: list[str]) -> None:
    status, errors = answer(words)
    assert status in (0, WRONG)
    if status == WRONG:
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert len(errors) < 2000


@pytest.mark.parametrize(
    "word",
    [
        *(
            "dto.step_size=nan",
            "method.reward_weight=inf",
            "reward.kind=abc",
            "folder=",
            "method._target_=os.system",
            "x",
        ),
        *("estimate.tasks.products.prompt_tokens=7e152", f"method.num_iterations={10**400}", f"seed={2**63}"),
        *(f"num_problems={10**13}", f"dto.step_size={10**400}", "estimate.gradients_per_proposal=1e13"),
    ],
)
def test_wrong_value_is_refused_before_anything_is_built(word: str):
    status, errors = answer([word])
    assert status == WRONG
    assert word.partition("=")[0].rpartition(".")[2].strip("_") in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method.max_new_tokens=0"], "max_new_tokens must be >= 1; got 0"),
        (["method.acceptance=abc"], "acceptance must be one of"),
        (["sampling.temperature=null"], "rollout_temperature must be a number; got None"),
        (["difficulty.products=null"], "settings of task products must be a group"),
        (["task.settings=3"], "settings of task products must be a group"),
        (["difficulty.products.min_terms=1.0"], "min_terms of task products must be a whole number; got 1.0"),
        (["difficulty.products.min_terms=true"], "min_terms of task products must be a whole number; got True"),
        (["difficulty.products.min_terms=abc"], "min_terms of task products must be a whole number; got 'abc'"),
        (["difficulty=null"], "difficulty must be a group of settings; got null"),
        (["dto=null"], "dto must be a group of settings; got null"),
        (["sampling=3,4"], "sampling must be a group of settings"),
        (["max_new_tokens=5000"], "must fit the context of 512 tokens"),
        (["method=tpo"], "with replies of full length, and its reply must fit the context of 512 tokens"),
        (["policy.name=a/b"], "names of cells must be non-empty"),
        (["method.name=_x"], "names of cells must be non-empty"),
        (["split=validation", "num_problems=5000"], "num_problems must be at most 400"),
        (["policy.path=assets/rewards/classifier", "policy.name=x"], "must be a language model"),
        (["reward.kind=likelihood", "reward.path=assets/rewards/classifier"], "must be a language model"),
        (["reward.path=assets/policies/tiny-base", "reward.kind=classifier"], "must be a classifier"),
        (["method.engine=reference"], "method.engine must be fast for a plan"),
        (["task.settings.min_terms=3"], "Write difficulty.products.min_terms=VALUE"),
        (["task.suffix= Think."], "white space around the value in 'task.suffix= Think.' would be lost; quote it"),
        (["task=gsm8k", r'task.suffix="\nThink."'], "must be text with line breaks as such"),
        (["results_dir=~/x"], "the ~ in 'results_dir=~/x' was not replaced by the shell. Write results_dir=$HOME"),
        (['results_dir="~/x"'], "results_dir must be a path in which ~ is written out"),
        (["method=mh_resampling", "method.answers=[]"], "method.answers must be a list of products"),
        (["method=best_of_n", "method.budget.num_samples=2.5"], "method.budget.num_samples must be a whole number"),
        (["task =products"], "'task =products' must have no blank before its =. Write task=products."),
        (["policy.name=${nothere}"], "policy.name refers to a setting that is not there"),
    ],
)
def test_plan_refuses_what_a_run_refuses(words: list[str], said: str):
    status, errors = answer(words)
    assert status == WRONG
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert said in errors


@pytest.mark.slow
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(SETTING)
def test_random_value_of_a_setting_is_accepted_or_refused(setting: str):
    assert_accepted_or_refused([setting])


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=30))
def test_random_words_are_accepted_or_refused(word: str):
    assert_accepted_or_refused([word])
