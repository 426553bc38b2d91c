"""Tokens per second of Hugging Face's engine and of vLLM: both sample as many tokens after the same prompts."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config import build
from ..config.data_folder import locate
from ..cost import Cost
from ..engine import generation
from ..engine.sampling import keyed_uniforms
from ..models.language_models import Policy
from ..reporting.method_names import BEST_OF_N
from ..serving import identity
from ..serving.client import Client
from ..serving.completions import CompletionRequest
from ..serving.process import ServerProcess, ServerSettings
from ..serving.served import request_seed
from .context import BenchContext, Comparison, Variant
from .timing import interleaved

# Every repeat sends the same prompts: a server that kept their keys and values would read them once only.
NO_PREFIX_CACHE = "--no-enable-prefix-caching"


def sampling_rate(bench: BenchContext, point: str) -> Comparison:
    """Compare tokens per second of both engines, every response of the same length.

    The server is started for the measurement, on the same cores or GPU, and checked to have the same model. It has all
    requests at once; Hugging Face's engine has them in one batch.

    Args:
        point: policy and task.

    Raises:
        ValueError: no server can be started, or it serves another model.
    """
    name, task = point.split("__")
    cell = bench.cell(name, task, BEST_OF_N)
    policy, _ = bench.models(name)
    endless = Policy(policy.model, policy.tokenizer, policy.name, eos_ids=[])
    endless.batch_limits = policy.batch_limits
    sampling = build.build_method(cell).pool.sampling
    problems, length = bench.problems(task, bench.settings.sequences), cell.max_new_tokens
    prompts = [policy.prompt_ids(problem.messages) for problem in problems]
    settings = ServerSettings(
        python=bench.settings.server_python,
        model=locate(cell.policy.path),
        dtype=cell.dtype,
        device=cell.device,
        max_tokens=max(map(len, prompts)) + max(length, identity.TEST_TOKENS),
        arguments=[NO_PREFIX_CACHE],
    )

    def noise(repeat: int) -> list:
        return [keyed_uniforms(max(repeat, 0), problem.id, 0, "rollout", length) for problem in problems]

    def own(repeat: int) -> None:
        rollouts = generation.sample(endless, prompts, noise(repeat), sampling, [length] * len(prompts))
        assert all(len(rollout.token_ids) == length for rollout in rollouts)

    with _client(settings) as client:
        check = identity.check_model(client, policy, prompts[:4], length)

        def served(repeat: int) -> None:
            requests = [
                CompletionRequest(prompt, sampling, request_seed(row), length, stops=[])
                for prompt, row in zip(prompts, noise(repeat), strict=True)
            ]
            client.complete(requests, policy.vocab_size)

        seconds = interleaved({"hf": own, "vllm": served}, bench.settings.repeats, bench.device)
    spent = Cost(decode_tokens=len(prompts) * length)
    difference = check["largest_log_prob_difference"]
    note = f"{len(prompts)} x {length} tokens; greedy log-probabilities differ by {difference:.1g} at most"
    return Comparison(*(Variant(engine, timings, spent) for engine, timings in seconds.items()), note=note)


@contextmanager
def _client(settings: ServerSettings) -> Iterator[Client]:
    """Yield a client of a server that is started, and stopped at the end."""
    with tempfile.TemporaryDirectory() as folder:
        process = ServerProcess(settings, Path(folder, "server.log"))
        try:
            client = Client(process.url, concurrency=1024)
            client.model = identity.served_model(client).name
            yield client
        finally:
            process.stop()
