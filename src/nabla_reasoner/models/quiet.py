"""Silence for the notices and progress bars of Lightning and transformers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import transformers

NOTICES = (
    "does not have many workers",  # batches come ready-made
    "exists and is not empty",  # a resumed training finds its own checkpoint
    "but have no `val_dataloader`",  # validation is optional
    "LeafSpec",  # lightning 2.6.6 calls what torch 2.13 deprecates
    "gradient_checkpointing. is deprecated",  # peft 0.21 reads what transformers 5.23 has renamed
)


@contextmanager
def quiet_transformers(*, hide_bars: bool = True) -> Iterator[None]:
    """Hide transformers' log messages below errors, and its progress bars."""
    verbosity = transformers.logging.get_verbosity()
    shows_bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    if hide_bars:
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if hide_bars and shows_bars:
            transformers.logging.enable_progress_bar()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide notices and progress bars that would repeat for every model and trainer; errors stay visible."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            for notice in NOTICES:
                warnings.filterwarnings("ignore", message=f".*{notice}")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
