"""Correctness: each sample is used once per epoch, by one replica, in an order that depends only on
seed and epoch.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.data import EpochSampler, share

sizes = st.integers(1, 60)


@given(sizes, sizes, st.integers(0, 5), st.integers(0, 5))
def test_each_sample_once_an_epoch(count, batch_size, seed, epoch):
    batches = EpochSampler(count, batch_size, seed).batches(epoch)
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


@given(sizes, sizes, st.integers(0, 5), st.integers(1, 5))
def test_an_epochs_order_does_not_depend_on_the_epochs_before(count, batch_size, seed, epoch):
    used, fresh = EpochSampler(count, batch_size, seed), EpochSampler(count, batch_size, seed)
    for earlier in range(epoch):
        used.batches(earlier)
    for left, right in zip(used.batches(epoch), fresh.batches(epoch), strict=True):
        np.testing.assert_array_equal(left, right)


def test_orders_differ_between_epochs_and_seeds():
    orders = {
        tuple(np.concatenate(EpochSampler(50, 7, seed).batches(epoch)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 12))
def test_shares_are_even_and_make_up_the_batch(batch, replicas):
    batch = np.array(batch, dtype=np.int64)
    shares = [share(batch, replica, replicas) for replica in range(replicas)]
    np.testing.assert_array_equal(np.concatenate(shares), batch)
    lengths = [len(part) for part in shares]
    assert max(lengths) - min(lengths) <= 1


def test_state():
    sampler = EpochSampler(20, 5, 3)
    EpochSampler(20, 5, 3).load_state_dict(sampler.state_dict())
    with pytest.raises(
        ValueError, match=r"batches of the checkpoint are from .*20.*21.*resume with the same data"
    ):
        EpochSampler(21, 5, 3).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize(("count", "batch_size"), [(-1, 5), (5, 0)])
def test_sizes_out_of_range(count, batch_size):
    with pytest.raises(ValueError, match="at least 0 samples and a batch size of at least 1"):
        EpochSampler(count, batch_size, 0)
