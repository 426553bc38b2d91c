"""Tests of rows that several descents share."""

import torch

from nabla_reasoner.dto.descent import joined


def test_rows_of_one_tensor_in_their_order_are_joined_without_a_copy():
    rows = torch.arange(12.0).reshape(6, 2)
    parts = list(rows.split([1, 3, 2]))
    assert torch.equal(joined(parts), rows)
    assert joined(parts).data_ptr() == rows.data_ptr()
    joined(parts[1:]).mul_(-1)  # in place, as Adam's moments are
    assert torch.equal(rows, torch.tensor([[0.0, 1], [-2, -3], [-4, -5], [-6, -7], [-8, -9], [-10, -11]]))


def test_other_rows_are_copied():
    rows = torch.arange(12.0).reshape(6, 2)
    for parts in (
        [rows[2:4], rows[:2]],  # another order
        [rows[:2], rows[3:]],  # with a gap
        [rows[:2], rows[:2]],  # twice the same
        [rows[:, :1], rows[:, 1:]],  # columns
        [rows[:2], rows[2:].clone()],  # of two tensors
        [rows.T[:1], rows.T[1:]],  # transposed
    ):
        result = joined(parts)
        assert torch.equal(result, torch.cat(parts))
        assert result.untyped_storage().data_ptr() != rows.untyped_storage().data_ptr()


def test_tokens_of_one_tensor_are_joined():
    tokens = torch.tensor([5, 3, 8])
    assert joined(list(tokens.split([2, 1]))).tolist() == [5, 3, 8]
    assert joined([tokens]) is tokens
