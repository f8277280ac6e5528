"""A directory of the guest's, against a model: `pytest examples/test_directory.py`.

Hypothesis makes up what is done, each time in a fresh guest, and where the kernel and
the model differ, it shows the shortest way to that.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from vmm.testing import TestGuest

NAMES = st.sampled_from("ab")
PATIENT = settings(max_examples=15, stateful_step_count=12, deadline=None)


class Directory(RuleBasedStateMachine):
    """Files are numbers here; each name leads to one."""

    def __init__(self, guest: TestGuest) -> None:
        super().__init__()
        self.guest = guest.fresh()
        self.files: dict[str, int] = {}
        self.made = 0
        self.do("mkdir /d")

    def do(self, command: str) -> bool:
        """Whether the guest could."""
        return self.guest.run(command).returncode == 0

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        self.made += 1
        assert self.do(f"set -C; >/d/{name}") == (name not in self.files)
        self.files.setdefault(name, self.made)

    @rule(old=NAMES, new=NAMES)
    def link(self, old: str, new: str) -> None:
        could = old in self.files and new not in self.files
        assert self.do(f"ln /d/{old} /d/{new}") == could
        if could:
            self.files[new] = self.files[old]

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        could = old in self.files
        assert self.do(f"mv /d/{old} /d/{new}") == could
        if could and self.files[old] != self.files.get(new):
            # Two names of one file stay as they are: POSIX has rename() do nothing.
            self.files[new] = self.files.pop(old)

    @rule(name=NAMES)
    def unlink(self, name: str) -> None:
        assert self.do(f"rm /d/{name}") == (name in self.files)
        self.files.pop(name, None)

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        links = [*self.files.values()]
        expected = {name: links.count(file) for name, file in self.files.items()}
        told = self.guest.run("cd /d; stat -c '%n %h' *", text=True).stdout
        assert dict(line.split() for line in told.splitlines()) == {
            name: str(count) for name, count in expected.items()
        }

    def teardown(self) -> None:
        self.guest.close()


def test_directory(guest: TestGuest) -> None:
    run_state_machine_as_test(lambda: Directory(guest), settings=PATIENT)


@PATIENT
@given(name=st.binary(min_size=1, max_size=255))
def test_any_bytes_are_a_name(guest_session: TestGuest, name: bytes) -> None:
    """Of a fixture with a longer scope: Hypothesis warns of a test's own."""
    if name in (b".", b"..") or set(name) & set(b"/\0"):
        return
    with guest_session.fresh() as guest:
        guest.run("mkdir /d")
        guest.write_bytes(b"/d/" + name, b"hello")
        assert guest.read_bytes(b"/d/" + name) == b"hello"


@pytest.mark.vmm(memory="64M")
def test_one_path_after_the_other(guest: TestGuest) -> None:
    """What is dear to set up is done once; each fork goes on from there."""
    guest.write_text("/state", "as it was")
    with guest.fork() as other:
        other.write_text("/state", "something else")
    assert guest.read_text("/state") == "as it was"
