"""One line of text on an error."""


def error_text(error: BaseException) -> str:
    """Return the type and the message of an error, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
