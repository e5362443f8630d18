/* packet_keys: from what a packet says of itself to its flow.
 *
 * Entries come and go by compare-and-swap, on every CPU and in the daemon
 * (src/datapath/packet_flows.cc); nobody waits. An entry means something only
 * with the key that its flow has: so the flow is written first, and a flow's
 * number is free again only after its entries were erased.
 */
#ifndef HG_LIB_PACKET_KEYS_H
#define HG_LIB_PACKET_KEYS_H

#include "bpf/lib/packet_maps.h"

enum {
	NO_VALUE = 0xffffffff,
};

static __always_inline int is_key(const struct hg_flow_key *a,
				  const struct hg_flow_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline int belongs_to(__u32 value, const struct hg_flow_key *key)
{
	__u32 number = value / 2;
	struct hg_flow *flow = bpf_map_lookup_elem(&packet_flows, &number);

	return flow && is_key(&flow->keys[value % 2], key);
}

static __always_inline struct hg_key_bucket *
bucket_of(__u64 hash, __u32 which, const struct hg_packet_config *config)
{
	__u32 at = hg_bucket_of(hash, which, config->buckets);

	return bpf_map_lookup_elem(&packet_keys, &at);
}

static __always_inline const struct hg_packet_config *key_config(void)
{
	__u32 zero_key = 0;

	return bpf_map_lookup_elem(&packet_config, &zero_key);
}

/* The value of whose entry in this bucket is for the key; or NO_VALUE. */
static __always_inline __u32 find_in(const struct hg_key_bucket *bucket,
				     __u64 hash, const struct hg_flow_key *key,
				     __u32 except)
{
	for (__u32 i = 0; i < HG_BUCKET_ENTRIES; i++) {
		__u32 entry = *(volatile __u32 *)&bucket->entries[i];
		__u32 value = hg_entry_value(entry);

		if (hg_entry_tag(entry) == hg_tag(hash) && value != except &&
		    belongs_to(value, key))
			return value;
	}
	return NO_VALUE;
}

/* Flow number * 2 + enum hg_side of the flow that has this key, other than
 * `except`; or NO_VALUE. A function of its own for the verifier.
 */
__weak __noinline __u32 find_key(const struct hg_flow_key *key, __u32 except)
{
	const struct hg_packet_config *config = key_config();
	struct hg_key_bucket *bucket;
	__u32 value;
	__u64 hash;

	if (!key || !config)
		return NO_VALUE;
	hash = hg_hash_key(key, config->seed);
	bucket = bucket_of(hash, 0, config);
	if (!bucket)
		return NO_VALUE;
	value = find_in(bucket, hash, key, except);
	if (value != NO_VALUE || !*(volatile __u32 *)&bucket->spilled)
		return value;
	bucket = bucket_of(hash, 1, config);
	return bucket ? find_in(bucket, hash, key, except) : NO_VALUE;
}

/* Puts one entry in the place of another, 0 being room; 0, or -1: the bucket has
 * none such.
 */
static __always_inline int swap_in(struct hg_key_bucket *bucket, __u32 from,
				   __u32 to)
{
	for (__u32 i = 0; i < HG_BUCKET_ENTRIES; i++) {
		__u32 *entry = &bucket->entries[i];

		if (*(volatile __u32 *)entry == from &&
		    __sync_val_compare_and_swap(entry, from, to) == from)
			return 0;
	}
	return -1;
}

/* Where a key's entry may be, and what that is; 0, or -1: there is no table. */
static __always_inline int find_places(const struct hg_flow_key *key,
				       __u32 value,
				       struct hg_key_bucket **first,
				       struct hg_key_bucket **second,
				       __u32 *entry)
{
	const struct hg_packet_config *config = key_config();
	__u64 hash;

	if (!key || !config)
		return -1;
	hash = hg_hash_key(key, config->seed);
	*entry = hg_entry(hash, value);
	*first = bucket_of(hash, 0, config);
	*second = bucket_of(hash, 1, config);
	return *first && *second ? 0 : -1;
}

static __always_inline __u32 room_in(const struct hg_key_bucket *bucket)
{
	__u64 room = 0;

	/* Without a branch, of which the verifier would follow both ways. */
	for (__u32 i = 0; i < HG_BUCKET_ENTRIES; i++)
		room += (*(volatile __u32 *)&bucket->entries[i] - 1ULL) >> 63;
	return room;
}

/* 0, or -1: the key's buckets are full. */
__weak __noinline int put_value(const struct hg_flow_key *key, __u32 value)
{
	struct hg_key_bucket *first, *second;
	__u32 entry, room;

	if (find_places(key, value, &first, &second, &entry))
		return -1;
	room = room_in(first);
	if ((room > HG_BUCKET_SPARE || room_in(second) <= room) &&
	    !swap_in(first, 0, entry))
		return 0;
	/* Ahead of the entry, which is looked for only then. */
	__sync_fetch_and_add(&first->spilled, 1);
	if (!swap_in(second, 0, entry))
		return 0;
	__sync_fetch_and_add(&first->spilled, -1);
	return swap_in(first, 0, entry);
}

__weak __noinline int erase_key(const struct hg_flow_key *key, __u32 value)
{
	struct hg_key_bucket *first, *second;
	__u32 entry;

	if (!find_places(key, value, &first, &second, &entry) &&
	    swap_in(first, entry, 0) && !swap_in(second, entry, 0))
		__sync_fetch_and_add(&first->spilled, -1);
	return 0;
}

/* An entry for a key that the flow has by now, and that find_key() knew nobody
 * else to have; 0, or -1: another flow has come by it meanwhile, or its buckets
 * are full. Of two that come at once none may see the other too late, so both
 * look again, and both may leave.
 */
static __always_inline int put_key(const struct hg_flow_key *key, __u32 value)
{
	if (put_value(key, value))
		return -1;
	if (find_key(key, value) == NO_VALUE)
		return 0;
	erase_key(key, value);
	return -1;
}

#endif
