"""The page of one solved problem: its numbers against independent ones, its text, and a look by a real browser."""

import functools
import html.parser
import json
import re
import subprocess
from pathlib import Path

import installing
import pytest
import torch
import toys

from nabla_reasoner.decoding import trace
from nabla_reasoner.decoding.candidate_scores import with_scores
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.decoding.observer import ObserverGroup
from nabla_reasoner.decoding.trace import Trace, TraceRecorder
from nabla_reasoner.dto import objective, optimizer
from nabla_reasoner.engine import scoring
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.reporting.trace_page import fate, number, token_text, trace_page
from nabla_reasoner.types import Problem

BROWSER = Path("/usr/bin/chromium")
QUESTION = "1+1? <script>alert('x')</script> & \"{{ 7 * 7 }}\""
SETTINGS = {
    "max_new_tokens": 7,
    "num_iterations": 6,
    "step_size": 0.5,
    "grad_threshold": 0.0,
    "max_rollouts": 6,
    "num_passes": 2,
    "rollout_temperature": 1.0,
    "rollout_top_p": 1.0,
    "nll_weight": 0.3,
}


@functools.cache
def models(kind: str = "likelihood") -> tuple[Policy, RewardModel]:
    return toys.policy("qwen2"), toys.reward(kind)


@functools.cache
def traced(kind: str = "likelihood", **settings: object) -> tuple[Trace, NablaReasoner]:
    policy, reward = models(kind)
    method = NablaReasoner(**{**SETTINGS, **settings})
    problem = Problem("p0", QUESTION, None, "free")
    recorder = TraceRecorder(method.settings, policy, 1)
    solutions = method.solve([problem], policy, reward, seed=2, observer=ObserverGroup([recorder]))
    return recorder.traces([problem], solutions)[0], method


@functools.cache
def page(kind: str = "likelihood", **settings: object) -> str:
    policy, reward = models(kind)
    recorded, method = traced(kind, **settings)
    scored = with_scores(recorded, policy, reward)
    return trace_page(scored, policy, reward, method.settings, seed=2, verdict="not checked")


class Reader(html.parser.HTMLParser):
    """Collects start tags with their attributes, and the text of the tags named in `wanted`."""

    def __init__(self, text: str, *wanted: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {name: [] for name in wanted}
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in self.texts:
            self.inside.append(tag)
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside[-1]][-1] += data


@pytest.mark.slow
def test_observed_search_is_the_plain_one_and_its_trace_that_of_record():
    policy, reward = models()
    recorded, method = traced()
    (plain,) = method.solve([recorded.problem], policy, reward, seed=2)
    assert recorded.solution.token_ids == plain.token_ids
    assert recorded.solution.search["revisions"] == plain.search["revisions"]
    (again,) = trace.record(method.settings, [recorded.problem], policy, reward, seed=2)
    assert again.visits == recorded.visits
    decisions = [visit.decision for visit in recorded.visits if visit.decision is not None]
    assert decisions == plain.search["revisions"]
    assert {decision["accepted"] for decision in decisions} == {True, False}


def test_reference_engine_cannot_be_observed():
    policy, reward = models()
    method = NablaReasoner(**SETTINGS, engine="reference")
    recorder = TraceRecorder(method.settings, policy, 1)
    with pytest.raises(ValueError, match="engine=fast"):
        method.solve([Problem("p0", "1", None, "free")], policy, reward, observer=recorder)


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
def test_norms_are_those_of_autograd(kind):
    policy, reward = models(kind)
    recorded, method = traced(kind)
    checked = 0
    for response in recorded.responses:
        if not response.norms:
            continue
        start = min(response.norms)
        prefix, rollout = response.tokens[:start], response.tokens[start:]
        sequence = objective.make_sequence(policy, reward, recorded.problem.messages, prefix, rollout)
        onehots = torch.nn.functional.one_hot(torch.tensor(rollout), policy.vocab_size).double().requires_grad_()
        loss = objective.relaxed_objective(policy, reward, sequence, onehots, **method.settings.dto.weights)
        (gradient,) = torch.autograd.grad(loss, onehots)
        positions = range(start, len(response.tokens))
        assert sorted(response.norms) == list(positions)
        assert [response.norms[i] for i in positions] == pytest.approx(gradient.norm(dim=-1).tolist(), rel=1e-6)
        checked += 1
    assert checked > 1


def test_objective_and_probabilities_are_those_of_dto():
    policy, reward = models()
    recorded, method = traced()
    for visit in recorded.visits:
        tokens = recorded.responses[visit.response].tokens
        case = ([recorded.problem.messages], [tokens[: visit.position]], [tokens[visit.position :]])
        (result,) = optimizer.optimize(policy, reward, *case, settings=method.settings.dto)
        assert visit.objective == pytest.approx(result.objective, rel=1e-6)
        after = result.logits[0].softmax(-1)
        assert [candidate.after for candidate in visit.candidates] == pytest.approx(
            [after[candidate.token].item() for candidate in visit.candidates], rel=1e-6
        )
        assert {visit.old, visit.new, after.argmax().item()} <= {candidate.token for candidate in visit.candidates}
    assert any(len(set(visit.objective)) > 1 for visit in recorded.visits)


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
def test_scores_are_the_reward_model_read_token_by_token(kind):
    policy, reward = models(kind)
    recorded, _ = traced(kind)
    visit = with_scores(recorded, policy, reward).visits[0]
    prompt, tokens = reward.prompt_ids(recorded.problem.messages), recorded.responses[visit.response].tokens
    for candidate in visit.candidates:
        text = [*tokens[: visit.position], candidate.token]
        if candidate.token not in policy.eos_ids:
            text += tokens[visit.position + 1 :]
        (whole,), _ = scoring.rewards(reward, [prompt], [text])
        sequence = objective.make_sequence(policy, reward, recorded.problem.messages, [], text)
        reads = [
            objective.prefix_reward(policy, reward, sequence._replace(prefix=text[:end], rollout=[text[end]]))
            for end in range(visit.position, len(text))
        ]
        expected = {"outcome": whole, "process": sum(reads), "prefix": reads[0]}
        assert candidate.scores == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_page_shows_every_step_and_loads_nothing():
    policy, _ = models()
    recorded, _ = traced()
    reader = Reader(page(), "h3", "b", "p", "title")
    assert len(reader.texts["h3"]) == len(recorded.visits)
    for heading, visit in zip(reader.texts["h3"], recorded.visits, strict=True):
        old, new = token_text(policy, visit.old), token_text(policy, visit.new)
        assert heading.endswith(f"Pass {visit.current_pass + 1}, position {visit.position}: {old} → {new}")
    first = recorded.responses[0].tokens
    assert reader.texts["b"][: len(first)] == [token_text(policy, token) for token in first]
    decided = [visit.decision for visit in recorded.visits if visit.decision]
    fates = [f"{'✓' if decision['accepted'] else '✗'} {fate(decision, 'higher')}" for decision in decided]
    assert [text for text in reader.texts["p"] if text[:1] in "✓✗" and text] == fates
    changes = [f"reward {number(decision['incumbent'])} → {number(decision['reward'])}" for decision in decided]
    assert [text for text in reader.texts["p"] if text.startswith("reward ")] == changes
    classes = [attributes["class"] for tag, attributes in reader.tags if tag == "article"]
    states = {None: "none", True: "accepted", False: "rejected"}
    assert classes == [states[visit.decision and visit.decision["accepted"]] for visit in recorded.visits]
    addresses = [
        value for _, attributes in reader.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert addresses == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", page())


def test_question_and_tokens_are_escaped():
    assert not [tag for tag, _ in Reader(page()).tags if tag == "script"]
    assert QUESTION in Reader(page(), "p").texts["p"]
    policy, _ = models()
    visible = token_text(policy, policy.tokenizer.encode("<", add_special_tokens=False)[0])
    assert visible == "<"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"use_gradient": False},
        {"acceptance": "prefix_higher", "reward_form": "prefix"},
        {"acceptance": "always"},
        pytest.param({"variant": "paper"}, marks=pytest.mark.slow),
        pytest.param({"move": "sharpen"}, marks=pytest.mark.slow),
        {"max_rollouts": 1},
    ],
    ids=str,
)
def test_page_of_every_kind_of_search(settings):
    recorded, _ = traced(**settings)
    reader = Reader(page(**settings), "p", "th")
    assert sum(tag == "article" for tag, _ in reader.tags) == len(recorded.visits)
    text = " ".join(reader.texts["p"])
    if settings == {"acceptance": "prefix_higher", "reward_form": "prefix"}:
        assert "rejected before a rollout: the reward of the text up to the token did not rise" in text
    if settings == {"acceptance": "always"}:
        assert "kept: every proposal is (acceptance=always)" in text
    if settings == {"max_rollouts": 1}:
        assert "None: the first rollout is the answer." in text


@pytest.mark.slow
def test_page_fits_a_phone_and_switches_its_colours(tmp_path):
    installing.needed("chromium", BROWSER, "install Debian's package chromium")
    script = """
    const frame = document.createElement('iframe');
    frame.style.cssText = 'width:400px;height:900px;border:0';
    frame.srcdoc = PAGE;
    frame.onload = () => {
      const page = frame.contentDocument, token = page.querySelector('.token');
      page.querySelectorAll('details').forEach(details => details.open = true);
      const look = () => [token.querySelector('.confidence'), token.querySelector('.norm')]
        .map(part => frame.contentWindow.getComputedStyle(part).display !== 'none');
      const seen = {before: look()};
      page.querySelector('label[for=by-norm]').click();
      const boxes = [page.documentElement, ...page.querySelectorAll('.scroll')];
      const fits = boxes.every(box => box.clientWidth > 300 && box.scrollWidth <= box.clientWidth);
      Object.assign(seen, {after: look(), fits});
      document.documentElement.dataset.seen = JSON.stringify(seen);
    };
    document.body.append(frame);
    """.replace("PAGE", json.dumps(page()).replace("</", "<\\/"))
    outer = tmp_path / "outer.html"
    outer.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body><script>{script}</script></body>', encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [str(BROWSER), *flags, profile, "--dump-dom", outer.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(re.search(r'data-seen="([^"]+)"', done.stdout)[1].replace("&quot;", '"'))
    assert seen == {"before": [True, False], "after": [False, True], "fits": True}
