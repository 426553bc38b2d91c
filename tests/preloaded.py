"""Imports what commands import, and what their models and tasks do when they are made: for a process to fork from.

It has not imported wandb.
"""

import gc
import importlib

MODULES = (
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "reasoning_gym",
    "nabla_reasoner.experiments.launching",
    "nabla_reasoner.experiments.report",
    "nabla_reasoner.experiments.solve",
    "nabla_reasoner.experiments.table1",
    "nabla_reasoner.reporting.wandb_training",
    "nabla_reasoner.training.grpo",
    "nabla_reasoner.training.recipes.tiny",
)

gc.disable()  # among a million objects that stay, it takes a tenth of the time
for name in MODULES:
    importlib.import_module(name)
gc.freeze()  # and more than a second at the end of each fork
gc.enable()
