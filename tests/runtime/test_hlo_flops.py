"""FLOPs of instructions: products in every disguise, and attention kernels by formula."""

import pytest

from msjoe_jax.runtime.hlo import read_module
from msjoe_jax.runtime.hlo_flops import kernel_flops, product_flops


def only(left, right, out, text):
    """The computation of one instruction over two parameters, and that instruction."""
    module = read_module(
        f"""HloModule one

ENTRY %main (a: {left}, b: {right}) -> {out} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %it = {out} {text}
}}
"""
    )
    return module.entry, module.entry.root


@pytest.mark.parametrize(
    ("shapes", "text", "multiplications"),
    [
        (
            ("bf16[3,5,7]", "bf16[3,7,11]", "bf16[3,5,11]"),
            "dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, "
            "rhs_contracting_dims={1}",
            3 * 5 * 7 * 11,
        ),
        (
            ("bf16[5,7]", "bf16[7,11]", "bf16[5,11]"),
            "convolution(%a, %b), dim_labels=bf_io->bf",
            5 * 7 * 11,
        ),
        (
            ("bf16[64,257,1024]", "bf16[1024,4096,1]", "bf16[64,257,4096]"),
            "convolution(%a, %b), window={size=1}, dim_labels=0bf_io0->0bf",
            64 * 257 * 1024 * 4096,
        ),
        (  # a batch of products: the dilations keep its members apart
            ("f32[64,257,16,64]", "f32[64,16,257,64]", "f32[64,16,257,257]"),
            "convolution(%a, %b), window={size=64x16 stride=63x15 lhs_dilate=64x16}, "
            "dim_labels=0b1f_01oi->01bf",
            64 * 16 * 257 * 257 * 64,
        ),
        (  # a true convolution: the outermost of 10 outputs each meet 2 of 3 inputs
            ("f32[2,10,5]", "f32[3,5,7]", "f32[2,10,7]"),
            "convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f",
            2 * 5 * 7 * (10 * 3 - 2),
        ),
        (
            ("f32[2,10,6]", "f32[3,1,6]", "f32[2,8,6]"),
            "convolution(%a, %b), window={size=3}, dim_labels=b0f_0io->b0f, feature_group_count=6",
            2 * 8 * 3 * 6,
        ),
        (("f32[4,4]", "f32[4,4]", "f32[4,4]"), "add(%a, %b)", 0),
    ],
)
def test_products(shapes, text, multiplications):
    assert product_flops(*only(*shapes, text)) == 2 * multiplications


def kernel(name, causal):
    numbers = ", %n" if causal else ""
    module = read_module(
        f"""HloModule kernel

ENTRY %main (q: bf16[2,14,1024,128]) -> bf16[2,14,1024,128] {{
  %m = s8[1,2,2] constant(0)
  %q = bf16[2,14,1024,128] parameter(0)
  %k = bf16[2,2,1024,128] parameter(1)
  %v = bf16[2,2,1024,128] parameter(2)
  %s = s32[2,1024,128] parameter(3)
  %t = s32[2,8,1024] parameter(4)
  %n = s32[1024,128] parameter(5)
  ROOT %{name}.5 = bf16[2,14,1024,128] custom-call(%m, %m, %q, %k, %v, %s, %t{numbers}), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"{{\\"block_q\\": 512, \\"block_q_dkv\\": 256, \\"block_q_dq\\": 512}}"
}}}}
}}
"""  # noqa: E501
    )
    return kernel_flops(module.entry, module.entry.root)


def test_attention_kernels():
    pairs = 2 * 14 * 1024 * 1024
    assert kernel("splash_mha_fwd_segmented_no_residuals", False) == 4 * pairs * 128
    # Of two by two blocks of 512 three are on or below the diagonal.
    assert kernel("splash_mha_fwd_segmented_residuals", True) == 4 * pairs * 128 * 3 / 4
    assert kernel("splash_mha_dq_segmented_no_residuals", True) == 6 * pairs * 128 * 3 / 4
    assert kernel("splash_mha_dkv_segmented_no_residuals", True) == 8 * pairs * 128 * 10 / 16
    assert kernel("another_kernel", False) is None
