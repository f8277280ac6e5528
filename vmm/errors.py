"""The error tree of the VMM. Each class knows the exit code that it leads to."""


class VmmError(Exception):
    """The VMM or its host can't do what was asked. Root of all errors here."""

    exit_code = 1


class ConfigError(VmmError):
    """The user asked for something impossible; the message names the field."""

    exit_code = 2


class ImageError(ConfigError):
    """A kernel or initrd image can't be used; the message names file and field."""


class KvmError(VmmError, OSError):
    """A KVM ioctl failed. Carries errno; the message names the ioctl."""


class KvmUnavailable(VmmError):
    """/dev/kvm is missing, forbidden or too old; the message has the remedy."""


class GuestAddressError(VmmError):
    """An access of ours to guest memory lies outside of RAM."""
