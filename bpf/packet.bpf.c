/* packet: NAT of whole connections, from the SYN on, with the PROXY header on
 * the handshake's ACK. Runs on what arrives at an interface; nobody on this
 * machine has a socket for it.
 */
#include <linux/icmpv6.h>

#include "bpf/lib/packet_answer.h"
#include "bpf/lib/packet_edit.h"
#include "bpf/lib/packet_flow.h"
#include "bpf/lib/packet_icmp.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_parse.h"
#include "bpf/lib/packet_table.h"
#include "bpf/lib/select.h"

char LICENSE[] SEC("license") = "GPL";

enum {
	NOT_OURS = -1,
};

/* ---- from the client ----------------------------------------------------- */

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
static __noinline int forward_syn(struct __sk_buff *skb, struct packet *p,
				  struct rewrite *to, struct packet_scratch *s)
{
	struct option_walk walk = {.options = s->options};
	int exit;

	walk.max_mss = max_mss(skb, p, to);
	exit = edit_options(skb, p, &walk, &to->options_sum);
	if (exit)
		return exit;
	if (rewrite(skb, p, to))
		return HG_PACKET_FAILED;
	if (p->payload) {
		__u32 end = (p->l4 & 0xff) + TCP_BASE + (p->options & 63);

		p->end = end;
		/* Longer for once: what grows has no CHECKSUM_COMPLETE left. */
		if (bpf_skb_change_tail(skb, end, 0) ||
		    bpf_skb_change_tail(skb, end + 2, 0) ||
		    bpf_skb_change_tail(skb, end, 0) ||
		    seal(skb, p, to, (__u8 *)&s->request))
			return HG_PACKET_FAILED;
	}
	return forward(skb, p, to);
}

static __always_inline int sent(int exit, __u32 as)
{
	if (exit)
		return drop(exit);
	count_exit(as);
	return TC_ACT_REDIRECT;
}

/* Asks selection for a backend, other than the one that `tried` has. */
static __noinline int choose_backend(struct hg_flow *flow,
				     struct packet_scratch *s)
{
	struct hg_select *request = &s->request;

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

static __always_inline void count_failed_connect(const struct hg_flow *flow)
{
	__u32 backend = flow->backend;
	struct hg_backend_stats *stats =
	    bpf_map_lookup_elem(&backend_stats, &backend);

	if (!stats)
		return;
	if (flow->flags & HG_FLOW_REFUSED)
		__sync_fetch_and_add(&stats->connect_refused, 1);
	else
		__sync_fetch_and_add(&stats->connect_timeout, 1);
}

/* The backend has not answered, or refused: the client's next SYN fits another
 * as well, for no number has been agreed on yet.
 */
static __always_inline void move_to_another(struct hg_flow *flow, __u32 number,
					    __u32 v6, struct packet_scratch *s)
{
	struct hg_flow *next = &s->flow;
	struct hg_flow_key old;
	__u32 slot = flow->slot % HG_MAX_SERVICE_BACKENDS;

	__builtin_memset(s->tried, 0, sizeof(s->tried));
	s->tried[slot / 64] = 1ULL << (slot % 64);
	*next = *flow;
	if (!choose_backend(next, s))
		return;
	if (!claim_port(next, number, v6))
		return;
	count_failed_connect(flow);
	backend_key(flow, &old);
	flow->backend = next->backend;
	flow->slot = next->slot;
	flow->backend_port = next->backend_port;
	flow->source = next->source;
	flow->source_port = next->source_port;
	__builtin_memcpy(flow->backend_address, next->backend_address, 16);
	__sync_fetch_and_and(&flow->flags, ~HG_FLOW_REFUSED);
	bpf_map_delete_elem(&packet_keys, &old);
}

static __noinline int open_flow(struct __sk_buff *skb, struct packet *p,
				const struct hg_packet_listener *listener,
				__u32 listen, struct packet_scratch *s)
{
	struct hg_flow *flow, *next = &s->flow;
	struct hg_service_stats *stats;
	struct hg_flow_times *times;
	struct hg_flow_key key;
	struct rewrite to = {};
	__u32 number, value, service = listener->service;
	int exit;

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
	next->isn = p->seq;
	next->next_in = p->seq + 1;
	next->last_seen = now_seconds();
	if (!choose_backend(next, s)) {
		__sync_fetch_and_add(&stats->no_backend, 1);
		return refuse(skb, p, s, HG_PACKET_NO_BACKEND);
	}
	flow = take_number(&number);
	if (!flow)
		return drop(HG_PACKET_TABLE_FULL);
	times = bpf_map_lookup_elem(&packet_times, &number);
	if (times)
		times->started = bpf_ktime_get_ns();
	next->state = HG_FLOW_SYN_SENT;
	if (!claim_port(next, number, p->v6)) {
		bpf_map_push_elem(&packet_free, &number, 0);
		return drop(HG_PACKET_NO_PORT);
	}
	*flow = *next;
	client_key(flow, &key);
	value = number * 2 + HG_FROM_CLIENT;
	if (bpf_map_update_elem(&packet_keys, &key, &value, BPF_NOEXIST)) {
		/* The same SYN, on another CPU. */
		backend_key(flow, &key);
		bpf_map_delete_elem(&packet_keys, &key);
		flow->state = HG_FLOW_FREE;
		bpf_map_push_elem(&packet_free, &number, 0);
		return drop(HG_PACKET_FAILED);
	}
	exit = to_backend(p, flow, p->seq, &to);
	if (!exit)
		exit = forward_syn(skb, p, &to, s);
	if (exit)
		close_flow(flow, number);
	return sent(exit, HG_PACKET_FORWARDED);
}

/* Ends a flow at once, so that its client's next one can begin. */
static __always_inline void forget_flow(struct hg_flow *flow, __u32 number)
{
	close_flow(flow, number);
	/* Its number comes back by the queue. */
	erase_keys(flow, number);
}

static __always_inline void establish(struct hg_flow *flow)
{
	if (move_state(flow, HG_FLOW_SYN_RECEIVED, HG_FLOW_ESTABLISHED))
		count_connection(flow, 1);
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

static __always_inline void note_from_client(struct hg_flow *flow, __u32 number,
					     const struct packet *p)
{
	__u32 new_bytes = progress(p, flow->next_in);

	if (new_bytes) {
		__u32 payload = new_bytes - ((p->flags & TCP_FIN) != 0);

		flow->next_in += new_bytes;
		flow->bytes_in += payload;
		count_bytes(flow->service, payload, 0);
	}
	if ((p->flags & TCP_FIN) && segment_end(p) == flow->next_in)
		set_flags(flow, HG_FLOW_FIN_IN);
	if ((flow->flags & HG_FLOW_FIN_OUT) && (p->flags & TCP_ACK) &&
	    p->ack == flow->next_out)
		set_flags(flow, HG_FLOW_FIN_OUT_ACKED);
	if ((p->flags & TCP_RST) || both_sides_closed(flow->flags))
		close_flow(flow, number);
}

static __always_inline void touch(struct hg_flow *flow)
{
	__u32 now = now_seconds();

	if (flow->last_seen != now)
		flow->last_seen = now;
}

static __noinline int from_client(struct __sk_buff *skb, struct packet *p,
				  struct hg_flow *flow, __u32 number,
				  struct packet_scratch *s)
{
	struct rewrite to = {};
	__u32 seq;
	int exit, alone, behind = skb->mark == HG_PACKET_MARK_BEHIND;

	touch(flow);
	if (behind)
		skb->mark = 0;
	if (p->flags & TCP_SYN) {
		if (flow->state == HG_FLOW_SYN_SENT)
			move_to_another(flow, number, p->v6, s);
		exit = to_backend(p, flow,
				  p->seq == flow->isn ? p->seq
						      : seq_to_backend(flow, p),
				  &to);
		return sent(exit ? exit : forward_syn(skb, p, &to, s),
			    HG_PACKET_FORWARDED);
	}
	if (flow->state == HG_FLOW_SYN_SENT && !(p->flags & TCP_RST))
		return drop(HG_PACKET_EARLY);
	if ((p->flags & (TCP_ACK | TCP_RST)) == TCP_ACK)
		establish(flow);

	if (!header_is_due(flow, p)) {
		seq = seq_to_backend(flow, p);
		note_from_client(flow, number, p);
		exit = to_backend(p, flow, seq, &to);
		if (!exit)
			exit = rewrite(skb, p, &to);
		return sent(exit ? exit : forward(skb, p, &to),
			    HG_PACKET_FORWARDED);
	}
	alone = !p->payload && !(p->flags & TCP_FIN);
	if (!alone && behind) {
		note_from_client(flow, number, p);
		exit = to_backend(p, flow, p->seq + flow->header, &to);
		if (!exit)
			exit = rewrite(skb, p, &to);
		return sent(exit ? exit : forward(skb, p, &to),
			    HG_PACKET_FORWARDED);
	}
	if (!alone) {
		/* The data come again, behind a segment of the header alone:
		 * a frame of GSO cannot grow, nor one that is full.
		 */
		skb->mark = HG_PACKET_MARK_BEHIND;
		if (bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS))
			return drop(HG_PACKET_FAILED);
		skb->mark = 0;
	}
	set_flags(flow, HG_FLOW_HEADER_SENT);
	exit = to_backend(p, flow, p->seq, &to);
	if (!exit)
		exit = rewrite(skb, p, &to);
	if (!exit)
		exit = carry_header(skb, p, flow, &to, s);
	return sent(exit ? exit : forward(skb, p, &to),
		    alone ? HG_PACKET_HEADER : HG_PACKET_HEADER_AHEAD);
}

/* ---- from the backend ---------------------------------------------------- */

static __always_inline void note_from_backend(struct hg_flow *flow,
					      __u32 number,
					      const struct packet *p, __u32 ack)
{
	__u32 new_bytes;

	if (p->flags & TCP_SYN) {
		/* A late one is behind what has come since. */
		if (flow->state == HG_FLOW_SYN_SENT)
			flow->next_out = p->seq + 1;
		move_state(flow, HG_FLOW_SYN_SENT, HG_FLOW_SYN_RECEIVED);
		return;
	}
	new_bytes = progress(p, flow->next_out);
	if (new_bytes) {
		__u32 payload = new_bytes - ((p->flags & TCP_FIN) != 0);

		flow->next_out += new_bytes;
		flow->bytes_out += payload;
		count_bytes(flow->service, 0, payload);
	}
	if ((p->flags & TCP_FIN) && segment_end(p) == flow->next_out)
		set_flags(flow, HG_FLOW_FIN_OUT);
	if (p->flags & TCP_ACK) {
		if (acks_header(flow, p->ack))
			set_flags(flow, HG_FLOW_HEADER_ACKED);
		if ((flow->flags & HG_FLOW_FIN_IN) && ack == flow->next_in)
			set_flags(flow, HG_FLOW_FIN_IN_ACKED);
	}
	if ((p->flags & TCP_RST) || both_sides_closed(flow->flags))
		close_flow(flow, number);
}

/* A refusal is kept from the client for as long as another may do better: its
 * SYN comes again within a second.
 */
static __always_inline int keeps_refusal(struct hg_flow *flow,
					 const struct packet *p)
{
	__u32 id = flow->service;
	struct hg_service *service;

	if (!(p->flags & TCP_RST) || flow->state != HG_FLOW_SYN_SENT)
		return 0;
	set_flags(flow, HG_FLOW_REFUSED);
	service = bpf_map_lookup_elem(&services, &id);
	return service && service->backend_count > 1;
}

static __noinline int from_backend(struct __sk_buff *skb, struct packet *p,
				   struct hg_flow *flow, __u32 number,
				   struct packet_scratch *s)
{
	struct option_walk walk = {.options = s->options};
	struct rewrite to = {};
	int exit;

	touch(flow);
	if (keeps_refusal(flow, p))
		return drop(HG_PACKET_REFUSED);
	/* It has an old connection on that port, and challenges the SYN: the
	 * RST clears the way for the next one (RFC 9293, 3.5.1).
	 */
	if (flow->state == HG_FLOW_SYN_SENT &&
	    (p->flags & (TCP_SYN | TCP_RST)) == 0)
		return refuse(skb, p, s, HG_PACKET_EARLY);
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
	note_from_backend(flow, number, p, to.ack);
	if (p->flags & TCP_SYN)
		return sent(forward_syn(skb, p, &to, s), HG_PACKET_FORWARDED);
	if (flow->header && p->options && !only_timestamps(skb, p)) {
		walk.flow = flow;
		exit = edit_options(skb, p, &walk, &to.options_sum);
		if (exit)
			return drop(exit);
	}
	exit = rewrite(skb, p, &to);
	return sent(exit ? exit : forward(skb, p, &to), HG_PACKET_FORWARDED);
}

/* ---- TCP ----------------------------------------------------------------- */

static __always_inline int is_range(const struct hg_packet_address *local,
				    __u32 port)
{
	return local->first_port && port >= local->first_port &&
	       port <= local->last_port;
}

/* A client may use a port again at once (RFC 9293, 3.6.1), or after it lost all
 * memory of the connection: then the backend says so, if that still stands.
 */
static __always_inline int begins_anew(const struct hg_flow *flow,
				       const struct packet *p)
{
	if ((p->flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN)
		return 0;
	return flow->state == HG_FLOW_CLOSED || flow->state == HG_FLOW_FREE ||
	       (flow->state != HG_FLOW_ESTABLISHED && p->seq != flow->isn);
}

/* IPv6 with addresses that stand for IPv4: the kernel takes none, either. */
static __always_inline int is_forged(const struct packet *p)
{
	return p->v6 && (is_mapped(&p->source) || is_mapped(&p->destination));
}

/* A connection that was spliced before the hook was attached goes on. */
static __noinline int has_socket(struct __sk_buff *skb, const struct packet *p)
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
	socket = bpf_skc_lookup_tcp(skb, &tuple,
				    p->v6 ? sizeof(tuple.ipv6)
					  : sizeof(tuple.ipv4),
				    BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return 0;
	connected = socket->state != BPF_TCP_LISTEN;
	bpf_sk_release(socket);
	return connected;
}

static __always_inline int handle_tcp(struct __sk_buff *skb, struct packet *p,
				      const struct hg_packet_address *local,
				      struct packet_scratch *s)
{
	struct hg_packet_listener *listener;
	struct hg_packet_listener_key at;
	struct hg_flow_key key;
	struct hg_flow *flow;
	__u32 *value, number;

	if (parse_tcp(skb, p))
		return drop(HG_PACKET_MALFORMED);
	__builtin_memcpy(key.remote, p->source.address, 16);
	key.local = local->id;
	key.remote_port = p->source_port;
	key.local_port = p->destination_port;
	value = bpf_map_lookup_elem(&packet_keys, &key);
	at.address = local->id;
	at.port = p->destination_port;
	listener = NULL;
	if (!value) {
		listener = bpf_map_lookup_elem(&packet_listeners, &at);
		if (!listener && !is_range(local, p->destination_port))
			return NOT_OURS;
	}
	if (p->fragment)
		return drop(HG_PACKET_FRAGMENT);
	if (p->extended)
		return drop(HG_PACKET_EXTENSION);
	if (is_forged(p) || !(p->flags & (TCP_SYN | TCP_ACK | TCP_RST)))
		return drop(HG_PACKET_MALFORMED);
	if (value) {
		number = *value / 2;
		flow = bpf_map_lookup_elem(&packet_flows, &number);
		if (!flow)
			return drop(HG_PACKET_FAILED);
		if (*value % 2 == HG_FROM_BACKEND)
			return from_backend(skb, p, flow, number, s);
		if (!begins_anew(flow, p))
			return from_client(skb, p, flow, number, s);
		forget_flow(flow, number);
		listener = bpf_map_lookup_elem(&packet_listeners, &at);
	}
	if (!listener)
		return refuse(skb, p, s, HG_PACKET_NO_FLOW);
	if ((p->flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN) {
		if (has_socket(skb, p))
			return NOT_OURS;
		return refuse(skb, p, s, HG_PACKET_NO_FLOW);
	}
	return open_flow(skb, p, listener, local->id, s);
}

/* ---- ICMP ---------------------------------------------------------------- */

/* The error comes from whom the receiver talks to, as far as it knows. */
static __noinline int forward_icmp(struct __sk_buff *skb, struct packet *p,
				   const struct packet *quoted,
				   const struct hg_flow *flow, __u32 side)
{
	const struct hg_packet_local *listen = local_address(flow->listen);
	const struct hg_packet_local *source = local_address(flow->source);
	struct rewrite outer = {}, inner = {};
	int exit;

	if (!listen || !source)
		return drop(HG_PACKET_FAILED);
	if (p->ttl <= 1)
		return drop(HG_PACKET_TTL);
	outer.ttl = p->ttl - 1;
	if (side == HG_FROM_BACKEND) {
		/* About what the client has sent. */
		outer.source = listen;
		outer.destination = (struct hg_packet_local *)flow->client;
		inner.source_port = flow->client_port;
		inner.destination_port = flow->listen_port;
		inner.seq = ack_to_client(flow, quoted->seq);
	} else {
		outer.source = source;
		outer.destination =
		    (struct hg_packet_local *)flow->backend_address;
		inner.source_port = flow->backend_port;
		inner.destination_port = flow->source_port;
		inner.seq = quoted->seq;
	}
	inner.source = outer.destination;
	inner.destination = outer.source;
	exit = rewrite_icmp(skb, p, quoted, &outer, &inner);
	return sent(exit ? exit : forward(skb, p, &outer),
		    HG_PACKET_ICMP_ERROR);
}

/* What is about no flow is for a socket of this machine, if for anyone. */
static __always_inline int handle_icmp(struct __sk_buff *skb, struct packet *p,
				       const struct hg_packet_address *local,
				       struct packet_scratch *s)
{
	struct packet *quoted = &s->quoted;
	struct hg_flow_key key;
	struct hg_flow *flow;
	__u32 *value, number;
	__u8 type;

	if (p->fragment || p->extended ||
	    bpf_skb_load_bytes(skb, p->l4, &type, 1) ||
	    !is_icmp_error(p, type) || parse_quoted(skb, p, quoted))
		return NOT_OURS;
	__builtin_memcpy(key.remote, quoted->destination.address, 16);
	key.local = local->id;
	key.remote_port = quoted->destination_port;
	key.local_port = quoted->source_port;
	value = bpf_map_lookup_elem(&packet_keys, &key);
	if (!value)
		return NOT_OURS;
	number = *value / 2;
	flow = bpf_map_lookup_elem(&packet_flows, &number);
	if (!flow)
		return NOT_OURS;
	return forward_icmp(skb, p, quoted, flow, *value % 2);
}

static __always_inline int handle(struct __sk_buff *skb)
{
	struct packet_scratch *s = scratch();
	struct hg_packet_address *local;
	struct packet *p;

	if (!s)
		return NOT_OURS;
	p = &s->packet;
	if (parse_ip(skb, p))
		return NOT_OURS;
	local = bpf_map_lookup_elem(&packet_addresses, &p->destination);
	if (!local)
		return NOT_OURS;
	if (p->protocol == IPPROTO_TCP)
		return handle_tcp(skb, p, local, s);
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6)
		return handle_icmp(skb, p, local, s);
	return NOT_OURS;
}

SEC("tc")
int packet_ingress(struct __sk_buff *skb)
{
	return handle(skb);
}
