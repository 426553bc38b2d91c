"""Complete runs whose continuations a server samples: faults, records, the engines' difference, refusals."""

import json
from pathlib import Path

import pytest
import toys
from fake_server import FakeServer
from toy_runs import command, records_below

from nabla_reasoner import Policy, RewardModel
from nabla_reasoner.__main__ import WRONG, main
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.evaluation import rollout_engine
from nabla_reasoner.evaluation.records import append_records, read_records
from nabla_reasoner.experiments.command import FAILED
from nabla_reasoner.serving import client
from nabla_reasoner.serving.mismatch import Mismatch


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(client, "PAUSE", 0.001)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.from_pretrained(toys.model_folder("qwen2"))


@pytest.fixture(scope="module")
def reward() -> Policy:
    """Return the model of the reward that `toy_runs.command` names."""
    return RewardModel.from_pretrained(toys.model_folder("llama", seed=7), kind="likelihood").strong


def served(results: Path, server: FakeServer, *more: str) -> list[str]:
    return command(results, "rollouts=vllm", f"server={server.url}", *more)


def is_check(body: dict) -> bool:
    """Return whether a request belongs to the comparison before the run."""
    return body["seed"] == 0 and body["temperature"] == 0


@pytest.mark.slow
def test_greedy_records_equal_those_of_hugging_face(policy, tmp_path: Path):
    assert main(command(tmp_path / "hf", "method=greedy")) == 0
    assert not list((tmp_path / "hf").rglob("*.engines.*")), "nothing is written without a server"
    assert "engines" not in json.loads((tmp_path / "hf/tiny/table1/summary.json").read_text("utf-8"))
    with FakeServer(policy) as server:
        assert main(served(tmp_path / "vllm", server, "method=greedy")) == 0
        asked = len(server.bodies)
        assert main(served(tmp_path / "vllm", server, "method=greedy")) == 0
        assert len(server.bodies) == asked, "a complete cell asks for nothing"
    (own,) = (tmp_path / "hf").rglob("*__s0.jsonl")
    path = tmp_path / "vllm" / own.relative_to(tmp_path / "hf")
    records = [{**record, "cost": None} for record in read_records(own)]
    for record, other in zip(records, read_records(path), strict=True):
        assert (other["response"], other["reward"], other["correct"]) == (
            record["response"],
            record["reward"],
            record["correct"],
        )
    summary = json.loads((tmp_path / "vllm/tiny/table1/summary.json").read_text("utf-8"))
    runs = summary["invocations"]
    assert runs[0]["engines"]["servers"][0]["version"] == "fake"
    for run in runs:
        assert run["engines"]["tokens_compared"] > 0
        assert run["engines"]["largest_log_prob_difference"] < 1e-4
    lines = [json.loads(line) for line in path.with_suffix(".engines.ndjson").read_text("utf-8").splitlines()]
    assert [problem for line in lines for problem in line["problems"]] == [r["problem_id"] for r in read_records(path)]
    assert json.loads(path.with_suffix(".settings.json").read_text("utf-8"))["rollouts"] == "vllm"


@pytest.mark.slow
def test_server_killed_in_a_batch_leaves_failed_records_and_keeps_the_others(policy, tmp_path: Path, capsys):
    def fault(body, number):
        return "killed" if number == 4 + 3 else None  # after the check, in the second chunk of two

    with FakeServer(policy, fault) as server:
        assert main(served(tmp_path, server, "method=greedy")) == FAILED
    records = read_records(next(tmp_path.rglob("*__s0.jsonl")))
    assert [record["status"] for record in records] == ["ok", "ok", "failed", "failed", "failed"]
    for record in records[2:]:
        assert record["error"].startswith(f"ServerError: {server.url}, attempt")
        assert (record["response"], record["extracted"], record["correct"]) == ("", None, False)
    assert "3 problems failed" in capsys.readouterr().err


REASONS = {
    "500": "HTTP 500 (The answer is 42. Engine died)",
    "400": "HTTP 400 (The answer is 42. Engine died)",
    "truncated": "bytes that are no whole JSON text",
    "vocabulary": "outside the policy's vocabulary",
    "late": "no answer in time",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k == "late" else ()) for k in REASONS])
def test_fault_of_one_problem_fails_that_problem_alone_and_its_text_is_not_graded(policy, tmp_path: Path, kind):
    poisoned: list[list[int]] = []

    def fault(body, number):
        if not is_check(body) and not poisoned:
            poisoned.append(body["prompt"])
        return kind if not is_check(body) and body["prompt"] in poisoned else None

    with FakeServer(policy, fault) as server:
        server.delay = 60
        words = ["method=nabla_reasoner", "method.max_rollouts=1", f"server_timeout={2 if kind == 'late' else 60}"]
        assert main(served(tmp_path, server, *words)) == FAILED
    records = read_records(next(tmp_path.rglob("*__s0.jsonl")))
    failed = [record for record in records if record["status"] == "failed"]
    assert len(records) == 5
    assert len(failed) == 1
    assert REASONS[kind] in failed[0]["error"]
    assert (failed[0]["response"], failed[0]["extracted"], failed[0]["correct"]) == ("", None, False)


@pytest.mark.slow
def test_server_that_comes_back_with_another_model_answers_nothing(policy, tmp_path: Path):
    with FakeServer(policy) as server:

        def fault(body, number):
            server.models = ["served"] if number < 4 + 3 else ["another"]  # from the second chunk of two on

        server.fault = fault
        assert main(served(tmp_path, server, "method=greedy")) == FAILED
    records = read_records(next(tmp_path.rglob("*__s0.jsonl")))
    assert [record["status"] for record in records] == ["ok", "ok", "failed", "failed", "failed"]
    assert all("HTTP 404 (The model `served` does not exist.)" in record["error"] for record in records[2:])


@pytest.mark.parametrize("damage", [b'{"repeat": 0, "prob', b"\0\0\0\0", b"null", b"{}", b'{"tokens": "5"}', b"\xff"])
def test_damaged_line_of_what_engines_compared_is_left_out_by_name(tmp_path: Path, capsys, damage: bytes):
    file = tmp_path / "cell.engines.ndjson"
    line = {"repeat": 0, "problems": ["p0"], "model": "policy", **Mismatch(3, 0.5, 0.25)._asdict(), "retries": 0}
    append_records(file, [line])
    before = rollout_engine._mismatch_lines(file)
    assert before[0]["tokens"] == 3
    file.write_bytes(file.read_bytes() + damage)
    assert rollout_engine._mismatch_lines(file) == before
    assert f"{file}, line 2 is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_passing_faults_change_no_record(policy, tmp_path: Path):
    kinds = ["truncated", "500", "vocabulary", "cut", "no choices"]
    narrow = ("method=self_consistency", "method.num_samples=2", "num_problems=2")
    with FakeServer(policy) as server:
        assert main(served(tmp_path / "whole", server, *narrow)) == 0
        first = sorted(json.dumps(body, sort_keys=True) for body in server.bodies)
    with FakeServer(policy, lambda body, number: kinds[number // 2 % 5] if number % 2 else None) as server:
        assert main(served(tmp_path / "faulty", server, *narrow)) == 0
        assert sorted({json.dumps(body, sort_keys=True) for body in server.bodies}) == sorted(set(first))
    assert records_below(tmp_path / "whole") == records_below(tmp_path / "faulty")
    retries = json.loads(next((tmp_path / "faulty").rglob("summary.json")).read_text("utf-8"))["engines"]["retries"]
    assert retries > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["method=guided_decoding"], ["guided_decoding", "rollouts=hf", "best_of_n", "nabla_reasoner"]),
        (["method=greedy", "policy=tiny-base,tiny-instruct"], ["serves one policy", "server_python"]),
        (["method=greedy", "max_new_tokens=100"], ["max_model_len=20", "--max-model-len"]),
        (["method=greedy", f"policy.path={toys.model_folder('qwen2', seed=1)}"], ["wrong model behind", "log-prob"]),
    ],
)
def test_wrong_combination_is_refused_and_nothing_is_written(policy, tmp_path: Path, capsys, settings, words):
    with FakeServer(policy, max_model_len=20 if "max_new_tokens=100" in settings else 256) as server:
        asked = served(tmp_path / "results", server)
        if any(word.startswith("policy=") for word in settings):
            asked = [word for word in asked if not word.startswith(("policy=", "policy.path="))]
        assert main([*asked, *settings]) == WRONG
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for word in words:
        assert word in message
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize("own_rollouts", [True, False])
def test_rewards_of_a_server_give_the_records_of_hugging_faces_scores(policy, reward, tmp_path: Path, own_rollouts):
    narrow = ("method=best_of_n,nabla_reasoner", "num_problems=2", "max_new_tokens=4")
    with FakeServer(policy) as sampler, FakeServer(reward) as scorer:
        sampling = [] if own_rollouts else ["rollouts=vllm", f"server={sampler.url}"]
        assert main(command(tmp_path / "hf", *narrow, *sampling)) == 0
        assert main(command(tmp_path / "vllm", *narrow, *sampling, f"reward_server={scorer.url}")) == 0
        asked = len(scorer.bodies)
        assert asked > 4
        assert all(body["prompt_logprobs"] == 1 for body in scorer.bodies)
        assert main(command(tmp_path / "vllm", *narrow, *sampling, f"reward_server={scorer.url}")) == 0
        assert len(scorer.bodies) == asked, "a complete cell asks for nothing"
    for path in (tmp_path / "hf").rglob("*__s0.jsonl"):
        other = tmp_path / "vllm" / path.relative_to(tmp_path / "hf")
        for record, served_record in zip(read_records(path), read_records(other), strict=True):
            assert (served_record["response"], served_record["status"]) == (record["response"], "ok")
            assert served_record["reward"] == pytest.approx(record["reward"], abs=1e-3)
        lines = [json.loads(line) for line in other.with_suffix(".engines.ndjson").read_text("utf-8").splitlines()]
        assert {line["model"] for line in lines} == {"reward"} | (set() if own_rollouts else {"policy"})
        assert json.loads(other.with_suffix(".settings.json").read_text("utf-8"))["reward_scores"] == "vllm"
    engines = json.loads((tmp_path / "vllm/tiny/table1/summary.json").read_text("utf-8"))["invocations"][0]["engines"]
    assert engines["reward_scores"]["tokens_compared"] > 0
    assert engines["reward_scores"]["largest_log_prob_difference"] < 1e-4
    assert ("tokens_compared" in engines) is not own_rollouts
    assert [server["check"]["tokens_compared"] for server in engines["servers"] if "reward" in server] == [2 * 16]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["rollouts", "rewards"])
def test_server_that_comes_back_with_another_model_of_the_name_fails_the_problems(what, policy, reward, tmp_path: Path):
    """The difference stood in the summary alone, and status and records said ok."""
    if what == "rollouts":
        before, after = policy, toys.policy(dtype="float32", seed=99)
        words = ["rollouts=vllm", "method=greedy", "server="]
    else:
        before, after = reward, Policy.from_pretrained(toys.model_folder("llama", seed=70))
        words = ["method=best_of_n", "method.num_samples=4", "pool_seeds=0", "reward_server="]

    def swap(body, number):
        if number == 4 + 1:  # after the check
            server.policy, server.sampler = after, Policy(after.model, after.tokenizer, after.name, eos_ids=[])

    with FakeServer(before, swap) as server:
        assert main(command(tmp_path, *words[:-1], f"{words[-1]}{server.url}")) == FAILED
    (path,) = tmp_path.rglob("*__s0.jsonl")
    records = read_records(path)
    assert {record["status"] for record in records} == {"failed"}
    assert all("wrong model behind" in record["error"] for record in records)


@pytest.mark.slow
def test_scoring_server_killed_in_a_batch_leaves_failed_records_and_keeps_the_others(reward, tmp_path: Path):
    def fault(body, number):
        return "killed" if number == 4 + 3 else None  # after the check, in the second chunk of two

    with FakeServer(reward, fault) as server:
        words = ["method=best_of_n", "method.num_samples=1", f"reward_server={server.url}"]
        assert main(command(tmp_path, *words)) == FAILED
    records = read_records(next(path for path in tmp_path.rglob("*__s0.jsonl") if "budget" not in str(path)))
    assert [record["status"] for record in records] == ["ok", "ok", "failed", "failed", "failed"]
    for record in records[2:]:
        assert record["error"].startswith(f"ServerError: {server.url}, attempt")
        assert (record["response"], record["reward"], record["correct"]) == ("", None, False)


def test_reward_of_one_name_with_a_model_for_each_task_is_refused(capsys):
    """The first task was run, and the second ended with "wrong model"."""
    words = ["scale=small", "policy=smollm2", "reward=smollm2", "method=best_of_n", "reward_server=http://127.0.0.1:9"]
    with pytest.raises(ValueError, match="reward_server serves one reward; got smollm2"):
        rollout_engine.check_cells(compose_cells(["experiment=table1", *words]))
    assert main(["plan", "table1", *words]) == WRONG
    assert "reward_server serves one reward; got smollm2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["reward=classifier"], ["reward_server needs a likelihood reward without a reference", "classifier"]),
        (
            ["reward=likelihood,likelihood-weak"],
            ["reward_server serves one reward; got likelihood of products, likelihood-"],
        ),
        (["max_new_tokens=100"], ["max_model_len=70", "--max-model-len"]),
        ([f"reward.path={toys.model_folder('llama', seed=8)}"], ["wrong model behind", "log-likelihood"]),
    ],
)
def test_wrong_server_of_a_reward_is_refused_and_nothing_is_written(reward, tmp_path: Path, capsys, settings, words):
    with FakeServer(reward, max_model_len=70) as server:
        asked = command(tmp_path / "results", "method=best_of_n", f"reward_server={server.url}")
        if settings[0].startswith("reward="):
            asked = [word for word in asked if not word.startswith("reward")] + [f"reward_server={server.url}"]
        if "," in settings[0]:
            asked[0] = "table2"  # other tables take one reward
        assert main([*asked, *settings]) == WRONG
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for word in words:
        assert word in message
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["reward_server=http://127.0.0.1:9"], ["a server must be reachable"]),
        (["reward_server=here"], ["reward_server must be text like"]),
        (["rollouts=vllm"], ["server=URL", "server_python=PYTHON", "neither"]),
        (
            ["rollouts=vllm", "server_python=p", "server_arguments='--dtype x --port 8000'"],
            ["got --port", "server=URL"],
        ),
        (["rollouts=vllm", "server_python=p", "server_arguments='--api-key=SECRET'"], ["got --api-key."]),
        (["rollouts=vllm", "server_python=p", "server_arguments='--hf-token=SECRET'"], ["got --hf-token.", "HF_TOKEN"]),
        (["rollouts=vllm", "server=http://me:SECRET@127.0.0.1:9"], ["without user name and password"]),
        (["rollouts=vllm", "server='http://127.0.0.1:9?key=SECRET'"], ["without '?' and '#'", "http://127.0.0.1:9."]),
        (["reward_server='http://127.0.0.1:9/#SECRET'"], ["reward_server must be an address without '?'"]),
        (
            ["rollouts=vllm", "server_python=p", "server_arguments='\"a'"],
            ["server_arguments must be words as in a shell"],
        ),
        (["rollouts=vllm", "server_python=p", "server_arguments='\"--port\" 9'"], ["got --port."]),
        (["reward_server=http://SECRET@127.0.0.1:9"], ["reward_server must be without user name and password"]),
        (["rollouts=vllm", "server=http://127.0.0.1:9", "server_python=python"], ["both"]),
        (["server=http://127.0.0.1:9"], ["rollouts must be vllm"]),
        (["rollouts=vllm", "server=here"], ["server must be text like"]),
        (["rollouts=tgi"], ["rollouts must be one of 'hf', 'vllm'"]),
        (["rollouts=vllm", "server=http://127.0.0.1:9"], ["must be reachable"]),
        (["rollouts=vllm", "server_python=/no/python"], ["server_python must be the Python", "cannot be run"]),
        (["rollouts=vllm", "server_python=a", "server_requests=0"], ["server_requests must be a whole number >= 1"]),
    ],
)
def test_wrong_setting_is_refused_in_one_line(tmp_path: Path, capsys, settings, words):
    assert main(command(tmp_path / "results", "method=greedy", *settings)) == WRONG
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in message
    assert "SECRET" not in message
    assert not (tmp_path / "results").exists()


def test_target_that_takes_no_server_says_so(tmp_path: Path, capsys):
    settings = ["rollouts=vllm", "server=http://127.0.0.1:9", f"results_dir={tmp_path}", "num_problems=1"]
    assert main(["figure2", *settings]) != 0
    assert "rollouts must be hf for this target" in capsys.readouterr().err
    assert main(["figure2", "reward_server=http://127.0.0.1:9", *settings[2:]]) != 0
    assert "reward_server must be left out for this target" in capsys.readouterr().err


@pytest.mark.slow
def test_solve_takes_a_server(policy, tmp_path: Path, capsys):
    with FakeServer(policy) as server:
        words = served(tmp_path, server, "method=best_of_n", "method.num_samples=2")
        settings = [word for word in words[1:] if not word.startswith(("num_problems", "batch_size"))]
        assert main(["solve", "1+2?", *settings]) == 0
        assert len(server.bodies) > 3
    assert "best_of_n" in capsys.readouterr().out
