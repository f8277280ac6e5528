"""What a PC's firmware leaves, found by guests that look for it; ways to reset."""

from guests import DEADLINE, bare_machine

from vmm import ExitReason, RunResult


def run(name: str, **settings: object) -> tuple[RunResult, list[str]]:
    """Run a bare guest to its end; its result and the lines that it printed."""
    with bare_machine(name, timeout=DEADLINE, **settings) as machine:
        result = machine.run()
        return result, machine.console.read().decode().splitlines()


def test_a_guest_finds_memory_mp_table_and_pics_where_a_pc_has_them() -> None:
    result, output = run("firmware", memory="64M")
    assert output == [
        "com 03f8",
        "ebda 9fc0",
        "base 027f",
        "ebda size 01",
        "mp 000f0000",
        "cmos 0280 fc00 fc00 0300 000000",
        "masks f8 fe",
        "irq 8 at 70",
    ]
    assert result.reason is ExitReason.RESET


def test_it_is_all_there_again_after_a_reset() -> None:
    with bare_machine("firmware", timeout=DEADLINE, on_reset="restart") as machine:
        machine.start()
        for _ in range(2):
            machine.console.expect("irq 8 at 70\n", timeout=DEADLINE)
        machine.stop()


def test_real_mode_code_finds_vectors_and_the_reset() -> None:
    result, output = run("real-mode")
    assert output == ["real mode", "a service fails", "two interrupts"]
    assert result.reason is ExitReason.RESET
