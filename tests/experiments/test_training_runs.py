"""W&B runs of trainings: written while the training runs, sent if asked for, and never the end of a training."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import command_processes
import pytest
import toys
import wandb_server
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf
from wandb_server import Server

from nabla_reasoner.__main__ import WRONG, main
from nabla_reasoner.evaluation.results_folder import locked
from nabla_reasoner.experiments import models
from nabla_reasoner.experiments.command import DONE
from nabla_reasoner.reporting import wandb_training
from nabla_reasoner.training import loop

STEPS = 4


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def train_in_process(folder: Path, mode: str, url: str, setup: str = "") -> subprocess.CompletedProcess:
    """Train a toy by GRPO in a process of its own, as a command does; it ends only when wandb lets it."""
    code = f"""
import json
from pathlib import Path
import torch
import transformers
from nabla_reasoner.models.tokenizers import load_tokenizer
from nabla_reasoner.reporting import wandb_training
from nabla_reasoner.training import grpo, loop
from nabla_reasoner.training.data import Mixture
from nabla_reasoner.types import Problem
{setup}
folder = {str(toys.model_folder("llama"))!r}
model, reference = (transformers.AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
problems = [Problem(f"p{{i}}", f"{{i}} + {{i}}", str(2 * i), "chain_sum") for i in range(4)]
module = grpo.GroupRelativeTraining(
    model, load_tokenizer(folder), loop.Schedule({STEPS}, 1e-3, warmup_steps=1), 4,
    sampling=grpo.GroupSampling(group_size=2, kl_weight=0.1, normalisation="token"), seed=0, reference=reference,
    score=lambda problems, rollouts: [float(i % 2) for i in range(len(rollouts))],
)
with loop.further_loggers(wandb_training.loggers({mode!r}, "tiny")):
    result = loop.fit(
        module, Mixture({{"chain_sum": problems}}, {{"chain_sum": 2}}, 0, collate=list), device="cpu",
        folder={str(folder)!r}, name="toy", identity={{"start": "toy"}}, interval=2, validation=[problems],
    )
print(json.dumps([result.last_step, sorted(model.state_dict()), model.get_output_embeddings().weight.sum().item()]))
"""
    done = command_processes.shared().run_code(code, wandb_server.environment(url), folder)
    assert done.returncode == 0, done.stderr
    return done


def trained(done: subprocess.CompletedProcess) -> list:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_curves_and_samples_reach_the_server_while_training(tmp_path: Path, server: Server):
    done = train_in_process(tmp_path, "online", server.url)
    (run,) = server.history
    names = {name for row in server.history[run] for name in row}
    assert {"train/loss", "train/gradient_norm", "train/reward", "train/kl", "validation/accuracy"} <= names
    losses = [row["train/loss"] for row in server.history[run] if "train/loss" in row]
    assert len(losses) == STEPS
    assert any(name.startswith("samples") for name in names)
    assert trained(done)[0] == STEPS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list:
    """Train without W&B; return the last step and the weights."""
    folder = tmp_path_factory.mktemp("disabled")
    without = train_in_process(folder, "disabled", "http://127.0.0.1:9")
    assert not (folder / "wandb").exists()
    return trained(without)


@pytest.mark.slow
@pytest.mark.parametrize("rejects", [True, False])
def test_server_that_fails_changes_no_training(tmp_path: Path, server: Server, rejects: bool, undisturbed: list):
    url = server.url
    server.rejects_keys = rejects
    if not rejects:
        server.close()
    failing = train_in_process(tmp_path, "online", url)
    assert trained(failing) == undisturbed
    assert "are written offline; send them later: wandb sync" in failing.stderr
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_error_of_wandb_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb_training, "_open", full)
    (logger,) = wandb_training.loggers("offline", "tiny")("toy", str(tmp_path), {})
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
    assert isinstance(logger, wandb_training.TrainingRun)
    logger.end()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: curves not copied to W&B any more (OSError: [Errno 28] No space left on device); "
        f"the files in {tmp_path} are complete."
    )


def test_table_that_fails_does_not_end_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    class Run(WandbLogger):
        def __init__(self):
            self.logged = []

        def log_metrics(self, metrics, step):
            self.logged.append(metrics)

        def log_text(self, *words, **tables):
            raise ValueError("no tables here")

    run = Run()
    monkeypatch.setattr(wandb_training, "_open", lambda *_: run)
    (logger,) = wandb_training.loggers("offline", "tiny")("toy", str(tmp_path), {})
    logger.log_text("samples", ["a"], [["b"]], 1)
    logger.log_metrics({"train/loss": 1.0}, 2)
    assert run.logged == [{"train/loss": 1.0}]
    assert capsys.readouterr().err.startswith("warning: samples not copied to W&B any more (ValueError: no tables")


@pytest.mark.slow
def test_second_command_on_one_folder_of_checkpoints_is_refused(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, key in (("checkpoints", "checkpoints"), (".made.lock", "folder")):
        with locked(Path(folder)):
            assert main(["models", "folder=made", "only=[tokenizer]"]) == WRONG
        said = capsys.readouterr().err
        assert f"another command writes to {folder}" in said
        assert f"choose another {key}=DIR" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_second_training_of_the_papers_size_is_refused(tmp_path: Path, monkeypatch, capsys):
    """Both trained, and each continued the other's checkpoints. A dry run writes nothing and is not refused."""
    pytest.importorskip("trl", reason="needs the extra `reference`: pip install -e '.[reference]'")
    monkeypatch.chdir(tmp_path)
    command = ["models", "scale=paper", f"policy.path={toys.model_folder('llama')}", "folder=made", "vllm=null"]
    with locked(Path(".made.lock")):
        assert main(command) == WRONG
        assert "another command writes to .made.lock" in capsys.readouterr().err
        assert main([*command, "dry_run=true"]) == DONE
    assert not list(tmp_path.iterdir())


def test_first_process_of_several_holds_the_locks(monkeypatch):
    recipe = OmegaConf.create({"folder": "models/trained", "dry_run": False, "num_devices": 2})
    assert models._folders_to_lock(recipe) == {"folder": Path("models/.trained.lock")}
    monkeypatch.setenv("RANK", "1")
    assert models._folders_to_lock(recipe) == {}
    alone = OmegaConf.create({"folder": "assets", "checkpoints": "checkpoints"})  # never started by `accelerate launch`
    assert set(models._folders_to_lock(alone)) == {"checkpoints", "folder"}


def test_disabled_mode_makes_no_logger(tmp_path: Path):
    assert wandb_training.loggers("disabled", "tiny")("toy", str(tmp_path), {}) == []


def test_further_loggers_end_with_their_context():
    with loop.further_loggers(wandb_training.loggers("disabled", "tiny")):
        assert loop._further.get() is not None
    assert loop._further.get() is None


@pytest.mark.slow
@pytest.mark.parametrize(("words", "variable"), [(["wandb=on"], ""), ([], "sometimes")])
def test_unknown_mode_is_refused_before_training(words: list[str], variable: str, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", variable)
    assert main(["models", *words]) == 2
    assert "must be one of offline, online, disabled" in capsys.readouterr().err
