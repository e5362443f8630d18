/* The hashes that both halves must agree on: which table entry a client or a
 * backend's name falls on. They are the same on every run and every machine of
 * one byte order, so that a client finds its backend again after a restart.
 */
#ifndef HG_ABI_HASH_H
#define HG_ABI_HASH_H

#include <linux/types.h>

#define HG_HASH_SEED 0x48656164676174ULL

/* MurmurHash3's finalizer (Appleby, public domain): a bijection in which every
 * input bit changes half of the output bits.
 */
static inline __attribute__((always_inline)) __u64 hg_mix(__u64 value)
{
	value ^= value >> 33;
	value *= 0xff51afd7ed558ccdULL;
	value ^= value >> 33;
	value *= 0xc4ceb9fe1a85ec53ULL;
	value ^= value >> 33;
	return value;
}

/* A client by its address (network order, IPv4 as ::ffff:a.b.c.d) and port. */
static inline __attribute__((always_inline)) __u64
hg_hash_client(const __u8 *address, __u32 port)
{
	__u64 half[2];

	__builtin_memcpy(half, address, sizeof(half));
	return hg_mix(hg_mix(hg_mix(HG_HASH_SEED ^ half[0]) ^ half[1]) ^ port);
}

/* A client by its network: the IPv4 address, or the /64 of an IPv6 one, within
 * which hosts change addresses at will (RFC 8981).
 */
static inline __attribute__((always_inline)) __u64
hg_hash_source(const __u8 *address)
{
	__u64 half[2];

	__builtin_memcpy(half, address, sizeof(half));
	if (half[0] != 0) /* Not ::ffff:0:0/96. */
		half[1] = 0;
	return hg_mix(hg_mix(HG_HASH_SEED ^ half[0]) ^ half[1]);
}

/* Scales a hash to 0 .. below - 1, without a division. */
static inline __attribute__((always_inline)) __u64 hg_scale(__u64 hash,
							    __u32 below)
{
	return ((hash >> 32) * below) >> 32;
}

/* The steps of a hash: numbers that have nothing to do with each other. */
static inline __attribute__((always_inline)) __u64 hg_rehash(__u64 hash,
							     __u64 step)
{
	return hg_mix(hash + step * 0x9e3779b97f4a7c15ULL);
}

#endif
