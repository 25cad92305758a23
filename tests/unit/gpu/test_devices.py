"""Which GPU devices there are, and which are missing."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from gateway.gpu.devices import Devices
from tests.support.gpu import FakeGpu

if TYPE_CHECKING:
    from pathlib import Path

NVIDIA = ("nvidia-uvm", "nvidia0", "nvidia1", "nvidiactl")


def found(tmp_path: Path, *names: str) -> tuple[str, ...]:
    """What counts as a GPU's device where these are there."""
    gpu = FakeGpu(tmp_path, *names)
    return Devices(gpu.root, gpu.drivers).at_start


@pytest.mark.parametrize(
    ("there", "counts"),
    [
        ((*NVIDIA, "nvidia-modeset", "nvidia-caps", "null"), NVIDIA),
        (("nvidiactl", "nvidia-uvm"), ()),
        (("kfd", "dri/renderD128", "dri/renderD129", "dri/card0"), ("dri/renderD128", "dri/renderD129", "kfd")),
        (("dri/renderD128",), ()),
        (("dxg",), ("dxg",)),
        (("nvmap", "nvhost-ctrl"), ("nvmap",)),
        (("nvidia0", "dri/renderD128"), ("nvidia0",)),
        ((), ()),
    ],
    ids=["NVIDIA", "its driver alone", "AMD", "a screen", "WSL", "Jetson", "NVIDIA with a screen", "none"],
)
def test_what_counts_as_a_device(tmp_path: Path, there: tuple[str, ...], counts: tuple[str, ...]) -> None:
    """A GPU, and what its driver needs beside it. Render nodes and control devices alone are no GPU."""
    assert found(tmp_path, *there) == counts


def test_only_character_devices_count(tmp_path: Path) -> None:
    """A mount of a device that the host does not have makes a directory; that is no GPU."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    (gpu.root / "nvidia1").mkdir()
    (gpu.root / "dxg").write_text("")
    (gpu.root / "kfd").symlink_to("nowhere")
    assert Devices(gpu.root, gpu.drivers).at_start == ("nvidia0",)


def test_a_directory_that_is_not_there_has_none(tmp_path: Path) -> None:
    """On a system without /dev or /proc there is no GPU, and nothing fails."""
    devices = Devices(tmp_path / "dev", tmp_path / "devices")
    assert (devices.at_start, devices.missing()) == ((), {})


def test_a_device_that_is_gone_is_missing_until_it_is_back(tmp_path: Path) -> None:
    """Those of the start are looked for; a device that comes later is none of them."""
    gpu = FakeGpu(tmp_path, "nvidia0", "nvidiactl")
    devices = Devices(gpu.root, gpu.drivers)
    assert devices.missing() == {}
    gpu.add("nvidia1")
    gpu.remove("nvidia0")
    assert devices.missing() == {"nvidia0": "gone"}
    (gpu.root / "nvidia0").mkdir()
    assert devices.missing() == {"nvidia0": "gone"}
    (gpu.root / "nvidia0").rmdir()
    gpu.add("nvidia0")
    gpu.remove("nvidia1")
    assert devices.missing() == {}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.EPERM, "not permitted"),
        (errno.ENXIO, "without its driver"),
        (errno.ENODEV, "without its driver"),
        (errno.ENOENT, "gone"),
        (errno.EACCES, None),
        (errno.EMFILE, None),
        (errno.EBUSY, None),
    ],
    ids=errno.errorcode.get,
)
def test_a_device_that_cannot_be_opened_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, reason: str | None
) -> None:
    """EPERM: the cgroup has the device no longer. What only tells of the gateway, as its rights do, does not count."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    devices = Devices(gpu.root, gpu.drivers)

    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("gateway.gpu.devices.os.access", lambda *_: False)
    monkeypatch.setattr("gateway.gpu.devices.os.open", refuse)
    assert devices.missing() == ({} if reason is None else {"nvidia0": reason})


def test_a_device_that_may_be_opened_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening NVIDIA's devices wakes the GPU. Where the rights are asked and given, the driver is left alone."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    devices = Devices(gpu.root, gpu.drivers)

    def refuse(path: object, *_: object) -> int:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr("gateway.gpu.devices.os.open", refuse)
    assert devices.missing() == {}


def test_a_device_that_could_be_opened_after_all_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the rights come back between the two questions, the device is there, and no descriptor stays open."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    devices = Devices(gpu.root, gpu.drivers)
    monkeypatch.setattr("gateway.gpu.devices.os.access", lambda *_: False)
    before = len(os.listdir("/proc/self/fd"))
    assert devices.missing() == {}
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_device_whose_driver_is_unloaded_is_missing(tmp_path: Path) -> None:
    """The node in a container outlives the driver, but the kernel lists its number no longer."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    devices = Devices(gpu.root, gpu.drivers)
    gpu.drivers.write_text("Character devices:\n195 nvidia\n\nBlock devices:\n  1 ramdisk\n")
    assert devices.missing() == {"nvidia0": "without its driver"}


@pytest.mark.parametrize("text", [None, "", "nonsense\n"], ids=["gone", "empty", "nonsense"])
def test_a_list_of_drivers_that_says_nothing_changes_nothing(tmp_path: Path, text: str | None) -> None:
    """A sandbox may hide the list, or lose it: no device is missing for that."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    devices = Devices(gpu.root, gpu.drivers)
    gpu.drivers.unlink()
    if text is not None:
        gpu.drivers.write_text(text)
    assert devices.missing() == {}


def test_a_driver_that_was_never_listed_is_not_missed(tmp_path: Path) -> None:
    """A sandbox whose list lacks the GPU's driver at the start says nothing about it later."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    gpu.drivers.write_text("Character devices:\n195 nvidia\n")
    assert Devices(gpu.root, gpu.drivers).missing() == {}
