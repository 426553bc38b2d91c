"""Types and shapes of arguments and results are checked wherever a test calls the package."""

import pytest
import torch
from jaxtyping import TypeCheckError

from nabla_reasoner.dto.settings import DTOSettings
from nabla_reasoner.engine import sampling
from nabla_reasoner.engine.sampling import Sampling


def test_arguments_of_wrong_type_are_refused():
    with pytest.raises(TypeCheckError, match="count"):
        sampling.keyed_uniforms(0, "p", 0, "stage", "4")
    with pytest.raises(TypeCheckError, match="num_iterations"):
        DTOSettings(num_iterations="4")


def test_results_of_wrong_type_are_refused(monkeypatch):
    monkeypatch.setattr(sampling, "_invert", lambda logits, *_: torch.zeros(len(logits)))
    with pytest.raises(TypeCheckError):
        sampling.draw(torch.zeros(2, 3), torch.zeros(2), Sampling(0.5))


def test_shapes_that_disagree_are_refused():
    with pytest.raises(TypeCheckError, match="uniform"):
        sampling.draw(torch.zeros(2, 3), torch.zeros(4), Sampling(0.5))
