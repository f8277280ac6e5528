/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * pci_driver: a driver for pci_device.py in user space, by VFIO without an IOMMU.
 *
 *	gcc -static -O2 -o pci_driver pci_driver.c
 *	pci_driver 0000:00:01.0
 *
 * The kernel has VFIO_PCI and VFIO_NOIOMMU, and was started with
 * vfio.enable_unsafe_noiommu_mode=1 vfio-pci.ids=1234:0c32.  Has the device sum up
 * a page, sleeps until it interrupts, and compares.
 *
 * Prints:	the device's CRC-32 in 8 hexadecimal digits, and "ok"
 * Exits:	0; 1 and a line on stderr where something is wrong
 */
#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE	4096
#define DATA	4000	/* bytes of the page to sum up; the sum is behind them */

struct registers {	/* as pci_device.py has them */
	uint64_t source, target;
	uint32_t size, status;
};

/* The device, of the group that it is in. */
static int open_device(const char *name)
{
	char path[PATH_MAX], group_name[64];
	char link[PATH_MAX] = "";
	int container, group, device;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", name);
	if (readlink(path, link, sizeof(link) - 1) < 0)
		err(1, "%s: vfio-pci hasn't got it", path);
	snprintf(group_name, sizeof(group_name), "/dev/vfio/noiommu-%d",
		 atoi(strrchr(link, '/') + 1));
	container = open("/dev/vfio/vfio", O_RDWR);
	group = open(group_name, O_RDWR);
	if (container < 0 || group < 0)
		err(1, "%s", group_name);
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_NOIOMMU_IOMMU))
		err(1, "%s: container", group_name);
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
	if (device < 0)
		err(1, "%s", name);
	return device;
}

static struct vfio_region_info region(int device, unsigned int index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		err(1, "region %u", index);
	return info;
}

/* Without this the device reaches no memory, and sends no message. */
static void let_be_master(int device)
{
	off_t at = region(device, VFIO_PCI_CONFIG_REGION_INDEX).offset + PCI_COMMAND;
	uint16_t command;

	if (pread(device, &command, sizeof(command), at) != sizeof(command))
		err(1, "command");
	command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	if (pwrite(device, &command, sizeof(command), at) != sizeof(command))
		err(1, "command");
}

/* An eventfd that is written to with each interrupt of MSI-X vector 0. */
static int take_interrupt(int device)
{
	struct {
		struct vfio_irq_set set;
		int32_t fd;
	} request = {
		.set = {
			.argsz = sizeof(request),
			.flags = VFIO_IRQ_SET_DATA_EVENTFD |
				 VFIO_IRQ_SET_ACTION_TRIGGER,
			.index = VFIO_PCI_MSIX_IRQ_INDEX,
			.count = 1,
		},
		.fd = eventfd(0, EFD_CLOEXEC),
	};

	if (request.fd < 0 || ioctl(device, VFIO_DEVICE_SET_IRQS, &request))
		err(1, "MSI-X");
	return request.fd;
}

/* Where a locked page is in the guest's RAM, which is what the device goes by. */
static uint64_t physical(const void *page)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (pread(pagemap, &entry, sizeof(entry), (uintptr_t)page / PAGE * 8) != 8)
		err(1, "pagemap");
	close(pagemap);
	return (entry & ((1ull << 55) - 1)) * PAGE;
}

static uint32_t crc32(const unsigned char *data, size_t size)
{
	uint32_t crc = ~0u;

	while (size--) {
		crc ^= *data++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

int main(int argc, char **argv)
{
	volatile struct registers *registers;
	unsigned char *page;
	uint64_t events;
	uint32_t sum;
	int device, event;

	if (argc != 2)
		errx(1, "usage: pci_driver 0000:00:01.0");
	device = open_device(argv[1]);
	let_be_master(device);
	event = take_interrupt(device);
	registers = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device,
			 region(device, VFIO_PCI_BAR0_REGION_INDEX).offset);
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	if (registers == MAP_FAILED || page == MAP_FAILED)
		err(1, "mmap");

	for (int at = 0; at < DATA; at++)
		page[at] = at * 7;
	registers->source = physical(page);
	registers->target = physical(page) + DATA;
	registers->size = DATA;
	registers->status = 0;
	if (read(event, &events, sizeof(events)) != sizeof(events))
		err(1, "eventfd");

	memcpy(&sum, page + DATA, sizeof(sum));
	printf("%08x\n", sum);
	if (registers->status != 1 || sum != crc32(page, DATA))
		errx(1, "status %u, but the sum is %08x", registers->status,
		     crc32(page, DATA));
	puts("ok");
	return 0;
}
