/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vfio_intx: has a PCI device interrupt by its line, three times, by VFIO.
 *
 *	vfio_intx 0000:00:01.0
 *
 * Its BAR 0 is a port: a 1 has it hold the line, a 0 let go.  Whoever shares the line
 * must not be disturbed: VFIO keeps the device from it by Interrupt Disable until it is
 * told to unmask.
 *
 * Prints:	irq N STATUS STATUS	for each: how many came, and Interrupt Status
 *					before and after the device has let go
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
#include <unistd.h>

#define TIMES	3

static int open_device(const char *name)
{
	char path[PATH_MAX], link[PATH_MAX] = "";
	int container = open("/dev/vfio/vfio", O_RDWR), group, device;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", name);
	if (readlink(path, link, sizeof(link) - 1) < 0)
		err(1, "%s", path);
	snprintf(path, sizeof(path), "/dev/vfio/noiommu-%d",
		 atoi(strrchr(link, '/') + 1));
	group = open(path, O_RDWR);
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_NOIOMMU_IOMMU))
		err(1, "%s", path);
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
	if (device < 0)
		err(1, "%s", name);
	return device;
}

static off_t region(int device, unsigned int index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		err(1, "region %u", index);
	return info.offset;
}

static void set_irqs(int device, unsigned int flags, int fd)
{
	struct {
		struct vfio_irq_set set;
		int32_t fd;
	} request = {
		.set = {
			.argsz = sizeof(request.set) + (fd < 0 ? 0 : sizeof(fd)),
			.flags = flags,
			.index = VFIO_PCI_INTX_IRQ_INDEX,
			.count = 1,
		},
		.fd = fd,
	};

	if (ioctl(device, VFIO_DEVICE_SET_IRQS, &request))
		err(1, "INTx");
}

static unsigned int interrupt_status(int device, off_t config)
{
	uint16_t status = 0;

	if (pread(device, &status, sizeof(status), config + PCI_STATUS) < 0)
		err(1, "status");
	return status & PCI_STATUS_INTERRUPT;
}

static void tell(int device, off_t bar, unsigned char value)
{
	if (pwrite(device, &value, 1, bar) != 1)
		err(1, "port");
}

int main(int argc, char **argv)
{
	int device = open_device(argc == 2 ? argv[1] : "");
	int event = eventfd(0, EFD_CLOEXEC);
	off_t config = region(device, VFIO_PCI_CONFIG_REGION_INDEX);
	off_t bar = region(device, VFIO_PCI_BAR0_REGION_INDEX);
	uint16_t command = PCI_COMMAND_IO;

	if (pwrite(device, &command, sizeof(command), config + PCI_COMMAND) < 0)
		err(1, "command");
	set_irqs(device, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		 event);
	for (int at = 0; at < TIMES; at++) {
		unsigned int held;
		uint64_t count;

		tell(device, bar, 1);
		if (read(event, &count, sizeof(count)) != sizeof(count))
			err(1, "eventfd");
		held = interrupt_status(device, config);
		tell(device, bar, 0);
		printf("irq %d %x %x\n", (int)count, held,
		       interrupt_status(device, config));
		set_irqs(device, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
			 -1);
	}
	return 0;
}
