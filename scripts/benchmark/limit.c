/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * limit GUEST.elf: the least that a VMM can do for a bare-metal guest.
 *
 * The VM is set up as vmm sets it up (128 MiB, irqchip, PIT2, the 64-bit entry of
 * the kernel's boot.rst); then this is a plain loop around KVM_RUN that knows LSR,
 * THR, whose bytes go to a buffer and line by line to stdout, and the i8042's reset,
 * which ends it.  All other ports read ff.  What an exit takes here is the limit for
 * any VMM that has an exit.  Writes of 16 bits to 0xe8000000 make none: they ring a
 * doorbell (ioeventfd), which a thread answers by IRQ 5 (irqfd).
 */
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_SIZE	(128UL << 20)
#define TSS		0xfeffd000UL	/* where vmm has them, too: */
#define IDENTITY_MAP	0xfeffc000UL	/* below the firmware's place */
#define GDT		0x500UL		/* in guest RAM, as are the page tables */
#define PML4		0x9000UL
#define PDPT		(PML4 + 0x1000)
#define DIRECTORY	(PML4 + 0x2000)	/* four pages: 4 GiB by 2 MiB */
#define PRESENT_RW	0x3
#define PDE_PAGE_SIZE	0x80
#define BOOT_CS		0x10
#define BOOT_DS		0x18
#define COM1		0x3f8
#define I8042_COMMAND	0x64
#define I8042_CMD_RESET	0xfe
#define CPUID_ENTRIES	256
#define DOORBELL	0xe8000000UL
#define ANSWER_IRQ	5

static unsigned char *ram;
static char output[64 << 20];
static size_t output_size;

static int call(int fd, unsigned long request, void *argument, const char *name)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		err(1, "%s", name);
	return result;
}
#define CALL(fd, request, argument) call(fd, request, (void *)(argument), #request)

/* Copy the segments to where they belong; return the entry point. */
static uint64_t load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr header;
	Elf64_Phdr segment;

	if (fd < 0)
		err(2, "%s", path);
	if (pread(fd, &header, sizeof(header), 0) != sizeof(header) ||
	    memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
		errx(2, "%s: no ELF file", path);
	for (int i = 0; i < header.e_phnum; i++) {
		off_t at = header.e_phoff + i * sizeof(segment);

		if (pread(fd, &segment, sizeof(segment), at) != sizeof(segment))
			errx(2, "%s: truncated", path);
		if (segment.p_type != PT_LOAD)
			continue;
		if (segment.p_paddr >= RAM_SIZE || segment.p_filesz > RAM_SIZE - segment.p_paddr)
			errx(2, "%s: a segment lies outside of RAM", path);
		if (pread(fd, ram + segment.p_paddr, segment.p_filesz, segment.p_offset) !=
		    (ssize_t)segment.p_filesz)
			errx(2, "%s: truncated", path);
	}
	close(fd);
	return header.e_entry;
}

static void write_tables(void)
{
	static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
	uint64_t *pml4 = (uint64_t *)(ram + PML4);
	uint64_t *pdpt = (uint64_t *)(ram + PDPT);
	uint64_t *directory = (uint64_t *)(ram + DIRECTORY);

	memcpy(ram + GDT, gdt, sizeof(gdt));
	pml4[0] = PDPT | PRESENT_RW;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (DIRECTORY + i * 0x1000) | PRESENT_RW;
	for (uint64_t i = 0; i < 4 * 512; i++)
		directory[i] = i << 21 | PRESENT_RW | PDE_PAGE_SIZE;
}

static int create_vm(int kvm)
{
	uint64_t identity_map = IDENTITY_MAP;
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	struct kvm_userspace_memory_region region = {.memory_size = RAM_SIZE};
	int vm = CALL(kvm, KVM_CREATE_VM, 0);

	CALL(vm, KVM_SET_TSS_ADDR, TSS);
	CALL(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	CALL(vm, KVM_CREATE_IRQCHIP, 0);
	CALL(vm, KVM_CREATE_PIT2, &pit);
	region.userspace_addr = (uintptr_t)ram;
	CALL(vm, KVM_SET_USER_MEMORY_REGION, &region);
	return vm;
}

static int doorbell, answer;

static void *answer_rings(void *unused)
{
	uint64_t rings, one = 1;

	(void)unused;
	while (read(doorbell, &rings, sizeof(rings)) == sizeof(rings))
		if (write(answer, &one, sizeof(one)) != sizeof(one))
			err(1, "irqfd");
	err(1, "doorbell");
}

static void connect_doorbell(int vm)
{
	struct kvm_ioeventfd bell = {.addr = DOORBELL, .len = 2};
	struct kvm_irqfd irq = {.gsi = ANSWER_IRQ};
	pthread_t thread;

	doorbell = bell.fd = eventfd(0, EFD_CLOEXEC);
	answer = eventfd(0, EFD_CLOEXEC);
	if (doorbell < 0 || answer < 0)
		err(1, "eventfd");
	irq.fd = answer;
	CALL(vm, KVM_IOEVENTFD, &bell);
	CALL(vm, KVM_IRQFD, &irq);
	errno = pthread_create(&thread, NULL, answer_rings, NULL);
	if (errno)
		err(1, "pthread_create");
}

static void set_cpuid(int kvm, int vcpu)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
	} cpuid = {.head.nent = CPUID_ENTRIES};

	CALL(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
	CALL(vcpu, KVM_SET_CPUID2, &cpuid);
}

static void set_registers(int vcpu, uint64_t entry)
{
	struct kvm_segment code = {.limit = 0xffffffff, .selector = BOOT_CS, .type = 0xb,
				   .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {.limit = 0xffffffff, .selector = BOOT_DS, .type = 0x3,
				   .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_segment task = {.limit = 0x67, .type = 0xb, .present = 1};
	struct kvm_regs regs = {.rip = entry, .rflags = 2};
	struct kvm_sregs sregs;

	CALL(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = task;
	sregs.gdt.base = GDT;
	sregs.gdt.limit = 4 * 8 - 1;
	sregs.cr0 = 0x80000031;	/* PG, NE, ET, PE */
	sregs.cr3 = PML4;
	sregs.cr4 = 0x20;	/* PAE */
	sregs.efer = 0x500;	/* LMA, LME */
	CALL(vcpu, KVM_SET_SREGS, &sregs);
	CALL(vcpu, KVM_SET_REGS, &regs);
}

static void flush(void)
{
	for (size_t done = 0; done < output_size;) {
		ssize_t count = write(1, output + done, output_size - done);

		if (count < 0)
			err(1, "stdout");
		done += count;
	}
	output_size = 0;
}

/* Lines are written when they end; what the guests measure has no line's end. */
static void keep(unsigned char byte)
{
	if (output_size == sizeof(output))
		errx(1, "the guest prints without end");
	output[output_size++] = byte;
	if (byte == '\n')
		flush();
}

/* Run until the guest resets. */
static void run(int vcpu, struct kvm_run *run)
{
	for (;;) {
		unsigned char *data;

		if (ioctl(vcpu, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			err(1, "KVM_RUN");
		}
		if (run->exit_reason != KVM_EXIT_IO)
			errx(1, "exit reason %u", run->exit_reason);
		data = (unsigned char *)run + run->io.data_offset;
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			if (run->io.port == COM1 + UART_TX)
				keep(*data);
			else if (run->io.port == I8042_COMMAND && *data == I8042_CMD_RESET)
				return;
		} else if (run->io.port == COM1 + UART_LSR) {
			*data = UART_LSR_TEMT | UART_LSR_THRE;
		} else {
			memset(data, 0xff, run->io.size * run->io.count);
		}
	}
}

int main(int argc, char **argv)
{
	int kvm, vm, vcpu;
	struct kvm_run *kvm_run;
	uint64_t entry;

	if (argc != 2)
		errx(2, "usage: limit GUEST.elf");
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		err(1, "/dev/kvm");
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram == MAP_FAILED)
		err(1, "guest memory");
	entry = load(argv[1]);
	write_tables();
	vm = create_vm(kvm);
	vcpu = CALL(vm, KVM_CREATE_VCPU, 0);
	set_cpuid(kvm, vcpu);
	set_registers(vcpu, entry);
	kvm_run = mmap(NULL, CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		       MAP_SHARED, vcpu, 0);
	if (kvm_run == MAP_FAILED)
		err(1, "kvm_run");
	connect_doorbell(vm);
	run(vcpu, kvm_run);
	flush();
	return 0;
}
