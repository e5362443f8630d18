/* Backend selection: the one place where a new connection gets its backend,
 * for every datapath.
 *
 * Interleaved weighted round robin. A shared cursor walks an endless sequence
 * of (round, slot); in round r only backends of weight > r take a connection.
 * Every position is handed out once, whatever the concurrency, so shares are
 * exact; a backend that is not eligible gives its positions to all others
 * alike, not to its neighbour.
 */
#ifndef HG_LIB_SELECT_H
#define HG_LIB_SELECT_H

#include "bpf/lib/maps.h"

struct select_walk {
	struct hg_service *service;
	struct hg_service_stats *stats;
	const __u64 *tried;
	__u32 count;
	__u32 backup;		/* which tier is in use */
	__u32 max_weight[2];	/* by tier */
	__u32 found;
	__u64 slot;		/* the answer, if found */
};

static __always_inline struct hg_backend *
eligible_backend(const struct select_walk *walk, __u64 slot)
{
	struct hg_backend *backend;
	__u32 id;

	if (slot >= HG_MAX_SERVICE_BACKENDS)
		return NULL;
	if (walk->tried[slot / 64] & (1ULL << (slot % 64)))
		return NULL;
	id = walk->service->backends[slot];
	backend = bpf_map_lookup_elem(&backends, &id);
	if (!backend || backend->health == HG_HEALTH_DOWN ||
	    backend->admin != HG_ADMIN_READY || backend->weight == 0)
		return NULL;
	return backend;
}

static long find_max_weight(__u64 slot, struct select_walk *walk)
{
	struct hg_backend *backend = eligible_backend(walk, slot);
	__u32 tier;

	if (!backend)
		return 0;
	tier = backend->backup ? 1 : 0;
	if (backend->weight > walk->max_weight[tier])
		walk->max_weight[tier] = backend->weight;
	return 0;
}

static long take_position(__u64 step, struct select_walk *walk)
{
	__u64 position = __sync_fetch_and_add(&walk->stats->cursor, 1);
	__u32 tier = walk->backup ? 1 : 0;
	struct hg_backend *backend;
	__u64 round, slot;

	if (!walk->count || !walk->max_weight[tier])
		return 1;
	slot = position % walk->count;
	round = position / walk->count % walk->max_weight[tier];
	backend = eligible_backend(walk, slot);
	if (!backend || (backend->backup ? 1 : 0) != tier)
		return 0;
	walk->slot = slot;
	walk->found = 1;
	/* Others took the heavier positions all the way: any will do. */
	return backend->weight > round ||
	       step + 1 >= 4ULL * walk->count;
}

/* Fills the out fields of `request`; backend is 0 when none is eligible. */
static __always_inline void select_backend_for(struct hg_select *request,
					       const __u64 *tried)
{
	struct select_walk walk = {};
	struct hg_backend *backend;
	__u32 id = request->service;

	request->backend = 0;
	walk.service = bpf_map_lookup_elem(&services, &id);
	walk.stats = bpf_map_lookup_elem(&service_stats, &id);
	if (!walk.service || !walk.stats)
		return;
	walk.tried = tried;
	walk.count = walk.service->backend_count;
	if (walk.count > HG_MAX_SERVICE_BACKENDS)
		walk.count = HG_MAX_SERVICE_BACKENDS;

	bpf_loop(walk.count, find_max_weight, &walk, 0);
	if (!walk.max_weight[0])
		walk.backup = 1;
	bpf_loop(4 * walk.count, take_position, &walk, 0);
	if (!walk.found)
		return;
	backend = eligible_backend(&walk, walk.slot);
	if (!backend)
		return;
	request->slot = walk.slot;
	request->backend =
		walk.service->backends[walk.slot % HG_MAX_SERVICE_BACKENDS];
	request->port = backend->port;
	__builtin_memcpy(request->address, backend->address,
			 sizeof(request->address));
}

#endif
