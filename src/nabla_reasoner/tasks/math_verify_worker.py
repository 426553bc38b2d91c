"""Program that compares answers with math-verify: reads two answers, writes [equal, note], a JSON line each.

`math_verify_process` runs it by path, so that its process imports neither torch nor the caller's main module.
Arguments: largest address space in bytes, longest time of a comparison in seconds.
"""

import functools
import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

DIGITS = 60  # in the evaluation of two numbers
EXACT_DOMAINS = ("is_ZZ", "is_QQ", "is_Algebraic", "is_QQ_I")  # of coefficients that are written in one way only
MOST_ROOTS = 3  # of two equations
RELATIVE_ERROR = 1e-40  # of numbers that count as equal
POINTS = [(3, 2), (7, 5), (11, -3)]  # where equations are compared: the first unknown and the step to the next one


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
    import math_verify.grader
    import math_verify.parser
    from latex2sympy2_extended import NormalizationConfig, latex2sympy2
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Expr, I, Symbol

    multiply_side_by_side(latex2sympy2._Latex2Sympy)
    capitals = latex2sympy2.ConversionConfig(lowercase_symbols=False)
    math_verify.parser.latex2sympy = functools.partial(latex2sympy2.latex2sympy, conversion_config=capitals)
    math_verify.grader.sympy_solve_and_compare = same_solutions
    # Units are gone already (see `quantities`); the library would take the c of x + c for one.
    written = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="all")

    def compare(first: str, second: str) -> bool:
        # Only the LaTeX rule: the rule for plain numbers would take a number out of text that cannot be read.
        config = [LatexExtractionConfig(normalization_config=written)]
        left, right = (parse(f"${text}$", config, parsing_timeout=None) for text in (first, second))
        if not left or not right:
            return False  # what cannot be read equals nothing but the same text
        if isinstance(left[0], Symbol) and isinstance(right[0], Symbol):  # the library takes \Phi for \phi
            return left[0].name == right[0].name
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


def same_solutions(first: Any, second: Any, rounding: int, precision: int) -> bool:
    """Compare two equations or inequalities that are not the same but for their sides, as the library's function does.

    It takes all equations without solutions for equal, because there is nothing to compare.
    """
    from math_verify.grader import sympy_expr_eq
    from sympy import Eq, default_sort_key, ordered, solve

    if not isinstance(first, Eq) or not isinstance(second, Eq):
        solved = [list(ordered(solve(relation, relation.free_symbols))) for relation in (first, second)]
        return bool(solved[0]) and sympy_expr_eq(*solved, rounding, precision)
    zeros = [(equation.lhs - equation.rhs).doit() for equation in (first, second)]
    settled = same_up_to_factor(*zeros)
    if settled is not None:
        return settled
    unknowns = sorted(first.free_symbols, key=default_sort_key)
    left, right = (sorted(solve(zero, unknowns, dict=True), key=default_sort_key) for zero in zeros)
    return 0 < len(left) == len(right) and all(
        a.keys() == b.keys() and all(sympy_expr_eq(value, b[name], rounding, precision) for name, value in a.items())
        for a, b in zip(left, right, strict=True)
    )


def same_up_to_factor(first: Any, second: Any) -> bool | None:
    """Return whether two expressions differ by a constant factor other than zero; None if this does not settle it.

    It does for rational functions, where only the numerators count: xy = 2 is y = 2/x.
    """
    from sympy import Poly, PolynomialError, Pow, cancel, default_sort_key, fraction, simplify

    if not first.free_symbols or first.free_symbols != second.free_symbols:
        return False
    unknowns = sorted(first.free_symbols, key=default_sort_key)
    try:
        numerators = [fraction(cancel(side))[0] for side in (first, second)]
        left, right = (Poly(numerator, *unknowns).to_field() for numerator in numerators)
        roots = {part for numerator in numerators for part in numerator.atoms(Pow) if part.is_number}
        # Roots have a normal form in extensions only; those by many roots take long.
        if (left.domain.is_EX or right.domain.is_EX) and len(roots) <= MOST_ROOTS:
            left, right = (Poly(numerator, *unknowns, extension=True).to_field() for numerator in numerators)
        if not left.is_ground and not right.is_ground:
            if (left.monic() - right.monic()).is_zero:  # in one field, whatever roots each has
                return True
            if all(any(getattr(side.domain, kind) for kind in EXACT_DOMAINS) for side in (left, right)):
                return False
    except PolynomialError:
        pass
    ratio = simplify(first / second) if _may_be_constant(first / second, unknowns) else None
    return True if ratio is not None and ratio.is_number and ratio.is_finite and not ratio.is_zero else None


def _may_be_constant(ratio: Any, unknowns: list) -> bool:
    """Return False if an expression has other values in other points, which is faster than to simplify it."""
    points = [{name: start + step * index for index, name in enumerate(unknowns)} for start, step in POINTS]
    values = [ratio.subs(point).evalf(DIGITS) for point in points]
    if not all(value.is_number and value.is_finite for value in values):
        return True
    return all(abs(value - values[0]) <= abs(values[0]) * RELATIVE_ERROR for value in values)


def multiply_side_by_side(converter: type) -> None:
    """Make a converter of the library multiply what stands side by side.

    It adds a whole number and a rational after it, as if they were a mixed number: 2(3) became 5. Our own notation
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
