"""state.json: what goes in comes out; what wasn't written by us is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.snapshot_rig import HOST, contents, resealed, unsealed

from vmm import ConfigError, ConsoleConfig, ImageError
from vmm.config import MachineConfig
from vmm.devices.errors import InvalidState
from vmm.machine.snapshot_form import (
    SIZE_MAX,
    config_from_json,
    config_to_json,
    from_text,
    to_text,
)

TEXT = to_text(contents(), HOST)
STATE = unsealed(TEXT)


def refused(state: dict[str, Any]) -> str:
    with pytest.raises((ConfigError, InvalidState)) as caught:
        from_text(resealed(state), HOST)
    return str(caught.value)


def changed(path: str, value: object) -> dict[str, Any]:
    """STATE with another value at a path of names and indices."""
    state = copy.deepcopy(STATE)
    *way, last = path.split(".")
    at: Any = state
    for step in way:
        at = at[int(step) if isinstance(at, list) else step]
    at[int(last) if isinstance(at, list) else last] = value
    return state


def test_what_goes_in_comes_out() -> None:
    given = contents()
    got = from_text(TEXT, HOST)
    assert (got.config, got.cmdline, got.is_ring3, got.devices) == (
        given.config,
        given.cmdline,
        given.is_ring3,
        given.devices,
    )
    assert (got.saved.vm, got.saved.vcpus) == (given.saved.vm, given.saved.vcpus)
    assert to_text(got, HOST) == TEXT  # states of devices stay as JSON has them


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": Path("k"), "initrd": "i", "symbols": Path("/s"), "append": "ü"},
        {"modules": ["a b c", "/d"], "timeout": 1.5, "hang_s": 3, "acpi": False},
        {"debugcon": "file:x", "debug_exit": 0x501, "on_reset": "pause"},
        {"command": "ls -l", "files": ["/etc:/etc"], "capture": "file:y"},
        {"console": ConsoleConfig(serial="unix:s", tee=["file:t", "capture"])},
        {"ports": {"a": "file:x", "b": "capture"}, "rng": True, "balloon": "64M"},
        {"console_device": "virtio", "balloon": 0},
        {"disks": ["a.img,cow=b", "/c.img,ro,rate=5M", "d.img,cow"]},
        {"vsock": True},
        {"vsock": "vsock,cid=5"},
        {"script": __file__},
    ],
)
def test_configurations_come_back_with_absolute_paths(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "script" in settings:
        script = tmp_path / "script"
        script.touch(0o700)
        settings = {"script": "script"}
    data = config_to_json(MachineConfig(**settings))
    monkeypatch.chdir("/")
    back = config_from_json(json.loads(json.dumps(data)))
    assert config_to_json(back) == data
    if "kernel" in settings:
        assert (back.kernel, back.initrd) == (str(tmp_path / "k"), str(tmp_path / "i"))
        assert (back.symbols, back.append) == ("/s", "ü")
    if "modules" in settings:
        assert back.modules == (f"{tmp_path}/a b c", "/d")
    if "script" in settings:
        assert back.command is not None
        assert back.command.script == str(script)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", "other", "it is no minivmm snapshot"),
        ("version", 2, "in version 2 of the format, and this is minivmm"),
        ("version", True, "in version True"),
        ("new", 1, "state has no field new"),
        ("config.new", 1, "config has no field new"),
        ("config.console.new", 1, "console has no field new"),
        ("saved.new", 1, "saved has no field new"),
        ("saved.vm.new", 1, "VmState has no field new"),
        ("saved.vcpus.0.new", 1, "VcpuState has no field new"),
        ("saved.devices.0.new", 1, "device has no field new"),
        ("host.new", 1, "HostIdentity has no field new"),
        ("config.memory", "16M", "isn't in the form that we write"),
        ("config.memory", 1, "memory: 1 is less than"),
        ("config.cpus", 3, "it has 2 vCPUs, and cpus 3"),
        ("config.cpus", True, "cpus: True is not a whole number"),
        ("config.timeout", 1e400, "Infinity is no number"),
        ("config.kernel", "relative", "isn't in the form that we write"),
        ("config.console.serial", 1, "serial: 1 is not text"),
        ("cmdline", None, "cmdline: None is no str"),
        ("cmdline", "\ud800", "cmdline: 'utf-8' codec can't encode"),
        ("is_ring3", 1, "is_ring3: 1 is no bool"),
        ("user_devices", "x", "user_devices: 'x' is no list"),
        ("user_devices", [1], "user_devices: 1 is no str"),
        ("saved.vcpus", {}, "vcpus: {} is no list"),
        ("saved.vcpus.0.regs", "00", "regs has 144 bytes"),
        ("saved.vcpus.0.tsc", -1, "VcpuState.tsc is -1"),
        ("saved.vm.pic_master", "zz", "VmState.pic_master is 'zz'"),
        ("saved.devices.0.kind", 5, "kind: 5 is no str"),
        ("saved.devices.0.state", [], "state: [] is no dict"),
        ("saved.rescues.0", 5, "state: 5 is no dict"),
        ("saved.cpuid", "x", "cpuid: 'x' is no int"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: object, said: str) -> None:
    assert said in refused(changed(path, value))


@pytest.mark.parametrize("name", sorted(STATE.keys() - {"format", "version"}))
def test_a_missing_field_is_named(name: str) -> None:
    state = {key: value for key, value in STATE.items() if key != name}
    assert refused(state) == f"state lacks {name}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "its state.json is no state"),
        (b"[" * 100_000, "it is too deep"),
        (b"[]", "it is no minivmm snapshot"),
        (b"\xff", "no state: 'utf-8' codec"),
        (b'{"a": 1, "a": 2}', "a field is there twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "no state: Exceeds the limit"),
        (TEXT[:-3], "its state.json is no state"),
        (TEXT + b" ", "it was changed, or damaged"),
        (TEXT.replace(b'"cpus": 2', b'"cpus": 3'), "it was changed, or damaged"),
    ],
)
def test_what_is_no_text_of_ours_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        from_text(text, HOST)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"cpu_name": "AMD EPYC"}, "its CPU was Intel(R) Xeon(R), and here is AMD"),
        ({"cpu_model": "1"}, "its CPU model was 143, and here is 1: the guest has"),
        ({"kernel": "6.2.0"}, "its kernel was 6.1.0, and here is 6.2.0: what KVM"),
        ({"kvm": "pvm"}, "its KVM was hardware, and here is pvm"),
        ({"page_size": 1 << 16}, "its page size was 4096, and here is 65536"),
    ],
)
def test_another_host_is_refused_with_both_values(
    there: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_text(TEXT, HOST.replace(**there))
    assert said in str(caught.value)


def test_another_boot_is_refused_on_pvm_alone() -> None:
    from_text(TEXT, HOST.replace(boot_id="other"))
    pvm = HOST.replace(kvm="pvm")
    text = to_text(contents(), pvm)
    with pytest.raises(ConfigError, match="TSC is the host's, and can't be set"):
        from_text(text, pvm.replace(boot_id="other"))


def test_devices_that_keep_too_much_can_not_be_saved() -> None:
    much = contents(append="x" * SIZE_MAX)
    with pytest.raises(ConfigError, match="more than the 16 MiB"):
        to_text(much, HOST)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.data())
def test_any_other_value_anywhere_is_taken_as_it_is_or_refused(
    data: st.DataObject,
) -> None:
    state = copy.deepcopy(STATE)
    at: Any = state
    while True:
        keys = sorted(at) if isinstance(at, dict) else range(len(at))
        key = data.draw(st.sampled_from(keys))
        child = at[key]
        if not isinstance(child, dict | list) or not child or data.draw(st.booleans()):
            break
        at = child
    at[key] = data.draw(ODD)
    try:
        got = from_text(resealed(state), HOST)
    except (ConfigError, InvalidState):
        return
    assert unsealed(to_text(got, HOST)) == state | {"made_by": STATE["made_by"]}


@given(st.data())
def test_any_damage_to_the_text_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    byte = data.draw(st.binary(max_size=2).filter(lambda b: b != TEXT[at : at + 1]))
    with pytest.raises((ConfigError, InvalidState)):
        from_text(TEXT[:at] + byte + TEXT[at + 1 :], HOST)
