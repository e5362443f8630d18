/* How a connection begins: its SYN, the backend that selection gives it, the
 * flow, and another backend if that one does not answer.
 */
#ifndef HG_LIB_PACKET_OPEN_H
#define HG_LIB_PACKET_OPEN_H

#include "bpf/lib/packet_answer.h"
#include "bpf/lib/packet_edit.h"
#include "bpf/lib/packet_flow.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_parse.h"
#include "bpf/lib/packet_route.h"
#include "bpf/lib/packet_send.h"
#include "bpf/lib/packet_table.h"
#include "bpf/lib/select.h"

enum {
	CLAIM_TRIES = 4, /* backends */
	ANSWER_MS = 700, /* a client sends its SYN again after 1 s (RFC 6298) */
	LEAST_TTL = 32,	 /* hosts begin at 64 or above */
};

static __always_inline int to_backend(const struct packet *p,
				      struct hg_flow *flow, __u32 seq,
				      struct rewrite *to)
{
	if (p->ttl <= 1)
		return HG_PACKET_TTL;
	to->source = local_address(flow->source);
	to->destination = (struct hg_packet_local *)flow->backend_address;
	to->source_port = flow->source_port;
	to->destination_port = flow->backend_port;
	to->seq = seq;
	to->ack = p->ack;
	to->ttl = p->ttl - 1;
	return to->source ? 0 : HG_PACKET_FAILED;
}

/* A SYN goes on without what cannot work: options that need the end points to
 * know each other's addresses, and data, which come again (RFC 7413).
 */
static __noinline int forward_syn(frame_t *frame, struct packet *p,
				  struct rewrite *to, struct packet_scratch *s)
{
	struct option_walk walk = {.options = s->options};
	long found = find_way(frame, p, to, headers_length(p));
	int exit;

	walk.max_mss = max_mss(frame, p, to, found);
	/* It has asked again, and kernels before 6.3 may have answered nothing. */
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		found = find_way(frame, p, to, headers_length(p));
	exit = edit_options(frame, p, &walk, &to->options_sum);
	if (exit)
		return exit;
	if (rewrite(frame, p, to))
		return HG_PACKET_FAILED;
	if (p->payload) {
		__u32 end = (p->l4 & 0xff) + TCP_BASE + (p->options & 63);

		p->end = end;
		/* Longer for once: what grows has no CHECKSUM_COMPLETE left. */
		if (set_length(frame, end) || set_length(frame, end + 2) ||
		    set_length(frame, end) ||
		    seal(frame, p, to, (__u8 *)&s->request))
			return HG_PACKET_FAILED;
	}
	return take_way(frame, p, found);
}

/* Asks selection for a backend, other than the one that `tried` has. It is not
 * static, so the verifier looks at it once, rather than at each call.
 */
__weak __noinline int choose_backend(struct hg_flow *flow, struct packet_scratch *s)
{
	struct hg_select *request;

	if (!flow || !s)
		return 0;
	request = &s->request;
	__builtin_memset(request, 0, sizeof(*request));
	request->service = flow->service;
	request->client_port = flow->client_port;
	__builtin_memcpy(request->client, flow->client, 16);
	select_backend_for(request, s->tried);
	if (!request->backend)
		return 0;
	flow->backend = request->backend;
	flow->slot = request->slot;
	flow->backend_port = request->port;
	__builtin_memcpy(flow->backend_address, request->address, 16);
	return 1;
}

/* A TTL that does not last, or a source route, which hosts discard: when such a
 * SYN gets no answer, that says nothing of the backend.
 */
static __always_inline void note_odd_syn(const struct packet *p,
					 struct hg_flow *flow)
{
	if (p->ttl < LEAST_TTL || has_ip_options(p))
		set_flags(flow, HG_FLOW_ODD);
}

static __always_inline void count_failed_connect(const struct hg_flow *flow)
{
	__u32 backend = flow->backend;
	struct hg_backend_stats *stats =
	    bpf_map_lookup_elem(&backend_stats, &backend);

	if (!stats)
		return;
	if (flow->flags & HG_FLOW_REFUSED)
		__sync_fetch_and_add(&stats->connect_refused, 1);
	else if (flow->flags & HG_FLOW_ODD)
		return;
	else if (flow->flags & HG_FLOW_UNREACHABLE)
		__sync_fetch_and_add(&stats->connect_unreachable, 1);
	else
		__sync_fetch_and_add(&stats->connect_timeout, 1);
}

/* The flow's backend is not to be chosen again. Which ones are not, it remembers
 * of the first 128 slots.
 */
static __always_inline void mark_tried(struct hg_flow *flow,
				       struct packet_scratch *s)
{
	__u32 slot = flow->slot % HG_MAX_SERVICE_BACKENDS;

	s->tried[slot / 64] |= 1ULL << (slot % 64);
	flow->tried[0] = s->tried[0];
	flow->tried[1] = s->tried[1];
}

/* Makes s->flow the flow without a backend: those in s->tried have had it. */
static __noinline void leave_backend(const struct hg_flow *flow,
				     struct packet_scratch *s)
{
	__builtin_memset(s->tried, 0, sizeof(s->tried));
	s->tried[0] = flow->tried[0];
	s->tried[1] = flow->tried[1];
	s->flow = *flow;
	mark_tried(&s->flow, s);
}

/* Makes s->flow the flow with a backend that it has not tried; 0: there is
 * none.
 */
static __always_inline int choose_another(const struct hg_flow *flow,
					  struct packet_scratch *s)
{
	leave_backend(flow, s);
	return choose_backend(&s->flow, s);
}

/* Whether there is one for s->flow. */
__weak __noinline int another_is_left(struct packet_scratch *s)
{
	return s && somebody_is_left(s->flow.service, s->tried);
}

/* Claims a port for the flow towards the backend of s->flow, or else chooses
 * another there: those towards which no port is free are passed over, and
 * counted. 0: there is none, or none among as many as are asked; then the flow
 * has a key that is not its own.
 */
static __noinline int claim_somewhere(struct hg_flow *flow, __u32 number,
				      __u32 v6, struct packet_scratch *s)
{
	struct hg_flow *next = &s->flow;
	struct hg_backend_stats *stats;

	for (int i = 0; i < CLAIM_TRIES; i++) {
		flow->keys[HG_FROM_BACKEND] = next->keys[HG_FROM_BACKEND];
		if (claim_port(flow, number, v6))
			return 1;
		stats = backend_stats_of(next);
		if (stats)
			__sync_fetch_and_add(&stats->connect_no_source_port, 1);
		mark_tried(next, s);
		if (!choose_backend(next, s))
			return 0;
	}
	return 0;
}

/* Whose address and port it has claimed. */
static __always_inline void take_choice(struct hg_flow *flow,
					const struct hg_flow *next)
{
	flow->backend = next->backend;
	flow->slot = next->slot;
	flow->tried[0] = next->tried[0];
	flow->tried[1] = next->tried[1];
}

/* The backend does not take the connection: `how`, a flag, says in what way. The
 * exit, or 0: it is the client's to see. It is kept from it for as long as
 * another may do better: its SYN comes again within a second.
 */
static __always_inline int refuse_client(struct hg_flow *flow, __u32 how,
					 struct packet_scratch *s)
{
	struct hg_service_stats *stats;

	set_flags(flow, how);
	leave_backend(flow, s);
	if (another_is_left(s))
		return HG_PACKET_REFUSED;
	count_failed_connect(flow);
	stats = stats_of(flow);
	if (stats)
		__sync_fetch_and_add(&stats->no_backend, 1);
	return 0;
}

/* Of a SYN that was sent on. */
static __always_inline void note_client_side(const frame_t *frame,
					     const struct packet *p,
					     struct hg_flow *flow)
{
	__u32 interface = arrived_at(frame);

	flow->client_side = p->way.ifindex == interface ? 0 : interface;
}

static __noinline int is_way_to_backend(frame_t *frame, struct packet *p,
					const struct hg_flow *flow)
{
	struct rewrite to = {};
	long found;

	to.source = local_address(flow->source);
	to.destination = (struct hg_packet_local *)flow->backend_address;
	if (!to.source)
		return 0;
	found = find_way(frame, p, &to, 1); /* of any size */
	return (found == BPF_FIB_LKUP_RET_SUCCESS ||
		found == BPF_FIB_LKUP_RET_NO_NEIGH) &&
	       p->way.ifindex == arrived_at(frame);
}

/* Who is a client as well may claim to be the backend, or a router there: to
 * have the header left out, to learn `shift`, or for a free place while its
 * connection goes on. So nobody is believed where its SYN came by, unless the
 * answer to that came there, too, or the way to the backend is there (RFC 3704,
 * 2.2).
 */
static __always_inline int is_believed(frame_t *frame, struct packet *p,
				       const struct hg_flow *flow)
{
	__u32 interface = arrived_at(frame);

	return interface != flow->client_side ||
	       (flow->state != HG_FLOW_SYN_SENT &&
		interface == flow->backend_side) ||
	       is_way_to_backend(frame, p, flow);
}

/* The backend has not answered, or refused: the client's next SYN fits another
 * as well, for no number has been agreed on yet.
 */
static __always_inline void move_to_another(struct hg_flow *flow, __u32 number,
					    __u32 v6, struct packet_scratch *s)
{
	struct hg_flow_key old = flow->keys[HG_FROM_BACKEND];

	if (!choose_another(flow, s)) {
		/* All have been asked: once more, from the beginning. */
		flow->tried[0] = 0;
		flow->tried[1] = 0;
		if (!choose_another(flow, s))
			return;
	}
	if (!claim_somewhere(flow, number, v6, s)) {
		flow->keys[HG_FROM_BACKEND] = old;
		return;
	}
	count_failed_connect(flow);
	take_choice(flow, &s->flow);
	flow->asked = now_ms();
	__sync_fetch_and_and(&flow->flags,
			     ~(HG_FLOW_REFUSED | HG_FLOW_UNREACHABLE |
			       HG_FLOW_ODD));
	erase_key(&old, number * 2 + HG_FROM_BACKEND);
}

/* Unless the backend may still answer: what comes sooner is the same SYN twice,
 * by a network that doubles.
 */
static __always_inline void ask_another(struct hg_flow *flow, __u32 number,
					__u32 v6, struct packet_scratch *s)
{
	__u32 waited = now_ms() - flow->asked;

	if (!(flow->flags & (HG_FLOW_REFUSED | HG_FLOW_UNREACHABLE)) &&
	    waited < ANSWER_MS)
		return;
	/* Or it has answered meanwhile, on another CPU. */
	if (!move_state(flow, HG_FLOW_SYN_SENT, HG_FLOW_MOVING))
		return;
	move_to_another(flow, number, v6, s);
	move_state(flow, HG_FLOW_MOVING, HG_FLOW_SYN_SENT);
}

/* A flow that has come to nothing, with its number. */
static __always_inline void give_up(struct hg_flow *flow, __u32 number)
{
	move_state(flow, HG_FLOW_MOVING, HG_FLOW_FREE);
	erase_keys(flow, number);
	bpf_map_push_elem(&packet_free, &number, 0);
}

static __always_inline struct hg_flow *flow_of(const struct packet *p,
					       __u32 *number)
{
	*number = (p->flow - 1) / 2;
	return bpf_map_lookup_elem(&packet_flows, number);
}

/* Ahead of the one before from the same port, by as much as the client is and no
 * half a lap: a backend in TIME_WAIT takes the SYN then (RFC 6191). Clients'
 * numbers get a quarter of a lap ahead in 68 s (Linux, seq_scale()).
 */
static __always_inline __u32 shift_of_next(const struct packet *p)
{
	__u32 shift = bpf_get_prandom_u32() >> 2, number;
	struct hg_flow *before;

	if (!p->flow)
		return shift;
	before = flow_of(p, &number);
	return before ? shift + before->shift + before->header : shift;
}

/* Whether it may go on with the address and port that it had: those that
 * claim_port() would begin with, towards the same backend.
 */
static __always_inline int keeps_port(const struct hg_flow *flow,
				      const struct hg_flow *next)
{
	const struct hg_packet_local *source = local_address(flow->source);
	struct hg_packet_address *range;

	if (!source || flow->source_port != next->client_port ||
	    flow->backend_port != next->backend_port ||
	    !same_address(flow->backend_address, next->backend_address))
		return 0;
	range = find_address(source);
	return range && is_range(range, flow->source_port);
}

/* The client's next connection takes the flow of the one before over: most of
 * what that needs is there. 0; or the exit, and nothing has changed, or the flow
 * is closed.
 */
static __always_inline int take_over(struct packet *p, struct packet_scratch *s,
				     struct hg_flow **found)
{
	struct hg_flow *next = &s->flow, *flow;
	struct hg_flow_key old;
	__u32 number, state, shift;
	int claimed;

	flow = *found = flow_of(p, &number);
	if (!flow)
		return HG_PACKET_FAILED;
	state = flow->state;
	if (state == HG_FLOW_FREE || state == HG_FLOW_MOVING ||
	    state == HG_FLOW_ESTABLISHED ||
	    !move_state(flow, state, HG_FLOW_MOVING))
		return HG_PACKET_EARLY; /* Somebody else is at it. */
	/* Or was: it may be another client's by now, or have this very SYN. */
	if (!is_key(&flow->keys[HG_FROM_CLIENT], &next->keys[HG_FROM_CLIENT]) ||
	    (state != HG_FLOW_CLOSED && flow->isn == next->isn)) {
		move_state(flow, HG_FLOW_MOVING, state);
		/* Who met it in the queue has let it go. */
		if (state == HG_FLOW_CLOSED)
			put_closed(flow, number);
		return HG_PACKET_EARLY;
	}
	shift = flow->shift + flow->header;
	become(flow, next);
	if (keeps_port(flow, next))
		return 0;
	old = flow->keys[HG_FROM_BACKEND];
	claimed = claim_somewhere(flow, number, p->v6, s);
	erase_key(&old, number * 2 + HG_FROM_BACKEND);
	if (claimed)
		return 0;
	flow->source_port = 0; /* It has none. */
	flow->shift = shift - flow->header; /* As before. */
	move_state(flow, HG_FLOW_MOVING, HG_FLOW_CLOSED);
	put_closed(flow, number);
	return HG_PACKET_NO_PORT;
}

/* A flow for a client that has none. 0, or the exit: then there is none. */
static __always_inline int take_new(struct packet *p, struct packet_scratch *s,
				    struct hg_flow **found)
{
	struct hg_flow *next = &s->flow, *flow;
	__u32 number, value;

	flow = *found = take_number(&number);
	if (!flow)
		return HG_PACKET_TABLE_FULL;
	/* Nobody else's until its keys are there. */
	flow->state = HG_FLOW_MOVING;
	flow->keys[HG_FROM_CLIENT] = next->keys[HG_FROM_CLIENT];
	become(flow, next);
	if (!claim_somewhere(flow, number, p->v6, s)) {
		give_up(flow, number);
		return HG_PACKET_NO_PORT;
	}
	value = number * 2 + HG_FROM_CLIENT;
	if (put_key(&flow->keys[HG_FROM_CLIENT], value)) {
		/* The same SYN, on another CPU; or its buckets are full. */
		give_up(flow, number);
		return HG_PACKET_TABLE_FULL;
	}
	p->flow = value + 1;
	return 0;
}

/* For a SYN: p->flow is its client's flow that is over, if there is one. */
static __noinline int open_flow(frame_t *frame, struct packet *p,
				const struct hg_packet_listener *listener,
				__u32 listen, struct packet_scratch *s)
{
	struct hg_flow *flow, *next = &s->flow;
	struct hg_service_stats *stats;
	struct rewrite to = {};
	__u32 service = listener->service;
	int exit, verdict;

	p->service = service;
	stats = bpf_map_lookup_elem(&service_stats, &service);
	if (!stats)
		return drop(HG_PACKET_FAILED);
	if (p->ttl <= 1)
		return drop(HG_PACKET_TTL);
	if (listener->max_connections &&
	    stats->connections_active >= listener->max_connections)
		return drop(HG_PACKET_SERVICE_FULL);
	__builtin_memset(next, 0, sizeof(*next));
	__builtin_memset(s->tried, 0, sizeof(s->tried));
	__builtin_memcpy(next->client, p->source.address, 16);
	next->client_port = p->source_port;
	next->listen_port = p->destination_port;
	next->listen = listen;
	next->service = service;
	next->header = listener->header;
	next->shift = shift_of_next(p);
	next->isn = p->seq;
	next->next_in = p->seq + 1;
	next->last_seen = now_seconds();
	next->asked = now_ms();
	next->since = bpf_ktime_get_ns();
	note_odd_syn(p, next);
	if (!choose_backend(next, s)) {
		verdict = refuse(frame, p, s, HG_PACKET_NO_BACKEND);
		if (verdict != VERDICT_NOT_OURS)
			__sync_fetch_and_add(&stats->no_backend, 1);
		return verdict;
	}
	exit = p->flow ? take_over(p, s, &flow) : take_new(p, s, &flow);
	if (exit)
		return drop(exit);
	take_choice(flow, next);
	move_state(flow, HG_FLOW_MOVING, HG_FLOW_SYN_SENT);
	exit = to_backend(p, flow, seq_to_backend(flow, p), &to);
	if (!exit)
		exit = forward_syn(frame, p, &to, s);
	if (exit > 0)
		close_flow(flow, (p->flow - 1) / 2);
	else
		note_client_side(frame, p, flow);
	return sent(exit, HG_PACKET_FORWARDED);
}

/* A client may use a port again at once (RFC 9293, 3.6.1), or after it lost all
 * memory of the connection: then the backend says so, if that still stands.
 */
static __always_inline int begins_anew(const struct hg_flow *flow,
				       const struct packet *p)
{
	if ((p->flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN)
		return 0;
	switch (flow->state) {
	case HG_FLOW_SYN_SENT:
	case HG_FLOW_SYN_RECEIVED:
		return p->seq != flow->isn;
	case HG_FLOW_ESTABLISHED:
	case HG_FLOW_MOVING:
		return 0;
	default:
		return 1;
	}
}

/* Ends a flow at once, for its client talks to somebody else from now on. */
static __always_inline void forget_flow(struct hg_flow *flow, __u32 number)
{
	close_flow(flow, number);
	/* Its number comes back by the queue. */
	erase_keys(flow, number);
}

#endif
