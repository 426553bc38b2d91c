"""Training loop: losses, logging, batches, and resumed trainings."""

import lightning
import pytest
import torch
import toys
import transformers

from nabla_reasoner.training import loop, losses, reward_model
from nabla_reasoner.training.checkpoints import read_log
from nabla_reasoner.training.data import Example, Mixture, pad
from nabla_reasoner.training.loop import Schedule
from nabla_reasoner.training.recipes import tiny

SIZE = 280  # rows of the toy model's output matrix


def examples(group="a", count=8):
    return [Example(group, [2, 10 + i], [40 + i, 50, 1], [1.0, float(i % 2), float(i % 2)]) for i in range(count)]


def language_model(seed=0):
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_pretrained(toys.model_folder("llama"))


def settings(tmp_path, steps):
    where = {"device": "cpu", "folder": str(tmp_path / "c"), "name": "m", "identity": {"steps": steps}}
    return where, Schedule(steps, 1e-3, warmup_steps=2)


def test_next_token_loss_equals_hugging_face_loss():
    model = language_model()
    ragged = [Example("a", [2, 9, 10], [40, 41, 1]), Example("a", [2, 9], [42, 1]), Example("b", [2], [7, 8, 9, 1])]
    total, count = 0.0, 0
    for _, prompt, response, _ in ragged:
        ids = torch.tensor([prompt + response])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        total, count = total + model(input_ids=ids, labels=labels).loss * len(response), count + len(response)
    torch.testing.assert_close(losses.next_token_loss(model, pad(ragged), SIZE), total / count, rtol=1e-5, atol=1e-6)


def test_reward_loss_reads_outcome_at_last_token():
    model = transformers.AutoModelForSequenceClassification.from_pretrained(toys.model_folder("llama", classifier=True))
    item = Example("a", [2, 9], [40, 41, 1], [1.0, 0.0, 0.0])
    longer = Example("a", [2, 9, 9], [40, 41, 42, 1], [1.0, 1.0, 1.0, 1.0])
    scores = [model(input_ids=torch.tensor([e.prompt_ids + e.response_ids])).logits[0, 0] for e in (item, longer)]
    expected = torch.stack([torch.nn.functional.softplus(scores[0]), torch.nn.functional.softplus(-scores[1])]).mean()
    torch.testing.assert_close(reward_model.reward_loss(model, pad([item, longer]), 0.0), expected)


def test_products_in_bfloat16_leave_weights_and_updates_in_float32(tmp_path):
    """The gradient is that of bfloat16 products, near that of float32; a step below bfloat16's spacing counts."""
    trained = {}
    for precision in (None, "bfloat16"):
        model = language_model()
        where = settings(tmp_path / str(precision), 3)[0]
        module = loop.LanguageModelTraining(model, Schedule(3, 1e-5, warmup_steps=0), SIZE)
        loop.fit(module, Mixture({"a": examples()}, {"a": 4}, 0), precision=precision, **where)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        trained[precision] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    start = torch.cat([parameter.detach().flatten() for parameter in language_model().parameters()])
    moves = [(weights - start) for weights in trained.values()]
    assert not torch.equal(*moves), "products were in bfloat16"
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.9


def test_unknown_precision_of_products_is_refused(tmp_path):
    where, schedule = settings(tmp_path, 3)
    module = loop.LanguageModelTraining(language_model(), schedule, SIZE)
    with pytest.raises(ValueError, match=r"precision must be bfloat16 or null \(float32\); got 'float16'"):
        loop.fit(module, Mixture({"a": examples()}, {"a": 4}, 0), precision="float16", **where)


@pytest.mark.slow
def test_training_lowers_and_logs_the_loss(tmp_path):
    model = language_model()
    before = losses.next_token_loss(model, pad(examples()), SIZE).item()
    where, schedule = settings(tmp_path, 60)
    loop.fit(loop.LanguageModelTraining(model, schedule, SIZE), Mixture({"a": examples()}, {"a": 4}, 0), **where)
    assert losses.next_token_loss(model, pad(examples()), SIZE).item() < before - 0.1
    assert not list((tmp_path / "c").rglob("*.ckpt"))
    assert "train/loss" in next((tmp_path / "c").rglob("metrics.csv")).read_text()


@pytest.mark.slow
def test_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    class Dying(Mixture):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__(), start=self.first_batch):
                if number == 13 and self.first_batch == 0:
                    raise Killed
                yield batch

    results = []
    for kind, folder in ((Mixture, tmp_path / "whole"), (Dying, tmp_path / "killed")):
        where, schedule = settings(folder, 15)
        for _ in range(2):
            lightning.seed_everything(0, verbose=False)
            model = language_model()
            try:
                loop.fit(
                    loop.LanguageModelTraining(model, schedule, SIZE),
                    kind({"a": examples()}, {"a": 4}, 5),
                    interval=10,
                    **where,
                )
                break
            except Killed:
                continue
        results.append(model.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=0, atol=0)


def test_process_labels_end_with_the_grade():
    assert tiny.response_labels([5, 6, 7, 1], [5, 6, 7, 1], True) == [1.0, 1.0, 1.0, 1.0]
    assert tiny.response_labels([5, 9, 7, 1], [5, 6, 7, 1], False) == [1.0, 0.0, 0.0, 0.0]
    assert tiny.response_labels([5, 9, 7, 1], [5, 6, 7, 1], True) == [1.0, 0.0, 0.0, 1.0]
    assert tiny.response_labels([5, 6, 7, 1, 1], [5, 6, 7, 1], False) == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_batches_depend_on_seed_and_number_only():
    mixture = Mixture({"a": examples("a"), "b": examples("b", 3)}, {"a": 3, "b": 2}, 1)
    stream, again = iter(mixture), iter(mixture)
    first, second = next(stream), next(stream)
    assert [len(block.ids) for block in first] == [3, 2]
    next(again)
    assert all(torch.equal(x.ids, y.ids) for x, y in zip(second, next(again), strict=True))
    mixture.first_batch = 1
    assert all(torch.equal(x.ids, y.ids) for x, y in zip(second, next(iter(mixture)), strict=True))


@pytest.mark.slow
def test_training_without_progress_ends_after_patience(tmp_path):
    accuracies = iter([10.0, 30.0, 20.0, 30.0, 20.0, 90.0])

    class Scripted(loop.LanguageModelTraining):
        def validation_step(self, batch, index):
            self.log("validation/accuracy", next(accuracies), batch_size=1)

    where, schedule = settings(tmp_path, 100)
    for _ in range(2):  # the second time as if killed after the end, before the weights were written
        module, data = Scripted(language_model(), schedule, SIZE), Mixture({"a": examples()}, {"a": 4}, 5)
        ended = loop.fit(module, data, **where, interval=5, validation=[[0]], patience=15)
        assert ended == (5, 30.0, 20)
    assert next(accuracies) == 90.0


@pytest.mark.slow
def test_log_of_an_earlier_training_is_not_read_as_this_ones(tmp_path):
    class Scripted(loop.LanguageModelTraining):
        def validation_step(self, batch, index):
            self.log("validation/accuracy", float(self.global_step), batch_size=1)

    for steps, interval in ((8, 2), (6, 3)):
        where, schedule = settings(tmp_path, steps)
        module, data = Scripted(language_model(), schedule, SIZE), Mixture({"a": examples()}, {"a": 4}, 5)
        loop.fit(module, data, **where, interval=interval, validation=[[0]])
        loop.discard_checkpoint(where["folder"], where["name"])
    log = read_log(tmp_path / "c" / "log")
    assert log["validation/accuracy"].dropna().index.tolist() == [0, 2, 5]


def test_training_without_a_validation_after_its_start_is_refused(tmp_path):
    where, schedule = settings(tmp_path, 4)
    module, data = loop.LanguageModelTraining(language_model(), schedule, SIZE), Mixture({"a": examples()}, {"a": 4}, 5)
    with pytest.raises(ValueError, match=r"got one every 5 steps of 4\. Lower `every`"):
        loop.fit(module, data, **where, interval=5, validation=[[0]])
    with pytest.raises(ValueError, match="got one every 3 steps of 2"):
        loop.fit(module, data, **where, interval=3, validation=[[0]], until=2)


@pytest.mark.slow
def test_training_stopped_on_the_way_goes_on_as_if_it_had_not(tmp_path):
    schedule = loop.Schedule(10, 1e-2, warmup_steps=2)
    weights = []
    for name, stops in (("whole", [None]), ("in parts", [5, None])):
        for until in stops:
            torch.manual_seed(0)
            where, _ = settings(tmp_path / name, 10)
            module, data = (
                loop.LanguageModelTraining(language_model(), schedule, SIZE),
                Mixture({"a": examples()}, {"a": 4}, 5),
            )
            loop.fit(module, data, **where, interval=5, until=until)
        weights.append(module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_constant_schedule_keeps_its_peak():
    schedule = loop.Schedule(100, 1.0, warmup_steps=10, decay=False)
    assert [schedule.factor(step) for step in (0, 9, 50, 99)] == [0.1, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("changed", ["weights", "data"])
def test_stopped_training_does_not_go_on_from_other_weights_or_data(tmp_path, changed):
    """The folders' names stay, their contents do not."""
    where, schedule = settings(tmp_path, 10)
    lightning.seed_everything(0, verbose=False)

    def stopped(seed: int, count: int) -> None:
        module = loop.LanguageModelTraining(language_model(), schedule, SIZE)
        if seed:
            with torch.no_grad():
                next(module.model.parameters()).add_(1e-3)
        data = Mixture({"a": examples(count=count)}, {"a": 4}, 5)
        loop.fit(module, data, **where, interval=2, until=4)

    stopped(0, 8)
    with pytest.raises(ValueError, match=f"must come from the same recipe, model and tokenizer; got {changed}: "):
        stopped(int(changed == "weights"), 8 - (changed == "data"))
    stopped(0, 8)
