"""The device of a job: limits of threads and compilers, and cuDNN's search."""

import pytest
import torch

from emmeter.errors import StageError
from emmeter.machine import device


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Other tests keep their number of threads and their environment."""
    before = torch.get_num_threads()
    monkeypatch.setenv(device.COMPILERS, "")  # so that it is restored
    monkeypatch.delenv(device.COMPILERS)
    yield
    torch.set_num_threads(before)


def test_a_job_starts_as_many_compilers_as_it_has_threads(monkeypatch):
    device.select("cpu", 2)
    assert torch.get_num_threads() == 2
    assert device.os.environ[device.COMPILERS] == "2"


def test_the_compilers_of_the_user_stay(monkeypatch):
    monkeypatch.setenv(device.COMPILERS, "7")
    device.select("cpu", 2)
    assert device.os.environ[device.COMPILERS] == "7"


def test_torch_reads_the_number_of_compilers(monkeypatch):
    config = pytest.importorskip("torch._inductor.config")
    device.select("cpu", 3)
    assert config.decide_compile_threads() == 3


def test_a_missing_gpu_is_reported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(StageError, match=r"^execution\.device = 'cuda'.*CUDA_VISIBLE_DEVICES = '5'"):
        device.select("cuda", 1)
    assert device.select("auto", 1) == torch.device("cpu")


@pytest.mark.parametrize(("batches", "searches"), [(device.SEARCH, True), (device.SEARCH - 1, False), (0, False)])
def test_cudnn_searches_where_many_batches_of_one_size_follow(batches, searches):
    assert torch.backends.cudnn.benchmark is False
    with device.fastest_convolutions(batches):
        assert torch.backends.cudnn.benchmark is searches
    assert torch.backends.cudnn.benchmark is False


def test_the_search_ends_with_an_error():
    with pytest.raises(ValueError, match="in the block"), device.fastest_convolutions(device.SEARCH):
        raise ValueError("in the block")
    assert torch.backends.cudnn.benchmark is False
