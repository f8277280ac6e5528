"""scripts/with-kvm: run a command where /dev/kvm is hardware-style KVM."""
