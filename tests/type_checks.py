"""Type checks of the package's functions at run time, with one generated check per function.

jaxtyping's import hook puts `jaxtyping.jaxtyped` before every definition. Its own checks arguments twice, and generates
two functions for each definition, nested ones anew at every call: half of the time of tests on small models. This one
asks beartype once. Shapes are compared where an annotation has them. Nested functions are not checked.

Arguments are not bound to their names for each call: no annotation here computes a size from an argument, `{x.size}`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError

with_shapes = jaxtyping.jaxtyped
with_types = beartype(conf=BeartypeConf(violation_type=TypeCheckError))  # a TypeError, as of jaxtyping itself


def install(package: str) -> None:
    """Check all functions of a package that has not been imported yet."""
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook(package, "beartype.beartype")


def checked(definition: Callable | type | None = None, *, typechecker: Callable | None = None) -> Any:
    """Return a function, or a class whose initialiser, checks its arguments and results."""
    if definition is None:
        return checked
    if isinstance(definition, type):
        if "__dataclass_fields__" in vars(definition):
            definition.__init__ = checked(definition.__init__)
        return definition
    if "<locals>" in definition.__qualname__:
        return definition
    function = with_types(definition)
    if not _has_shapes(definition):
        return function
    if inspect.isgeneratorfunction(definition):
        return with_shapes(function, typechecker=None)

    @functools.wraps(function)
    def with_one_size_per_name(*arguments: Any, **settings: Any) -> Any:
        with with_shapes("context"):
            return function(*arguments, **settings)

    return with_one_size_per_name


def _has_shapes(function: Callable) -> bool:
    annotations = inspect.get_annotations(function).values()
    return any(map(_is_shaped, annotations))


def _is_shaped(annotation: object) -> bool:
    if isinstance(annotation, str):
        return "[" in annotation
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(map(_is_shaped, get_args(annotation)))
