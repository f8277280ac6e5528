/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* multiboot-flat: no ELF file; its header has the addresses (the a.out kludge). */
#define MULTIBOOT_FLAGS	(PAGE_ALIGN | MEMORY_INFO | AOUT_KLUDGE)
#include "multiboot32.h"
