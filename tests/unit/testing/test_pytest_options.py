"""The plugin's options, and what it says where no machine can run; needs no KVM."""

from fnmatch import fnmatch

import pytest

from vmm.kvm import kvm
from vmm.kvm.kvm import open_device

TEST = "def test_it(vm):\n    vm()\n"


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


@pytest.fixture
def _no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "open_device", lambda path: open_device("/nowhere/kvm"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--vmm-kernal=x", "there is no --vmm-kernal; did you mean '--vmm-kernel'?"),
        ("--vmm=1", "there is no --vmm; did you mean *"),
        (
            "--vmm-quirks=pmv",
            "--vmm-quirks: 'pmv' is not auto, none or pvm; did you mean 'pvm'?",
        ),
        ("--vmm-memory=lots", "--vmm-memory: 'lots' is no size: *"),
        ("--vmm-memory=1K", "--vmm-memory: 1K is less than *"),
        ("--vmm-cpus=two", "--vmm-cpus: 'two' is no number"),
        ("--vmm-cache-size=-1", "--vmm-cache-size: '-1' is no size: *"),
        ("--vmm-fersh", "there is no --vmm-fersh; did you mean '--vmm-fresh'?"),
        ("--vmm-deadline=-1", "--vmm-deadline: '-1' is no time in seconds"),
        ("--vmm-kernel=vmlinus", "*vmlinus' is no file; did you mean '*/vmlinux'?"),
        ("--vmm-initrd=zzz", "--vmm-initrd: '*/zzz' is no file"),
    ],
)
def test_an_unknown_value_is_named_with_the_nearest(
    pytester: pytest.Pytester, argument: str, message: str
) -> None:
    pytester.makefile("", vmlinux="")
    pytester.makepyfile(TEST)
    result = run(pytester, argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_an_ini_value_is_named_as_such(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nvmm_quirks = pmv\n")
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: vmm_quirks: 'pmv' is not*'pvm'?"])


def test_an_unknown_setting_of_a_machine_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pathlib import Path
        from vmm import ConfigError
        from vmm.testing import VmFactory

        def test_call():
            with pytest.raises(ConfigError, match="no 'kernal'; did you mean 'kernel'"):
                VmFactory("vm", {}, Path("x"))(kernal="x")
        """
    )
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ("deadline='soon'", "pytest.mark.vmm: deadline: 'soon' is no time in seconds"),
        ("deadline=0", "pytest.mark.vmm: deadline: 0 is no time in seconds"),
        ("deadline=True", "pytest.mark.vmm: deadline: True is no time in seconds"),
        ("ready=3", "pytest.mark.vmm: ready: 3 is no text and no regex"),
        ("devices=[3]", "pytest.mark.vmm: devices: [3] is no list of classes, or of *"),
        ("devices=int", "pytest.mark.vmm: devices: <class 'int'> is no list of *"),
        ("'quiet'", "pytest.mark.vmm: 'quiet' has no name: say NAME='quiet'"),
    ],
)
def test_a_marker_of_another_kind_is_named(
    pytester: pytest.Pytester, mark: str, complaint: str
) -> None:
    pytester.makepyfile(f"import pytest\n\n@pytest.mark.vmm({mark})\n{TEST}")
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert fnmatch(result.stderr.str(), f"*ERROR: {complaint}*".replace("[", "[[]"))


@pytest.mark.usefixtures("_no_kvm")
def test_without_kvm_a_test_is_skipped_with_cause_and_remedies(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(TEST)
    result = run(pytester, "-rs")
    result.assert_outcomes(skipped=1)
    text = " ".join(result.stdout.str().split())
    assert "no machine can run here: there is no /nowhere/kvm: load kvm_intel" in text
    assert "udev rule" in text
    assert "scripts/with-kvm" in text


@pytest.mark.usefixtures("_no_kvm")
@pytest.mark.parametrize("where", ["option", "ini"])
def test_vmm_require_makes_it_a_failure(pytester: pytest.Pytester, where: str) -> None:
    pytester.makepyfile(TEST)
    pytester.makeini(f"[pytest]\nvmm_require = {str(where == 'ini').lower()}\n")
    arguments = ["--vmm-require"] if where == "option" else []
    result = run(pytester, *arguments)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no machine can run here: there is no /nowhere/kvm*"])


def test_the_options_are_in_the_help(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--help")
    result.stdout.fnmatch_lines(
        ["*--vmm-kernel=P*", "*--vmm-cache-size=SIZE*", "*--vmm-fresh*", "*--vmm-keep*"]
    )


@pytest.mark.usefixtures("_no_kvm")
def test_a_users_own_fixture_of_that_name_is_none_of_ours(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def guest():
            return 3

        def test_it(guest, request):
            assert guest == 3
            assert request.node.get_closest_marker("timeout") is None
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_guests_boot_has_a_time_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nvmm_deadline = 100\n")
    pytester.makeconftest(
        """
        def pytest_collection_finish(session):
            for item in session.items:
                print(item.name, item.get_closest_marker("timeout").args)
        """
    )
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.vmm(deadline=7)

        def test_vm(vm):
            pass

        def test_guest(guest):
            pass
        """
    )
    result = run(pytester, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["test_vm (22.0,)", "test_guest (122.0,)"])
