/* Backend selection: the one place where a new connection gets its backend,
 * for every datapath.
 *
 * First who may be chosen, by tiers; an eligible backend has a weight, is in
 * the service, not tried yet, and not full:
 *
 *   primary    ready, not a backup, and not down
 *   backup     ready, a backup, and not down
 *   down       ready, not a backup, down: used in a panic only
 *   draining   draining and not down: the last resort, if the service says so
 *
 * The first tier in this order that has eligible backends is used; a panic is
 * when less than panic_threshold percent of the ready primaries with a weight
 * are not down, full and tried ones counted alike:
 *
 *   no panic                 primary, backup, draining
 *   panic, some are up       primary and down together, backup, draining
 *   panic, none is up        backup, down, draining
 *
 * So backups take over when all primaries are down, as in HAProxy, panic or
 * not; they do not help out while some are up, when a panic spreads the load
 * over everyone (Envoy's panic threshold, which healthy lower priorities keep
 * away likewise).
 *
 * Then one of them, by the service's balance; each heeds weights:
 *
 *   round robin          below
 *   least connections    of two drawn by weight, the one with fewer
 *                        connections for its weight; the first if they tie
 *   maglev, source       what the client's hash falls on in the table; from
 *                        who is not in the tiers used the hash steps on, so
 *                        only clients of backends that come or go move
 *   first                in the order of the list
 *
 * Who finds nobody is told whether somebody would do but for being full; one
 * that is down would in a panic only.
 *
 * Who gets a backend takes a place there afterwards: when many have selected
 * the last one at once, only the first to take it has it.
 */
#ifndef HG_LIB_SELECT_H
#define HG_LIB_SELECT_H

#include "bpf/abi/hash.h"
#include "bpf/lib/maps.h"

enum {
	TIER_PRIMARY,
	TIER_BACKUP,
	TIER_DOWN,
	TIER_DRAINING,
	TIERS,
	TIER_NONE = TIERS,

	/* With one in 16 eligible, one in 10 million finds none in so many. */
	TABLE_STEPS = 256,
	NO_SLOT = HG_MAX_SERVICE_BACKENDS,
};

/* Small, as is what follows: verifiers before 6.8 round up the stack of each
 * function to 32 bytes, and packet_generic's deepest calls take 512.
 */
struct tier {
	__u32 weight; /* sum */
	__u16 heaviest;
	__u16 first; /* slot */
};

struct select_walk {
	struct hg_service *service;
	struct hg_service_stats *stats;
	const __u64 *tried;
	__u64 hash; /* of the client */
	__u32 count;
	__u32 ready; /* primaries, up and down */
	__u32 up;
	__u16 used; /* tiers, as bits */
	__u16 full; /* tiers that have backends without room, as bits */
	struct tier tiers[TIERS];
	struct tier all; /* the used ones together */
	__u32 draw;	 /* the weights before the one to find */
	__u32 besides;	 /* a slot that is not to be drawn */
	__u32 slot;	 /* the answer; NO_SLOT: none */
};

/* A zero that the verifier does not know (.bss): sums that begin with it look
 * the same to it in every turn of a loop, of which it then follows only one.
 */
static volatile __u32 zero;

static __always_inline struct hg_backend *
backend_at(const struct select_walk *walk, __u64 slot)
{
	__u32 id;

	if (slot >= HG_MAX_SERVICE_BACKENDS)
		return NULL;
	id = walk->service->backends[slot];
	return bpf_map_lookup_elem(&backends, &id);
}

static __always_inline __u64 active_at(const struct select_walk *walk,
				       __u64 slot)
{
	struct hg_backend_stats *stats;
	__u32 id;

	if (slot >= HG_MAX_SERVICE_BACKENDS)
		return 0;
	id = walk->service->backends[slot];
	stats = bpf_map_lookup_elem(&backend_stats, &id);
	return stats ? stats->connections_active : 0;
}

static __always_inline int is_full(const struct select_walk *walk, __u64 slot,
				   const struct hg_backend *backend)
{
	return backend->max_connections &&
	       active_at(walk, slot) >= backend->max_connections;
}

/* Whether it has room or not. */
static __always_inline __u32 tier_if_room(const struct select_walk *walk,
					  __u64 slot,
					  const struct hg_backend *backend)
{
	int down = backend->health == HG_HEALTH_DOWN;

	if (slot >= HG_MAX_SERVICE_BACKENDS || !backend->weight ||
	    (walk->tried[slot / 64] & (1ULL << (slot % 64))))
		return TIER_NONE;
	if (backend->admin == HG_ADMIN_READY) {
		if (backend->backup)
			return down ? TIER_NONE : TIER_BACKUP;
		return down ? TIER_DOWN : TIER_PRIMARY;
	}
	if (backend->admin == HG_ADMIN_DRAIN && walk->service->use_draining)
		return down ? TIER_NONE : TIER_DRAINING;
	return TIER_NONE;
}

static __always_inline __u32 tier_of(const struct select_walk *walk, __u64 slot,
				     const struct hg_backend *backend)
{
	return is_full(walk, slot, backend) ? TIER_NONE
					    : tier_if_room(walk, slot, backend);
}

/* Its weight if it is in a used tier, else 0. */
static __always_inline __u32 weight_at(const struct select_walk *walk,
				       __u64 slot)
{
	struct hg_backend *backend = backend_at(walk, slot);

	if (!backend || !(walk->used & (1U << tier_of(walk, slot, backend))))
		return 0;
	return backend->weight;
}

/* ---- who may be chosen -------------------------------------------------- */

static __always_inline void add_to_tier(struct tier *tier, __u32 weight,
					__u32 heaviest, __u32 first)
{
	if (!tier->weight || first < tier->first)
		tier->first = first;
	if (heaviest > tier->heaviest)
		tier->heaviest = heaviest;
	tier->weight += weight;
}

static long weigh_slot(__u64 slot, struct select_walk *walk)
{
	struct hg_backend *backend = backend_at(walk, slot);
	__u32 weight, tier;

	if (!backend)
		return 0;
	weight = backend->weight;
	if (weight && backend->admin == HG_ADMIN_READY && !backend->backup) {
		walk->ready++;
		if (backend->health != HG_HEALTH_DOWN)
			walk->up++;
	}
	tier = tier_if_room(walk, slot, backend);
	if (tier >= TIERS)
		return 0;
	if (is_full(walk, slot, backend))
		walk->full |= 1U << tier;
	else
		add_to_tier(&walk->tiers[tier], weight, weight, slot);
	return 0;
}

static __always_inline int in_panic(const struct select_walk *walk)
{
	return walk->up * 100 < walk->ready * walk->service->panic_threshold;
}

static __always_inline __u32 tiers_to_use(const struct select_walk *walk)
{
	int panic = in_panic(walk);
	__u32 primary = walk->tiers[TIER_PRIMARY].weight;
	__u32 down = walk->tiers[TIER_DOWN].weight;

	if (panic && walk->up && (primary || down))
		return 1U << TIER_PRIMARY | 1U << TIER_DOWN;
	if (primary)
		return 1U << TIER_PRIMARY;
	if (walk->tiers[TIER_BACKUP].weight)
		return 1U << TIER_BACKUP;
	if (panic && down)
		return 1U << TIER_DOWN;
	return 1U << TIER_DRAINING;
}

/* Whether somebody would do who has no room. */
static __always_inline int some_are_full(const struct select_walk *walk)
{
	__u32 eligible = ~(1U << TIER_DOWN);

	if (in_panic(walk))
		eligible |= 1U << TIER_DOWN;
	return (walk->full & eligible) != 0;
}

static __always_inline void use_tiers(struct select_walk *walk)
{
	bpf_loop(walk->count, weigh_slot, walk, 0);
	walk->used = tiers_to_use(walk);
	for (int i = 0; i < TIERS; i++) {
		struct tier *tier = &walk->tiers[i];

		if (tier->weight && (walk->used & (1U << i)))
			add_to_tier(&walk->all, tier->weight, tier->heaviest,
				    tier->first);
	}
}

/* ---- round robin --------------------------------------------------------
 *
 * Interleaved and weighted. A shared cursor walks an endless sequence of
 * (round, slot); in round r only backends of weight > r take a connection.
 * Every position is handed out once, whatever the concurrency, so shares are
 * exact; a backend that is not eligible gives its positions to all others
 * alike, not to its neighbour.
 */
static long take_position(__u64 step, struct select_walk *walk)
{
	__u64 position = __sync_fetch_and_add(&walk->stats->cursor, 1);
	__u64 round, slot;
	__u32 weight;

	if (!walk->count || !walk->all.heaviest)
		return 1;
	slot = position % walk->count;
	round = position / walk->count % walk->all.heaviest;
	weight = weight_at(walk, slot);
	/* In the end others took the heavier positions: any will do. */
	if (!weight || (weight <= round && step + 1 < 4ULL * walk->count))
		return 0;
	walk->slot = slot;
	return 1;
}

/* ---- draws by weight ---------------------------------------------------- */

static long pass_share(__u64 slot, struct select_walk *walk)
{
	__u32 weight = slot == walk->besides ? 0 : weight_at(walk, slot);

	if (walk->draw < weight) {
		walk->slot = slot;
		return 1;
	}
	walk->draw -= weight;
	return 0;
}

/* `number`: of 64 even bits. */
static __always_inline void draw_by_weight(struct select_walk *walk,
					   __u64 number, __u32 weight)
{
	walk->draw = hg_scale(number, weight);
	walk->slot = NO_SLOT;
	bpf_loop(walk->count, pass_share, walk, 0);
}

static __always_inline __u64 random_number(void)
{
	return (__u64)bpf_get_prandom_u32() << 32;
}

static __always_inline void least_connections(struct select_walk *walk)
{
	__u64 one_active, other_active;
	__u32 one, one_weight, other_weight;

	draw_by_weight(walk, random_number(), walk->all.weight);
	one = walk->slot;
	one_weight = weight_at(walk, one);
	if (!one_weight || one_weight >= walk->all.weight)
		return;
	walk->besides = one;
	draw_by_weight(walk, random_number(), walk->all.weight - one_weight);
	other_weight = weight_at(walk, walk->slot);
	one_active = active_at(walk, one);
	other_active = active_at(walk, walk->slot);
	if (!other_weight ||
	    one_active * other_weight <= other_active * one_weight)
		walk->slot = one;
}

/* ---- by the client's hash ----------------------------------------------- */

static __always_inline __u64 slot_in_table(const struct select_walk *walk,
					   __u64 step)
{
	__u64 entry = hg_scale(hg_rehash(walk->hash, step), HG_TABLE_SIZE);
	__u32 key =
	    walk->service->table * HG_TABLE_CHUNKS + entry / HG_TABLE_CHUNK;
	struct hg_table_chunk *chunk = bpf_map_lookup_elem(&tables, &key);

	return chunk ? chunk->slots[entry % HG_TABLE_CHUNK] : NO_SLOT;
}

static long step_in_table(__u64 step, struct select_walk *walk)
{
	__u64 slot = slot_in_table(walk, step);

	if (!weight_at(walk, slot))
		return 0;
	walk->slot = slot;
	return 1;
}

/* When the hash falls on a primary, nobody needs to be weighed: whenever there
 * is one, the tier is used.
 */
static __always_inline int is_at_home(struct select_walk *walk)
{
	__u64 slot = slot_in_table(walk, 0);
	struct hg_backend *backend = backend_at(walk, slot);

	if (!backend || tier_of(walk, slot, backend) != TIER_PRIMARY)
		return 0;
	walk->slot = slot;
	return 1;
}

static __always_inline void by_hash(struct select_walk *walk)
{
	bpf_loop(TABLE_STEPS, step_in_table, walk, 0);
	if (walk->slot == NO_SLOT)
		draw_by_weight(walk, hg_rehash(walk->hash, TABLE_STEPS),
			       walk->all.weight);
}

/* ---- all together ------------------------------------------------------- */

static __always_inline void pick_slot(struct select_walk *walk)
{
	enum hg_balance balance = walk->service->balance;
	int hashed =
	    balance == HG_BALANCE_MAGLEV || balance == HG_BALANCE_SOURCE;

	if (hashed && is_at_home(walk))
		return;
	use_tiers(walk);
	if (!walk->all.weight)
		return;
	if (walk->all.weight == walk->all.heaviest) {
		walk->slot = walk->all.first; /* There is no other. */
		return;
	}
	if (hashed)
		by_hash(walk);
	else if (balance == HG_BALANCE_LEAST_CONNECTIONS)
		least_connections(walk);
	else if (balance == HG_BALANCE_ROUND_ROBIN)
		bpf_loop(4 * walk->count, take_position, walk, 0);
	/* Or somebody changed meanwhile. */
	if (walk->slot == NO_SLOT)
		walk->slot = walk->all.first;
}

/* Before anybody is weighed; 0: there is no such service. */
static __always_inline int begin_walk(struct select_walk *walk, __u32 service,
				      const __u64 *tried)
{
	walk->service = bpf_map_lookup_elem(&services, &service);
	walk->stats = bpf_map_lookup_elem(&service_stats, &service);
	if (!walk->service || !walk->stats)
		return 0;
	walk->tried = tried;
	walk->count = walk->service->backend_count;
	if (walk->count > HG_MAX_SERVICE_BACKENDS)
		walk->count = HG_MAX_SERVICE_BACKENDS;
	walk->ready = walk->up = walk->full = zero;
	for (int i = 0; i < TIERS; i++) {
		walk->tiers[i].weight = zero;
		walk->tiers[i].heaviest = zero;
		walk->tiers[i].first = zero;
	}
	walk->besides = NO_SLOT;
	walk->slot = NO_SLOT;
	return 1;
}

/* Whether select_backend_for() would find one. To ask takes nobody's turn. */
static __always_inline int somebody_is_left(__u32 service, const __u64 *tried)
{
	struct select_walk walk = {};

	if (!begin_walk(&walk, service, tried))
		return 0;
	use_tiers(&walk);
	return walk.all.weight != 0;
}

/* Fills the out fields of `request`; backend is 0 when none is eligible. */
static __always_inline void select_backend_for(struct hg_select *request,
					       const __u64 *tried)
{
	struct select_walk walk = {};
	struct hg_backend *backend;

	request->backend = 0;
	request->full = 0;
	if (!begin_walk(&walk, request->service, tried))
		return;
	walk.hash = walk.service->balance == HG_BALANCE_MAGLEV
			? hg_hash_client(request->client, request->client_port)
			: hg_hash_source(request->client);

	pick_slot(&walk);
	backend = backend_at(&walk, walk.slot);
	if (!backend) {
		request->full = some_are_full(&walk);
		return;
	}
	request->slot = walk.slot;
	request->backend =
	    walk.service->backends[walk.slot % HG_MAX_SERVICE_BACKENDS];
	request->port = backend->port;
	request->max_connections = backend->max_connections;
	__builtin_memcpy(request->address, backend->address,
			 sizeof(request->address));
}

#endif
