"""What transformers runs for `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)`."""

from nabla_reasoner.huggingface import generate_from_folder


def generate(inputs=None, *, model, **arguments):
    """Return prompts and answers, [batch, prompt + answer]; keywords as in docs/transformers.md."""
    return generate_from_folder(inputs, model=model, **arguments)
