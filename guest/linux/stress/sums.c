/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Sums in floating point that come out exactly, bit by bit: a linear congruential
 * generator, x = (a * x + c) mod 2^26, whose products fit a mantissa of 53 bits.
 * One wrong bit anywhere makes all that follows wrong.  What has to come out was
 * computed in integers.
 */
#include <stdint.h>

#include "registers.h"
#include "stress.h"

#define LANES 8 /* as many doubles as the widest vector has */
#define STEPS 1000000
#define A 12345677u
#define C 8412345u
#define BITS 26

static double from[LANES], sum[LANES], expected[LANES];

static double integers(double x)
{
	uint64_t n = (uint64_t)x;

	for (long i = 0; i < STEPS; i++)
		n = (n * A + C) & ((1ul << BITS) - 1);
	return (double)n;
}

static void sum_x87(void)
{
	for (int lane = 0; lane < LANES; lane += 4) {
		long double x = from[lane], y = from[lane + 1];
		long double z = from[lane + 2], w = from[lane + 3];

		for (long i = 0; i < STEPS; i++) {
			x = x * A + C;
			y = y * A + C;
			z = z * A + C;
			w = w * A + C;
			x -= (long double)(long)(x * 0x1p-26L) * 0x1p26L;
			y -= (long double)(long)(y * 0x1p-26L) * 0x1p26L;
			z -= (long double)(long)(z * 0x1p-26L) * 0x1p26L;
			w -= (long double)(long)(w * 0x1p-26L) * 0x1p26L;
		}
		sum[lane] = (double)x;
		sum[lane + 1] = (double)y;
		sum[lane + 2] = (double)z;
		sum[lane + 3] = (double)w;
	}
}

/* The same with vectors of `width` doubles, which the compiler keeps in registers. */
#define SUM(name, width, isa)                                                         \
	__attribute__((target(isa), noinline)) static void name(void)                 \
	{                                                                             \
		typedef double doubles __attribute__((vector_size(8 * (width))));     \
		typedef int ints __attribute__((vector_size(4 * (width))));           \
                                                                                      \
		for (int lane = 0; lane < LANES; lane += (width)) {                   \
			doubles x;                                                    \
                                                                                      \
			__builtin_memcpy(&x, from + lane, sizeof(x));                 \
			for (long i = 0; i < STEPS; i++) {                            \
				doubles y = x * (double)A + (double)C;                \
				ints n = __builtin_convertvector(y * 0x1p-26, ints);  \
                                                                                      \
				x = y - __builtin_convertvector(n, doubles) * 0x1p26; \
			}                                                             \
			__builtin_memcpy(sum + lane, &x, sizeof(x));                  \
		}                                                                     \
	}

SUM(sum_sse, 2, "sse2")
SUM(sum_avx, 4, "avx")
SUM(sum_avx512, 8, "avx512f")

static void run(void (*compute)(void))
{
	for (int lane = 0; lane < LANES; lane++) {
		from[lane] = (double)(random64() >> (64 - BITS));
		expected[lane] = integers(from[lane]);
	}
	while (next()) {
		compute();
		for (int lane = 0; lane < LANES; lane++)
			expect(sum[lane] == expected[lane],
			       "from %.0f: %.17g, not %.0f", from[lane], sum[lane],
			       expected[lane]);
	}
}

void run_sum_x87(void)
{
	run(sum_x87);
}

void run_sum_sse(void)
{
	run(sum_sse);
}

void run_sum_avx(void)
{
	if (!have(AVX))
		skip("this CPU has no AVX", 0);
	run(sum_avx);
}

void run_sum_avx512(void)
{
	if (!have(AVX512))
		skip("this CPU has no AVX-512", 0);
	run(sum_avx512);
}
