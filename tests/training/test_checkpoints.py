"""Checkpoints whose writing is interrupted, damaged ones, and logs that a kill cut."""

import tempfile

import pytest
import torch
import toys
import transformers

from nabla_reasoner.training import loop
from nabla_reasoner.training.checkpoints import AtomicCheckpoints, read_checkpoint, read_log
from nabla_reasoner.training.data import Example, Mixture


class Unwritable:
    """An object during whose writing the disk fills up."""

    def __reduce__(self):
        raise OSError(28, "No space left on device")


ITEMS = {"a": [Example("a", [2, 10 + i], [40 + i, 1]) for i in range(4)]}


def model():
    return transformers.AutoModelForCausalLM.from_pretrained(toys.model_folder("llama"))


def train(folder):
    module = loop.LanguageModelTraining(model(), loop.Schedule(3, 1e-3, warmup_steps=2), 280)
    loop.fit(module, Mixture(ITEMS, {"a": 2}, 0), device="cpu", folder=str(folder), name="m", identity={}, interval=2)


def test_failed_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # another disk takes no part
    path = tmp_path / "state" / "m.ckpt"
    writer = AtomicCheckpoints()
    writer.save_checkpoint({"step": 1, "weights": torch.ones(1000)}, path)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"step": 2, "weights": torch.ones(1000), "last": Unwritable()}, path)
    assert read_checkpoint(path)["step"] == 1
    writer.save_checkpoint({"step": 3}, path)
    assert [file.name for file in path.parent.iterdir()] == ["m.ckpt"]


@pytest.mark.parametrize("cut", [0, 4, 31, 35])
def test_log_of_a_killed_training_is_read_up_to_the_cut(tmp_path, cut):
    """The killed training wrote steps 0 and 1, or less; the resumed one logs step 1 again."""
    killed, resumed = "step,train/loss,x\n0,1.5,\n1,1.25,3\n", "step,train/loss\n1,1.25\n2,0.5\n"
    for version, text in ((0, killed[:cut]), (1, resumed)):
        (tmp_path / f"version_{version}").mkdir()
        (tmp_path / f"version_{version}" / "metrics.csv").write_text(text, encoding="utf-8")
    rows = read_log(tmp_path)
    expected = {0: "1.5", 1: "1.25", 2: "0.5"} if cut > 25 else {1: "1.25", 2: "0.5"}
    assert rows["train/loss"].to_dict() == expected


def test_training_writes_checkpoints_beside_their_place(tmp_path, monkeypatch):
    toys.model_folder("llama")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    train(tmp_path)
    assert read_checkpoint(tmp_path / "state" / "m.ckpt")["global_step"] == 2


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_checkpoint_is_refused_by_name(tmp_path, share):
    train(tmp_path)
    path = tmp_path / "state" / "m.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"m\.ckpt must be a complete checkpoint.*Delete it to train from"):
        train(tmp_path)
