/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* multiboot: a 32-bit ELF file, loaded as its program headers say. */
#define MULTIBOOT_FLAGS	(PAGE_ALIGN | MEMORY_INFO)
#include "multiboot32.h"
