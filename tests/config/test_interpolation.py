"""References between settings, replaced as OmegaConf replaces them."""

from typing import Any

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nabla_reasoner.config import composed_files, interpolation
from nabla_reasoner.config.schema import CONFIGS, choices

SETTINGS = {
    "name": "sums",
    "count": 3,
    "share": 0.5,
    "none": None,
    "group": {"size": "${count}", "text": "${.size} of ${share}", "sums": [1, "${name}"]},
    "other": "${group}",
    "missing": "???",
}
READ_HERE = [
    "${name}",
    "${group}",
    "${group.sums}",
    "${other.size}",
    "${group.${name}}",
    "a/${name}/${count}, ${share} and ${group.text}",
    "${oc.select:group.size,1}",
    "${oc.select:group.absent,0.1}",
    "${oc.select:absent.${name},''}-lora",
    "${oc.select:absent,response}",
    "${oc.select:absent,'x-1'}",
    ["${name}", {"own": "b", "beside": "${.own}"}],
]
LEFT_TO_OMEGACONF = [
    r"\${name}",
    "${absent}",
    "${group.absent}",
    "${name.absent}",
    "${missing}",
    "${tested}",
    "${group.sums.1}",
    "${group[size]}",
    "${oc.select:group.${name},1}",
    "${oc.select:absent,null}",
    "${oc.select:absent,[1]}",
    "${oc.select:none.absent,1}",
    "${oc.select:missing,1}",
    "${oc.create:{a: 1}}",
    "${oc.env:HOME}",
    "${ name }",
    "${name",
    "$${name}",
    "${group.x${name}}",
    "a${none}",
    "a${group}",
    ["${.own}"],
]


def outcome(resolve: Any, value: Any) -> tuple[Any, ...]:
    """Resolved settings with the order of their keys, or the error."""
    try:
        return ("resolved", repr(resolve({"tested": value, **SETTINGS})))
    except OmegaConfBaseException as error:
        return (type(error), str(error))


def by_omegaconf(settings: dict[str, Any]) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.create(settings), resolve=True)


@pytest.mark.parametrize("value", [*READ_HERE, *LEFT_TO_OMEGACONF], ids=str)
def test_references_are_replaced_as_by_omegaconf(value: Any):
    assert outcome(interpolation.resolved, value) == outcome(by_omegaconf, value)


@pytest.mark.parametrize("value", READ_HERE, ids=str)
def test_forms_of_the_configs_need_no_omegaconf(value: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interpolation, "OmegaConf", None)
    assert interpolation.resolved({"tested": value, **SETTINGS}) == by_omegaconf({"tested": value, **SETTINGS})


@pytest.mark.slow
@pytest.mark.parametrize("scale", choices("scale"))
def test_settings_of_every_scale_are_read_without_omegaconf(scale: str, monkeypatch: pytest.MonkeyPatch):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = composed_files.composed((f"scale={scale}", "method=nabla_prefix_without_gradient"))
    expected = by_omegaconf(settings)
    monkeypatch.setattr(interpolation, "OmegaConf", None)
    assert repr(interpolation.resolved(settings)) == repr(expected)
    assert "${" not in repr(expected)
