"""The W&B mirror: one run per cell, the same run for the same work, and an upload that a server accepts."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import command_processes
import pytest
import toy_runs
import toys
import wandb_server
from wandb_server import Server

from nabla_reasoner.__main__ import main
from nabla_reasoner.config import compose
from nabla_reasoner.config.wandb_mode import check_mode, chosen_mode
from nabla_reasoner.experiments import cell_sweep
from nabla_reasoner.reporting import wandb_log, wandb_runs, wandb_upload


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def entry(name: str, **changes: object) -> wandb_runs.WandbRun:
    return wandb_runs.WandbRun(wandb_runs.identity([name], None), name, "greedy", {}, {}, {}, {}, {})._replace(
        **changes
    )


def curve(last: int) -> dict[str, object]:
    """Return the fields of a run after `last` records, with a point for each but the last."""
    return {"metrics": {"num_problems": last}, "step": last, "curve": {n: {"num_problems": n} for n in range(1, last)}}


def offline_runs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("wandb/offline-run-*"))


def sync(server: Server, folder: Path) -> None:
    environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": wandb_server.KEY}
    words = [str(Path(sys.executable).with_name("wandb")), "sync", *map(str, folder.glob("wandb/offline-run-*"))]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr


def test_identity_depends_on_settings_within_the_length_limit():
    names = ["table1", "tiny", "tiny-base-sft-grpo", "leg_counting", "nabla_without_gradient", "s0"]
    first, same, other = (wandb_runs.identity(names, {"step_size": size}) for size in (0.1, 0.1, 0.2))
    assert first == same != other
    assert len(first) <= 64
    assert wandb_runs.identity([*names, "pool"], None) != wandb_runs.identity(names, None)


def test_grown_cell_keeps_its_run():
    """A run of more problems, threads or rows in a batch replaces the one before; another step size has its own."""
    (cell,) = compose.compose_cells(["policy=tiny-base", "task=products", "method=nabla_reasoner"])
    settings = {"num_problems": 2, "threads": 1, "batch_size": 4, "method": {"step_size": 0.1}}
    grown = {"num_problems": 3, "threads": 2, "batch_size": 8, "method": {"step_size": 0.1}}
    identities = [wandb_runs.cell_run(cell, given).identity for given in (settings, grown, {**settings, "method": {}})]
    assert identities[0] == identities[1] != identities[2]


def test_tables_entry_reads_numbers_and_empty_cells(tmp_path: Path):
    (tmp_path / "table.csv").write_text("method,accuracy\ngreedy,12.5\ntpo,\n", encoding="utf-8")
    found = wandb_runs.tables_entry(tmp_path, experiment="x", scale="tiny", config={}, names=("table",))
    assert found.tables["table"] == wandb_runs.Table(["method", "accuracy"], [("greedy", 12.5), ("tpo", None)])


def test_names_in_tables_stay_text(tmp_path: Path):
    text = "policy,task,accuracy\n007,products,10\n1e5,nan,\n"
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    (tmp_path / "empty.csv").write_text("policy,accuracy\n", encoding="utf-8")
    found = wandb_runs.tables_entry(tmp_path, experiment="x", scale="tiny", config={}, names=("table", "empty"))
    assert found.tables["table"].rows == [("007", "products", 10.0), ("1e5", "nan", None)]
    assert found.tables["empty"] == wandb_runs.Table(["policy", "accuracy"], [])


def test_one_folder_has_one_run_of_tables_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def found(folder: Path) -> str:
        return wandb_runs.tables_entry(folder, experiment="x", scale="tiny", config={}, names=()).identity

    monkeypatch.chdir(tmp_path)
    below = [found(Path("results/x")), found(tmp_path / "results/x"), found(Path("./results/../results/x"))]
    relative = wandb_log.identity(["x", "tiny", "tables"], "results/x")
    assert below == [relative] * 3, "the id of a relative folder is what it was"
    monkeypatch.chdir("/usr")
    assert found(tmp_path) == wandb_log.identity(["x", "tiny", "tables"], str(tmp_path)) != found(tmp_path / "y")


def fake_log(monkeypatch: pytest.MonkeyPatch, broken: bool = False) -> list[str]:
    """Replace wandb: each run is a folder that a broken W&B leaves half written; returns the ids that were written."""
    written = []

    def log(entry: wandb_runs.WandbRun, folder: Path, **scope: str) -> None:
        number = len(list(folder.glob("wandb/*")))
        (folder / "wandb" / f"offline-run-{number}-{entry.identity}").mkdir(parents=True)
        if broken:
            raise OSError("no space left")
        written.append(entry.identity)

    monkeypatch.setattr(wandb_runs, "log", log)
    return written


def write_one(folder: Path, accuracy: float) -> None:
    entries = [entry("one", metrics={"accuracy": accuracy})]
    wandb_runs.write(folder, lambda: entries, experiment="x", scale="tiny", mode="offline")


def test_failed_run_leaves_the_old_one_and_is_written_next_time(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "")  # empty means the setting
    fake_log(monkeypatch)
    write_one(tmp_path, 1.0)
    (old,) = offline_runs(tmp_path)
    fake_log(monkeypatch, broken=True)
    write_one(tmp_path, 2.0)
    assert "warning: no copy in W&B (OSError: no space left)" in capsys.readouterr().err
    assert offline_runs(tmp_path) == [old], "the old run stays, the broken one goes"
    written = fake_log(monkeypatch)
    write_one(tmp_path, 2.0)
    (new,) = offline_runs(tmp_path)
    assert new != old
    write_one(tmp_path, 2.0)
    assert len(written) == 1, "an unchanged run is kept"


@pytest.mark.parametrize("content", ["", "{", "{}", "null", "[1]"])
def test_damaged_state_is_named_and_runs_are_written_again(tmp_path: Path, monkeypatch, capsys, content: str):
    monkeypatch.delenv("WANDB_MODE")
    written = fake_log(monkeypatch)
    write_one(tmp_path, 1.0)
    state = tmp_path / "wandb" / wandb_runs.STATE
    state.write_text(content, encoding="utf-8")
    write_one(tmp_path, 1.0)
    assert str(state) in capsys.readouterr().err
    assert len(written) == 2
    assert len(offline_runs(tmp_path)) == 1


def test_unknown_variable_is_refused_before_anything_is_computed(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "garbage")
    monkeypatch.setattr(cell_sweep, "run_cells", lambda *_: pytest.fail("computed"))
    assert main(toy_runs.command(tmp_path, "method=greedy")) == 2
    assert "WANDB_MODE must be one of offline, online, disabled; got 'garbage'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_sweep_of_an_outer_program_gives_no_random_ids(monkeypatch):
    """With its id wandb ignores the run's own: a grown cell had two runs."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "outer")
    wandb_log.import_wandb()
    assert "WANDB_SWEEP_ID" not in os.environ


def test_artifacts_lie_beside_the_runs_where_home_cannot_be_written(tmp_path: Path, monkeypatch):
    """Otherwise nothing was written, although an offline run needs no home."""
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "mine"))
    wandb_log._find_data_folder(tmp_path)
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "mine")
    monkeypatch.setenv("WANDB_DATA_DIR", "/dev/null/wandb")
    wandb_log._find_data_folder(tmp_path)
    assert os.environ["WANDB_DATA_DIR"] == os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "wandb" / "data")


def test_empty_variable_means_the_setting(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    assert chosen_mode("online") == "online"


@pytest.mark.slow
def test_names_with_special_characters_are_mirrored(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    name = "policy.name='my#policy:ü'"
    assert main(toy_runs.command(tmp_path, "method=greedy", name)) == 0
    assert "no copy in W&B" not in capsys.readouterr().err
    assert len(offline_runs(tmp_path / "tiny" / "table1")) == 2


@pytest.mark.parametrize("content", ["", "a,b", "a,b\n1,2\n3", "a,b\n1\n"])
def test_damaged_table_is_left_out_and_named(tmp_path: Path, content: str, capsys):
    (tmp_path / "table.csv").write_text(content, encoding="utf-8")
    found = wandb_runs.tables_entry(tmp_path, experiment="x", scale="tiny", config={}, names=("table",))
    assert not found.tables
    assert f"{tmp_path / 'table.csv'} is damaged" in capsys.readouterr().err


def test_disabled_wandb_writes_nothing(tmp_path: Path):
    wandb_runs.write(tmp_path, lambda: pytest.fail("not asked for"), experiment="x", scale="tiny", mode="offline")
    assert not list(tmp_path.iterdir())


def test_wrong_mode_is_refused_with_valid_modes():
    with pytest.raises(ValueError, match="offline, online, disabled; got 'on'"):
        check_mode("on")


def fake_upload(monkeypatch: pytest.MonkeyPatch, error: str = "") -> list[list[str]]:
    """Replace `wandb sync`; returns the folders of each upload."""
    uploads = []

    def upload(runs: list[Path], *, model_bytes: int) -> None:
        uploads.append([run.name for run in runs])
        if error:
            raise wandb_upload.UploadError(error)
        for run in runs:
            (run / "run.wandb.synced").touch()

    monkeypatch.setattr(wandb_runs, "upload", upload)
    return uploads


def test_online_uploads_what_the_server_does_not_have(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    written = fake_log(monkeypatch)
    uploads = fake_upload(monkeypatch, "no answer")
    write_one(tmp_path, 1.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: not uploaded to W&B: no answer")
    assert line.endswith(f"send them later: wandb sync {tmp_path}/wandb/offline-run-*")
    assert len(offline_runs(tmp_path)) == 1
    fake_upload(monkeypatch)
    write_one(tmp_path, 1.0)
    assert len(written) == 1, "the copy is sent, not written again"
    uploads = fake_upload(monkeypatch)
    write_one(tmp_path, 1.0)
    assert not uploads, "the server has it"
    write_one(tmp_path, 2.0)
    assert uploads == [offline_runs(tmp_path)]
    assert len(written) == 2


def test_copy_that_was_removed_is_written_again_for_an_upload(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    fake_log(monkeypatch)
    write_one(tmp_path, 1.0)
    shutil.rmtree(tmp_path / "wandb" / offline_runs(tmp_path)[0])
    monkeypatch.setenv("WANDB_MODE", "online")
    uploads = fake_upload(monkeypatch)
    write_one(tmp_path, 1.0)
    assert uploads == [offline_runs(tmp_path)] != [[]]


def logged_points(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Replace wandb; returns the steps of the curve of each run that was written."""
    written = []

    def log(entry: wandb_runs.WandbRun, folder: Path, **scope: str) -> None:
        (folder / "wandb" / f"offline-run-{len(written)}-{entry.identity}").mkdir(parents=True)
        written.append(list(entry.curve))

    monkeypatch.setattr(wandb_runs, "log", log)
    return written


def write_curve(folder: Path, last: int) -> None:
    made = [entry("one", **curve(last))]
    wandb_runs.write(folder, lambda: made, experiment="x", scale="tiny", mode="offline")


def test_points_that_a_server_has_are_left_out(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    written = logged_points(monkeypatch)
    write_curve(tmp_path, 3)
    write_curve(tmp_path, 4)
    assert written == [[1, 2], [1, 2, 3]], "nothing was sent yet"
    (tmp_path / "wandb" / offline_runs(tmp_path)[0] / "run.wandb.synced").touch()  # by `wandb sync`
    write_curve(tmp_path, 7)
    write_curve(tmp_path, 8)
    assert written[2:] == [[5, 6], [5, 6, 7]]
    monkeypatch.setenv("WANDB_MODE", "online")
    uploads = fake_upload(monkeypatch)
    write_curve(tmp_path, 9)
    write_curve(tmp_path, 11)
    assert written[4:] == [[5, 6, 7, 8], [10]]
    assert len(uploads) == 2
    (tmp_path / "wandb" / wandb_runs.LIVE).write_text(json.dumps({entry("one").identity: 13}), encoding="utf-8")
    write_curve(tmp_path, 16)
    assert written[6:] == [[14, 15]], "these were sent while the cell ran"
    assert not capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"ID": null}', '{"ID": ["offline"]}', '{"ID": ["online", 1, "a", []]}'])
def test_damaged_entry_of_the_state_is_as_none(tmp_path: Path, monkeypatch, capsys, content: str):
    monkeypatch.setenv("WANDB_MODE", "online")
    fake_upload(monkeypatch)
    written = logged_points(monkeypatch)
    (tmp_path / "wandb").mkdir()
    for name in (wandb_runs.STATE, wandb_runs.LIVE):
        text = content.replace("ID", entry("one").identity)
        (tmp_path / "wandb" / name).write_text(text, encoding="utf-8")
    write_curve(tmp_path, 3)
    write_curve(tmp_path, 3)
    assert written == [[1, 2]]
    assert not capsys.readouterr().err


class Silent:
    """A server on the loopback interface that accepts connections and never answers."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        while True:
            try:
                self.connections.append(self.socket.accept()[0])
            except OSError:  # closed
                return

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which may still accept one
        self.thread.join()
        for connection in (self.socket, *self.connections):
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    silent = Silent()
    yield silent
    silent.close()


@pytest.mark.slow
def test_silent_proxy_is_left_after_its_time(silent: Silent, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, silent.url)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of the first request of this process
    monkeypatch.setattr(wandb_upload, "ANSWER_SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(wandb_upload.UploadError, match="http://wandb.invalid cannot be reached"):
        wandb_upload.check_server("http://wandb.invalid")
    assert time.monotonic() - begin < 10
    while not silent.connections:  # the thread that asks may be slow to start
        assert time.monotonic() - begin < 10, "it was not asked"
        time.sleep(0.05)


def test_address_whose_name_is_never_resolved_is_left_after_its_time(monkeypatch):
    ended = threading.Event()

    def resolve(*_: object, **__: object) -> None:
        ended.wait(60)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(wandb_upload, "ANSWER_SECONDS", 0.1)
    begin = time.monotonic()
    with pytest.raises(wandb_upload.UploadError):
        wandb_upload.check_server("http://name.invalid")
    ended.set()
    assert time.monotonic() - begin < 10


def mirror_in_process(folder: Path, mode: str, url: str, setup: str = "") -> subprocess.CompletedProcess:
    """Mirror one run in a process of its own, as a command does; it ends only when wandb lets it."""
    code = f"""
from pathlib import Path
from nabla_reasoner.reporting import wandb_runs, wandb_upload
{setup}
run = wandb_runs.WandbRun("one", "one", "greedy", {{}}, {{"accuracy": 1.0}})
wandb_runs.write(Path({str(folder)!r}), lambda: [run], experiment="x", scale="tiny", mode={mode!r})
"""
    done = command_processes.shared().run_code(code, wandb_server.environment(url))
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib's own socket of the test above
def test_address_without_a_web_server_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"this is no HTTP\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(wandb_upload.UploadError, match="cannot be reached"):
            wandb_upload.check_server(f"http://127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(wandb_upload.UploadError, match="api.wandb.ai cannot be reached"):
        wandb_upload.check_server("api.wandb.ai")


@pytest.mark.slow
def test_offline_run_sends_nothing(tmp_path: Path, silent: Silent):
    """wandb's own default sends telemetry when the process ends, and waits ten seconds for an answer."""
    mirror_in_process(tmp_path, "offline", silent.url)
    assert len(offline_runs(tmp_path)) == 1
    assert not silent.connections


@pytest.mark.slow
def test_online_run_reaches_the_server(tmp_path: Path, server: Server):
    done = mirror_in_process(tmp_path, "online", server.url)
    assert not done.stderr
    assert server.summaries["one"]["accuracy"] == 1.0
    state = json.loads((tmp_path / "wandb" / wandb_runs.STATE).read_text(encoding="utf-8"))
    assert state["one"][0] == "online"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("silent", "cannot be reached in 1 s"),
        ("stops", "stopped answering"),
        ("rejects", "not uploaded to W&B: "),
    ],
)
def test_failed_upload_is_one_line_and_can_be_sent_later(
    tmp_path: Path, server: Server, silent: Silent, behaviour: str, reason: str
):
    server.is_silent, server.rejects_keys = behaviour == "stops", behaviour == "rejects"
    url = silent.url if behaviour == "silent" else server.url
    limits = "wandb_upload.ANSWER_SECONDS, wandb_upload.RUN_SECONDS = 1, 8"
    done = mirror_in_process(tmp_path, "online", url, limits)
    (line,) = done.stderr.splitlines()
    print(line)
    assert reason in line
    assert line.endswith(f"send them later: wandb sync {tmp_path}/wandb/offline-run-*")
    server.is_silent = server.rejects_keys = False
    sync(server, tmp_path)
    assert server.summaries["one"]["accuracy"] == 1.0


@pytest.mark.slow
def test_unchanged_run_is_kept_and_changed_run_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")

    def write(accuracy: float) -> list[str]:
        made = [entry("one", metrics={"accuracy": accuracy}), entry("two")]
        wandb_runs.write(tmp_path, lambda: made, experiment="x", scale="tiny", mode="offline")
        return offline_runs(tmp_path)

    first = write(1.0)
    assert len(first) == 2
    before = (tmp_path / "wandb" / first[0]).stat().st_mtime_ns
    assert write(1.0) == first
    assert (tmp_path / "wandb" / first[0]).stat().st_mtime_ns == before
    assert len(write(2.0)) == 2


@pytest.mark.slow
def test_cell_that_grew_between_two_uploads_has_each_point_once(tmp_path: Path, monkeypatch, server: Server):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for last in (3, 6):
        write_curve(tmp_path, last)
        sync(server, tmp_path)
    (lines,) = server.history.values()
    assert [(line["_step"], line["num_problems"]) for line in lines] == [(n, n) for n in range(1, 7)]
    assert server.summaries[entry("one").identity]["num_problems"] == 6


@pytest.mark.slow
def test_table_writes_a_run_per_cell_without_duplicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = toy_runs.command(tmp_path, "method=greedy,best_of_n")
    assert main(words) == 0
    folder = tmp_path / "tiny" / "table1"
    assert len(offline_runs(folder)) == 3, "two cells and the tables"
    sync(server, folder)
    named = {told["displayName"]: (key, told) for key, told in server.runs.items()}
    assert set(named) == {"tiny-base-products-greedy-s0", "tiny-base-products-best_of_n-s0", "table1-tiny-tables"}
    key, told = named["tiny-base-products-best_of_n-s0"]
    assert (told["groupName"], told["jobType"], told["project"]) == ("table1", "best_of_n", "nabla-reasoner")
    assert {"tiny", "table1"} < set(told["tags"])
    assert json.loads(told["config"])["method"]["value"]["num_samples"] == 8
    rows = csv.DictReader((folder / "table.csv").read_text(encoding="utf-8").splitlines())
    row = next(row for row in rows if row["method"] == "best_of_n")
    for name in ("accuracy", "ci_low", "ci_high", "num_failed", "model_calls", "flops"):
        assert server.summaries[key][name] == pytest.approx(float(row[name]), rel=1e-5)
    assert [line["num_problems"] for line in server.history[key]] == [1, 2, 3, 4, 5], "the curve"
    samples = json.loads(next(data for path, data in server.files.items() if "samples" in path and key in path))
    assert samples["columns"] == list(wandb_runs.SAMPLE_COLUMNS)
    assert len(samples["data"]) == 5
    models = {name for name, told in server.artifacts.items() if told["type"] == "model" and told["committed"]}
    assert models == {"policy-tiny-base", "reward-likelihood"}
    weights = Path(toys.model_folder("qwen2"), "model.safetensors").read_bytes()
    assert server.files["artifacts/policy-tiny-base/model.safetensors"] == weights
    assert main([*words, "overwrite=true"]) == 0  # new timings: written again, under the same ids
    sync(server, folder)
    assert len(server.runs) == 3
