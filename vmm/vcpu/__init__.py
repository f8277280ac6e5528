"""A vCPU's thread: KVM_RUN, what its exits mean, dispatch, and how it stops."""
