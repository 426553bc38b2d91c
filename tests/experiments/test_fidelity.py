"""Target `fidelity`: positions, candidates and verdicts against Hugging Face, the command, and its refusals."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import toys

from nabla_reasoner.__main__ import main
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.schema import choices
from nabla_reasoner.config.sweeps import compose_sweeps
from nabla_reasoner.config.targets import find
from nabla_reasoner.decoding.settings import NablaSettings
from nabla_reasoner.dto.reward_forms import REWARD_FORMS
from nabla_reasoner.engine import scoring
from nabla_reasoner.engine.sampling import Sampling
from nabla_reasoner.experiments import fidelity, fidelity_samples
from nabla_reasoner.experiments.command import Command
from nabla_reasoner.tasks.grading import Grade
from nabla_reasoner.types import Problem

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = [Problem(f"p{number}", f"1+{number}", "1", "toy") for number in range(5)]
SETTINGS = NablaSettings(max_new_tokens=7, confidence_threshold=0.9, rollout=Sampling(1.0))


def parity(problem: Problem, response: str, finished: bool = True) -> Grade:
    return Grade(response, (sum(response.encode()) + finished) % 2 == 0)


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nabla_reasoner.tasks.grading.grade", parity)


def cell(**values):
    (composed,) = compose_cells(["experiment=fidelity", "policy=tiny-base", "task=products", "reward=classifier"])
    return composed.changed(**values)


def test_positions_and_candidates_are_the_policys(graded):
    policy = toys.policy()
    sampled = fidelity_samples.sample(policy, PROBLEMS, SETTINGS, cell(positions=2, candidates=3))
    assert len(sampled.positions) > 4
    for entry in sampled.positions:
        response = sampled.responses[entry.number]
        text = policy.prompt_ids(PROBLEMS[entry.number].messages) + response[: entry.position]
        logits = policy.model(input_ids=torch.tensor([text])).logits[0, -1, : policy.vocab_size]
        assert logits.softmax(-1).max() <= 0.9
        assert entry.candidates == logits.topk(3).indices.tolist()
    counts = np.bincount([entry.number for entry in sampled.positions])
    assert counts.max() == 2


@pytest.mark.slow
def test_candidate_is_right_if_greedy_completion_is(graded):
    policy = toys.policy()
    sampled = fidelity_samples.sample(policy, PROBLEMS, SETTINGS, cell(positions=3, candidates=3))
    seen = set()
    for entry in sampled.positions:
        prompt = policy.prompt_ids(PROBLEMS[entry.number].messages)
        for token, is_right in zip(entry.candidates, entry.is_right, strict=True):
            begin = [*sampled.responses[entry.number][: entry.position], token]
            left = SETTINGS.max_new_tokens - len(begin)
            response = begin
            if token not in policy.eos_ids and left:
                ids = torch.tensor([prompt + begin])
                greedy = policy.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=left,
                    eos_token_id=policy.eos_ids,
                    pad_token_id=policy.eos_ids[0],
                )
                response = greedy[0, len(prompt) :].tolist()
            expected = parity(PROBLEMS[0], policy.decode(response), response[-1] in policy.eos_ids).correct
            assert is_right == expected
            seen.add(is_right)
    assert seen == {True, False}


def test_end_token_completes_a_response(graded):
    policy = toys.policy()
    end = policy.eos_ids[0]
    (verdict,) = fidelity_samples.completion_verdicts(policy, PROBLEMS, [(0, [7, end])], 9)
    assert verdict == parity(PROBLEMS[0], policy.decode([7]), True).correct


def test_quality_ranks_responses_by_their_rewards(graded):
    policy, reward = toys.policy(), toys.reward("classifier")
    sampled = fidelity_samples.sample(policy, PROBLEMS, SETTINGS, cell(positions=1, candidates=2))
    assert [row[0] for row in sampled.ranked] == sampled.responses
    assert all(len({tuple(tokens) for tokens in row}) > 1 for row in sampled.ranked)
    wins = []
    for problem, row, verdicts in zip(PROBLEMS, sampled.ranked, sampled.verdicts, strict=True):
        scores, _ = scoring.rewards(reward, [reward.prompt_ids(problem.messages)] * fidelity_samples.RANKED, row)
        sides = [[score for score, right in zip(scores, verdicts, strict=True) if right == side] for side in (1, 0)]
        if all(sides):
            wins.append(np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(*sides)]))
    assert fidelity.quality(reward, sampled).auc_within == pytest.approx(np.mean(wins))


def test_no_beginning_needs_no_verdict():
    assert fidelity_samples.completion_verdicts(toys.policy(), PROBLEMS, [], 9) == []


def test_spread_positions_are_even_and_distinct():
    assert fidelity_samples.spread([3, 5], 4) == [3, 5]
    assert fidelity_samples.spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert fidelity_samples.spread([1, 2, 9], 1) == [1]


def command(results: Path, *more: str) -> list[str]:
    return [
        "fidelity",
        f"policy.path={toys.model_folder('qwen2')}",
        "policy=tiny-base",
        f"reward.path={toys.model_folder('llama', classifier=True, seed=7)}",
        *("reward=classifier", "reward.kind=classifier"),  # one choice: composing all of them takes seconds
        "task=products",
        "num_problems=4",
        "max_new_tokens=6",
        "threads=1",
        f"results_dir={results}",
        *more,
    ]


@pytest.mark.slow
def test_given_reward_is_measured_once_per_policy_and_task():
    overrides = ["reward.path=some/folder", "reward.kind=classifier", "task=products"]
    typed = Command(find("fidelity"), tuple(overrides))
    cells = fidelity.distinct_cells(typed, compose_sweeps("fidelity", overrides))
    assert [(c.policy.name, c.task.name) for c in cells] == [("tiny-base", "products"), ("tiny-instruct", "products")]
    assert {fidelity.label(c.reward, typed, "reward") for c in cells} == {"folder"}
    assert [fidelity.label(c.policy, typed, "policy") for c in cells] == ["tiny-base", "tiny-instruct"]


def test_reward_in_the_current_folder_has_the_name_of_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    (tmp_path / "linked").symlink_to(tmp_path / "mine")
    reward = cell().reward
    for path, name in ((".", "mine"), ("inner/..", "mine"), (f"{tmp_path}/linked", "linked"), ("owner/name", "name")):
        typed = Command(find("fidelity"), (f"reward.path={path}",))
        assert fidelity.label(reward.model_copy(update={"path": path}), typed, "reward") == name


@pytest.mark.parametrize("words", [["policy.path=/models/all"], ["policy.name=all"], ["task.name=all"]])
def test_name_of_the_rows_over_all_is_refused(tmp_path: Path, capsys, words: list[str]):
    task = ["task=gsm8k", f"task.path={ROOT / 'README.md'}"] if "task" in words[0] else ["task=products"]
    given = ["fidelity", "policy=tiny-base", "reward=classifier", *task, *words]
    assert main([*given, f"results_dir={tmp_path / 'results'}"]) == 2
    group = words[0].partition(".")[0]
    assert f"a {group} must not be called 'all', which names the rows over all" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_default_command_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without any override; the rows are those that are kept, since measuring them takes minutes."""
    kept = pd.read_csv(ROOT / "figures/data/fidelity.csv").astype(object).where(lambda table: table.notna(), None)
    monkeypatch.setattr(fidelity, "measured_rows", lambda cells, command: kept.to_dict("records"))
    sweeps = compose_sweeps("fidelity", ["policy=tiny-base", "reward=classifier", f"results_dir='{tmp_path}'"])
    assert fidelity.run(Command(find("fidelity"), ()), sweeps) == 0
    assert (tmp_path / "tiny" / "fidelity" / "fidelity.png").is_file()


@pytest.mark.slow
def test_command_repeats_its_bytes_and_names_given_models(tmp_path: Path, capsys):
    tables = []
    for name in ("a", "b"):
        assert main(command(tmp_path / name)) == 0
        folder = tmp_path / name / "tiny" / "fidelity"
        assert set(fidelity.FILES) <= {path.name for path in folder.iterdir()}
        tables.append((folder / "table.csv").read_bytes())
    assert tables[0] == tables[1]
    table = pd.read_csv(folder / "table.csv")
    assert set(table.reward) == {Path(toys.model_folder("llama", classifier=True, seed=7)).name}
    assert set(table.form) == set(REWARD_FORMS)
    assert (table.policy != "tiny-base").all(), "the table must not call the given folder tiny-base"
    assert table[table.policy == "all"].num_positions.max() > 0
    assert "Rule: at positions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=0,1", "one seed"),
        ("method=greedy", "confidence gate"),
        ("candidates=1", "candidates must be"),
        ("positions=0", "positions must be"),
        ("positions=null", "positions must be a whole number; got null"),
        ("candidates=1000", "the vocabulary; got 1000"),
        ("max_new_tokens=100000", "context"),
        ("method.max_new_tokens=600", "context of 256"),
        ("reward.path=SHORT", "context of 16 tokens"),
    ],
)
def test_wrong_settings_exit_2_and_write_nothing(setting: str, message: str, tmp_path: Path, capsys):
    short = shutil.copytree(toys.model_folder("llama", classifier=True, seed=7), tmp_path / "short")
    values = json.loads((short / "config.json").read_text("utf-8"))
    (short / "config.json").write_text(json.dumps(values | {"max_position_embeddings": 16}), encoding="utf-8")
    setting = setting.replace("SHORT", str(short))
    tmp_path = tmp_path / "results"
    words = [word for word in command(tmp_path) if word.split("=")[0] != setting.split("=")[0]]
    assert main([*words, setting]) == 2
    assert message in capsys.readouterr().err
    assert not tmp_path.exists()


@pytest.mark.slow
def test_grid_has_every_reward_of_the_scale_for_every_policy_and_task():
    cells = compose_cells(["experiment=fidelity"])
    rewards = [name for name in choices("reward") if name.startswith(("likelihood", "classifier", "verifier"))]
    assert {c.reward.name for c in cells} == set(rewards)
    assert len(cells) == len(rewards) * 2 * 3


@pytest.mark.slow
def test_shipped_rewards_are_faithful_in_prefix_form(tmp_path: Path):
    overrides = ["reward=classifier,likelihood", "policy=tiny-base", "task=chain_sum", f"results_dir={tmp_path}"]
    assert main(["fidelity", *overrides, "num_problems=8"]) == 0
    table = pd.read_csv(tmp_path / "tiny" / "fidelity" / "table.csv")
    pooled = table[(table.policy == "all") & (table.part == "all")].set_index(["reward", "form"])
    correlation = pooled.rank_correlation
    assert correlation["likelihood", "prefix"] == pytest.approx(1)
    assert correlation["classifier", "prefix"] > correlation["classifier", "outcome"] + 0.2
    assert (pooled.auc_within > 0.8).all()
    assert pooled.right_exact["likelihood", "prefix"] > pooled.right_random["likelihood", "prefix"] + 20
