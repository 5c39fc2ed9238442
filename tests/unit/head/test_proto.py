"""The stubs are those of the proto beside them, and they import their sibling from the package."""

from __future__ import annotations

import re
from pathlib import Path

from shoal.wire import control_pb2

WIRE = Path(control_pb2.__file__).parent


def test_every_message_field_and_call_of_the_proto_is_in_the_stubs() -> None:
    text = re.sub(r"//.*", "", (WIRE / "control.proto").read_text())
    messages = dict(re.findall(r"message (\w+) \{(.*?)\}", text, re.DOTALL))
    calls = re.findall(r"rpc (\w+)\((\w+)\) returns \((stream )?(\w+)\)", text)

    described = control_pb2.DESCRIPTOR
    assert set(messages) == set(described.message_types_by_name)
    for name, body in messages.items():
        written = {field: int(number) for field, number in re.findall(r"(\w+) = (\d+);", body)}
        built = {field.name: field.number for field in described.message_types_by_name[name].fields}
        assert written == built, name
    service = described.services_by_name["Control"]
    assert described.package == "shoal.control.v1"
    assert {(name, takes, bool(stream), gives) for name, takes, stream, gives in calls} == {
        (one.name, one.input_type.name, one.server_streaming, one.output_type.name) for one in service.methods
    }


def test_the_stubs_come_from_the_oldest_tools_and_import_from_the_package() -> None:
    assert "Protobuf Python Version: 5.27.2" in (WIRE / "control_pb2.py").read_text()
    stubs = (WIRE / "control_pb2_grpc.py").read_text()
    assert "from shoal.wire import control_pb2" in stubs and "\nimport control_pb2" not in stubs
    assert "GRPC_GENERATED_VERSION = '1.66.2'" in stubs
