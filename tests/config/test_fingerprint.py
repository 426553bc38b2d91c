"""A fingerprint changes with every byte that decides the records, and is computed once per file."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from nabla_reasoner.config import compose, fingerprint, sweeps
from nabla_reasoner.config.cell import Cell
from nabla_reasoner.config.parts import MethodSettings
from nabla_reasoner.config.schema import CONFIGS, SHIPPED_METHODS
from nabla_reasoner.evaluation import cell_records

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def flip_byte(file: Path, position: int) -> None:
    """Change one byte; size and, as a copying tool would, time stay as they were up to a microsecond."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))


@pytest.mark.parametrize(
    ("file", "share"),
    [
        ("model.safetensors", 0.5),
        ("model.safetensors", 0.999),
        ("chat_template.jinja", 0.5),
        ("tokenizer.json", 0.5),
        ("tokenizer_config.json", 0.5),
        ("config.json", 0.5),
    ],
)
def test_one_changed_byte_changes_the_digest(tmp_path, file, share):
    folder = Path(shutil.copytree(ASSETS / "rewards" / "classifier", tmp_path / "model"))
    assert (folder / "model.safetensors").stat().st_size > 2**22  # the middle is neither in the first nor the last MiB
    before = fingerprint.folder_digest(str(folder))
    assert fingerprint.folder_digest(str(folder)) == before
    flip_byte(folder / file, int((folder / file).stat().st_size * share))
    assert fingerprint.folder_digest(str(folder)) != before


@pytest.mark.parametrize(
    "file", ["merges.txt", "tokenizer.model", "additional_chat_templates/rag.jinja", "model-00002.safetensors"]
)
def test_added_or_renamed_file_changes_the_digest(tmp_path, file):
    folder = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "model"))
    before = fingerprint.folder_digest(str(folder))
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("x")
    after = fingerprint.folder_digest(str(folder))
    (folder / file).rename((folder / file).with_stem("other"))
    assert len({before, after, fingerprint.folder_digest(str(folder))}) == 3


def test_weights_behind_a_link_to_a_folder_count(tmp_path):
    """Transformers reads them; records of two models stood in one file."""
    folder = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "model"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "model.safetensors", elsewhere / "model.safetensors")
    (folder / "shards").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "shards/model.safetensors"}}')
    digests = [fingerprint.folder_digest(str(folder)), fingerprint.data_digest(str(folder))]
    flip_byte(elsewhere / "model.safetensors", 5000)
    changed = [fingerprint.folder_digest(str(folder)), fingerprint.data_digest(str(folder))]
    assert all(before != after for before, after in zip(digests, changed, strict=True))


def test_digest_depends_on_content_not_on_place_or_notes(tmp_path):
    first = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "a"))
    second = Path(shutil.copytree(first, tmp_path / "b"))
    (second / "README.md").write_text("notes")
    (second / ".lock").touch()
    assert fingerprint.folder_digest(str(first)) == fingerprint.folder_digest(str(second))
    assert fingerprint.folder_digest("owner/hub-name") is None


def test_merged_weights_count_by_their_origin_unless_edited(tmp_path):
    folder = Path(shutil.copytree(ASSETS / "rewards" / "classifier", tmp_path / "model"))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    flip_byte(other / "model.safetensors", 5000)  # as merged on another processor
    for merged, origin in ((folder, "a"), (other, "a")):
        weights = hashlib.sha256((merged / "model.safetensors").read_bytes()).hexdigest()
        content = {"origin": {"adapter": origin}, "weights": {"model.safetensors": weights}}
        (merged / fingerprint.MERGED).write_text(json.dumps(content))
    same = fingerprint.folder_digest(str(folder))
    assert fingerprint.folder_digest(str(other)) == same
    flip_byte(other / "model.safetensors", 6000)
    assert fingerprint.folder_digest(str(other)) != same
    (folder / fingerprint.MERGED).write_text((folder / fingerprint.MERGED).read_text().replace('"a"', '"b"'))
    assert fingerprint.folder_digest(str(folder)) != same


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b'{"origin": {"ba', b"[]", b'"text"', b'{"weights": null}', b'{"weights": []}', b"\xff\xfe"],
)
def test_damaged_note_of_a_merge_is_one_error_that_names_it(tmp_path, content):
    folder = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "model"))
    (folder / fingerprint.MERGED).write_bytes(content)
    with pytest.raises(ValueError, match="Remove this file") as caught:
        fingerprint.folder_digest(str(folder))
    assert str(folder / fingerprint.MERGED) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_file_is_read_once(tmp_path, monkeypatch):
    folder = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "a"))
    fingerprint.folder_digest(str(folder))
    monkeypatch.setattr(fingerprint.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    fingerprint.folder_digest(str(folder))


def test_every_keyword_of_a_method_is_part_of_the_fingerprint():
    """A sweep over `size` of an own method ran its first value only, and records of two sizes were joined."""
    (cell,) = compose.compose_cells(["policy=tiny-base", "task=products", "method=greedy"])
    names = ("size", "base", "training", "parameters", "revision", "manifest", "paper", "prepare")
    method = MethodSettings.model_validate({**cell.method.content(), **dict.fromkeys(names, 3)})
    assert set(names) <= set(method.keywords())
    made = fingerprint.fingerprint(cell.changed(method=method))["method"]
    assert made == {"name": "greedy", **method.keywords()}


def test_class_of_an_own_method_is_part_of_the_fingerprint():
    """Records of two algorithms stood in one file, and of a sweep over classes the first one was run only."""
    assert {path.stem for path in (CONFIGS / "method").glob("*.yaml")} >= SHIPPED_METHODS.keys()
    words = ["policy=tiny-base", "task=products", "method=best_of_n", "seed=0"]
    (shipped,) = compose.compose_cells(words)
    assert "class" not in fingerprint.fingerprint(shipped)["method"], "its name says it, as in older records"
    classes = ("nabla_reasoner.BestOfN", "nabla_reasoner.SelfConsistency")
    words = ["experiment=table1", *words, "method.name=mine", f"method._target_={','.join(classes)}"]
    old, new = map(fingerprint.fingerprint, compose.compose_cells(words))
    assert fingerprint.changes(old, new) == [f"method.class: {classes[0]} -> {classes[1]}"]
    before = {**old, "method": {key: value for key, value in old["method"].items() if key != "class"}}
    assert fingerprint.changes(before, new) == [], "older records do not have it"
    content = {**shipped.method.content(), "_target_": classes[1]}
    with pytest.raises(ValueError, match=f"_target_ of best_of_n must be {classes[0]}; got {classes[1]}"):
        MethodSettings.model_validate(content)  # as of a file with another class under this name
    with pytest.raises(ValueError, match=f"differ in method._target_: {classes[0]} -> {classes[1]}"):
        sweeps.compose_sweeps("table1", words[1:])


def test_reference_model_is_part_of_the_fingerprint(tmp_path):
    (cell,) = compose.compose_cells(["policy=tiny-base", "task=products", "method=greedy"])
    reference = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "reference"))
    cell = cell.changed(reward=cell.reward.model_copy(update={"reference": str(reference)}))
    before = fingerprint.fingerprint(cell)
    flip_byte(reference / "model.safetensors", 2**19)
    changed = fingerprint.differences(before, fingerprint.fingerprint(cell))
    assert [line.partition(":")[0] for line in changed] == ["reward.reference_weights"]


def hub_cache(folder: Path, kind: str, name: str, commits: list[str], main: str | None) -> None:
    """Lay out a cache of the hub: a snapshot per commit, the last one written last, and the branch main."""
    place = folder / f"{kind}--{name.replace('/', '--')}"
    for number, commit in enumerate(commits):
        (place / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        os.utime(place / "snapshots" / commit, ns=(number * 10**9, number * 10**9))
    if main is not None:
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(main)


def hub_cell() -> Cell:
    words = ["policy=tiny-base", "policy.path=owner/policy", "task=math500", "method=greedy", "num_problems=4"]
    (cell,) = compose.compose_cells(words)
    return cell


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_commit_of_a_hub_name_is_part_of_the_fingerprint(cache: Path):
    unknown = fingerprint.fingerprint(hub_cell())
    hub_cache(cache, "models", "owner/policy", ["aaa", "bbb"], main="aaa")
    hub_cache(cache, "datasets", "HuggingFaceH4/MATH-500", ["ddd", "eee"], main=None)
    first = fingerprint.fingerprint(hub_cell())
    assert (first["policy"]["weights"], first["task"]["commit"]) == ("aaa", "eee")
    assert not fingerprint.differences(*fingerprint.without_unknown_versions(unknown, first))
    hub_cache(cache, "models", "owner/policy", [], main="bbb")
    second = fingerprint.fingerprint(hub_cell())
    changed = fingerprint.differences(*fingerprint.without_unknown_versions(first, second))
    assert changed == ["policy.weights: aaa -> bbb"]


def test_branch_without_its_files_is_not_the_version(cache: Path):
    """The files of the branch's commit were removed, or their download was cut off."""
    hub_cache(cache, "models", "owner/policy", ["aaa"], main="ccc")
    assert fingerprint.model_version("owner/policy") == "aaa"
    assert fingerprint.model_version("owner/another") is None


def test_changed_file_of_a_local_data_set_changes_the_fingerprint(cache: Path, tmp_path: Path):
    """Its rows are other questions under the same ids."""
    file = tmp_path / "data" / "main" / "test.jsonl"
    file.parent.mkdir(parents=True)
    versions = []
    for row in ('{"problem": "1 + 1?", "answer": "2"}', '{"problem": "7 + 7?", "answer": "14"}'):
        file.write_text(row + "\n", encoding="utf-8")
        words = [f"task.hub.repository={tmp_path / 'data'}", "policy=tiny-base", "task=math500", "method=greedy"]
        (cell,) = compose.compose_cells([*words, "num_problems=1"])
        versions.append(fingerprint.fingerprint(cell))
    (changed,) = fingerprint.differences(*versions)
    assert changed.startswith("task.commit: ")


def test_records_of_another_commit_are_refused(cache: Path, tmp_path: Path, monkeypatch):
    hub_cache(cache, "models", "owner/policy", ["aaa", "bbb"], main="aaa")
    cell = hub_cell().changed(records=str(tmp_path), folder=str(tmp_path))
    cell_records.record_file(cell).parent.mkdir(parents=True)
    cell_records.write_settings(cell)
    monkeypatch.setattr(cell_records, "stored", lambda path: cell_records.Stored(1, 1, 0))
    cell_records.check_records(cell)
    hub_cache(cache, "models", "owner/policy", [], main="bbb")
    with pytest.raises(ValueError, match="policy.weights: aaa -> bbb"):
        cell_records.check_records(cell)


def test_device_of_the_reward_counts_where_it_changes_rounding(monkeypatch):
    monkeypatch.setattr(fingerprint, "model_version", lambda path: None)
    places = {
        (device, place): fingerprint.fingerprint(
            compose.compose_cells([f"device={device}", f"reward_device={place}"])[0]
        )
        for device, place in (("cpu", "same"), ("cpu", "cpu"), ("cuda", "same"), ("cuda", "next"), ("cuda", "cpu"))
    }
    named = {key: parts["reward_device"] for key, parts in places.items() if "reward_device" in parts}
    assert named == {("cuda", "cpu"): "cpu"}, "records made before there was a choice name no device"
    with pytest.raises(ValueError, match="reward_device=next needs device=cuda"):
        compose.compose_cells(["reward_device=next"])


@pytest.mark.parametrize(
    "key", ["threads", "devices", "batch_size", "device", "decode_rows", "tokens_per_pass", "rows"]
)
def test_where_a_cell_runs_changes_records_in_bfloat16_only(key):
    old = {"dtype": "float32", "batch_size": 20, "device": "cuda", "threads": 1, "devices": 2, "method": {"name": "a"}}
    old |= {"decode_rows": 64, "tokens_per_pass": 100, "rows": 7}
    new = {**old, key: "other"}
    assert fingerprint.changes(old, new) == []
    assert fingerprint.changes(old, {**new, "method": {"name": "b"}}) == ["method.name: a -> b"]
    rounded = fingerprint.changes({**old, "dtype": "bfloat16"}, {**new, "dtype": "bfloat16"})
    assert len(rounded) == (key in fingerprint.ROUNDING)


@pytest.mark.parametrize("key", fingerprint.LIMITS)
def test_records_made_before_limits_of_batches_were_noted_go_on(key):
    noted = {"dtype": "bfloat16", "batch_size": 20, "decode_rows": 64, "tokens_per_pass": 100}
    older = {name: value for name, value in noted.items() if name != key}
    assert fingerprint.changes(older, noted) == []
