"""∇-Reasoner as a decoding method of transformers: `model.generate(..., custom_generate=…)`.

`generate` is the callable. `FOLDER` holds `custom_generate/generate.py`, for calls that name a folder or a hub
repository instead. Both take the same keywords (docs/transformers.md).
"""

from pathlib import Path

from .calls import generate, generate_from_folder
from .prompts import problem_id

__all__ = ["FOLDER", "generate", "generate_from_folder", "problem_id"]

FOLDER = str(Path(__file__).parent / "hub_repository")
