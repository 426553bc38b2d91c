"""A fingerprint changes with every byte that decides the records, and is computed once per file."""

import os
import shutil
from pathlib import Path

import pytest

from nabla_reasoner.config import compose, fingerprint

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


def test_digest_depends_on_content_not_on_place_or_notes(tmp_path):
    first = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "a"))
    second = Path(shutil.copytree(first, tmp_path / "b"))
    (second / "README.md").write_text("notes")
    (second / ".lock").touch()
    assert fingerprint.folder_digest(str(first)) == fingerprint.folder_digest(str(second))
    assert fingerprint.folder_digest("owner/hub-name") is None


def test_each_file_is_read_once(tmp_path, monkeypatch):
    folder = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "a"))
    fingerprint.folder_digest(str(folder))
    monkeypatch.setattr(fingerprint.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    fingerprint.folder_digest(str(folder))


def test_reference_model_is_part_of_the_fingerprint(tmp_path):
    (cell,) = compose.compose_cells(["policy=tiny-base", "task=products", "method=greedy"])
    reference = Path(shutil.copytree(ASSETS / "policies" / "tiny-base", tmp_path / "reference"))
    cell = cell.changed(reward=cell.reward.model_copy(update={"reference": str(reference)}))
    before = fingerprint.fingerprint(cell)
    flip_byte(reference / "model.safetensors", 2**20)
    changed = fingerprint.differences(before, fingerprint.fingerprint(cell))
    assert [line.partition(":")[0] for line in changed] == ["reward.reference_weights"]
