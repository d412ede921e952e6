"""Property: MPI receives GPU memory only if that is declared and a test message arrives."""

import pytest
import torch

from prdp_hpc.distributed import transport


@pytest.mark.parametrize("value", ["0", "false", "no"])
def test_the_environment_can_deny_it(monkeypatch, value):
    monkeypatch.setenv("PRDP_GPU_AWARE_MPI", value)
    monkeypatch.setattr(transport, "mpi_reports_gpu_support", lambda: True)
    assert not transport.gpu_aware_mpi()


@pytest.mark.parametrize("arrives", [True, False])
def test_a_declaration_is_tried(monkeypatch, arrives):
    monkeypatch.setenv("PRDP_GPU_AWARE_MPI", "1")
    monkeypatch.setattr(transport, "_message_arrives", lambda device: arrives)
    assert transport.gpu_aware_mpi() is arrives


def test_without_a_variable_the_report_of_the_library_counts(monkeypatch):
    for name in transport.GPU_AWARE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transport, "_message_arrives", lambda device: True)
    for reported in (True, False):
        monkeypatch.setattr(transport, "mpi_reports_gpu_support", lambda found=reported: found)
        assert transport.gpu_aware_mpi() is reported


def test_a_message_to_oneself_arrives():
    assert transport._message_arrives(torch.device("cpu"))


def test_a_message_that_does_not_arrive_is_reported(monkeypatch):
    transport._message_arrives.cache_clear()
    monkeypatch.setattr(transport, "as_bytes", lambda tensor: tensor.clone().numpy())
    with pytest.warns(UserWarning, match="did not arrive"):
        assert not transport._message_arrives(torch.device("cpu"))
    transport._message_arrives.cache_clear()
