"""The generated module, the table of what becomes of each field, and the page that shows it."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from deepfm.easyrec import fields, pipeline_pb2
from deepfm.easyrec.pipeline_pb2 import EasyRecConfig
from deepfm.easyrec.reading import is_repeated

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "deepfm" / "easyrec" / "pipeline.proto"
SCALARS = {
    "string": FieldDescriptor.TYPE_STRING,
    "bool": FieldDescriptor.TYPE_BOOL,
    "float": FieldDescriptor.TYPE_FLOAT,
    "uint32": FieldDescriptor.TYPE_UINT32,
    "uint64": FieldDescriptor.TYPE_UINT64,
    "int32": FieldDescriptor.TYPE_INT32,
}
FIELD = re.compile(
    r"(?:(?P<label>optional|repeated)\s+)?(?P<type>map<[^>]*>|\w+)\s+(?P<name>\w+)\s*=\s*"
    r"(?P<tag>\d+)(?:\s*\[default = (?P<default>.*)\])?;"
)


def declared(text: str) -> dict[str, list]:
    """Messages with their fields and enums with their values, read line by line."""
    found, stack = {}, []
    for line in text.splitlines():
        line = line.split("//")[0].strip()
        if match := re.match(r"(message|enum|oneof) (\w+) \{", line):
            kind, name = match.groups()
            stack.append((kind, name))
            if kind != "oneof":
                found[f"{kind} {name}"] = []
        elif line == "}":
            stack.pop()
        elif stack and (match := FIELD.fullmatch(line)):
            owner = next(name for kind, name in reversed(stack) if kind == "message")
            group = stack[-1][1] if stack[-1][0] == "oneof" else None
            found[f"message {owner}"].append((*match.groups(), group))
        elif stack and (match := re.fullmatch(r"(\w+) = (\d+);", line)):
            found[f"enum {stack[-1][1]}"].append((match[1], int(match[2])))
        else:
            assert not line or line.startswith(("syntax", "package")), line
    return found


def test_the_generated_module_is_that_of_the_proto():
    expected = declared(PROTO.read_text())
    file = pipeline_pb2.DESCRIPTOR
    messages = dict(file.message_types_by_name)
    assert {f"message {name}" for name in messages} == {k for k in expected if k[0] == "m"}
    enums = dict(file.enum_types_by_name)
    for message in messages.values():
        enums |= dict(message.enum_types_by_name)
    for name, enum in enums.items():
        assert [(v.name, v.number) for v in enum.values] == expected[f"enum {name}"]
    assert {f"enum {name}" for name in enums} == {k for k in expected if k[0] == "e"}
    for name, message in messages.items():
        rows = expected[f"message {name}"]
        assert [field.name for field in message.fields] == [row[2] for row in rows], name
        for field, (label, kind, _, tag, default, group) in zip(message.fields, rows, strict=True):
            assert field.number == int(tag), (name, field.name)
            is_map = kind.startswith("map<")
            assert is_repeated(field) == (label == "repeated" or is_map)
            assert (field.containing_oneof and field.containing_oneof.name) == group
            if is_map:
                assert field.message_type.GetOptions().map_entry
                assert kind == "map<string, uint64>"
            elif kind in SCALARS:
                assert field.type == SCALARS[kind], (name, field.name)
            else:
                assert kind in (
                    (field.message_type or field.enum_type).name,
                    (field.message_type or field.enum_type).full_name,
                )
            assert field.has_default_value == (default is not None)
            if default is not None:
                assert_default(field, default)


def assert_default(field: FieldDescriptor, text: str) -> None:
    if field.type == FieldDescriptor.TYPE_STRING:
        assert field.default_value == text.strip('"').encode().decode("unicode_escape")
    elif field.type == FieldDescriptor.TYPE_BOOL:
        assert field.default_value == (text == "true")
    elif field.enum_type is not None:
        assert field.enum_type.values_by_number[field.default_value].name == text
    else:
        assert field.default_value == pytest.approx(float(text), rel=1e-6)


@pytest.mark.parametrize(
    ("message", "field", "tag", "default"),
    [  # a few by hand, from the description of the format
        ("TrainConfig", "save_checkpoints_steps", 5, 1000),
        ("DataConfig", "fg_encoded_multival_sep", 4, "\x03"),
        ("DataConfig", "input_fields_str", 27, ""),
        ("IdFeature", "separator", 12, "\x1d"),
        ("RawFeature", "default_value", 11, "0"),
        ("ComboFeature", "zch", 15, None),
        ("DeepFM", "wide_embedding_dim", 3, 4),
        ("XDeepFM", "wide_embedding_dim", 4, 16),
        ("ModelConfig", "wide_and_deep", 105, None),
        ("SGDOptimizer", "momentum", 2, 0.9),
        ("DenseOptimizer", "ema", 202, None),
        ("TrainMetricConfig", "decay_rate", 20, 0.9),
        ("CosineAnnealingWarmRestartsLR", "T_mult", 2, 1),
    ],
)
def test_tags_and_defaults(message, field, tag, default):
    found = pipeline_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name[field]
    assert found.number == tag
    if default is not None:
        assert found.default_value == pytest.approx(default)


def test_every_field_of_the_format_has_a_fate():
    reached = {(message, field.name) for message, field in fields.reachable()}
    listed = {(message, name) for message, own in fields.FIELDS.items() for name in own}
    assert reached == listed
    assert {fate.status for own in fields.FIELDS.values() for fate in own.values()} == {
        "honoured", "ignored", "refused",
    }  # fmt: skip
    assert all(fate.note for own in fields.FIELDS.values() for fate in own.values())


def test_a_field_that_holds_an_opaque_message_is_refused():
    for message, field in fields.reachable(EasyRecConfig.DESCRIPTOR):
        if field.message_type is not None and field.message_type.name == "Opaque":
            assert fields.FIELDS[message][field.name].status == fields.REFUSED, field.full_name


def test_the_page_shows_the_table():
    page = (ROOT / "docs" / "torcheasyrec.md").read_text()
    assert fields.markdown() in page, "put the text of fields.markdown() there"
