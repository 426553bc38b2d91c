"""HTTP client of a completion server: time-outs, retries with back-off, a limit of requests at once."""

import http.client
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from ..json_text import parse_json
from .completions import BadAnswerError, Completion, CompletionRequest, read_completion, request_body
from .prompt_scores import ScoreRequest, read_scores, score_body

ATTEMPTS = 6  # of one request
PAUSE = 1.0  # seconds before the second attempt; doubled before each further one, 31 s in all
RETRIED = {408, 425, 429}  # besides 500 and above: HTTP states that a retry may fix
CONNECT_SECONDS = 30.0  # to open a connection; a server that is there takes it at once
BLOCK = 65536  # bytes read at a time
PORTS = {"http": 80, "https": 443}  # of a URL that names none
SHOWN = 300  # characters of a server's own message in ours


class ServerError(RuntimeError):
    """A request that failed for good; the problem concerned fails with this reason."""


class _PassingError(Exception):
    """An HTTP state that a retry may fix."""


class _Question(NamedTuple):
    """The JSON object of a request, and what turns the bytes of its answer into a result or raises BadAnswerError."""

    body: dict[str, Any]
    read: Callable[[bytes], Completion]


@dataclass
class _Batch:
    """Requests that are sent together: if one fails for good, the others end at once.

    Attributes:
        ended: set when nobody waits for the answers any more.
        sockets: open connections.
    """

    ended: threading.Event = field(default_factory=threading.Event)
    sockets: set[socket.socket] = field(default_factory=set)

    def end(self) -> None:
        """End the requests under way: their servers see the connection close and stop sampling."""
        self.ended.set()
        for open_socket in list(self.sockets):
            _shut(open_socket)


@dataclass
class Client:
    """Connection to one server. It uses no proxy and keeps no connection open, so that it may be pickled.

    Attributes:
        url: e.g. "http://127.0.0.1:8000"; a path "/v1" at its end is dropped.
        model: name of the model in requests.
        timeout: seconds that one attempt may take in all, > 0.
        concurrency: requests at once, >= 1; the server batches them.
        retries: attempts after the first one so far, of all requests.
        down: whether the last failure was that no answer came at all; while it lasts, requests are tried once.

    Raises:
        ValueError: no URL of a server.
    """

    url: str
    model: str = ""
    timeout: float | int = 600.0
    concurrency: int = 32
    retries: int = 0
    down: bool = False

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/").removesuffix("/v1")
        try:
            parts = urllib.parse.urlsplit(self.url)
            is_server = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a bracket without its other one, a port that is no number or beyond 65535
            is_server = False
        if not is_server:
            raise ValueError(f"server must be a URL such as http://127.0.0.1:8000; got {self.url!r}.")

    def complete(self, requests: Sequence[CompletionRequest], vocab_size: int) -> list[Completion]:
        """Return the continuation of each request, in order.

        Args:
            vocab_size: of the policy; ids in answers must be below it.

        Raises:
            ServerError: some request failed for good; the others are dropped.
        """
        reads = [partial(read_completion, request=request, vocab_size=vocab_size) for request in requests]
        return self._ask_all(
            [_Question(request_body(self.model, r), read) for r, read in zip(requests, reads, strict=True)]
        )

    def score(self, requests: Sequence[ScoreRequest], vocab_size: int) -> list[Completion]:
        """Return log-probability and most likely token at each given token of the texts, in order.

        Args:
            vocab_size: of the scoring model; ids in answers must be below it.

        Raises:
            ServerError: some request failed for good; the others are dropped.
        """
        reads = [partial(read_scores, request=request, vocab_size=vocab_size) for request in requests]
        return self._ask_all(
            [_Question(score_body(self.model, r), read) for r, read in zip(requests, reads, strict=True)]
        )

    def _ask_all(self, questions: Sequence[_Question]) -> list[Completion]:
        """Return the answers in order; raises as `complete`."""
        batch = _Batch()
        with ThreadPoolExecutor(min(self.concurrency, max(len(questions), 1))) as pool:
            futures = [pool.submit(self._ask, question, batch) for question in questions]
            try:
                ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
                if failed := next((future for future in futures if future in ended and future.exception()), None):
                    raise failed.exception()
                return [future.result() for future in futures]
            finally:
                batch.end()
                pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, question: _Question, batch: _Batch) -> Completion:
        body = json.dumps(question.body).encode()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = question.read(self._send("POST", "/v1/completions", body, batch))
            except (OSError, http.client.HTTPException, _PassingError, BadAnswerError) as error:
                silent = not isinstance(error, _PassingError | BadAnswerError)
                if attempt == ATTEMPTS or batch.ended.is_set() or (self.down and silent):
                    if not batch.ended.is_set():  # otherwise we may have closed the connection ourselves
                        self.down = silent
                    raise ServerError(f"{self.url}, attempt {attempt} of {ATTEMPTS}: {_reason(error)}") from error
                self.retries += 1
                batch.ended.wait(PAUSE * 2 ** (attempt - 1))
            else:
                self.down = False
                return answer
        raise AssertionError("the last attempt returns or raises")

    def get(self, path: str) -> Any:
        """Return the JSON value that the server has at a path; one attempt.

        Raises:
            ServerError: no answer, or one that is not JSON.
        """
        try:
            return parse_json(self._send("GET", path, None, _Batch()))
        except (OSError, http.client.HTTPException, ValueError, _PassingError) as error:
            raise ServerError(f"{self.url}{path}: {_reason(error)}") from error

    def _send(self, verb: str, path: str, body: bytes | None, batch: _Batch) -> bytes:
        """Send one request and return the bytes of its answer.

        Raises:
            OSError: no connection, or no whole answer within the time-out.
            http.client.HTTPException: an answer that is cut off or no HTTP.
            _PassingError: an HTTP state that a retry may fix.
            ServerError: any other HTTP state but 200.
        """
        deadline = time.monotonic() + self.timeout
        parts = urllib.parse.urlsplit(self.url)
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        port = parts.port or PORTS[parts.scheme]  # without one the end of an IPv6 address would be read as it
        connection = connect(parts.hostname, port, timeout=min(self.timeout, CONNECT_SECONDS))
        opened = closer = None
        try:
            connection.connect()
            opened = connection.sock  # the connection itself drops it when an HTTP/1.0 answer begins
            opened.settimeout(self.timeout)
            batch.sockets.add(opened)
            # needed because a socket's time-out starts again with every byte
            closer = threading.Timer(max(0.0, deadline - time.monotonic()), _shut, [opened])
            closer.daemon = True
            closer.start()
            if batch.ended.is_set():  # looked at after the socket can be seen, which `end` looks for last
                raise ConnectionAbortedError("nobody waits for the answer any more")
            connection.request(verb, parts.path + path, body, {"Content-Type": "application/json"})
            with connection.getresponse() as response:  # it holds the socket open until it is closed itself
                status, payload = _read(response)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"timed out after {self.timeout:g} s") from error
            raise
        finally:
            if closer is not None:
                closer.cancel()
            batch.sockets.discard(opened)
            connection.close()
        if status == 200:
            return payload
        error = f"HTTP {status} ({_message(payload)})"
        if status >= 500 or status in RETRIED:
            raise _PassingError(error)
        raise ServerError(f"{self.url}{path}: {error}")


def _shut(open_socket: socket.socket) -> None:
    """End what is read from or written to a socket, in whatever thread."""
    try:
        open_socket.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has closed by itself meanwhile


def _read(response: http.client.HTTPResponse) -> tuple[int, bytes]:
    """Return state and bytes of an answer."""
    blocks = []
    while block := response.read1(BLOCK):
        blocks.append(block)
    payload = b"".join(blocks)
    if response.length:  # `read1` does not say that the connection ended early
        raise http.client.IncompleteRead(payload, response.length)
    return response.status, payload


def _message(payload: bytes) -> str:
    """Return what a server says about an error, on one line."""
    text = payload.decode("utf-8", errors="replace")
    try:
        text = str(parse_json(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        pass  # not in vLLM's form: shown as it is
    return " ".join(text.split())[:SHOWN] or "no message"


def _reason(error: Exception) -> str:
    """Return what went wrong, on one line."""
    if isinstance(error, TimeoutError):
        return f"no answer in time ({error})"
    if isinstance(error, http.client.HTTPException):
        return f"an answer that broke off ({type(error).__name__})"
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
