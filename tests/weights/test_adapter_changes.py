"""What an adapter does to one tensor, by the formulae."""

import numpy as np

from msjoe_jax.weights.adapter_changes import replaced, with_bias, with_rows, with_update


class Held:
    def __init__(self, values):
        self.values = np.asarray(values, np.float32)

    def read(self):
        return self.values.copy()


def test_an_update_is_added_in_blocks_of_rows(monkeypatch):
    monkeypatch.setattr("msjoe_jax.weights.adapter_changes.ROWS", 2)
    rng = np.random.default_rng(0)
    w, b, a = (rng.normal(size=s).astype(np.float32) for s in ((5, 4), (5, 2), (2, 4)))
    want = w + 0.5 * b @ a
    np.testing.assert_allclose(with_update(Held(b), Held(a), (), False, 0.5, w.copy()), want, 1e-6)
    table = with_update(Held(a.T), Held(b.T), (), True, 0.5, w.copy())  # of embeddings
    np.testing.assert_allclose(table, want, 1e-6)
    lengths = np.arange(1, 6, dtype=np.float32)
    for given, wanted in ((Held(lengths), lengths), (None, np.linalg.norm(w, axis=1))):
        made = with_update(Held(b), Held(a), (given,), False, 0.5, w.copy())
        np.testing.assert_allclose(np.linalg.norm(made, axis=1), wanted, 1e-5)
        np.testing.assert_allclose(made / made[:, :1], want / want[:, :1], 1e-4)


def test_rows_biases_and_whole_tensors():
    w = np.zeros((3, 2), np.float16)
    assert with_rows(Held([[1, 2]]), [2], w.copy()).tolist() == [[0, 0], [0, 0], [1, 2]]
    assert with_bias(Held([1, 2]), 0.5, np.ones(2, np.float16)).tolist() == [1.5, 2.0]
    assert replaced(Held([[1, 2]]), w).dtype == np.float16
