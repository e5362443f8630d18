/* The flow table: numbers, keys and the life of a flow.
 *
 * A flow has two keys, one for what its client sends and one for what its
 * backend sends. Who changes `state` by compare-and-swap owns what follows from
 * it; so the program on every CPU and the daemon's sweep agree on who counts
 * an end and who frees a number. A closed flow stays, so that late segments are
 * understood, until the sweep frees it, or its client's next connection takes
 * it over, or the table is full and it is the one that was closed first, or its
 * port is asked for a minute later, for there may be no daemon to sweep.
 */
#ifndef HG_LIB_PACKET_TABLE_H
#define HG_LIB_PACKET_TABLE_H

#include <stddef.h>

#include "bpf/lib/packet_keys.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_parse.h"

enum {
	PORT_TRIES = 64, /* with 9 of 10 in use, one in 850 finds none */
	RECYCLE_TRIES = 256,
};

static __always_inline __u32 now_seconds(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000ULL;
}

static __always_inline __u32 now_ms(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000;
}

static __always_inline void leave_places(struct hg_service_stats *service,
					 struct hg_backend_stats *backend)
{
	__sync_fetch_and_add(&service->connections_active, -1);
	__sync_fetch_and_add(&backend->connections_active, -1);
}

/* 0, and both are counted; or HG_PACKET_SERVICE_FULL, HG_PACKET_BACKEND_FULL.
 * A maximum of 0 is none.
 */
static __always_inline int take_places(struct hg_service_stats *service,
				       __u32 service_max,
				       struct hg_backend_stats *backend,
				       __u32 backend_max)
{
	if (__sync_fetch_and_add(&service->connections_active, 1) >=
		service_max &&
	    service_max) {
		__sync_fetch_and_add(&service->connections_active, -1);
		return HG_PACKET_SERVICE_FULL;
	}
	if (__sync_fetch_and_add(&backend->connections_active, 1) >=
		backend_max &&
	    backend_max) {
		leave_places(service, backend);
		return HG_PACKET_BACKEND_FULL;
	}
	return 0;
}

static __always_inline struct hg_service_stats *
stats_of(const struct hg_flow *flow)
{
	__u32 service = flow->service;

	return bpf_map_lookup_elem(&service_stats, &service);
}

static __always_inline struct hg_backend_stats *
backend_stats_of(const struct hg_flow *flow)
{
	__u32 backend = flow->backend;

	return bpf_map_lookup_elem(&backend_stats, &backend);
}

static __always_inline void count_end(__u32 service_id, __u32 backend_id)
{
	struct hg_service_stats *service =
	    bpf_map_lookup_elem(&service_stats, &service_id);
	struct hg_backend_stats *backend =
	    bpf_map_lookup_elem(&backend_stats, &backend_id);

	if (service && backend)
		leave_places(service, backend);
}

static __always_inline int move_state(struct hg_flow *flow, __u32 from,
				      __u32 to)
{
	return __sync_val_compare_and_swap(&flow->state, from, to) == from;
}

static __always_inline void set_flags(struct hg_flow *flow, __u32 flags)
{
	if ((flow->flags & flags) != flags)
		__sync_fetch_and_or(&flow->flags, flags);
}

static __always_inline void erase_keys(const struct hg_flow *flow, __u32 number)
{
	erase_key(&flow->keys[HG_FROM_CLIENT], number * 2 + HG_FROM_CLIENT);
	erase_key(&flow->keys[HG_FROM_BACKEND], number * 2 + HG_FROM_BACKEND);
}

/* The state that it was closed from; HG_FLOW_CLOSED: that was not done here. A
 * flow has no more states ahead of it than are tried.
 */
static __always_inline __u32 move_to_closed(struct hg_flow *flow)
{
	for (int i = 0; i < HG_FLOW_ESTABLISHED; i++) {
		__u32 state = flow->state;

		if (state == HG_FLOW_FREE || state == HG_FLOW_CLOSED ||
		    state == HG_FLOW_MOVING)
			break;
		if (move_state(flow, state, HG_FLOW_CLOSED))
			return state;
	}
	return HG_FLOW_CLOSED;
}

/* Queues a flow that is closed. */
static __always_inline void put_closed(struct hg_flow *flow, __u32 number)
{
	if (__sync_fetch_and_or(&flow->flags, HG_FLOW_QUEUED) & HG_FLOW_QUEUED)
		set_flags(flow, HG_FLOW_AGAIN);
	else
		bpf_map_push_elem(&packet_closed, &number, 0);
}

static __noinline int close_flow(struct hg_flow *flow, __u32 number)
{
	/* Ahead: a closed flow may be another connection's at once. */
	__u32 service = *(volatile __u8 *)&flow->service;
	__u32 backend = *(volatile __u16 *)&flow->backend;
	__u32 state = move_to_closed(flow);

	if (state == HG_FLOW_CLOSED)
		return 0;
	if (state == HG_FLOW_ESTABLISHED)
		count_end(service, backend);
	flow->since = bpf_ktime_get_ns();
	put_closed(flow, number);
	return 0;
}

/* The flow is what `next` is, but for its state and its ends: client, backend and
 * source. It stays in the queue of the closed if it is there.
 */
static __always_inline void become(struct hg_flow *flow,
				   const struct hg_flow *next)
{
	__sync_fetch_and_and(&flow->flags, HG_FLOW_QUEUED | HG_FLOW_AGAIN);
	set_flags(flow, next->flags);
	flow->service = next->service;
	flow->header = next->header;
	__builtin_memcpy(&flow->isn, &next->isn,
			 sizeof(*flow) - offsetof(struct hg_flow, isn));
}

struct recycling {
	struct hg_flow *flow; /* null: none yet */
	__u32 number;
};

/* Those whose clients came again leave the queue, and those that were closed again
 * since go to its end.
 */
static long try_closed(__u64 step, struct recycling *found)
{
	struct hg_flow *flow;

	if (bpf_map_pop_elem(&packet_closed, &found->number))
		return 1;
	flow = bpf_map_lookup_elem(&packet_flows, &found->number);
	if (!flow)
		return 1;
	if ((__sync_fetch_and_and(&flow->flags, ~HG_FLOW_AGAIN) &
	     HG_FLOW_AGAIN) &&
	    step + 1 < RECYCLE_TRIES) {
		bpf_map_push_elem(&packet_closed, &found->number, 0);
		return 0;
	}
	__sync_fetch_and_and(&flow->flags, ~HG_FLOW_QUEUED);
	if (!move_state(flow, HG_FLOW_CLOSED, HG_FLOW_FREE))
		return 0;
	erase_keys(flow, found->number);
	found->flow = flow;
	return 1;
}

/* A number for a new flow; the one closed longest ago when none is free. */
static __always_inline struct hg_flow *take_number(__u32 *number)
{
	struct recycling found = {};

	if (!bpf_map_pop_elem(&packet_free, number))
		return bpf_map_lookup_elem(&packet_flows, number);
	bpf_loop(RECYCLE_TRIES, try_closed, &found, 0);
	*number = found.number;
	return found.flow;
}

/* What the address is of ours; null: nothing. */
static __always_inline struct hg_packet_address *
find_address(const struct hg_packet_local *wanted)
{
	for (__u32 probe = 0; probe < HG_ADDRESS_PROBES; probe++) {
		__u32 place = hg_address_place(wanted->address, probe);
		struct hg_packet_address *found =
		    bpf_map_lookup_elem(&packet_addresses, &place);

		if (!found || !found->id)
			return NULL;
		if (same_address(wanted->address, found->address))
			return found->id == HG_ADDRESS_GONE ? NULL : found;
	}
	return NULL;
}

static __always_inline int is_range(const struct hg_packet_address *local,
				    __u32 port)
{
	return local->first_port && port >= local->first_port &&
	       port <= local->last_port;
}

/* Whether nobody misses the flow: as PacketPath's sweep has it, but that one knows
 * of idle connections, too.
 */
static __always_inline int is_due(const struct hg_flow *flow, __u32 state)
{
	__s32 idle = now_seconds() - flow->last_seen; /* below 0: a moment */
	__u64 age = bpf_ktime_get_ns() - flow->since;

	switch (state) {
	case HG_FLOW_SYN_SENT:
	case HG_FLOW_SYN_RECEIVED:
		return idle >= HG_SYN_SECONDS;
	case HG_FLOW_CLOSED:
		return idle >= HG_TIME_WAIT_SECONDS &&
		       age >= HG_TIME_WAIT_SECONDS * 1000000000ULL;
	default:
		return 0;
	}
}

/* Of the flow that has a port which is asked for. It may stay in the queue of the
 * closed, like one that the daemon ends. 0: it is free.
 */
static __noinline int free_due(__u32 number)
{
	struct hg_flow *flow = bpf_map_lookup_elem(&packet_flows, &number);
	__u32 state;

	if (!flow)
		return -1;
	state = flow->state;
	if (!is_due(flow, state) || !move_state(flow, state, HG_FLOW_FREE))
		return -1;
	erase_keys(flow, number);
	bpf_map_push_elem(&packet_free, &number, 0);
	return 0;
}

struct port_search {
	const struct hg_packet_config *config;
	struct hg_flow *flow;
	__u32 number;
	__u32 v6;
	__u32 found;
};

/* The client's own port first: the order in which it uses that again suits the
 * backend's TIME_WAIT, too.
 */
static long try_port(__u64 step, struct port_search *search)
{
	const struct hg_packet_config *config = search->config;
	struct hg_flow *flow = search->flow;
	__u32 value = search->number * 2 + HG_FROM_BACKEND;
	__u32 random = bpf_get_prandom_u32(); /* half of it for each */
	__u32 family = search->v6 & 1;
	__u32 count = config->source_count[family];
	__u32 span = config->last_port - config->first_port + 1;
	__u32 taken;

	if (!count || !span)
		return 1;
	flow->source =
	    config->sources[family][((random >> 16) * count >> 16) & 255];
	flow->source_port =
	    config->first_port + ((random & 0xffff) * span >> 16);
	if (step == 0 && flow->client_port >= config->first_port &&
	    flow->client_port <= config->last_port)
		flow->source_port = flow->client_port;
	taken = find_key(&flow->keys[HG_FROM_BACKEND], value);
	if ((taken != NO_VALUE && free_due(taken / 2)) ||
	    put_key(&flow->keys[HG_FROM_BACKEND], value))
		return 0;
	search->found = 1;
	return 1;
}

/* A source address and port that nobody else has towards the flow's backend. Its
 * entry is there before it is said to be found: `flow` is that of the table.
 */
static __noinline int claim_port(struct hg_flow *flow, __u32 number, __u32 v6)
{
	struct port_search search = {};
	__u32 zero_key = 0;

	search.config = bpf_map_lookup_elem(&packet_config, &zero_key);
	if (!search.config)
		return 0;
	search.flow = flow;
	search.number = number;
	search.v6 = v6;
	bpf_loop(PORT_TRIES, try_port, &search, 0);
	return search.found;
}

#endif
