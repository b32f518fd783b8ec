"""TSPO's agent: the names under which its authors publish it."""

from msjoe_jax.weights.tables import Table, linear

FRONT = "selector."

TSPO = Table(
    [
        *linear("selector.temporal.Self_q", "self_query"),
        *linear("selector.temporal.Self_k", "self_key"),
        *linear("selector.temporal.Self_v", "self_value"),
        *linear("selector.mlp.0", "mlp_in"),
        *linear("selector.mlp.2", "mlp_out"),
    ],
    # A layer that their forward pass never calls.
    ignored=frozenset(f"selector.temporal.ffn_o.{kind}" for kind in ("weight", "bias")),
)
