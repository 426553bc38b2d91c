"""Requests to a server and what comes back: every setting explicit, every fault retried, then an error."""

import contextlib
import gc
import http.client
import json
import socket
import threading
import time

import pytest
import toys
from fake_server import FakeServer

from nabla_reasoner.engine.sampling import Sampling
from nabla_reasoner.serving import client as client_module
from nabla_reasoner.serving.client import ATTEMPTS, Client, ServerError
from nabla_reasoner.serving.completions import BadAnswerError, CompletionRequest, read_completion, request_body

PASSING = ["500", "late", "truncated", "cut", "vocabulary", "no choices", "text", "log_probs", "abort"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(client_module, "PAUSE", 0.001)


@pytest.fixture(scope="module")
def policy():
    return toys.policy(dtype="float32")


def request(policy, question="1+2?", **settings) -> CompletionRequest:
    prompt = policy.prompt_ids(toys.chat(question))
    values = {"sampling": Sampling(0.8, 0.9, 20), "seed": 5, "max_tokens": 6, "log_probs": True, **settings}
    return CompletionRequest(prompt, stops=policy.eos_ids, **values)


def test_request_leaves_nothing_to_the_server():
    body = request_body("m", CompletionRequest([3, 4], Sampling(0.6, 0.95, 20), 2**53 - 1, 7, [1, 2]))
    assert body["prompt"] == [3, 4]
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0.6, 0.95, 20, 0.0)
    assert (body["repetition_penalty"], body["presence_penalty"], body["frequency_penalty"]) == (1.0, 0.0, 0.0)
    assert (body["seed"], body["max_tokens"], body["n"], body["logprobs"]) == (2**53 - 1, 7, 1, None)
    assert (body["stop_token_ids"], body["ignore_eos"], body["return_token_ids"]) == ([1, 2], True, True)
    assert json.loads(json.dumps(body))["seed"] == 2**53 - 1
    assert request_body("m", CompletionRequest([3], Sampling(1.0), 0, 1, []))["top_k"] == -1, "keeps every token"


@pytest.mark.slow
@pytest.mark.parametrize("kind", PASSING)
def test_passing_fault_is_retried_and_the_answer_is_the_undisturbed_one(policy, kind):
    with FakeServer(policy) as server:
        wanted = Client(server.url, "served").complete([request(policy)], policy.vocab_size)
    faulty = 1 if kind == "late" else 2
    with FakeServer(policy, lambda body, number: kind if number <= faulty else None) as server:
        server.delay = 60
        client = Client(server.url, "served", timeout=0.7 if kind == "late" else 60)
        assert client.complete([request(policy)], policy.vocab_size) == wanted
        assert client.retries == len(server.bodies) - 1 >= faulty
        assert client.retries == faulty or kind == "late", "a busy machine may be late again"


@pytest.mark.parametrize("kind", ["500", "truncated", "vocabulary", "no choices"])
def test_lasting_fault_becomes_an_error_with_its_reason(policy, kind):
    reasons = {"500": "HTTP 500", "truncated": "no whole JSON", "vocabulary": "vocabulary of 280", "no choices": "0 ch"}
    with FakeServer(policy, lambda body, number: kind) as server:
        with pytest.raises(ServerError, match=rf"attempt {ATTEMPTS} of {ATTEMPTS}: .*{reasons[kind]}"):
            Client(server.url, "served").complete([request(policy)], policy.vocab_size)
        assert len(server.bodies) == ATTEMPTS


@pytest.mark.slow
def test_no_socket_stays_open_after_an_answer_that_stalls(policy, monkeypatch):
    """Otherwise the garbage collector closes it, at any time and with a warning."""
    opened, connect = [], http.client.HTTPConnection.connect

    def remember(connection):
        connect(connection)
        opened.append(connection.sock)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", remember)
    monkeypatch.setattr(client_module, "ATTEMPTS", 2)
    gc.disable()
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as accepted:

            def serve():
                for _ in range(2):
                    connection, _ = listener.accept()
                    accepted.enter_context(connection)
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n{")

            thread = threading.Thread(target=serve)
            thread.start()
            client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "served", timeout=0.3)
            with pytest.raises(ServerError, match="no answer in time"):
                client.complete([request(policy)], policy.vocab_size)
            thread.join()
        assert [sock.fileno() for sock in opened] == [-1, -1]
    finally:
        gc.enable()


@pytest.mark.slow
def test_time_out_is_of_the_whole_attempt(policy, monkeypatch):
    """A server that sends its headers byte by byte is given up after the time-out, not after each of its bytes."""
    monkeypatch.setattr(client_module, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                for byte in b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n{":
                    connection.sendall(bytes([byte]))
                    time.sleep(0.2)

        thread = threading.Thread(target=serve)
        thread.start()
        begin = time.monotonic()
        with pytest.raises(ServerError, match=r"no answer in time \(timed out after 0.5 s\)"):
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "s", timeout=0.5).complete(
                [request(policy)], policy.vocab_size
            )
        assert time.monotonic() - begin < 4, "the answer would take 8 s"
        thread.join()


@pytest.mark.slow
def test_request_that_we_end_ourselves_does_not_count_as_a_silent_server(policy):
    """After a refused request, whose batch is ended, the next one is tried again as often as any."""
    seen = []

    def fault(body, number):
        seen.append(body["seed"])
        if body["seed"] == 9:
            return "cut" if seen.count(9) == 1 else None
        return "400" if body["seed"] == 3 else "late"

    with FakeServer(policy, fault) as server:
        server.delay = 60
        client = Client(server.url, "served", concurrency=4)
        with pytest.raises(ServerError, match="HTTP 400"):
            client.complete([request(policy, seed=seed) for seed in range(4)], policy.vocab_size)
        time.sleep(0.3)  # the threads of the ended requests see their sockets close
        assert not client.down
        assert len(client.complete([request(policy, seed=9)], policy.vocab_size)) == 1


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf"), 5.0])
def test_log_probability_that_is_none_is_asked_for_again(policy, value):
    with FakeServer(policy) as server:
        wanted = request(policy)
        answer = server.answer(request_body("served", wanted))
    read_completion(json.dumps(answer).encode(), wanted, policy.vocab_size)
    answer["choices"][0]["logprobs"]["token_logprobs"][-1] = value
    with pytest.raises(BadAnswerError, match=f"a log-probability of {value}"):
        read_completion(json.dumps(answer).encode(), wanted, policy.vocab_size)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://[::1]", ("::1", 80)),
        ("https://[2001:db8::5]/v1", ("2001:db8::5", 443)),
        ("http://localhost:8000/v1", ("localhost", 8000)),
    ],
)
def test_address_and_port_of_a_url(url, address, monkeypatch):
    asked = []

    def connect(connection):
        asked.append((connection.host, connection.port))
        raise OSError("not connected")

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    monkeypatch.setattr(http.client.HTTPSConnection, "connect", connect)
    with pytest.raises(ServerError):
        Client(url).get("/v1/models")
    assert asked == [address]


@pytest.mark.parametrize("url", ["http://[::1", "http://host:99999", "http://host:x", "ftp://host", "http://"])
def test_what_is_no_url_of_a_server_is_refused(url):
    with pytest.raises(ValueError, match="server must be a URL such as"):
        Client(url)


def test_refused_request_is_not_repeated(policy):
    with FakeServer(policy, lambda body, number: "400") as server:
        with pytest.raises(ServerError, match=r"HTTP 400 \(The answer is 42. Engine died\)"):
            Client(server.url, "served").complete([request(policy)], policy.vocab_size)
        assert len(server.bodies) == 1


def test_killed_server_is_tried_again_once_per_later_request(policy):
    with FakeServer(policy, lambda body, number: "killed") as server:
        client = Client(server.url, "served")
        with pytest.raises(ServerError, match=f"attempt {ATTEMPTS} of {ATTEMPTS}: ConnectionRefusedError"):
            client.complete([request(policy)], policy.vocab_size)
        with pytest.raises(ServerError, match=f"attempt 1 of {ATTEMPTS}"):
            client.complete([request(policy)], policy.vocab_size)


def test_failed_request_ends_the_others_at_once(policy):
    def fault(body, number):
        return "400" if body["seed"] == 3 else "late"

    with FakeServer(policy, fault) as server:
        server.delay = 60
        client = Client(server.url, "served", concurrency=4)
        begin = time.monotonic()
        with pytest.raises(ServerError, match="HTTP 400"):
            client.complete([request(policy, seed=seed) for seed in range(20)], policy.vocab_size)
        assert time.monotonic() - begin < 30, "requests under way are dropped"


@pytest.mark.slow
def test_concurrency_is_limited_and_answers_keep_their_order(policy):
    active, most = [], []

    with FakeServer(policy) as server:
        answer = server.answer

        def counted(body):
            active.append(body)
            most.append(len(active))
            time.sleep(0.01)
            result = answer(body)
            active.remove(body)
            return result

        server.answer = counted
        requests = [request(policy, question=f"{k}+2?", seed=k, log_probs=False) for k in range(9)]
        together = Client(server.url, "served", concurrency=3).complete(requests, policy.vocab_size)
        assert 1 < max(most) <= 3
        one_by_one = [Client(server.url, "served").complete([r], policy.vocab_size)[0] for r in requests]
    assert together == one_by_one


def test_answer_that_goes_on_after_a_stop_or_ends_early_is_refused(policy):
    wanted = request(policy, log_probs=False)
    stop = policy.eos_ids[0]
    for ids, reason in (([9, stop, 9], "stop"), ([9] * 7, "length"), ([9, 9], "stop"), ([], "stop"), ([True], "stop")):
        answer = {"choices": [{"token_ids": ids, "finish_reason": reason}]}
        with pytest.raises(BadAnswerError):
            read_completion(json.dumps(answer).encode(), wanted, policy.vocab_size)
    answer = {"choices": [{"token_ids": [9, stop], "finish_reason": "stop"}]}
    assert read_completion(json.dumps(answer).encode(), wanted, policy.vocab_size).token_ids == [9, stop]
    answer["choices"][0]["prompt_token_ids"] = [*wanted.prompt, 0]
    with pytest.raises(BadAnswerError, match="prompt"):
        read_completion(json.dumps(answer).encode(), wanted, policy.vocab_size)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://"])
def test_url_without_a_server_is_refused(url):
    with pytest.raises(ValueError, match="server must be a URL"):
        Client(url)


def test_path_v1_may_be_part_of_the_url():
    assert Client("http://127.0.0.1:8000/v1/").url == Client("http://127.0.0.1:8000").url == "http://127.0.0.1:8000"
