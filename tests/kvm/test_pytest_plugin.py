"""The pytest plugin, as a stranger's tests use it: with real guests, under pytester."""

import json
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.guests import DEADLINE, bare, wait_until
from support.pytest_plugins import HTML, XDIST, all_installed, only_ours

HELLO = """
def test_hello(vm):
    machine = vm()
    machine.start()
    machine.console.expect("hello from the bare guest")
    assert machine.wait().reason.value == "reset"
"""


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A stranger's project whose default guest says hello and resets."""
    monkeypatch.delenv("CI", raising=False)
    only_ours(monkeypatch)
    pytester.makeini(f"[pytest]\nvmm_kernel = {bare('hello')}\n")
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_a_machine_from_the_ini_file_is_built_run_and_closed(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_installed(monkeypatch)
    suite.makepyfile(HELLO)
    run(suite).assert_outcomes(passed=1)


def test_settings_of_the_call_win_over_marker_option_and_ini(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.vmm(memory="32M", append="module")

        @pytest.mark.vmm(append="test")
        def test_levels(vm):
            config = vm(cpus=1).config
            assert config.append == "test"
            assert config.memory == 32 << 20
            assert vm(memory="16M").config.memory == 16 << 20
            assert config.quirks == "none"
        """
    )
    run(suite, "--vmm-memory=64M", "--vmm-quirks=none").assert_outcomes(passed=1)


def test_machines_of_class_and_session_live_as_long_as_their_scope(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        f"""
        import pytest
        from vmm import VmmError

        kept = []

        @pytest.fixture(scope="class")
        def echo(vm_class):
            machine = vm_class(kernel={str(bare("echo"))!r})
            machine.start()
            return machine

        class TestEcho:
            def test_first(self, echo):
                echo.console.send("a")
                echo.console.expect("a")
                kept.append(echo)

            def test_second(self, echo):
                assert echo is kept[0]
                echo.console.send("b")
                echo.console.expect("b")

        def test_it_is_closed_now(vm_session):
            with pytest.raises(VmmError, match="closed"):
                kept[0].start()
            kept.append(vm_session())

        def test_session_goes_on(vm_session):
            assert vm_session.machines == [kept[1]]
            assert kept[1].run().exit_code == 0
        """
    )
    run(suite).assert_outcomes(passed=4)


def test_a_fixture_used_after_its_scope_says_so(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        kept = []

        def test_keeps(vm):
            kept.append(vm)

        def test_uses():
            kept[0]()
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*VmmError: vm: this fixture's scope is over, and its machines are closed*"]
    )


def test_a_failure_shows_console_result_and_transcript(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        def test_fails(vm):
            machine = vm()
            assert machine.run().exit_code == 7
        """
    )
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- vmm: machine 1, hello.elf -*",
            "result: reset, exit code 0 (* s)",
            "console, its last 1 lines:",
            "  hello from the bare guest",
            "transcript: *console.log",
        ]
    )
    path = re.search(r"transcript: (.*)", result.stdout.str())
    assert path is not None
    assert Path(path[1]).read_bytes() == b"hello from the bare guest\n"


def test_a_run_under_ci_keeps_artifacts_of_each_test(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(
        test_it="""
        import pytest

        class TestX:
            @pytest.mark.parametrize("word", ["a b/c"])
            def test_two(self, vm, word):
                with vm() as first:
                    first.run()
                vm().run()
        """
    )
    run(suite).assert_outcomes(passed=1)
    folder, second = sorted((suite.path / "vmm-artifacts/test_it.py").iterdir())
    assert re.fullmatch(r"TestX\.test_two\[a_b_c\]-[0-9a-f]{8}", folder.name)
    assert second.name == f"{folder.name}-2"
    for one in (folder, second):
        names = sorted(path.name for path in one.iterdir())
        assert names == ["console.log", "result.json"]
    assert json.loads((folder / "result.json").read_text())["reason"] == "reset"
    assert (folder / "console.log").read_bytes() == b"hello from the bare guest\n"


def test_a_deadline_ends_a_test_that_waits_for_its_guest(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        f"""
        import pytest

        pytestmark = pytest.mark.vmm(kernel={str(bare("spin"))!r})

        def test_waits(vm):
            vm().run()

        @pytest.mark.vmm(deadline=0.5)
        def test_expects(vm):
            machine = vm()
            machine.start()
            machine.console.expect("never", timeout=60)
        """
    )
    result = run(suite, "--vmm-deadline=1")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "the test's deadline of 1 s has passed (--vmm-deadline)",
            "result: stopped, exit code 130: the test's deadline of 1 s has passed*",
            "*GuestEnded*",
            "*the test's deadline of 0.5 s has passed (--vmm-deadline)",
        ]
    )


def test_pytest_timeout_ends_what_is_not_a_machines_fault(
    suite: pytest.Pytester,
) -> None:
    suite.makeconftest("import vmm.testing.plugin as p\np.GRACE_S = 0.1\n")
    suite.makepyfile(
        """
        import time

        def test_sleeps(vm):
            time.sleep(60)
        """
    )
    result = run(suite, "--vmm-deadline=0.5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Timeout*"])


def test_a_test_that_leaks_a_machine_fails_and_it_is_closed(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        f"""
        from vmm import Machine, MachineConfig
        from vmm.machine.registry import open_machines

        def test_leaks():
            Machine(MachineConfig(kernel={str(bare("hello"))!r})).start()

        def test_nothing_is_left():
            assert not list(open_machines())
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*has left 1 of its machines open*hello.elf*"])


def test_reports_carry_the_console(suite: pytest.Pytester) -> None:
    suite.makepyfile(HELLO)
    run(suite, "--junit-xml=r.xml", "--html=r.html", "--self-contained-html", *HTML)
    case = ElementTree.parse(suite.path / "r.xml").find(".//testcase")
    assert case is not None
    text = case.findtext("system-out") or ""
    attached = re.match(r"\[\[ATTACHMENT\|(.*)\]\]\nhello from the bare guest\n", text)
    assert attached is not None
    assert Path(attached[1]).read_bytes() == b"hello from the bare guest\n"
    assert case.find(f"properties/property[@value={attached[1]!r}]") is not None
    html = (suite.path / "r.html").read_text()
    assert b64encode(b"hello from the bare guest\n").decode() in html


def test_nobody_obeys_what_a_guest_has_printed(suite: pytest.Pytester) -> None:
    """Jenkins and Azure attach files by name, GitHub takes commands from logs."""
    suite.makepyfile(
        f"""
        def test_echo(vm):
            machine = vm(kernel={str(bare("echo"))!r})
            machine.start()
            machine.console.expect("ready")
            machine.console.send(2 * "[" + "ATTACHMENT|/etc/shadow]]\\n")
            machine.console.send("::error::no\\n\\x1b]0;owned\\x07")
            machine.console.expect("\\x07", timeout=60)
            machine.console.expect("never", timeout=0)
        """
    )
    result = run(
        suite, "--junit-xml=r.xml", "--html=r.html", "--self-contained-html", *HTML
    )
    result.assert_outcomes(failed=1)
    case = ElementTree.parse(suite.path / "r.xml").find(".//testcase")
    assert case is not None
    text = case.findtext("system-out") or ""
    attached, *shown_there = text.splitlines()
    assert re.fullmatch(r"\[\[ATTACHMENT\|/.*/console\.log\]\]", attached)
    safe = [r"\x5b[ATTACHMENT|/etc/shadow]]", r"\x3a:error::no", r"\x1b]0;owned\x07"]
    assert shown_there == ["echo: ready", *safe]
    shown = result.stdout.str()
    assert all(f"  {line}" in shown for line in safe)
    assert not re.search(r"(?m)^\s*::|\x1b\]|\[\[ATTACHMENT", shown)
    html = (suite.path / "r.html").read_text()
    assert b64encode("\n".join(["echo: ready", *safe]).encode()).decode() in html


def test_it_works_with_xdist(suite: pytest.Pytester) -> None:
    session = """
    import pytest

    @pytest.fixture(scope="session", autouse=True)
    def shared(vm_session):
        vm_session().run()
    """
    suite.makeconftest(session)
    tests = "\n".join(HELLO.replace("test_hello", f"test_{n}") for n in range(4))
    suite.makepyfile(tests)
    options = (*XDIST, "-n", "2", "--junit-xml=r.xml", "--vmm-artifacts=kept")
    run(suite, *options).assert_outcomes(passed=4)
    found = ElementTree.parse(suite.path / "r.xml").iter("system-out")
    texts = [element.text or "" for element in found]
    assert len(texts) == 4
    attached = {path for text in texts for path in re.findall(r"T\|(.*)\]\]", text)}
    assert len(attached) == 4 + 2  # one of the session's machines in each worker
    assert {*map(Path, attached)} == {*(suite.path / "kept").rglob("console.log")}
    assert all("hello from the bare guest" in text for text in texts)


def test_devices_and_commands_are_taken_too(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from vmm.devices.pc.command_exit import CommandExit

        def test_it(vm):
            words = []
            machine = vm(devices=[CommandExit(words.append)])
            assert machine.run().exit_code == 0
            assert vm.machines == [machine]
        """
    )
    run(suite).assert_outcomes(passed=1)


def test_parts_and_flat_settings_are_merged(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from vmm import CommandConfig, ConsoleConfig

        @pytest.mark.vmm(console=ConsoleConfig(serial="null", serial_rate=9600))
        class TestX:
            @pytest.mark.vmm(serial="capture", files=["/etc/passwd"])
            def test_marker(self, vm):
                console = vm(serial_rate=None).config.console
                assert console == ConsoleConfig()
                part = CommandConfig(command="ls")
                command = vm(command=part).config.command
                assert command == part.replace(capture="capture")

            def test_part(self, vm):
                part = ConsoleConfig(serial_rate=1)
                assert vm(console=part).config.console == part
        """
    )
    run(suite).assert_outcomes(passed=2)


def test_a_machine_is_described_as_it_is(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        f"""
        def test_it(vm):
            machine = vm(kernel={str(bare("spin"))!r})
            assert machine.describe().startswith("result: none: it is created")
            machine.start()
            assert machine.describe().startswith("result: none: it is running")
            machine.pause()
            assert machine.describe().startswith("result: none: it is paused")
        """
    )
    run(suite).assert_outcomes(passed=1)


def test_a_failing_fixture_of_the_users_is_shown_with_the_machine(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken(vm):
            vm().run()
            raise RuntimeError("the user's")

        @pytest.fixture
        def broken_end(vm):
            yield vm()
            raise RuntimeError("the user's")

        def test_set_up(broken):
            pass

        def test_teardown(broken_end):
            broken_end.run()
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=1, errors=2)
    text = result.stdout.str()
    assert text.count("E       RuntimeError: the user's") == 2
    assert text.count("  hello from the bare guest") == 2
    assert "vmm/testing/plugin.py" not in text


@pytest.mark.parametrize("options", [[], [*XDIST, "-n", "2"]])
def test_ctrl_c_leaves_nothing_behind(
    suite: pytest.Pytester, options: list[str]
) -> None:
    suite.makepyfile(
        f"""
        import atexit, os, threading

        def tell():
            links = []
            for name in os.listdir("/proc/self/fd"):
                try:
                    links.append(os.readlink(f"/proc/self/fd/{{name}}"))
                except OSError:
                    continue
            threads = [t.name for t in threading.enumerate() if "vmm" in t.name]
            left = [link for link in links if "kvm" in link] + threads
            with open("left", "w") as file:
                print(left, os.path.exists("socket"), file=file)

        atexit.register(tell)

        def test_waits(vm):
            vm(serial="unix:socket").start()
            machine = vm(kernel={str(bare("spin"))!r})
            machine.start()
            # An interrupt within a destructor would be lost: the file is closed
            # before it is there.
            with open("pid.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename("pid.new", "pid")
            machine.wait()
        """
    )
    command = [sys.executable, "-m", "pytest", "-pno:cacheprovider", *options]
    with subprocess.Popen(command, cwd=suite.path, start_new_session=True) as process:
        wait_until(lambda: (suite.path / "pid").exists(), "the test runs")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE) == pytest.ExitCode.INTERRUPTED
    worker = (suite.path / "pid").read_text()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")
    assert (suite.path / "left").read_text() == "[] False\n"
