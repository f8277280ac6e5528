"""Which KVM this host has, and the work-arounds that it needs."""
