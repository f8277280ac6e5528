"""The error tree of the device model: one class per cause.

These are raised by misuse from the *host* side only. Whatever a guest does to
a device is answered as hardware would answer it and never raises.
"""


class DeviceError(Exception):
    """Root of everything that ``vmm.devices`` raises."""


class TriggerError(DeviceError):
    """An interrupt could not be raised."""


class FullFifo(DeviceError):
    """A FIFO has no room for even one more byte."""


class DeviceOverlap(DeviceError):
    """A range to be registered overlaps one that is registered already."""


class NoDevice(DeviceError):
    """No device is registered at exactly this range."""


class InvalidDevice(DeviceError):
    """What was to be put on a bus is no DeviceIo."""


class TransactionError(DeviceError):
    """A transaction was used after its end."""


class TransactionConflict(TransactionError):
    """Somebody else changed the buses since the transaction began."""


class NotRam(DeviceError):
    """A guest physical address, of the guest's, at which there isn't RAM alone."""


class BrokenRing(DeviceError):
    """What a driver has put into its virtqueue no driver may; says what."""


class InvalidAcpiId(DeviceError, ValueError):
    """An ACPI device ID that no driver could have."""


class InvalidState(DeviceError, ValueError):
    """A saved state that no such device could have been in."""


class ResourceError(DeviceError):
    """Root of the resource manager's errors; says what was asked and what is left."""


class UnknownResource(ResourceError):
    """No pool hands out this type of resource."""


class InvalidRange(ResourceError):
    """A base, size, range or alignment that no allocation could satisfy."""


class Exhausted(ResourceError):
    """The pool has nothing left that satisfies the constraint."""
