"""From a kernel image to a vCPU that is about to run its first instruction."""
