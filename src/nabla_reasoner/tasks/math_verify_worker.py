"""Program that compares answers with math-verify: reads two answers, writes [equal, note], a JSON line each.

`math_verify_process` runs it by path, so that its process imports neither torch nor the caller's main module.
Arguments: largest address space in bytes, longest time of a comparison in seconds.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable

DIGITS = 60  # in the evaluation of two numbers
RELATIVE_ERROR = 1e-40  # of numbers that count as equal


def main(memory_bytes: int, timeout_seconds: int) -> None:
    """Answer requests until standard input ends."""
    replies = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not look like a reply
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ValueError, OSError):  # a lower hard limit is in force
        pass
    compare = comparison()
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        first, second = json.loads(line)
        # The caller kills this process after a shorter time. The alarm ends it if the caller itself was killed: its
        # default action works inside one long bytecode operation, which math-verify's own timeouts cannot interrupt.
        signal.alarm(timeout_seconds)
        try:
            reply = [compare(first, second), None]
        except (Exception, MemoryError, RecursionError) as error:
            reply = [False, f"{type(error).__name__}: {str(error)[:200]}"]
        signal.alarm(0)
        print(json.dumps(reply), file=replies, flush=True)


def comparison() -> Callable[[str, str], bool]:
    """Return a symmetric function that compares two answers in LaTeX."""
    from latex2sympy2_extended import latex2sympy2
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Expr, I

    multiply_side_by_side(latex2sympy2._Latex2Sympy)

    def compare(first: str, second: str) -> bool:
        # Only the LaTeX rule: the rule for plain numbers would take a number out of text that cannot be read.
        config = [LatexExtractionConfig()]
        left, right = (parse(f"${text}$", config, parsing_timeout=None) for text in (first, second))
        if not left or not right:
            return False  # what cannot be read equals nothing but the same text
        same = same_number(left[0], right[0])
        if same is not None:
            return same
        # math-verify is not symmetric: it reads assignments and inequalities as its first argument is written
        orders = ((left, right), (right, left))
        return any(verify(*order, allow_set_relation_comp=True, timeout_seconds=None) for order in orders)

    def same_number(left: object, right: object) -> bool | None:
        """Compare two numbers, of which math-verify takes tiny ones for zero; return None for anything else."""
        if not isinstance(left, Expr) or not isinstance(right, Expr):
            return None
        left, right = (
            value.subs({s: I for s in value.free_symbols if s.name == "i"}).doit() for value in (left, right)
        )
        if left.free_symbols or right.free_symbols:
            return None
        if left.is_Rational and right.is_Rational:
            return left == right
        values = [value.evalf(DIGITS) for value in (left, right, left - right)]
        if not all(value.is_number and value.is_finite for value in values):
            return None
        sizes = [abs(value) for value in values]
        return bool(sizes[2] <= max(sizes[:2]) * RELATIVE_ERROR)

    return compare


def multiply_side_by_side(converter: type) -> None:
    """Make a converter of the library multiply what stands side by side.

    It adds a whole number and a rational behind it, as if they were a mixed number: 2(3) became 5. Our own notation
    has no mixed numbers left (see `products`).
    """
    from sympy import Expr, Matrix

    library = converter.convert_postfix_list

    def product(self: object, factors: list, start: int = 0) -> object:
        if start >= len(factors) - 1:
            return library(self, factors, start)
        first = self.convert_postfix(factors[start])
        if isinstance(first, list):  # d/dx
            return library(self, factors, start)
        if not isinstance(first, (Expr, Matrix)):
            return first
        rest = product(self, factors, start + 1)
        is_matrix = any(getattr(factor, "is_Matrix", False) for factor in (first, rest))
        return self.mat_mul_flat(first, rest) if is_matrix else self.mul_flat(first, rest)

    converter.convert_postfix_list = product


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
