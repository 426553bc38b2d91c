"""Plans of trainings: states by hand, adapters against peft, and the recipes of all scales."""

import peft
import pytest
import transformers

from nabla_reasoner.config.compose import compose_recipe
from nabla_reasoner.config.targets import find
from nabla_reasoner.planning.machines import machine
from nabla_reasoner.planning.model_sizes import load
from nabla_reasoner.planning.training import LORA_EXAMPLE, Training, adapter_parameters, check_memory, flops, memory
from nabla_reasoner.planning.training_recipes import trainings

H100 = machine("H100-80GB")
BASE = "assets/policies/tiny-base"
LORA = "{r: 32, lora_alpha: 64, target_modules: all-linear}"


def recipe(scale: str, *overrides: str) -> list[Training]:
    return trainings(*compose_recipe(find("models"), [f"scale={scale}", *overrides]))


@pytest.mark.parametrize("targets", [None, "q_proj", ["q_proj", "lm_head"], []])
def test_modules_that_cannot_be_planned_are_named(targets):
    size = load(BASE, classifier=False).size
    with pytest.raises(ValueError, match="lora.target_modules must be all-linear or a list of q_proj, k_proj"):
        adapter_parameters(size, {"r": 4, "target_modules": targets} if targets is not None else {"r": 4})


@pytest.mark.parametrize("lora", [LORA_EXAMPLE, {"r": 4, "target_modules": ["q_proj", "down_proj"]}])
def test_adapter_has_the_parameters_of_peft(lora: dict):
    model = transformers.AutoModelForCausalLM.from_pretrained(BASE)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **lora))
    trained, _ = wrapped.get_nb_trainable_parameters()
    assert adapter_parameters(load(BASE, classifier=False).size, lora) == trained


@pytest.mark.slow
def test_states_of_full_training_are_sixteen_bytes_a_parameter():
    (job,) = recipe("paper", "policy=qwen2.5-7b")
    needed = memory(job, H100)
    assert needed.weights + needed.gradients + needed.optimiser == pytest.approx(16 * 7.62e9, rel=0.01)
    assert needed.sampling == pytest.approx(0.35 * 80e9)


@pytest.mark.slow
def test_grpo_that_does_not_fit_names_an_adapter_that_does():
    with pytest.raises(ValueError, match="An adapter fits") as refusal:
        check_memory(recipe("paper", "policy=qwen2.5-7b"), H100)
    assert LORA.strip("{}") in str(refusal.value)
    check_memory(recipe("paper", "policy=qwen2.5-7b", f"lora={LORA}"), H100)


@pytest.mark.slow
def test_flops_of_a_step_are_six_per_parameter_and_token():
    job = recipe("tiny", "only=[tiny-base]")[0]
    tokens = 54 * (21 + 46) + 14 * (15 + 29) + 28 * (10 + 13.3)
    assert flops(job) == (pytest.approx(6 * job.model.matmul_parameters * tokens * 950), 0.0)


@pytest.mark.slow
def test_recipes_give_the_trainings_that_they_run():
    assert [job.name for job in recipe("tiny", "only=[likelihood,tiny-base-grpo]")] == [
        "likelihood",
        "tiny-base-grpo (grpo)",
    ]
    assert len(recipe("small")) == 6
    sft, grpo = recipe("tiny", "only=[tiny-base-sft,tiny-base-grpo]")
    assert (sft.steps, grpo.steps) == (2 * 300 + 3000, 3 * 300), "every learning rate is tried"
    (grpo,) = recipe("small", "only=[smollm2-grpo]")
    assert grpo.sequences == 16 * 8
    lora = {"r": 2, "target_modules": "all-linear", "layers_to_transform": list(range(12, 30))}
    assert grpo.adapter == adapter_parameters(grpo.model.size, lora)


@pytest.mark.slow
def test_training_without_vllm_has_a_plan_with_the_sampler_left_out():
    (served,), (own,) = (recipe("paper", "policy=qwen2.5-7b", f"lora={LORA}", *more) for more in ((), ("vllm=null",)))
    assert served.sampler > own.sampler == 0
    assert memory(own, H100) == memory(served._replace(sampler=0.0), H100)


@pytest.mark.slow
def test_models_of_unseen_tasks_have_a_plan():
    """Those that are not trained yet are left out."""
    assert {job.name for job in recipe("unseen")} <= {"unseen-base", "likelihood", "classifier"}


def test_training_of_tiny_models_takes_about_what_it_took():
    """Minutes of single trainings on one core, as in docs/models.md; GRPO with its three learning rates."""
    from nabla_reasoner.planning.training import seconds

    took = {"likelihood": 36, "verifier-outcome": 13, "tiny-base-grpo (grpo)": 30, "tiny-instruct-grpo (grpo)": 34}
    planned = {job.name: seconds(job, machine("cpu")) / 60 for job in recipe("tiny")}
    for name, minutes in took.items():
        assert minutes / 1.5 < planned[name] < minutes * 1.5, name
    assert sum(planned.values()) == pytest.approx(find("models").minutes, rel=0.15)
