"""What must hold of a record, so that tables and figures can be made of it."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from ..config.schema import broken_rule
from ..cost import Cost

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
WORDS = {"string_type": "a text", "dict_type": "an object", "model_type": "an object"}  # of JSON, for `broken_rule`


class _Shape(BaseModel):
    """Types of the entries that are read by name; others may be there."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


PRINTED = ("model_calls", "decode_tokens", "flops", "seconds")  # amounts that tables cannot do without
Costs = create_model(
    "Costs",
    __base__=_Shape,
    **{name: (Amount, ... if name in PRINTED else 0) for name in Cost._fields},
)


class _Step(_Shape):
    rollouts: Count
    model_calls: Amount
    flops: Amount
    seconds: Amount
    correct: bool


class _Sample(_Shape):
    reward: float | None = None
    correct: bool


class _Search(_Shape):
    trajectory: list[_Step] = []
    samples: list[_Sample] = []
    proposed: Count | None = None
    rejected: Count | None = None

    @model_validator(mode="after")
    def _check_order(self) -> "_Search":
        rollouts = [step.rollouts for step in self.trajectory]
        if rollouts != sorted(rollouts):
            raise ValueError(f"rollouts along search.trajectory of a record must not fall; got {str(rollouts)[:60]}")
        return self


class Record(_Shape):
    """One line of a record file."""

    problem_id: str
    policy: str
    task: str
    method: str
    seed: int
    repeat: int
    response: str = ""
    extracted: str | None = None
    answer: str | None = None
    correct: bool
    reward: float | None = None
    status: Literal["ok", "failed"]
    error: str | None = None
    cost: Costs
    search: _Search

    @model_validator(mode="after")
    def _check_failure(self) -> "Record":
        if self.correct and self.status == "failed":
            raise ValueError("correct of a record must be false where its status is failed; got true")
        return self


def complaint(record: dict[str, Any]) -> str | None:
    """Return what is wrong with a record, and what must hold; None if nothing is."""
    try:
        Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":
            return str(first["ctx"]["error"])
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"a record must have {key}"
        rule = WORDS.get(first["type"], broken_rule(first))
        return f"{key} of a record must be {rule}; got {json.dumps(first['input'])[:60]}"
    return None
