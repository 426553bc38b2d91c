"""Training the shipped models: supervised fine-tuning of a causal LM and of a scalar reward model, with Lightning."""

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


class Example(NamedTuple):
    """One training sequence.

    Attributes:
        group: sequences of one group (a task) are padded together, so that short ones are not padded to long ones.
        prompt_ids: chat prompt, not trained on.
        response_ids: what follows it.
        labels: reward training only: 1.0 where the response up to and including that token is right.
    """

    group: str
    prompt_ids: list[int]
    response_ids: list[int]
    labels: list[float] | None = None


class Padded(NamedTuple):
    """Sequences of one group, padded on the right.

    Attributes:
        ids: prompt and response.
        is_response: True at the response's tokens.
        labels: per response token for reward training, 0 elsewhere.
        last: position of each sequence's last token.
    """

    ids: Int[Tensor, "batch seq"]
    is_response: Bool[Tensor, "batch seq"]
    labels: Float[Tensor, "batch seq"]
    last: Int[Tensor, " batch"]


def pad(examples: Sequence[Example]) -> list[Padded]:
    """Collate examples into one right-padded block per group."""
    blocks = []
    for group in sorted({example.group for example in examples}):
        members = [example for example in examples if example.group == group]
        width = max(len(example.prompt_ids) + len(example.response_ids) for example in members)
        ids = torch.zeros(len(members), width, dtype=torch.long)
        is_response = torch.zeros(len(members), width, dtype=torch.bool)
        labels = torch.zeros(len(members), width)
        last = torch.zeros(len(members), dtype=torch.long)
        for row, (_, prompt, response, targets) in enumerate(members):
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor([*prompt, *response])
            is_response[row, len(prompt) : end] = True
            if targets is not None:
                labels[row, len(prompt) : end] = torch.tensor(targets)
            last[row] = end - 1
        blocks.append(Padded(ids, is_response, labels, last))
    return blocks


class Mixture(torch.utils.data.IterableDataset):
    """An endless stream of batches in which every group has its fixed share.

    Args:
        pools: examples by group.
        counts: examples of each group in a batch.
        seed: of the order. `first_batch` batches are drawn and passed over, so a resumed training sees what it would
            have seen.
    """

    def __init__(self, pools: dict[str, list[Example]], counts: dict[str, int], seed: int):
        super().__init__()
        self.pools, self.counts, self.seed, self.first_batch = pools, counts, seed, 0

    def __iter__(self) -> Iterator[list[Padded]]:
        generator = torch.Generator().manual_seed(self.seed)
        for number in itertools.count():
            batch = []
            for group, count in self.counts.items():
                pool = self.pools[group]
                batch += [pool[i] for i in torch.randint(len(pool), (count,), generator=generator).tolist()]
            if number >= self.first_batch:
                yield pad(batch)


def next_token_loss(model: torch.nn.Module, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of the response tokens under a causal LM."""
    losses, count = [], 0
    for block in blocks:
        hidden = model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state[:, :-1]
        chosen = block.is_response[:, 1:]  # only these positions go through the output matrix
        logits = model.get_output_embeddings()(hidden[chosen])
        losses.append(functional.cross_entropy(logits, block.ids[:, 1:][chosen], reduction="sum"))
        count += int(chosen.sum())
    return torch.stack(losses).sum() / count


def reward_loss(model: torch.nn.Module, blocks: Sequence[Padded], process_weight: float) -> Float[Tensor, ""]:
    """Binary cross-entropy of the outcome, read at the last token, plus that of every token's process label.

    The process part (is the response right up to here?) shares the score head; it is what lets a small verifier learn
    at all: an outcome label alone says of forty tokens only that one of them is wrong.
    """
    outcome, process, sequences, tokens = [], [], 0, 0
    for block in blocks:
        hidden = model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state
        scores = model.score(hidden)[..., 0]
        rows = torch.arange(len(block.ids), device=scores.device)
        targets = block.labels[rows, block.last]
        outcome.append(functional.binary_cross_entropy_with_logits(scores[rows, block.last], targets, reduction="sum"))
        chosen = block.is_response
        process.append(
            functional.binary_cross_entropy_with_logits(scores[chosen], block.labels[chosen], reduction="sum")
        )
        sequences, tokens = sequences + len(rows), tokens + int(chosen.sum())
    return torch.stack(outcome).sum() / sequences + process_weight * torch.stack(process).sum() / tokens


class Schedule(NamedTuple):
    """AdamW with linear warm-up and cosine decay to 5 % of the peak.

    Attributes:
        num_steps: optimiser steps, all of them.
        learning_rate: peak.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's, on every parameter.
    """

    num_steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.05

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.num_steps))))


class _Training(lightning.LightningModule):
    """What both kinds of training share: the model, the optimiser, logging. Final classes give `loss`."""

    def __init__(self, model: torch.nn.Module, schedule: Schedule):
        super().__init__()
        self.model, self.schedule = model.train(), schedule

    def loss(self, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
        """The training loss of one batch."""
        raise NotImplementedError

    def training_step(self, batch: list[Padded], index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.schedule.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=self.schedule.weight_decay,
            fused=True,
        )
        # a plain function: torch tries to write any other callable into the checkpoint
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LanguageModelTraining(_Training):
    """Supervised fine-tuning: cross-entropy of the worked solutions."""

    def loss(self, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
        return next_token_loss(self.model, blocks)


class RewardTraining(_Training):
    """A scalar verifier trained on outcome and process labels."""

    def __init__(self, model: torch.nn.Module, schedule: Schedule, process_weight: float = 1.0):
        super().__init__(model, schedule)
        self.process_weight = process_weight

    def loss(self, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
        return reward_loss(self.model, blocks, self.process_weight)


def grow(classifier: torch.nn.Module, language_model: torch.nn.Module) -> None:
    """Start a classifier from a shallower causal LM: embedding and layers are copied, deeper ones begin as no-ops.

    A verifier has to compare each token with the model's own prediction of it, which exists only in the last layer one
    position earlier; the added layers are where that comparison can be learnt. What is copied stays frozen: it already
    says what was expected, and a step costs half.
    """
    source, target = language_model.base_model, classifier.base_model
    target.embed_tokens.load_state_dict(source.embed_tokens.state_dict())
    for index, layer in enumerate(target.layers):
        if index < len(source.layers):
            layer.load_state_dict(source.layers[index].state_dict())
        else:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    for copied in (target.embed_tokens, *target.layers[: len(source.layers)]):
        copied.requires_grad_(False)


def fit(module: _Training, data: Mixture, *, device: str, folder: str, name: str) -> None:
    """Run a training to its last step. A killed run goes on from its last checkpoint; a finished one leaves none."""
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        dirpath=Path(folder, "state"),
        filename=name,
        every_n_train_steps=100,
        save_top_k=1,
        enable_version_counter=False,
    )
    saved = Path(folder, "state", f"{name}.ckpt")
    if saved.is_file():
        data.first_batch = torch.load(saved, weights_only=True, map_location="cpu")["global_step"]
    trainer = lightning.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        max_steps=module.schedule.num_steps,
        gradient_clip_val=1.0,
        logger=lightning.pytorch.loggers.CSVLogger(folder, name="log"),
        callbacks=[checkpoint, lightning.pytorch.callbacks.TQDMProgressBar(refresh_rate=10)],
        enable_model_summary=False,
        log_every_n_steps=50,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # that is what resuming means
        loader = torch.utils.data.DataLoader(data, batch_size=None)
        trainer.fit(module, loader, ckpt_path=saved if saved.is_file() else None)
    saved.unlink(missing_ok=True)
