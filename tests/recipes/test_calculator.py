"""The calculator: exact where it answers, quick to refuse whatever else it is given."""

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.recipes.chatting.calculator import LONGEST, calculator
from rhapsode.recipes.chatting.calls import Call
from rhapsode.recipes.chatting.tools import Tools

SHOWN = 1e-11  # twelve digits are shown


def expression(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.2:
        return str(draw.choice([draw.randint(0, 99), draw.randint(0, 9)]))
    kind = draw.random()
    if kind < 0.15:
        return f"{draw.choice('+-')}{expression(draw, depth - 1)}"
    if kind < 0.25:
        return f"({expression(draw, depth - 1)}) ** {draw.randint(0, 3)}"
    operator = draw.choice(["+", "-", "*", "/", "//", "%"])
    return f"({expression(draw, depth - 1)}) {operator} {draw.choice(['', ' '])}({expression(draw, depth - 1)})"


def test_calculator_equals_python_on_fractions(seed):
    """Python's own evaluation, with every number made a fraction, is the oracle; it may be used here, on our text."""
    draw, compared = random.Random(seed), 0
    for _ in range(600):
        text = expression(draw, 4)
        if len(text) > LONGEST:
            continue
        fractions = "".join(
            f"Fraction({''.join(part)})" if is_number else "".join(part)
            for is_number, part in itertools.groupby(text, str.isdigit)
        )
        # An exponent as a whole number: a power of fractions with a fraction would be a float.
        fractions = fractions.replace("** Fraction", "** int")
        try:
            expected = Fraction(eval(fractions, {"Fraction": Fraction, "int": int, "__builtins__": {}}))
        except ZeroDivisionError:
            with pytest.raises(ValueError, match="division by zero"):
                calculator(text)
            continue
        if max(abs(expected.numerator), expected.denominator) > 2**1000:
            continue
        compared += 1
        if expected.denominator == 1:
            assert calculator(text) == str(expected.numerator), text
        else:
            assert float(calculator(text)) == pytest.approx(float(expected), rel=SHOWN), text
    assert compared > 200


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("7 / 2", "3.5"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2 ** 10", "1024"),
        ("2 ** -2", "0.25"),
        ("2 ** 0.5", f"{math.sqrt(2):.12g}"),
        ("-2 ** 2", "-4"),
        (" 1e3 + 1 ", "1001"),
        ("1 ** 10000000000", "1"),
        ("(" * 60 + "1" + ")" * 60, "1"),
    ],
)
def test_calculator_by_hand(text, result):
    assert calculator(text) == result


HOSTILE = [
    *(
        "9**9**9",
        "2**2**2**2**2**2",
        "10**1000",
        "(10**300)**(10**300)",
        "99999**99999",
        "0.5**100000",
        "1e999",
        "2**1e9",
    ),
    *("10**308*10.5", "2**1023.9*4", "(1/3)**999", "9" * 199 + "*1.5", "*".join(["9" * 30] * 6) + "**9"),
    *(
        "__import__('os').system('true')",
        "().__class__",
        "a",
        "x.y",
        "f(1)",
        "[1]",
        "[1][0]",
        "'a'*3",
        "b'1'",
        "lambda: 1",
    ),
    *(
        "True",
        "None",
        "1 if 1 else 2",
        "1 and 2",
        "1 < 2",
        "~1",
        "1 << 99",
        "1 | 2",
        "1 @ 2",
        "1j",
        "(e)",
        "e",
        "E",
        "...",
    ),
    *(
        "nan",
        "inf",
        "1_000",
        "0x10",
        "\u0663 + 1",
        "\uff11+1",
        "1 \u2212 1",
        "1\n+1",
        "1;2",
        "1=1",
        "# 1",
        "1, 2",
        "()",
    ),
    *(
        "",
        " ",
        "(",
        "1 +",
        "1.2.3",
        "1 2",
        "007",
        "(" * 201,
        "-" * 250 + "1",
        "1/0",
        "1//0",
        "1%0",
        "0**-1",
        "(-8)**0.5",
    ),
    *("\x00", "1\x00", "e" * 200, "1" + "e1" * 90, "{}".format("1+" * 99), "2 ** -1e308", "\ud800"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=[ascii(text[:20]) for text in HOSTILE])
def test_calculator_refuses(text):
    """In one line, whatever it is. What would take long is refused by its size, before it is computed."""
    with pytest.raises(ValueError) as caught:
        calculator(text)
    assert type(caught.value) is ValueError
    assert "error: " in Tools(calculator).run(Call("calculator", {"expression": text}))


@given(st.text(alphabet="0123456789.eE+-*/%() ", max_size=60))
def test_calculator_gives_a_number_or_a_value_error(text):
    try:
        float(calculator(text)[:300])
    except ValueError as error:
        assert type(error) is ValueError
