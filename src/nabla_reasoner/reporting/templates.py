"""Templates and other text files of this folder, for pages that load nothing."""

import importlib.resources

import jinja2


def read(name: str) -> str:
    """Return a text file of this folder."""
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Return an environment that escapes what it is given, and refuses names that it is not given."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(read), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
