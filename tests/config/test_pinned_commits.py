"""Models and data sets of the hub that are pinned to a commit: what is read, what is refused, what records keep."""

import json
from pathlib import Path

import hub_caches
import pytest
import torch
import toys
from hub_caches import in_own_process

from nabla_reasoner import Policy
from nabla_reasoner.config import fingerprint, hub_cache
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.models.tokenizers import split_commit
from nabla_reasoner.tasks import problems

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "a" * 40, "b" * 40
HUB = ["scale=paper", "policy=qwen2.5-7b", "task=math500"]


def cell(*overrides: str):
    return compose_cells([*HUB, *overrides])[0]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What one process prints of a cache with two models: sums of owner/toy's weights, tokens by owner/tiny.

    In a process of its own, as the cache's place is; it imports torch for seconds, so both tests read what it prints.
    """
    cache = tmp_path_factory.mktemp("cache")
    hub_caches.write(cache, {OLD: ROOT / "assets/policies/tiny-base"})
    tiny = (cache / "models--owner--toy").rename(cache / "models--owner--tiny")
    hub_caches.write(cache, {OLD: toys.model_folder("llama", seed=1), NEW: toys.model_folder("llama", seed=2)})
    snapshot = tiny / "snapshots" / OLD
    settings = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
    (snapshot / "config.json").write_text(json.dumps({**settings, "model_type": "qwen2"}), encoding="utf-8")
    code = (
        "from nabla_reasoner import Policy\n"
        "from nabla_reasoner.models.tokenizers import chat_ids, load_tokenizer\n"
        f"for name in ('owner/toy', 'owner/toy@{OLD}', 'owner/toy@{NEW}'):\n"
        "    print(Policy.from_pretrained(name).embedding.double().sum().item())\n"
        "question = 'Solve the following multiplication: 97 * 85. Give only the result as your final answer.'\n"
        f"for name in ('owner/tiny', 'owner/tiny@{OLD}', {str(snapshot)!r}):\n"
        "    print(chat_ids(load_tokenizer(name), [{'role': 'user', 'content': question}]))"
    )
    return in_own_process(code, cache).splitlines()


@pytest.mark.slow
def test_pinned_commit_is_what_is_loaded(printed: list[str]):
    """`main` is the newer one of two commits."""
    sums = [Policy.from_pretrained(toys.model_folder("llama", seed=s)).embedding.double().sum() for s in (2, 1, 2)]
    torch.testing.assert_close(torch.tensor(list(map(float, printed[:3]))), torch.stack(sums).float())


@pytest.mark.slow
def test_tokens_of_a_hub_name_are_those_of_its_folder(printed: list[str]):
    """AutoTokenizer would rebuild the tokenizer by the rules of Qwen2."""
    unpinned, pinned, ids = printed[3:]
    assert unpinned == pinned == ids
    assert len(ids.split()) < 20


@pytest.mark.parametrize("setting", ["policy.revision=main", "task.hub.revision=abc", f"reward.revision={OLD[1:]}"])
def test_revision_that_is_no_full_commit_is_refused(setting: str):
    with pytest.raises(ValueError, match=r"revision must be text like \^\[0-9a-f\]\{40\}\$"):
        cell(setting)


def test_revision_of_a_folder_is_refused():
    with pytest.raises(ValueError, match=r"revision must be left out for a folder.*tiny-base"):
        cell("policy.path=assets/policies/tiny-base", f"policy.revision={OLD}")


@pytest.mark.parametrize("name", ["owner/toy@main", "owner/toy@", f"owner/toy@{OLD}1"])
def test_malformed_pinned_name_is_refused(name: str):
    with pytest.raises(ValueError, match=r"must be a full commit, 40 digits 0 to f.*huggingface.co/owner/toy"):
        split_commit(name)


def test_names_without_commit_are_left_alone(tmp_path: Path):
    folder = tmp_path / "a@b"
    folder.mkdir()
    for name in ("owner/toy", str(folder), "./models/a@b", "gpt2"):
        assert split_commit(name) == (name, None)


def test_records_keep_the_commit_and_no_pin(monkeypatch):
    """A pin to the commit that the records were made with changes nothing; a pin to another one is a difference."""
    commits = {"Qwen/Qwen2.5-7B": OLD, "HuggingFaceH4/MATH-500": OLD}
    found = hub_cache.commit
    monkeypatch.setattr(hub_cache, "commit", lambda name, kind: found(name, kind) if "@" in name else commits.get(name))
    before = fingerprint.fingerprint(cell())
    same = fingerprint.fingerprint(cell(f"policy.revision={OLD}", f"task.hub.revision={OLD}"))
    assert before == same
    assert "revision" not in str(before)
    other = fingerprint.fingerprint(cell(f"policy.revision={NEW}", f"task.hub.revision={NEW}"))
    assert fingerprint.differences(before, other) == [
        f"policy.weights: {OLD} -> {NEW}",
        f"task.commit: {OLD} -> {NEW}",
    ]


def test_data_set_is_fetched_at_its_commit(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked: dict[str, str | None] = {}

    def load_dataset(repository, config, *, split, revision):
        asked[repository] = revision
        return [{"problem": "1+1?", "answer": "2"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for revision in (OLD, None):
        names = {"split": "test", "problem_field": "problem", "answer_field": "answer", "revision": revision}
        problems.load_hub("owner/data", task="math500", **names)
        assert asked == {"owner/data": revision}
