"""The fixtures guest, guest_class and guest_session, as a stranger's tests use them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.guests import DEADLINE, bare
from support.pytest_plugins import XDIST, only_ours

from vmm.machine.snapshot import Snapshot
from vmm.testing.store import Store

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.linux


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A stranger's project, which takes what there is."""
    monkeypatch.delenv("CI", raising=False)
    only_ours(monkeypatch)
    pytester.makeini("[pytest]\n")
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("--vmm-artifacts=kept", *arguments)


def boots(suite: pytest.Pytester) -> int:
    """How many guests were booted, of which others were clones."""
    return len([path for path in suite.path.glob("kept/**/*-boot*") if path.is_dir()])


def test_each_test_has_a_guest_of_its_own_of_one_boot(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        def test_it_runs_commands(guest):
            done = guest.run(["cat", "/proc/uptime"], check=True, text=True)
            assert float(done.stdout.split()[0]) < 60
            guest.write_text("/left", "over")

        def test_it_is_another(guest):
            assert not guest.exists("/left")
            with pytest.raises(AttributeError, match="a guest has no 'rum'"):
                guest.rum("ls")

        def test_forks(guest):
            guest.write_text("/x", "fork")
            with guest.fork() as fork, guest.fresh() as fresh:
                assert fork.read_text("/x") == "fork"
                assert not fresh.exists("/x")
                fork.write_text("/x", "changed")
                with fork.fresh() as as_it_was:
                    assert as_it_was.read_text("/x") == "fork"
            assert guest.read_text("/x") == "fork"
            guest.reset()  # to what it was at first, in spite of the fork
            assert not guest.exists("/x")

        class TestClass:
            def test_first(self, guest_class, guest_session):
                guest_class.write_text("/x", "class")
                guest_session.write_text("/x", "session")

            def test_second(self, guest_class, guest_session):
                assert guest_class.read_text("/x") == "class"

        def test_after(guest_class, guest_session):
            assert not guest_class.exists("/x")
            assert guest_session.read_text("/x") == "session"
        """
    )
    run(suite, "-p", "no:cacheprovider").assert_outcomes(passed=6)
    assert boots(suite) == 1


def test_a_failure_shows_what_came_since_the_clone(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        def test_it(guest):
            guest.run("echo told >/dev/console; echo '<7>logged' >/dev/kmsg")
            guest.run("exit 3").check_returncode()
        """
    )
    result = run(suite, "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*CalledProcessError: *exit status 3*",
            "*- vmm: guest 1, vmlinux*",
            "result: none: it is running",
            "console, its last 1 lines:",
            "  told",
            "*- vmm: guest 1, kernel log since it was cloned -*",
            "*logged",
            "*--vmm-keep saves the guest as it is now",
        ]
    )
    assert "Linux version" not in result.stdout.str()


def test_a_guest_that_does_not_come_up_is_booted_once(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        f"""
        import pytest

        pytestmark = pytest.mark.vmm(kernel={str(bare("hello"))!r}, ready="never")

        def test_first(guest):
            pass

        def test_second(guest, guest_class):
            pass
        """
    )
    result = run(suite)
    result.assert_outcomes(errors=2)
    text = result.stdout.str()
    assert text.count("the guest doesn't come up: no 'never' on the console") == 2
    assert text.count("  hello from the bare guest") == 2
    assert "During handling" not in text
    assert boots(suite) == 1


def test_devices_and_a_pattern_without_an_agent(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
        import pytest
        from vmm.devices import DeviceIo, PioAddressConstraint
        from vmm.devices.state import Byte, State

        class Value(State):
            value: Byte

        class Register(DeviceIo):
            def __init__(self, value=0x41):
                self.value = value

            def get_resource_constraints(self):
                return [PioAddressConstraint.at(0x500, 1)]

            def pio_read(self, base, offset, data):
                data[0] = self.value

            def state(self):
                return Value(self.value)

            def restore(self, state):
                self.value = Value.of(state).value
        """
    )
    suite.makepyfile(
        f"""
        import pytest
        from conftest import Register
        from vmm import VmmError

        @pytest.mark.vmm(
            kernel={str(bare("poll"))!r}, ready="poll", devices=[Register]
        )
        class TestIt:
            def test_first(self, guest):
                guest.devices[0].value = 0x42
                guest.console.expect("poll 42")
                with guest.fork() as fork, guest.fresh() as fresh:
                    assert fork.devices[0].value == 0x42
                    assert fresh.devices[0].value == 0x41
                    fork.devices[0].value = 0x43
                    fork.console.expect("poll 43")
                with pytest.raises(VmmError, match="there is no agent"):
                    guest.run("ls")

            def test_second(self, guest):
                assert guest.devices[0].value == 0x41
                guest.devices[0].value = ord("q")
                assert guest.machine.wait().reason.value == "reset"

            def test_vm(self, vm):
                machine = vm()
                machine.start()
                machine.console.expect("poll 41")
        """
    )
    run(suite, "-p", "no:cacheprovider").assert_outcomes(passed=3)


def test_workers_and_later_runs_share_one_boot(suite: pytest.Pytester) -> None:
    tests = [
        f"def test_{number}(guest):\n    assert guest.run('true').returncode == 0\n"
        for number in range(4)
    ]
    suite.makepyfile("\n".join(tests))
    run(suite, *XDIST, "-n", "2").assert_outcomes(passed=4)
    assert boots(suite) == 1
    run(suite).assert_outcomes(passed=4)
    assert boots(suite) == 1
    [state] = suite.path.glob(".pytest_cache/d/minivmm/*/snapshot/state.json")
    store = Store(state.parents[2], 1 << 30)
    with store.entry(state.parents[1].name, DEADLINE, pytest.fail):  # as if we boot it
        result = run(suite, *XDIST, "-n", "1", "--maxfail=1", "--vmm-deadline=3")
    result.stderr.fnmatch_lines(["vmm: waits for another process, which boots *"])
    result.stdout.fnmatch_lines(["another process boots this guest for 3 s already"])
    state.write_text(state.read_text()[:-100])
    result = run(suite, "-W", "error")
    result.assert_outcomes(passed=4, warnings=1)
    result.stdout.fnmatch_lines(["*vmm: a kept guest can't be used, and is booted *"])
    assert boots(suite) == 2
    run(suite, *XDIST, "-n", "2", "--vmm-fresh").assert_outcomes(passed=4)
    assert boots(suite) == 3
    assert [*suite.path.glob(".pytest_cache/d/minivmm/*/snapshot")] == [state.parent]


def test_vmm_keep_leaves_the_guest_as_it_was(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        def test_it(guest_class):
            guest_class.write_text("/nonce", "4711")
            assert guest_class.exists("/nowhere")

        def test_later(guest_class):
            guest_class.reset()  # to what it was at first, though it was saved since
            assert not guest_class.exists("/nonce")
        """
    )
    result = run(suite, "-p", "no:cacheprovider", "--vmm-keep")
    result.assert_outcomes(passed=1, failed=1)
    line = next(line for line in result.stdout.lines if line.startswith("vmm restore "))
    words = shlex.split(line)
    assert words[3:] == ["--shell"]
    done = subprocess.run(
        [sys.executable, "-m", *words],
        input=b"cat /nonce; exit 3",
        capture_output=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"4711", b"")
    folder = Path(words[2])
    assert suite.path / "kept" in folder.parents
    with Snapshot.load(folder) as snapshot, snapshot.clone() as machine:
        assert machine.guest.read_text("/nonce") == "4711"


def test_a_guest_that_a_test_asks_for_as_it_runs_is_no_leak(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        """
        def test_it(request):
            request.getfixturevalue("guest").run("true", check=True)
            request.getfixturevalue("guest_session").run("true", check=True)

        def test_later(guest_session):
            guest_session.run("true", check=True)
        """
    )
    run(suite, "-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_without_a_cache_directory_guests_are_booted_all_the_same(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile("def test_it(guest): guest.run('true', check=True)")
    suite.mkdir(".pytest_cache").joinpath("d").touch()
    result = run(suite)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*the booted guest isn't kept for the next run: *"])


def test_the_deadline_ends_a_guests_command(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        def test_it(guest):
            guest.run("echo waits >/dev/console; sleep 1000")
        """
    )
    result = run(suite, "-p", "no:cacheprovider", "--vmm-deadline=5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*GuestEnded*",
            "E*the test's deadline of 5 s has passed (--vmm-deadline)",
            "*  waits",
        ]
    )


def test_the_example_passes() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-pno:cacheprovider", "examples"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stdout
