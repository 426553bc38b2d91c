"""Tests of the expected pauses of rollouts, beside simulated ones."""

import numpy as np
import pytest

from nabla_reasoner.decoding.pauses import PART, decoding_steps, pauses


@pytest.mark.parametrize("uncertain", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("batch", [1, 30])
def test_steps_are_those_of_simulated_batches(uncertain, batch):
    first = np.random.default_rng(0).geometric(uncertain, (20_000, batch))  # tokens up to the first uncertain one
    simulated = np.minimum(first, PART).max(axis=1) - 1
    assert decoding_steps(uncertain, batch) == pytest.approx(simulated.mean(), abs=0.05)


@pytest.mark.parametrize("uncertain", [0.0, 0.05, 0.3, 0.9])
def test_pauses_are_those_of_simulated_rollouts(uncertain):
    generator, stops, gone = np.random.default_rng(1), 0, 0
    for is_uncertain in generator.random(200_000) < uncertain:
        gone += 1
        if is_uncertain or gone == PART:
            stops, gone = stops + 1, 0
    assert pauses(uncertain) == pytest.approx(stops / 200_000, rel=0.02)


def test_every_token_uncertain_needs_no_decoding_step():
    assert decoding_steps(1.0, 50) == 0.0
    assert pauses(1.0) == 1.0
