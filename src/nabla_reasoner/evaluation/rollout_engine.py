"""The engines that sample and score for the cells of one command: Hugging Face's models, or servers."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import build
from ..config.build import BuiltCell
from ..config.cell import Cell
from ..config.data_folder import locate
from ..json_text import parse_json
from ..models.language_models import Policy, RewardModel
from ..serving import identity
from ..serving.client import Client, ServerError
from ..serving.mismatch import ComparedServer, Mismatch, joined
from ..serving.process import ServerProcess, ServerSettings, check_python
from ..serving.prompt_scores import TOKENS_AFTER
from ..serving.rollouts import ServedPolicy
from ..serving.served import ServedRollouts
from ..serving.served_scores import ServedScores, check_scores
from .cell_records import locked, record_file
from .json_files import warn_once
from .records import append_records, settings_path

TEST_PROMPTS = 4  # prompts of the cell whose greedy continuations are compared before the run
LOG = "server.log"


@dataclass
class RolloutEngine:
    """Loads the models of cells, and lets servers sample and score where they ask for it.

    One server of a policy runs at a time. It is started when a cell of its policy comes, and stopped when one of
    another policy does, or by `close`. A server that scores responses is never started here.

    Attributes:
        folder: of the results; holds the log of a server that is started here.
        facts: what is known of each server, in order of use.
    """

    folder: Path
    facts: list[dict[str, Any]] = field(default_factory=list)
    _key: tuple[str, ...] | None = field(default=None, init=False)
    _client: Client | None = field(default=None, init=False)
    _process: ServerProcess | None = field(default=None, init=False)
    _scores: tuple[tuple[str, ...], Client, int | None] | None = field(default=None, init=False)

    def __enter__(self) -> "RolloutEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def models(self, built: BuiltCell) -> tuple[Policy, RewardModel]:
        """Return policy and reward model of a cell; a server that samples for the policy has been checked.

        Raises:
            ValueError: as `build.load_models`; a server that cannot be started or reached, has another model, or takes
                too short texts.
        """
        policy, reward = build.load_models(built.cell, served=True)
        if built.cell.reward_server is not None:
            reward = reward.scored_by(ServedScores(self._reward_server(built, reward)))
        if built.cell.rollouts == "hf":
            return policy, reward
        return ServedPolicy(policy, ServedRollouts(self._server(built, policy))), reward

    def _reward_server(self, built: BuiltCell, reward: RewardModel) -> Client:
        """Return the checked client of the server that scores a cell's responses."""
        cell = built.cell
        prompts = [reward.prompt_ids(problem.messages) for problem in built.problems]
        key = (cell.reward.source, cell.dtype)
        if self._scores is None or self._scores[0] != key:
            client = Client(cell.reward_server, timeout=cell.server_timeout, concurrency=cell.server_requests)
            model = _served_model(client)
            check = check_scores(client, reward, prompts[:TEST_PROMPTS])
            facts = {"server": client.url, "version": _version(client), "model": model.name, "check": check}
            self.facts.append({"reward": cell.reward.name, **facts, "max_model_len": model.max_tokens})
            self._scores = (key, client, model.max_tokens)
        _, client, max_tokens = self._scores
        closing = 1 + TOKENS_AFTER  # the end of the turn, and a token that is sampled and ignored
        identity.check_length(client, max_tokens, max(map(len, prompts)) + cell.response_limit + closing)
        return client

    def _server(self, built: BuiltCell, policy: Policy) -> Client:
        """Return the checked client of a cell's server."""
        cell = built.cell
        prompts = [policy.prompt_ids(problem.messages) for problem in built.problems]
        key = (cell.policy.source, cell.dtype, cell.device)
        if self._key != key or self._client is None or not (self._process is None or self._process.running):
            self.close()
            client, model = self._open(cell, policy)
            self._check_length(client, model.max_tokens, prompts, cell)
            self.facts.append(
                {
                    "policy": cell.policy.name,
                    "server": "started here" if self._process else client.url,
                    "version": _version(client),
                    "model": model.name,
                    "max_model_len": model.max_tokens,
                    "check": self._check(client, policy, prompts[:TEST_PROMPTS], cell.response_limit),
                }
            )
            self._key, self._client = key, client
        self._check_length(self._client, self.facts[-1]["max_model_len"], prompts, cell)
        return self._client

    @staticmethod
    def _check_length(client: Client, max_tokens: int | None, prompts: list[list[int]], cell: Cell) -> None:
        identity.check_length(client, max_tokens, max(map(len, prompts)) + cell.response_limit)

    def _check(self, client: Client, policy: Policy, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
        """Return what `identity.check_model` finds; its error names the log of a server that was started here."""
        try:
            return identity.check_model(client, policy, prompts, max_new_tokens)
        except ValueError as error:
            where = f" Its log: {self.folder / LOG}" if self._process is not None else ""
            raise ValueError(f"{error}{where}") from error

    def _open(self, cell: Cell, policy: Policy) -> tuple[Client, identity.ServedModel]:
        """Return a client of the server that the cell names, or of one that is started now."""
        url = cell.server
        if url is None:
            check_python(cell.server_python)
            print(f"starting vLLM for {cell.policy.name}; its log is {self.folder / LOG}", file=sys.stderr, flush=True)
            settings = ServerSettings(
                python=cell.server_python,
                model=locate(cell.policy.path),
                dtype=cell.dtype,
                device=cell.device,
                max_tokens=policy.context,
                arguments=[*_pin(cell), *shlex.split(cell.server_arguments or "")],
            )
            self._process = ServerProcess(settings, self.folder / LOG)
            url = self._process.url
        client = Client(url, timeout=cell.server_timeout, concurrency=cell.server_requests)
        return client, _served_model(client)

    def close(self) -> None:
        """Stop the server if it was started here."""
        if self._process is not None:
            self._process.stop()
        self._process = self._client = self._key = None


def check_cells(cells: Sequence[Cell]) -> None:
    """Raise ValueError if one running server is named for several policies or rewards: it serves one model."""
    served = {cell.policy.source: cell.policy.name for cell in cells if cell.rollouts != "hf" and cell.server}
    if len(served) > 1:
        raise ValueError(
            f"server={next(cell.server for cell in cells if cell.server)} serves one policy; got "
            f"{', '.join(served.values())}. Write policy=NAME, or server_python=PYTHON, with which a server is started "
            "for each."
        )
    scored = {cell.reward.source: f"{cell.reward.name} of {cell.task.name}" for cell in cells if cell.reward_server}
    if len(scored) > 1:
        raise ValueError(
            f"reward_server serves one reward; got {', '.join(scored.values())}. Write reward=NAME, and task=NAME "
            "if each task has its own."
        )


def mismatch_file(records: Path) -> Path:
    """Return the file beside a record file that holds the engines' differences, a line per chunk of problems."""
    return records.with_suffix(".engines.ndjson")


def remove_records(cell: Cell) -> None:
    """Remove a cell's records and the engines' differences beside them, where there are any."""
    path = record_file(cell)
    for file in (path, mismatch_file(path)):
        file.unlink(missing_ok=True)


def set_records_aside(cell: Cell) -> None:
    """Rename a cell's records and the files beside them: jobs start without records, a failed launch restores them.

    Raises:
        ValueError: another process solves the cell's problems.
    """
    with locked(cell):
        for file in _cell_files(cell):
            if file.exists() and file.stat().st_size:
                file.replace(_aside(file))


def put_records_back(cell: Cell) -> bool:
    """Undo `set_records_aside` if the cell has no new records; otherwise remove the old ones.

    Returns:
        Whether the old ones are back.
    """
    records, *_ = files = _cell_files(cell)
    is_replaced = records.exists()
    is_back = not is_replaced and _aside(records).exists()
    for file in files:
        if is_back and _aside(file).exists():
            _aside(file).replace(file)
        elif is_replaced:
            _aside(file).unlink(missing_ok=True)
    return is_back


def _cell_files(cell: Cell) -> tuple[Path, ...]:
    records = record_file(cell)
    return records, settings_path(records), mismatch_file(records)


def _aside(file: Path) -> Path:
    return file.with_name(f"{file.name}.replaced")


def append_mismatch(records: Path, problems: Sequence[str], repeat: int, engines: dict[str, ComparedServer]) -> None:
    """Append what was compared while a chunk was solved to the mismatch file of a record file.

    Args:
        engines: what served the models "policy" and "reward", those that were served.
    """
    lines = [
        {
            "repeat": repeat,
            "problems": list(problems),
            "model": model,
            **engine.take_mismatch()._asdict(),
            "retries": engine.take_retries(),
        }
        for model, engine in engines.items()
    ]
    append_records(mismatch_file(records), lines)


def engine_summary(cells: Sequence[Cell], facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry `engines` of a summary: servers, and the engines' differences over all cells; empty for hf.

    The differences of sampled tokens stand at its top, those of scored tokens under `reward_scores`.
    """
    files = [mismatch_file(record_file(cell)) for cell in cells if cell.served]
    if not files:
        return {}
    lines = [line for file in files if file.exists() for line in _mismatch_lines(file)]
    by_model: dict[str, list[Mismatch]] = {"policy": [], "reward": []}
    for line in lines:  # lines without a model were written when only policies were served
        by_model[line.get("model", "policy")].append(Mismatch(*(line[name] for name in Mismatch._fields)))
    whole = {model: joined(parts).summary() for model, parts in by_model.items()}
    sampled = whole["policy"] if any(cell.rollouts != "hf" for cell in cells) else {}
    scored = {"reward_scores": whole["reward"]} if any(cell.reward_server for cell in cells) else {}
    retries = sum(line["retries"] for line in lines)
    servers = {"rollouts": cells[0].rollouts, "servers": list(facts), "retries": retries}
    return {"engines": {**servers, **sampled, **scored}}


def _mismatch_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a mismatch file; one that is damaged is left out, by name: its tokens are not compared."""
    lines = []
    for number, text in enumerate(file.read_bytes().split(b"\n"), start=1):
        try:
            line = parse_json(text) if text.strip() else None
            if text.strip():
                lines.append({**line, **{name: line[name] + 0 for name in (*Mismatch._fields, "retries")}})
        except (ValueError, TypeError, KeyError):
            warn_once(f"{file}, line {number} is damaged and left out: the engines' differences lack its problems.")
    return lines


def _pin(cell: Cell) -> list[str]:
    """Return vLLM's arguments for a policy that is pinned to a commit of the hub."""
    commit = cell.policy.revision
    return [] if commit is None else ["--revision", commit, "--tokenizer-revision", commit]


def _served_model(client: Client) -> identity.ServedModel:
    """Return the model of a server, and let the client name it in requests."""
    model = identity.served_model(client)
    client.model = model.name
    return model


def _version(client: Client) -> str | None:
    """Return the version that a server states; None if it states none."""
    try:
        return str(client.get("/version")["version"])
    except (ServerError, KeyError, TypeError):
        return None
