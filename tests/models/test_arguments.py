"""Checks of arguments whose types no signature allows."""

import pytest
import toys

from nabla_reasoner.models import arguments


@pytest.mark.parametrize("ids", ["56", [5, 1.5], 5, None, [[5, 6]]])
def test_ids_that_are_no_whole_numbers_are_refused(ids):
    with pytest.raises(ValueError, match="rollout_ids must hold a list of token ids per sequence; got"):
        arguments.checked_ids("rollout_ids", ids, toys.policy())


@pytest.mark.parametrize("prompts", ["1+1?", ["1+1?"], toys.chat("1+1?"), [[{"role": "user", "content": 5}]], None])
def test_prompts_that_are_no_chats_are_refused_with_a_remedy(prompts):
    with pytest.raises(ValueError, match=r"must .* got .* Write \[\[{"):
        arguments.check_chats(prompts)
