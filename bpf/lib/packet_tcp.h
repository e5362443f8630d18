/* What a TCP segment does: to its connection's flow, and to itself. */
#ifndef HG_LIB_PACKET_TCP_H
#define HG_LIB_PACKET_TCP_H

#include "bpf/lib/packet_answer.h"
#include "bpf/lib/packet_edit.h"
#include "bpf/lib/packet_flow.h"
#include "bpf/lib/packet_keys.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_open.h"
#include "bpf/lib/packet_parse.h"
#include "bpf/lib/packet_send.h"
#include "bpf/lib/packet_table.h"

/* ---- from the client ----------------------------------------------------- */

static __always_inline __u32 max_connections_of(const struct hg_flow *flow)
{
	struct hg_packet_listener_key at = {flow->listen, flow->listen_port};
	struct hg_packet_listener *listener =
	    bpf_map_lookup_elem(&packet_listeners, &at);

	return listener ? listener->max_connections : 0;
}

static __always_inline __u32
max_connections_of_backend(const struct hg_flow *flow)
{
	__u32 id = flow->backend;
	struct hg_backend *backend = bpf_map_lookup_elem(&backends, &id);

	return backend ? backend->max_connections : 0;
}

/* The handshake's last ACK makes a connection, if service and backend have
 * room: a burst would overfill them if SYNs were counted that are not answered
 * yet, and a flood of them would lock everybody out if handshakes took a place.
 * Without room the ACK is dropped, as in a full accept queue: it comes again.
 */
static __noinline int establish(struct hg_flow *flow)
{
	struct hg_service_stats *service = stats_of(flow);
	struct hg_backend_stats *backend = backend_stats_of(flow);
	int exit;

	if (!service || !backend)
		return HG_PACKET_FAILED;
	exit = take_places(service, max_connections_of(flow), backend,
			   max_connections_of_backend(flow));
	if (exit)
		return exit;
	if (!move_state(flow, HG_FLOW_SYN_RECEIVED, HG_FLOW_ESTABLISHED)) {
		leave_places(service, backend);
		return 0;
	}
	__sync_fetch_and_add(&service->connections_total, 1);
	__sync_fetch_and_add(&backend->connections_total, 1);
	return 0;
}

static __always_inline void count_bytes(__u32 service, __u64 in, __u64 out)
{
	struct hg_packet_bytes *bytes =
	    bpf_map_lookup_elem(&packet_bytes, &service);

	if (!bytes)
		return;
	bytes->in += in;
	bytes->out += out;
}

/* The stream ends at the FIN that is nearest to what its receiver has. */
static __always_inline void note_fin(struct hg_flow *flow, __u32 flag,
				     __u32 *fin, __u32 acked, __u32 end)
{
	if (!(flow->flags & flag) || !before(acked, *fin) || before(end, *fin))
		*fin = end;
	set_flags(flow, flag);
}

/* What a segment carries, of the new bytes that it claims: the rest has jumped. */
static __always_inline __u32 payload_of(const struct packet *p,
					__u32 new_bytes)
{
	__u32 payload = new_bytes - ((p->flags & TCP_FIN) != 0);

	return payload < p->payload ? payload : p->payload;
}

static __always_inline void note_from_client(struct hg_flow *flow, __u32 number,
					     const struct packet *p)
{
	__u32 new_bytes;

	if (p->flags & TCP_RST)
		return;
	new_bytes = progress(p, flow->next_in);
	if (new_bytes) {
		__u32 payload = payload_of(p, new_bytes);

		flow->next_in += new_bytes;
		flow->bytes_in += payload;
		count_bytes(flow->service, payload, 0);
	}
	if ((p->flags & TCP_FIN) && is_ahead(segment_end(p), flow->acked_in))
		note_fin(flow, HG_FLOW_FIN_IN, &flow->fin_in, flow->acked_in,
			 segment_end(p));
	if (p->flags & TCP_ACK) {
		note_ack(&flow->acked_out, flow->next_out, p->ack);
		if ((flow->flags & HG_FLOW_FIN_OUT) && p->ack == flow->fin_out)
			set_flags(flow, HG_FLOW_FIN_OUT_ACKED);
	}
	if (both_sides_closed(flow->flags))
		close_flow(flow, number);
}

static __always_inline void touch(struct hg_flow *flow)
{
	__u32 now = now_seconds();

	if (flow->last_seen != now)
		flow->last_seen = now;
}

/* Of what the backend has agreed to, it alone says that it goes on: it answers an
 * honest client.
 */
static __always_inline int is_kept_by_backend(const struct hg_flow *flow)
{
	return flow->state == HG_FLOW_ESTABLISHED &&
	       (!flow->header || (flow->flags & HG_FLOW_HEADER_ACKED));
}

/* Whether the edge acts upon it, and so must not be wrong about it. */
static __always_inline int is_decisive(const struct hg_flow *flow,
				       const struct packet *p, int due)
{
	return due || (p->flags & TCP_RST) ||
	       flow->state == HG_FLOW_SYN_RECEIVED;
}

/* Gives what fits the handshake's SYN cookie other numbers, which mean the same
 * where the connection is open: an ACK is from a little further on, within the
 * window; what is old, and is answered for that, is older. Data acknowledge less
 * and, if they are new, their acknowledgment follows, for the backend's next
 * words may wait for it (RFC 896). 0, or the verdict.
 */
static __noinline int keep_off_cookie(frame_t *frame, struct packet *p,
				      const struct hg_flow *flow,
				      struct rewrite *to,
				      struct packet_scratch *s)
{
	__u32 in = to->seq - flow->shift - (flow->isn + 1);
	int verdict;

	if (segment_end(p) == p->seq) {
		to->seq += before(p->seq, flow->next_in) ? -COOKIE_ROOM
							 : COOKIE_ROOM;
		return 0;
	}
	if (HOOK == HG_HOOK_XDP)
		return split(frame, HG_PACKET_MARK_ACK);
	/* Once: somebody ahead may take the clone's mark away. */
	if (progress(p, flow->next_in)) {
		if (!is_intact(frame, p, s))
			return drop(HG_PACKET_MALFORMED);
		verdict = split(frame, HG_PACKET_MARK_ACK);
		if (verdict)
			return verdict;
	}
	to->ack = first_out(flow) + in - COOKIE_ROOM;
	return 0;
}

/* A SYN of a flow that there is. */
static __noinline int syn_again(frame_t *frame, struct packet *p,
				struct hg_flow *flow, __u32 number,
				struct packet_scratch *s)
{
	struct rewrite to = {};
	int exit;

	if (flow->state == HG_FLOW_SYN_SENT) {
		ask_another(flow, number, p->v6, s);
		note_odd_syn(p, flow);
	} else if (p->seq != flow->isn) {
		set_flags(flow, HG_FLOW_ANOTHER);
	}
	exit = to_backend(p, flow, seq_to_backend(flow, p), &to);
	if (!exit)
		exit = forward_syn(frame, p, &to, s);
	if (exit <= 0 && flow->state == HG_FLOW_SYN_SENT)
		note_client_side(frame, p, flow);
	return sent(exit, HG_PACKET_FORWARDED);
}

/* Whether these are the data that split() has made come again: the flow knows,
 * too, for somebody ahead of tc may take the mark away.
 */
static __always_inline int comes_behind(struct hg_flow *flow,
					const struct packet *p, int due)
{
	int awaited = due && (flow->flags & HG_FLOW_SPLIT);

	if (awaited)
		__sync_fetch_and_and(&flow->flags, ~HG_FLOW_SPLIT);
	return awaited || p->mark == HG_PACKET_MARK_BEHIND;
}

/* The second of two RSTs, the first of which has ended the flow; the client may
 * have begun another since.
 */
static __always_inline int resets_again(const struct hg_flow *flow,
					const struct packet *p)
{
	return p->mark == HG_PACKET_MARK_RESET && (p->flags & TCP_RST) &&
	       flow->state == HG_FLOW_CLOSED && is_next_in(flow, p->seq);
}

/* The frame comes again, behind its header: the flow is told first. */
static __always_inline int go_behind_header(frame_t *frame, struct hg_flow *flow)
{
	int verdict;

	if (HOOK == HG_HOOK_XDP)
		return split(frame, HG_PACKET_MARK_BEHIND);
	set_flags(flow, HG_FLOW_SPLIT);
	verdict = split(frame, HG_PACKET_MARK_BEHIND);
	if (verdict)
		__sync_fetch_and_and(&flow->flags, ~HG_FLOW_SPLIT);
	return verdict;
}

/* A client's RST that ends the flow becomes our own, and a second one follows if
 * that may be old; all else stays as it is. 0, or the verdict.
 */
static __always_inline int end_by_reset(frame_t *frame, struct packet *p,
					struct hg_flow *flow, __u32 number,
					struct rewrite *to,
					struct packet_scratch *s)
{
	int again = p->mark == HG_PACKET_MARK_RESET, verdict;

	if (!again && !ends_flow(flow, p))
		return 0;
	if (!again && flow->next_in != acked_in(flow)) {
		verdict = split(frame, HG_PACKET_MARK_RESET);
		if (verdict)
			return verdict;
	}
	if (own_reset(frame, p, flow, to, (__u8 *)&s->request))
		return drop(HG_PACKET_FAILED);
	close_flow(flow, number);
	return 0;
}

/* All else. */
static __noinline int go_on(frame_t *frame, struct packet *p,
			    struct hg_flow *flow, __u32 number,
			    struct packet_scratch *s)
{
	struct rewrite to = {};
	int exit, verdict, alone, due, behind;

	if (p->mark == HG_PACKET_MARK_RESET && !resets_again(flow, p))
		return drop(HG_PACKET_STRAY_RST);
	if (p->mark == HG_PACKET_MARK_ACK) {
		exit = become_ack(frame, p, flow, (__u8 *)&s->request);
		if (exit)
			return drop(exit);
	}
	if (flow->state == HG_FLOW_SYN_SENT && !(p->flags & TCP_RST))
		return drop(HG_PACKET_EARLY);
	if (guesses_answer(flow, p))
		return refuse(frame, p, s, HG_PACKET_EARLY);
	due = header_is_due(flow, p);
	alone = !p->payload && !(p->flags & TCP_FIN);
	if ((due || (p->flags & TCP_RST)) &&
	    (due && alone ? left_for_room(frame, flow->header)
			  : left_for_length(frame)))
		return VERDICT_NOT_OURS;
	behind = !alone && comes_behind(flow, p, due);
	if (forges_header(flow, p) || is_dubious_reset(p) ||
	    (is_decisive(flow, p, due) && !behind && !is_intact(frame, p, s)))
		return drop(HG_PACKET_MALFORMED);
	if (p->ttl > 1 && ends_handshake(flow, p)) {
		exit = establish(flow);
		if (exit)
			return drop(exit);
	}
	if (is_taken_over(flow, p))
		return drop(HG_PACKET_EARLY);
	if (!due || behind) {
		exit = to_backend(p, flow, seq_to_backend(flow, p), &to);
		if (exit)
			return drop(exit);
		verdict = fits_cookie(flow, p, segment_size(frame), to.seq)
			      ? keep_off_cookie(frame, p, flow, &to, s)
			      : end_by_reset(frame, p, flow, number, &to, s);
		if (verdict)
			return verdict;
		note_from_client(flow, number, p);
		exit = rewrite(frame, p, &to);
		return sent(exit ? exit : forward(frame, p, &to),
			    HG_PACKET_FORWARDED);
	}
	if (!alone) {
		verdict = go_behind_header(frame, flow);
		if (verdict)
			return verdict;
	}
	set_flags(flow, HG_FLOW_HEADER_SENT);
	exit = to_backend(p, flow, p->seq + flow->shift, &to);
	if (!exit)
		exit = rewrite(frame, p, &to);
	if (!exit)
		exit = carry_header(frame, p, flow, &to, s);
	return sent(exit ? exit : forward(frame, p, &to),
		    alone ? HG_PACKET_HEADER : HG_PACKET_HEADER_AHEAD);
}

static __always_inline int from_client(frame_t *frame, struct packet *p,
				       struct hg_flow *flow, __u32 number,
				       struct packet_scratch *s)
{
	if (flow->state == HG_FLOW_MOVING)
		return drop(HG_PACKET_EARLY);
	if (!is_kept_by_backend(flow))
		touch(flow);
	return p->flags & TCP_SYN ? syn_again(frame, p, flow, number, s)
				  : go_on(frame, p, flow, number, s);
}

/* ---- from the backend ---------------------------------------------------- */

/* Its first word, as the workers count it. Of its SYN, the client's is known. */
static __noinline int count_greeting(const struct hg_flow *flow)
{
	static const __u32 bounds_ms[] = {HG_GREETING_BOUNDS_MS};
	const __u32 bounds = sizeof(bounds_ms) / sizeof(bounds_ms[0]);
	__u64 ns = bpf_ktime_get_ns() - flow->since;
	__u32 backend = flow->backend, bucket = 0;
	struct hg_greeting_times *times =
	    bpf_map_lookup_elem(&greeting_times, &backend);

	if (!times)
		return 0;
	while (bucket < bounds && ns > bounds_ms[bucket] * 1000000ULL)
		bucket++;
	__sync_fetch_and_add(&times->counts[bucket], 1);
	__sync_fetch_and_add(&times->sum_us, ns / 1000);
	return 0;
}

/* It ends without one; no matter, if the client has ended first. */
static __noinline int count_early_end(const struct hg_flow *flow, __u32 flags)
{
	struct hg_backend_stats *stats;

	if (flow->state != HG_FLOW_ESTABLISHED ||
	    flow->bytes_out > ((flags & TCP_FIN) != 0) ||
	    (flow->flags & (HG_FLOW_FIN_IN | HG_FLOW_FIN_OUT)))
		return 0;
	stats = backend_stats_of(flow);
	if (!stats)
		return 0;
	if (flags & TCP_RST)
		__sync_fetch_and_add(&stats->early_reset, 1);
	else
		__sync_fetch_and_add(&stats->early_closed, 1);
	return 0;
}

/* The state goes ahead, so that what is written here is not taken for what stood
 * in its place (see ask_another).
 */
static __always_inline void note_answer(struct hg_flow *flow,
					const struct packet *p,
					__u32 interface)
{
	int first = move_state(flow, HG_FLOW_SYN_SENT, HG_FLOW_SYN_RECEIVED);

	if (first || interface != flow->client_side)
		flow->backend_side = interface;
	if (!first)
		return;
	flow->next_out = p->seq + 1;
	flow->acked_out = p->seq + 1;
	flow->acked_in = flow->isn + 1;
}

/* `interface`: it came by. */
static __always_inline void note_from_backend(struct hg_flow *flow,
					      __u32 number,
					      const struct packet *p, __u32 ack,
					      __u32 interface)
{
	__u32 new_bytes;

	if (p->flags & TCP_RST) {
		if (flow->state == HG_FLOW_SYN_SENT ||
		    is_next_out(flow, p->seq)) {
			count_early_end(flow, p->flags);
			close_flow(flow, number);
		}
		return;
	}
	if (p->flags & TCP_SYN) {
		if (answers_syn(flow, p))
			note_answer(flow, p, interface);
		return;
	}
	new_bytes = progress(p, flow->next_out);
	if (new_bytes) {
		__u32 payload = payload_of(p, new_bytes);

		if (payload && !flow->bytes_out)
			count_greeting(flow);
		flow->next_out += new_bytes;
		flow->bytes_out += new_bytes;
		count_bytes(flow->service, 0, payload);
	}
	if ((p->flags & TCP_FIN) && is_ahead(segment_end(p), flow->acked_out)) {
		count_early_end(flow, p->flags);
		note_fin(flow, HG_FLOW_FIN_OUT, &flow->fin_out,
			 flow->acked_out, segment_end(p));
	}
	if (p->flags & TCP_ACK) {
		if (!(flow->flags & HG_FLOW_HEADER_ACKED) &&
		    acks_header(flow, p->ack))
			set_flags(flow, HG_FLOW_HEADER_ACKED);
		note_ack(&flow->acked_in, flow->next_in, ack);
		if (flow->state != HG_FLOW_CLOSED &&
		    flow->acked_in - flow->isn > FIRST_LAP)
			set_flags(flow, HG_FLOW_LAPPED);
		if ((flow->flags & HG_FLOW_FIN_IN) && ack == flow->fin_in)
			set_flags(flow, HG_FLOW_FIN_IN_ACKED);
	}
	if (both_sides_closed(flow->flags))
		close_flow(flow, number);
}

/* The exit for a RST that answers the SYN; 0: it is the client's to see. */
static __always_inline int refusal(struct hg_flow *flow, const struct packet *p,
				   struct packet_scratch *s)
{
	if (!acks_syn(flow, p))
		return HG_PACKET_STRAY_RST;
	return refuse_client(flow, HG_FLOW_REFUSED, s);
}

/* The backend has forgotten the connection: it agrees that the client has begun
 * another, or answers the same SYN by another number. Of two SYN cookies, one
 * would be good for a segment whose numbers fit the other (see keep_off_cookie).
 */
static __always_inline int is_another(const struct hg_flow *flow,
				      const struct packet *p)
{
	if ((p->flags & (TCP_SYN | TCP_ACK)) != (TCP_SYN | TCP_ACK) ||
	    flow->state == HG_FLOW_SYN_SENT)
		return 0;
	if (acks_syn(flow, p))
		return p->seq + 1 != first_out(flow);
	return (flow->flags & HG_FLOW_ANOTHER) &&
	       flow->state == HG_FLOW_ESTABLISHED;
}

static __noinline int from_backend(frame_t *frame, struct packet *p,
				   struct hg_flow *flow, __u32 number,
				   struct packet_scratch *s)
{
	struct option_walk walk = {.options = s->options};
	struct rewrite to = {};
	int exit, verdict, another, challenges, is_ours;

	if (flow->state == HG_FLOW_MOVING)
		return drop(HG_PACKET_EARLY);
	/* What acknowledges the SYN knows its number, whatever way it takes. */
	if (!(flow->state == HG_FLOW_SYN_SENT && acks_syn(flow, p)) &&
	    !is_believed(frame, p, flow))
		return drop(HG_PACKET_REVERSE_PATH);
	if ((p->flags & TCP_RST) && !is_intact(frame, p, s))
		return drop(HG_PACKET_MALFORMED);
	/* It sends its SYN-ACK again to who was never there, too. */
	if (flow->state > HG_FLOW_SYN_RECEIVED && !(p->flags & TCP_RST))
		touch(flow);
	if (flow->state == HG_FLOW_SYN_SENT && (p->flags & TCP_RST)) {
		exit = refusal(flow, p, s);
		if (exit)
			return drop(exit);
	}
	/* Nobody counts it any more, so nobody goes on with it. */
	if (flow->state == HG_FLOW_CLOSED && !both_sides_closed(flow->flags) &&
	    !(p->flags & TCP_RST))
		return refuse(frame, p, s, HG_PACKET_NO_FLOW);
	/* It has an old connection on that port, and challenges the SYN, or is
	 * still answering that one's: the RST clears the way for the next one
	 * (RFC 9293, 3.5.1), a second later, for which it is not to blame. As
	 * after that of another connection: this one's flow has no header for
	 * it.
	 */
	challenges = flow->state == HG_FLOW_SYN_SENT &&
		     !(p->flags & TCP_RST) && !answers_syn(flow, p);
	another = is_another(flow, p);
	if (another || challenges || lacks_header(flow, p)) {
		verdict = refuse(frame, p, s, HG_PACKET_EARLY);
		if (verdict == VERDICT_NOT_OURS ||
		    (verdict & 0xff) == VERDICT_DROP)
			return verdict;
		if (is_taken_over(flow, p))
			return verdict;
		if (challenges)
			set_flags(flow, HG_FLOW_ODD);
		if (another)
			close_flow(flow, number);
		return verdict;
	}
	if (p->ttl <= 1)
		return drop(HG_PACKET_TTL);
	to.source = local_address(flow->listen);
	to.destination = (struct hg_packet_local *)flow->client;
	to.source_port = flow->listen_port;
	to.destination_port = flow->client_port;
	to.seq = p->seq;
	to.ack = p->flags & TCP_ACK ? ack_to_client(flow, p->ack) : p->ack;
	to.ttl = p->ttl - 1;
	if (!to.source)
		return drop(HG_PACKET_FAILED);
	if (is_taken_over(flow, p))
		return drop(HG_PACKET_EARLY);
	is_ours = acks_header_only(flow, p);
	note_from_backend(flow, number, p, to.ack, arrived_at(frame));
	if (is_ours)
		return drop(HG_PACKET_HEADER_ACKED);
	if (p->flags & TCP_SYN)
		return sent(forward_syn(frame, p, &to, s), HG_PACKET_FORWARDED);
	if (p->options && !only_timestamps(frame, p)) {
		walk.flow = flow;
		exit = edit_options(frame, p, &walk, &to.options_sum);
		if (exit)
			return drop(exit);
	}
	exit = rewrite(frame, p, &to);
	return sent(exit ? exit : forward(frame, p, &to), HG_PACKET_FORWARDED);
}

/* ---- TCP ----------------------------------------------------------------- */

/* Neither begins, nor goes on, nor ends; or begins and ends. */
static __always_inline int is_senseless(__u32 flags)
{
	return !(flags & (TCP_SYN | TCP_ACK | TCP_RST)) ||
	       ((flags & TCP_SYN) && (flags & (TCP_RST | TCP_FIN)));
}

/* A connection that was spliced before the hook was attached goes on. */
static __noinline int has_socket(frame_t *frame, const struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	int connected;

	if (p->v6) {
		__builtin_memcpy(tuple.ipv6.saddr, p->source.address, 16);
		__builtin_memcpy(tuple.ipv6.daddr, p->destination.address, 16);
		tuple.ipv6.sport = bpf_htons(p->source_port);
		tuple.ipv6.dport = bpf_htons(p->destination_port);
	} else {
		tuple.ipv4.saddr = ((const __u32 *)p->source.address)[3];
		tuple.ipv4.daddr = ((const __u32 *)p->destination.address)[3];
		tuple.ipv4.sport = bpf_htons(p->source_port);
		tuple.ipv4.dport = bpf_htons(p->destination_port);
	}
	socket = bpf_skc_lookup_tcp(
	    frame, &tuple, p->v6 ? sizeof(tuple.ipv6) : sizeof(tuple.ipv4),
	    BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return 0;
	connected = socket->state != BPF_TCP_LISTEN;
	bpf_sk_release(socket);
	return connected;
}

static __always_inline int handle_tcp(frame_t *frame, struct packet *p,
				      const struct hg_packet_address *local,
				      struct packet_scratch *s)
{
	struct hg_packet_listener *listener;
	struct hg_packet_listener_key at;
	struct hg_flow_key key;
	struct hg_flow *flow;
	__u32 value, number;

	if (parse_tcp(frame, p))
		return drop(HG_PACKET_MALFORMED);
	__builtin_memcpy(key.remote, p->source.address, 16);
	key.local = local->id;
	key.remote_port = p->source_port;
	key.local_port = p->destination_port;
	value = find_key(&key, NO_VALUE);
	at.address = local->id;
	at.port = p->destination_port;
	listener = NULL;
	if (value == NO_VALUE) {
		listener = bpf_map_lookup_elem(&packet_listeners, &at);
		if (!listener && !is_range(local, p->destination_port))
			return VERDICT_NOT_OURS;
	}
	if (left_as_it_came(frame, p))
		return VERDICT_NOT_OURS;
	if (join_frames(frame))
		return drop(HG_PACKET_FAILED);
	if (p->fragment)
		return drop(HG_PACKET_FRAGMENT);
	if (p->extended)
		return drop(HG_PACKET_EXTENSION);
	if (is_forged(p) || is_senseless(p->flags) ||
	    ((p->flags & TCP_SYN) && !is_intact(frame, p, s)))
		return drop(HG_PACKET_MALFORMED);
	if (value != NO_VALUE) {
		p->flow = value + 1;
		number = value / 2;
		flow = bpf_map_lookup_elem(&packet_flows, &number);
		if (!flow)
			return drop(HG_PACKET_FAILED);
		p->isn = flow->isn;
		if (value % 2 == HG_FROM_BACKEND)
			return from_backend(frame, p, flow, number, s);
		if (!begins_anew(flow, p))
			return is_over(flow, p)
				   ? refuse(frame, p, s, HG_PACKET_NO_FLOW)
				   : from_client(frame, p, flow, number, s);
		listener = bpf_map_lookup_elem(&packet_listeners, &at);
		if (!listener) {
			forget_flow(flow, number);
			return VERDICT_NOT_OURS;
		}
		/* Who freed it has not erased its entries yet, or never will. */
		s->flow.keys[HG_FROM_BACKEND] = flow->keys[HG_FROM_BACKEND];
		if (flow->state == HG_FLOW_FREE) {
			erase_key(&s->flow.keys[HG_FROM_BACKEND],
				  number * 2 + HG_FROM_BACKEND);
			erase_key(&key, value);
			p->flow = 0;
		}
	}
	if (!listener)
		return refuse(frame, p, s, HG_PACKET_NO_FLOW);
	if ((p->flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN) {
		if (has_socket(frame, p))
			return VERDICT_NOT_OURS;
		return refuse(frame, p, s, HG_PACKET_NO_FLOW);
	}
	return open_flow(frame, p, listener, local->id, s);
}

#endif
