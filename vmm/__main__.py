"""The `vmm` command, and `python -m vmm`."""

# What signal imports takes longer than all of this.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys


def main() -> int:
    """Run the command; returns its exit code.

    Until a machine runs, Ctrl-C ends us as it ends a program in C: a traceback out of
    some import would tell nobody anything.
    """
    try:
        _let_sigint_end_us()
    except KeyboardInterrupt:  # it came before that
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    import gc

    # What imports make stays. Looking through it for garbage, again and again, takes a
    # tenth of the time to a guest's first instruction; once that has come, cli.run
    # turns it on again.
    gc.disable()
    from .cli.main import main as command

    return command()


def _let_sigint_end_us() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
