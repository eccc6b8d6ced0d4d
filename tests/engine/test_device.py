"""Choices that depend on the machine, with its answers faked; batches that fit the memory."""

from __future__ import annotations

import pytest
import torch

from pastpy import settings
from pastpy.engine import resolve_device
from pastpy.engine.device import Batches, autocast_dtype

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Says which devices there are."""

    def fake(*, cuda: bool = False, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return fake


@pytest.mark.parametrize(
    ("there", "expected"),
    [({"cuda": True, "mps": True}, "cuda"), ({"cuda": True}, "cuda"), ({"mps": True}, "mps"), ({}, "cpu")],
)
def test_the_best_device_is_taken(machine, there, expected):
    machine(**there)
    assert resolve_device() == torch.device(expected)


def test_a_named_device_comes_before_the_best(machine):
    machine(cuda=True)
    assert resolve_device("cpu") == CPU
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with settings.context(device="cpu"):
        assert resolve_device() == CPU
        assert resolve_device("cuda") == torch.device("cuda")


def test_devices_that_are_not_there_are_refused(machine):
    machine()
    for name in ("cuda", "cuda:3", "mps"):
        with pytest.raises(ValueError, match=f"device='{name}': this machine has no (cuda|mps) device; use 'auto'"):
            resolve_device(name)
    with pytest.raises(ValueError, match="device='gpu' is not a torch device; use 'auto'"):
        resolve_device("gpu")
    with settings.context(device="mps"), pytest.raises(ValueError, match="this machine has no mps device"):
        resolve_device()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(error):
    sizes = []

    def encode(items):
        sizes.append(len(items))
        if len(items) > 3:
            raise error
        return torch.tensor(items)

    batches = Batches(CPU, first=16)
    found = torch.cat(list(batches.map(encode, range(20))))
    assert found.tolist() == list(range(20))
    assert sizes[:3] == [16, 8, 4] and batches.size == 2
    assert sizes.count(16) == 1, "the size that fits is remembered"


def test_a_single_image_that_does_not_fit_is_an_error():
    def encode(items):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match="not enough memory on cpu for a single image"):
        list(Batches(CPU, first=4).map(encode, range(4)))


def test_other_errors_are_not_mistaken_for_a_lack_of_memory():
    def encode(items):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(Batches(CPU, first=4).map(encode, range(4)))


def test_batches_grow_on_a_gpu_with_room(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2 * 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6 * 10**9, 8 * 10**9))
    batches = Batches(torch.device("cuda"), first=2)
    sizes = []

    def encode(items):
        sizes.append(len(items))
        return torch.tensor(items)

    assert torch.cat(list(batches.map(encode, range(20)))).tolist() == list(range(20))
    assert sizes == [2, 4, 8, 6]
    assert list(Batches(torch.device("cuda"), first=2, limit=5).map(encode, range(5))) and sizes[-1] == 5


def test_reduced_precision_is_that_of_the_device(monkeypatch):
    cuda, mps = torch.device("cuda"), torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    for has, expected in ((True, torch.float16), (False, None)):
        monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device, has=has: has)
        assert autocast_dtype(mps) is autocast_dtype(cuda) is expected
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": True}, raising=False)
    assert autocast_dtype(CPU) is None, "bfloat16 moves embeddings too far"
    with settings.context(precision="float32"):
        assert autocast_dtype(cuda) is None
    with settings.context(precision="double"), pytest.raises(ValueError, match="settings.precision='double'"):
        autocast_dtype(CPU)
