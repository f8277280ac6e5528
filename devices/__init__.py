"""The device model: chips and buses that know nothing of KVM or the VMM.

Everything here imports the standard library and, relatively, itself. What a
device needs from outside comes in as a Protocol: an interrupt
(:class:`~.trigger.Trigger`), time (:class:`~.clock.Clock`) and a place for its
output (:class:`~.sink.Sink`). So every device runs in a test without /dev/kvm.

In-tree the folder is ``devices``; it is imported as ``vmm.devices``.
"""
