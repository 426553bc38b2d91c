"""A completion server on this machine that samples with a small model, and breaks on request."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

from nabla_reasoner import Policy
from nabla_reasoner.engine import generation
from nabla_reasoner.engine.sampling import Sampling

Fault = Callable[[dict[str, Any], int], str | None]


class FakeServer:
    """The server; `with` starts and stops it.

    Args:
        policy: the model that samples.
        fault: is told of each request for a completion and its number, and returns what goes wrong, if anything:
            "500", "400", "killed", "late", "truncated", "cut", "vocabulary", "no choices", "text", "log_probs",
            "scores" or "abort".

    Attributes:
        bodies: requests for completions, in order of arrival.
        models: names of the models that it serves; others are answered by HTTP 404, as vLLM does.
        delay: seconds by which an answer is late.
    """

    def __init__(self, policy: Policy, fault: Fault = lambda body, number: None, max_model_len: int = 256):
        self.policy = policy
        self.sampler = Policy(policy.model, policy.tokenizer, policy.name, eos_ids=[])
        self.fault = fault
        self.max_model_len = max_model_len
        self.bodies: list[dict[str, Any]] = []
        self.models = ["served"]
        self.delay = 1.0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = False  # joined below: a thread inside torch must not outlive the interpreter
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "FakeServer":
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.kill()
        self.thread.join()
        self.http.server_close()

    def kill(self) -> None:
        """Stop answering: later connections are refused."""
        threading.Thread(target=self.http.shutdown).start()
        self.http.socket.close()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return vLLM's answer to a request: a real sample of the model."""
        sampling = Sampling(body["temperature"], body["top_p"], max(body["top_k"], 0))
        noise = np.random.default_rng(body["seed"]).random(body["max_tokens"])
        prompt, limit, stops = body["prompt"], body["max_tokens"], body["stop_token_ids"]
        with self.lock:
            (rollout,) = generation.sample(self.sampler, [prompt], [noise], sampling, [limit], stops=[stops])
            ids = rollout.token_ids
            choice = {
                "index": 0,
                "text": self.policy.decode(ids),
                "token_ids": ids,
                "prompt_token_ids": prompt,
                "finish_reason": "stop" if ids[-1] in stops else "length",
                "logprobs": self.log_probs(prompt, ids) if body["logprobs"] else None,
                "prompt_logprobs": self.prompt_log_probs(prompt) if body.get("prompt_logprobs") else None,
            }
        return {"id": "cmpl-1", "object": "text_completion", "choices": [choice]}

    @torch.no_grad()
    def log_probs(self, prompt: list[int], ids: list[int]) -> dict[str, Any]:
        logits = self.policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        values = logits[:, : self.policy.vocab_size].log_softmax(-1)
        tops = [
            {f"token_id:{t}": row[t].item() for t in (row.argmax().item(), i)}
            for row, i in zip(values, ids, strict=True)
        ]
        return {
            "tokens": [f"token_id:{i}" for i in ids],
            "token_logprobs": [row[i].item() for row, i in zip(values, ids, strict=True)],
            "top_logprobs": tops,
        }

    @torch.no_grad()
    def prompt_log_probs(self, prompt: list[int]) -> list[dict[str, Any] | None]:
        logits = self.policy.model(torch.tensor([prompt])).logits[0, :-1]
        values = logits[:, : self.policy.vocab_size].log_softmax(-1)
        entries = [
            {str(t): {"logprob": row[t].item(), "rank": 1 + int((row > row[t]).sum())} for t in (i, int(row.argmax()))}
            for row, i in zip(values, prompt[1:], strict=True)
        ]
        return [None, *entries]

    def broken(self, kind: str, answer: dict[str, Any]) -> bytes:
        """Return an answer with one thing wrong in it."""
        choice = answer["choices"][0]
        if kind == "vocabulary":
            choice["token_ids"] = [*choice["token_ids"][:-1], self.policy.vocab_size]
        elif kind == "no choices":
            answer["choices"] = []
        elif kind == "text":
            del choice["token_ids"]
        elif kind == "log_probs":
            choice["logprobs"] = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}]}
        elif kind == "scores":
            choice["prompt_logprobs"] = choice["prompt_logprobs"][:-1]
        elif kind == "abort":
            choice["token_ids"], choice["finish_reason"] = choice["token_ids"][:1], "abort"
        payload = json.dumps(answer).encode()
        return payload[: len(payload) // 2] if kind in ("truncated", "cut") else payload

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                card = {"max_model_len": server.max_model_len}
                known = {
                    "/v1/models": {"data": [{"id": name, **card} for name in server.models]},
                    "/version": {"version": "fake"},
                }
                self._send(200 if self.path in known else 404, json.dumps(known.get(self.path)).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.bodies.append(body)
                    kind = server.fault(body, len(server.bodies))
                if body["model"] not in server.models:
                    error = {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
                    self._send(404, json.dumps(error).encode())
                    return
                if kind == "killed":
                    server.kill()
                    self.close_connection = True
                    return
                if kind in ("500", "400"):
                    error = {"error": {"message": "The answer is 42.\nEngine\tdied", "code": int(kind)}}
                    self._send(int(kind), json.dumps(error).encode())
                    return
                if kind == "late" and server.closing.wait(server.delay):
                    return
                payload = server.broken(kind or "", server.answer(body))
                self._send(200, payload, missing=len(payload) if kind == "cut" else 0)

            def _send(self, status: int, payload: bytes, missing: int = 0) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload) + missing))
                self.end_headers()
                try:
                    self.wfile.write(payload)
                except OSError:
                    pass  # nobody waits for a late answer any more

            def log_message(self, *_: object) -> None:
                pass

        return Handler
