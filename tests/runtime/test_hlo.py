"""Text of compiled programs is read: names, types, memory spaces, attributes over several lines."""

import pytest

from msjoe_jax.runtime.hlo import Array, arrays, read_module

TEXT = r"""HloModule jit_f, is_scheduled=true, num_partitions=4

FileNames
1 "a (b) -> c.py"

%fused (p: f32[4,8], q: s32[]) -> f32[1,8] {
  %p = f32[4,8]{1,0:T(8,128)} parameter(0)
  %q = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %slice.1 = f32[1,8]{1,0:T(8,128)} dynamic-slice(%p, %q, %zero), dynamic_slice_sizes={1,8}
}

ENTRY %main.1_spmd (x: f32[4,8], i: s32[]) -> (f32[1,8], s32[]) {
  %x = f32[4,8]{1,0:T(8,128)} parameter(0), metadata={op_name="f(x), [\"y\"]"}
  %i = s32[]{:T(128)} parameter(1)
  %kernel.2 = (bf16[2,8]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[3]{0}) custom-call(%x, /*index=1*/%i), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"note":"{\"block_q\": 512, \"x = y\": 1}"
}}, metadata={op_name="f"}
  %fusion.3 = f32[1,8]{1,0:T(8,128)} fusion(%x, %i), kind=kLoop, calls=%fused, backend_config={"a":["1",{"b":"x}, c="}]}
  ROOT %tuple.4 = (f32[1,8]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%fusion.3, %i)
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def module():
    return read_module(TEXT)


def test_computations_and_their_roots(module):
    assert list(module.computations) == ["fused", "main.1_spmd"] and module.devices == 4
    assert module.entry.root.name == "tuple.4"
    fused = module.computations["fused"]
    assert (fused.root.name, fused.root.opcode) == ("slice.1", "dynamic-slice")
    assert fused.parameters[1].name == "q"
    assert [user.name for user in module.entry.users["i"]] == ["kernel.2", "fusion.3", "tuple.4"]
    assert fused.instructions["zero"].literal == "0"


def test_types_with_their_memory_spaces(module):
    kernel = module.entry.instructions["kernel.2"]
    assert kernel.results == (Array("bf16", (2, 8), space=1), Array("pred", (3,)))
    assert [x.bytes for x in kernel.results] == [32, 3]
    assert arrays("(u8[], f8e4m3fn[4]{0}, token[])")[1].bytes == 4
    assert arrays("s4[10]")[0].bytes == 5


def test_attributes_that_hold_line_breaks_brackets_and_quotes(module):
    entry = module.entry.instructions
    assert list(entry) == ["x", "i", "kernel.2", "fusion.3", "tuple.4"]
    assert entry["kernel.2"].operands == ("x", "i")
    assert entry["kernel.2"].attribute("custom_call_target") == '"tpu_custom_call"'
    assert entry["kernel.2"].attribute("metadata") == '{op_name="f"}'
    assert r"\"block_q\": 512" in entry["kernel.2"].rest
    assert entry["fusion.3"].called("calls") == ["fused"]
    assert entry["fusion.3"].attribute("kind") == "kLoop"
    assert entry["fusion.3"].attribute("to_apply") == ""


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="entry"):
        read_module("HloModule empty\n")
