"""MachineConfig: what is taken, and the field that is named where it isn't."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm import config
from vmm.config import DEFAULT_CMDLINE, MachineConfig, parse_memory
from vmm.errors import ConfigError
from vmm.field_types import parse_size
from vmm.host import report as host
from vmm.place import Place

SIZES = {
    "4096": 4096,
    "1K": 1 << 10,
    "3k": 3 << 10,
    "512M": 512 << 20,
    "512MB": 512 << 20,
    "512MiB": 512 << 20,
    "2G": 2 << 30,
    " 2g ": 2 << 30,
}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size("memory", text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "12X", "1.5G", "-1M", "0x1000", "M", "1 M M", "1e9", "٣M", "9" * 5000],
)
def test_what_is_no_size_is_refused_by_field(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^initrd_limit: .* is no size: write 512M"):
        parse_size("initrd_limit", text)


@settings(deadline=None)  # the machine may be busy
@given(text=st.text(max_size=12))
def test_any_text_gives_a_size_or_a_config_error(text: str) -> None:
    try:
        assert parse_size("memory", text) >= 0
    except ConfigError:
        return


def test_memory_may_be_bytes() -> None:
    assert parse_memory(64 << 20) == 64 << 20


BAD_MEMORY: dict[int | str, str] = {
    0: "0 is less than 2M",
    "0": "0 is less than 2M",
    -1: "-1 is less than 2M",
    "-1": "'-1' is no size",
    "12X": "'12X' is no size",
    "": "'' is no size",
    "1.5G": "'1.5G' is no size",
    "1M": "1M is less than 2M",
    (64 << 20) + 1: "67108865 is not a multiple of 4096 bytes",
    "67108865": "67108865 is not a multiple of 4096 bytes",
    "1025G": "1025G is more than 1024G",
    "99999999999999999999G": "is more than 1024G",
}


@pytest.mark.parametrize(("value", "problem"), BAD_MEMORY.items())
def test_bad_memory_is_refused(value: int | str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^memory: .*{re.escape(problem)}"):
        MachineConfig(memory=value)


@pytest.mark.parametrize("value", [512, "512", " 512 "])
def test_forgotten_unit_gets_a_hint(value: int | str) -> None:
    with pytest.raises(ConfigError, match="did you mean 512M"):
        MachineConfig(memory=value)


@pytest.mark.parametrize("value", ["512K", 0, "0", -512, 1, "1", "1048576"])
def test_no_hint_where_no_unit_was_forgotten(value: int | str) -> None:
    with pytest.raises(ConfigError, match=r"less than 2M$"):
        MachineConfig(memory=value)


@pytest.mark.parametrize("value", ["2M", "1024G"])
def test_memory_limits_are_inclusive(value: str) -> None:
    assert MachineConfig(memory=value).memory == parse_size("memory", value)


@pytest.mark.parametrize("cpus", [0, -1, 255])
def test_bad_cpus_are_refused(cpus: int) -> None:
    with pytest.raises(ConfigError, match=rf"^cpus: {cpus} is not within 1\.\.254"):
        MachineConfig(cpus=cpus)


@pytest.mark.parametrize("acpi", ["off", None, 1])
def test_acpi_is_true_or_false(acpi: object) -> None:
    with pytest.raises(ConfigError, match=f"^acpi: {acpi!r} is not True or False"):
        MachineConfig(acpi=acpi)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_bad_timeout_is_refused(timeout: float) -> None:
    with pytest.raises(ConfigError, match=r"^timeout: "):
        MachineConfig(timeout=timeout)


@pytest.mark.parametrize("hang_s", [0, -1, float("nan"), float("inf"), 1e9])
def test_bad_hang_s_is_refused(hang_s: float) -> None:
    with pytest.raises(ConfigError, match=r"^hang_s: "):
        MachineConfig(hang_s=hang_s)


@pytest.mark.parametrize("field", ["on_reset", "on_panic", "on_crash"])
def test_bad_policy_is_refused(field: str) -> None:
    words = f"^{field}: 'halt' is not exit, restart or pause"
    with pytest.raises(ConfigError, match=words):
        MachineConfig(**{field: "halt"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "serial", ["", "tty", "file", "file:", "unix:", "stdio:", "tcp:1", "null:x"]
)
def test_bad_serial_is_refused(serial: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^serial: .* is not stdio, null, stdout, file:PATH"
    ):
        MachineConfig(serial=serial)


def test_bad_serial_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^serial_policy: 'wait' is not block or"):
        MachineConfig(serial_policy="wait")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["serial_limit", "serial_rate"])
@pytest.mark.parametrize("value", [0, -1, "0", "x"])
def test_bad_serial_limit_or_rate_is_refused(field: str, value: int | str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        MachineConfig(**{field: value})  # type: ignore[arg-type]


def test_append_adds_to_the_default_command_line() -> None:
    assert MachineConfig(append="quiet").full_cmdline == f"{DEFAULT_CMDLINE} quiet"


def test_append_adds_to_a_given_command_line() -> None:
    assert MachineConfig(cmdline="a", append="b").full_cmdline == "a b"


def test_command_line_may_be_empty() -> None:
    assert MachineConfig(cmdline="").full_cmdline == ""


def test_config_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        MachineConfig().cpus = 2  # type: ignore[misc]


def test_missing_tiny_guest_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "BUILD_DIR", tmp_path)
    with pytest.raises(ConfigError, match=r"^kernel: none was given .*build-guest"):
        MachineConfig().images()


@pytest.mark.parametrize(
    ("kind", "kernel"), [("hardware", "vmlinux-tiny"), ("pvm", "vmlinux-tiny-ring3")]
)
def test_tiny_guest_for_this_host_is_the_default(
    kind: str, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "BUILD_DIR", tmp_path)
    monkeypatch.setattr(host, "host_kind", lambda: kind)
    names = kernel, "initramfs-tiny.cpio"
    built = tuple(str(tmp_path / name) for name in names)
    for path in built:
        Path(path).touch()
    assert MachineConfig().images() == built
    assert MachineConfig(initrd="mine").images() == (built[0], "mine")


def test_without_busybox_a_command_has_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "BUILD_DIR", tmp_path)
    assert MachineConfig(kernel="k", command="/p").images() == ("k", None)
    script = tmp_path / "script"
    script.touch(0o755)
    with pytest.raises(ConfigError, match=r"^initrd: none was given .*build-guest"):
        MachineConfig(kernel="k", script=script).images()


def test_given_kernel_comes_without_an_initrd() -> None:
    assert MachineConfig(kernel="vmlinux").images() == ("vmlinux", None)


@pytest.mark.parametrize(
    "settings",
    [
        {"ports": {"log": "file:x", "ask": Place("capture")}},
        {"ports": ["log=file:x", "ask=capture"]},
        {"ports": (("log", "file:x"), ("ask", "capture"))},
    ],
)
def test_ports_have_names_and_places(settings: dict[str, Any]) -> None:
    kept = (("log", Place("file", "x")), ("ask", Place("capture")))
    config = MachineConfig(**settings)
    assert config.ports == kept
    assert config.replace(rng=True).ports == kept


@pytest.mark.parametrize(
    ("ports", "problem"),
    [
        (["log"], "'log' is not NAME=PLACE"),
        (["=null"], "'' is no name"),
        ({"a/b": "null"}, "'a/b' is no name"),
        ({"é" * 65: "null"}, "is no name: 1..128 bytes"),
        ({"a\nb": "null"}, r"'a\\nb' is no name: 1..128 bytes of printable text"),
        ({"a\udcff": "null"}, r"'a\\udcff' is no name: 1..128 bytes of printable"),
        (["a=null", "a=capture"], "'a' is there twice"),
        ({"a": "tty"}, "'tty' is not stdio"),
        ({str(n): "null" for n in range(32)}, "32 are more than 31"),
    ],
)
def test_ports_that_can_not_be_are_refused(
    ports: list[str] | dict[str, str | Place], problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^ports: .*{problem}"):
        MachineConfig(ports=ports)


def test_a_console_on_hvc0_has_a_command_line_of_its_own() -> None:
    config = MachineConfig(console_device="virtio", append="quiet")
    assert config.full_cmdline == (
        "console=hvc0 earlycon=uart8250,io,0x3f8 reboot=k panic=-1 quiet"
    )
    assert config.replace(cmdline="a").full_cmdline == "a quiet"


@pytest.mark.parametrize("size", [-1, "129M", "x"])
def test_a_balloon_that_can_not_be_is_refused(size: int | str) -> None:
    with pytest.raises(ConfigError, match=r"^balloon: "):
        MachineConfig(balloon=size)


def test_a_balloons_size_is_kept_as_bytes() -> None:
    assert MachineConfig(balloon="64M").balloon == 64 << 20
    assert MachineConfig(balloon=0).balloon == 0


def test_debugcon_to_where_a_commands_output_goes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^debugcon: with capture, stdout has"):
        MachineConfig(command="true", serial="null", capture="stdout", debugcon="stdio")


@pytest.mark.parametrize("tee", ["file:log", ["file:log"], ("file:log",)])
def test_tee_may_be_one_or_several(tee: str | Sequence[str]) -> None:
    assert MachineConfig(tee=tee).console.tee == (Place("file", "log"),)


@pytest.mark.parametrize(
    ("tee", "complaint"),
    [
        ("stdio", "tee: 'stdio' is not file:PATH or unix:PATH"),
        (["file:"], "tee: 'file:' is not file:PATH or unix:PATH"),
        (["unix:a", "unix:a"], "tee: 'unix:a' is where tee goes, too: each needs a"),
        ("file:log", "tee: 'file:log' is where serial goes, too: each needs a"),
    ],
)
def test_tee_that_can_not_be_is_refused(
    tee: str | Sequence[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        MachineConfig(serial="file:log", tee=tee)


@pytest.mark.parametrize("port", [-1, 0xFFFD, 0x1_0000])
def test_debug_exit_port_that_no_pc_has_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=r"^debug_exit: port .* is not within"):
        MachineConfig(debug_exit=port)
