"""Calls that are written as text: what is read, what is refused, and that nothing is run."""

import pytest

from deepfm.models.layers.options import check_arguments, parse_call


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("nn.ReLU", "nn.ReLU", {}),
        (" ReLU() ", "ReLU", {}),
        ("torch.nn.ELU( alpha = .5 )", "nn.ELU", {"alpha": 0.5}),
        ("Hardtanh(min_val=-1, max_val=+2e0,)", "Hardtanh", {"min_val": -1.0, "max_val": 2.0}),
        ("nn.init.zeros_", "nn.init.zeros_", {}),
        ("nn.init.normal_, mean=0,std=1e-2", "nn.init.normal_", {"mean": 0.0, "std": 0.01}),
        ("f(a=True,b='fan_in',c=fan_out)", "f", {"a": True, "b": "fan_in", "c": "fan_out"}),
    ],
)
def test_calls_are_read(text, name, arguments):
    assert parse_call(text) == (name, arguments)


@pytest.mark.parametrize(
    "text",
    [
        "", "3", "f(", "f)x(", "f(1)", "f(a=)", "f(=1)", "f(a=1,a=2)", "f(a=1+1)", "f(a=g())",
        "f(a=b.c)", "lambda x: x", "f(a=__import__('os'))", "f(a=1)(b=2)", "f(a=[1])", "f(a=-)",
    ],
)  # fmt: skip
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match=r"^expected "):
        parse_call(text)


def test_arguments_are_checked_by_name_and_type():
    allowed = {"a": float, "b": bool}
    check_arguments("f", {"a": 1.0, "b": False}, allowed)
    with pytest.raises(ValueError, match=r"^f has no argument 'c'; known: a, b$"):
        check_arguments("f", {"c": 1.0}, allowed)
    with pytest.raises(ValueError, match=r"^f has no argument 'c'; known: none$"):
        check_arguments("f", {"c": 1.0}, {})
    with pytest.raises(ValueError, match=r"^f: a is a number, got True$"):
        check_arguments("f", {"a": True}, allowed)
    with pytest.raises(ValueError, match=r"^f: b is True or False, got 'yes'$"):
        check_arguments("f", {"b": "yes"}, allowed)
