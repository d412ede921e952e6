"""Property: a matrix times a batch is what it is for each vector alone, by either way of computing
it.
"""

import pytest
import torch
from systems import dominant, sparse

from prdp_hpc.linalg import products
from prdp_hpc.linalg.products import BatchedProduct

DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize("most_transposed", [0, products.MOST_TRANSPOSED])
@pytest.mark.parametrize("symmetric", [False, True])
def test_products_with_batches(monkeypatch, most_transposed, symmetric):
    monkeypatch.setattr(products, "MOST_TRANSPOSED", most_transposed)
    matrix = dominant(9, symmetric)
    operator, values = sparse(matrix, symmetric=symmetric)
    product = None
    # The dense matrices of a batch size are used again, also after the values changed.
    for factor in (1.0, -2.0):
        operator.load(factor * values)
        product = product or BatchedProduct(operator.matrix, symmetric)
        for batch in (1, 3, 4, 3):
            x = torch.randn(9, batch, **DOUBLE).T
            forward, back = product(x), product(x, transposed=True)
            torch.testing.assert_close(forward, factor * x @ matrix.T, rtol=1e-13, atol=1e-13)
            torch.testing.assert_close(back, factor * x @ matrix, rtol=1e-13, atol=1e-13)
            kept = forward.clone()
            product(torch.randn(batch, 9, **DOUBLE))
            assert torch.equal(forward, kept)
