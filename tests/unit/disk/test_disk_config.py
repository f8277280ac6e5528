"""DiskConfig: what a text says, and what can't be."""

from pathlib import Path

import pytest

from vmm import ConfigError
from vmm.config import MachineConfig
from vmm.disk.config import DiskConfig
from vmm.machine.snapshot_form import config_from_json, config_to_json


def test_a_text_says_what_fields_do() -> None:
    text = (
        "a.img,cow=over,format=raw,serial=S1,cache=writethrough,rate=20M,burst=30M,"
        "iops=100,iops_burst=200"
    )
    (disk,) = MachineConfig(disks=text).disks
    assert disk == DiskConfig(
        path="a.img",
        cow="over",
        format="raw",
        serial="S1",
        cache="writethrough",
        rate=20 << 20,
        burst=30 << 20,
        iops=100,
        iops_burst=200,
    )


def test_flags_need_no_value() -> None:
    assert DiskConfig.parse("a.img,ro").ro
    assert DiskConfig.parse("a.img,cow").cow is True


def test_disks_are_texts_paths_and_configurations_in_their_order() -> None:
    config = MachineConfig(disks=["a.img,ro", DiskConfig(path="b,c.img")])
    assert [disk.path for disk in config.disks] == ["a.img", "b,c.img"]
    assert MachineConfig(disks=Path("d.img")).disks == (DiskConfig(path="d.img"),)
    assert config.replace(cpus=2).disks == config.disks


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'': path: it is missing"),
        (",ro", "',ro': path: it is missing"),
        ("a,nonsense", "'a,nonsense': 'nonsense' is no option, but one of ro, cow"),
        ("a,path=b", "'path=b' is no option"),
        ("a,ro,cow", "'a,ro,cow': cow: it excludes ro"),
        ("a,ro,ro", "ro: it is there twice"),
        ("a,ro=yes", "ro: it takes no value"),
        ("a,serial", "serial: it takes a value"),
        ("a,cow=", "cow: it is empty"),
        ("a,serial=" + "x" * 21, "has more than 20 bytes"),
        ("a,format=qcow3", "format: 'qcow3' is none that we know: raw"),
        ("a.vmdk", "format: by its name it is vmdk"),
        ("a.vdi,cow", "cow: it is for raw and qcow2 images, not vdi"),
        ("a.qcow2,serial=s", "serial: it is for raw images, not qcow2"),
        ("a.img,format=vdi,rate=1M", "rate: it is for raw images, not vdi"),
        ("a,cache=none", "cache: 'none' is not writeback or writethrough"),
        ("a,rate=fast", "rate: 'fast' is no size"),
        ("a,iops=0", "iops: 0 is not above 0"),
        ("a,burst=5", "burst: it takes rate, too"),
        ("a,iops_burst=5", "iops_burst: it takes iops, too"),
    ],
)
def test_what_can_not_be_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MachineConfig(disks=[text])
    message = str(caught.value)
    assert message.startswith("disks: ")
    assert why in message


def test_an_image_of_a_foreign_name_may_be_said_to_be_raw() -> None:
    assert DiskConfig.parse("a.qcow2,format=raw").format == "raw"
    assert not DiskConfig.parse("a.qcow2,format=raw").is_served


@pytest.mark.parametrize(
    ("text", "image_format"),
    [
        ("a.img", "raw"),
        ("a.QCOW2", "qcow2"),
        ("a.vhd", "vpc"),
        ("a,format=vhdx", "vhdx"),
    ],
)
def test_format_is_what_is_said_or_else_what_the_name_says(
    text: str, image_format: str
) -> None:
    config = DiskConfig.parse(text)
    assert config.image_format == image_format
    assert config.is_served == (image_format != "raw")


@pytest.mark.parametrize("others", ["x", "x,cow", "x,ro"])
def test_who_writes_to_an_image_is_the_only_one(others: str) -> None:
    with pytest.raises(ConfigError, match="'x' is there twice"):
        MachineConfig(disks=["x", others])


def test_others_share_an_image() -> None:
    assert len(MachineConfig(disks=["x,cow", "./x,ro", "x,cow"]).disks) == 3


@pytest.mark.parametrize("disks", [5, [5], {"a": "b"}, [b"x"]])
def test_what_is_no_disk_is_refused(disks: object) -> None:
    with pytest.raises(ConfigError, match=r"^disks: "):
        MachineConfig(disks=disks)  # type: ignore[arg-type]


def test_it_goes_into_a_snapshot_and_comes_out() -> None:
    config = MachineConfig(disks=["a.img,cow=b", "c.img,ro,rate=5"])
    data = config_to_json(config)
    got = config_from_json(data)
    assert [disk.path for disk in got.disks] == [
        str(Path("a.img").absolute()),
        str(Path("c.img").absolute()),
    ]
    assert got.disks[0].cow == str(Path("b").absolute())
    assert config_to_json(got) == data
