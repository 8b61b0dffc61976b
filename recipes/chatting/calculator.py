"""Arithmetic in exact fractions, for a model that cannot do it in its head.

Python's parser reads the expression, and five kinds of nodes are known: the whole, a number, a sign, an operation.
There are no names, attributes, indices or calls to reach anything else, and every number has a largest size, so that
nothing takes long.
"""

import ast
import math
import operator
import re
from fractions import Fraction

LONGEST = 200  # characters of an expression
MOST_BITS = 1024  # of a numerator or denominator: about 300 digits
LEGAL = re.compile(r"[0-9.eE+\-*/%() ]*")
SIGNS = {ast.UAdd: operator.pos, ast.USub: operator.neg}
ONLY = "an expression has numbers, + - * / // % ** and parentheses, nothing else"
TOO_LARGE = "a number is too large"
DIGITS = 12  # of a number with a fractional part


def calculator(expression: str) -> str:
    """Compute with numbers.

    Args:
        expression: such as (2 + 3) * 4
    """
    if len(expression) > LONGEST:
        raise ValueError(f"an expression has at most {LONGEST} characters, not {len(expression)}")
    if not LEGAL.fullmatch(expression):
        raise ValueError(ONLY)
    try:
        return _shown(_value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{expression!r} is not an arithmetic expression") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except OverflowError:
        raise ValueError(TOO_LARGE) from None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(Fraction(str(node.value)) if math.isfinite(node.value) else None)
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return _bounded(OPERATIONS[type(node.op)](_value(node.left), _value(node.right)))
    raise ValueError(ONLY)


def _bounded(value: Fraction | None) -> Fraction:
    if value is None or max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise ValueError(TOO_LARGE)
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """None where the result is too large; known before it is computed."""
    if exponent.denominator != 1:
        if base < 0:
            raise ValueError("a negative number has no real root here")
        return Fraction(math.pow(base, exponent))  # the only result that is rounded
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    return None if size > 1 and (size - 1) * abs(exponent) > MOST_BITS else base ** int(exponent)


OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
    ast.Pow: _power,
}


def _shown(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.{DIGITS}g}"
