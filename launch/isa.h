/* SPDX-License-Identifier: Apache-2.0 */
/* isa.h - EACH_ISA before a function: compiled for several processors, the right one taken at
 * run time. For loops that the compiler vectorises; results are the same, since nothing is
 * contracted or reordered. */
#ifndef BANYAN_ISA_H
#define BANYAN_ISA_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                         \
    !defined(__SANITIZE_ADDRESS__)
#define EACH_ISA __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_ISA
#endif

#endif
