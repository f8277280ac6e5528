"""Builds vmm.vcpu._run_loop from run_loop.c: what setup.py has cffi run.

Optional: where there is no compiler, or none that works, the package goes without
it and the run loop is Python's.
"""

from pathlib import Path

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    #define RING_SIZE ...
    #define ANSWERS ...
    #define FAST_PORTS_MAX ...
    struct fast_port { ...; };
    struct run_loop {
        int fd;
        int (*run_vcpu)(int fd);
        struct kvm_run *kvm_run;
        struct kvm_coalesced_mmio_ring *posted;
        uint32_t posted_max;
        const volatile uint8_t *replaced;
        uint32_t count;
        uint16_t port[...];
        struct fast_port *fast[...];
        uint64_t served;
        uint64_t collected;
        ...;
    };
    static int run_vcpu(int fd);
    static int enter_guest(struct run_loop *loop);
    static int start_ticks(struct run_loop *loop, int signal, long interval_ns);
    static void stop_ticks(struct run_loop *loop);
    """
)
ffibuilder.set_source(
    "vmm.vcpu._run_loop",
    Path(__file__).with_name("run_loop.c").read_text(),
    optional=True,
    libraries=["rt"],  # timer_create, before glibc 2.34
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra"],
)
