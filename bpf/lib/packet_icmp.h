/* ICMP errors about packets that were sent on from here: they name addresses
 * that the other end does not know. 8 bytes of TCP are all that they must quote
 * (RFC 792, RFC 4443): the ports and the sequence number.
 */
#ifndef HG_LIB_PACKET_ICMP_H
#define HG_LIB_PACKET_ICMP_H

#include "bpf/lib/packet_answer.h"
#include "bpf/lib/packet_edit.h"
#include "bpf/lib/packet_error.h"
#include "bpf/lib/packet_flow.h"
#include "bpf/lib/packet_keys.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_open.h"
#include "bpf/lib/packet_parse.h"
#include "bpf/lib/packet_send.h"
#include "bpf/lib/packet_table.h"

enum {
	ICMP_HEAD = 8,	 /* what stands before the quoted packet */
	QUOTED_SUM = 18, /* TCP's checksum as well */
};

/* Those that say what became of a packet; the others are for this machine. */
static __always_inline int is_icmp_error(const struct packet *p, __u32 type)
{
	if (p->v6)
		return p->protocol == IPPROTO_ICMPV6 && type >= 1 && type <= 4;
	return p->protocol == IPPROTO_ICMP &&
	       (type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED ||
		type == 12);
}

/* The IP header at `at`, as if it had come in. Answers where TCP begins; 0: it
 * does not, as in a later fragment.
 */
static __always_inline __u32 parse_quoted_ip(frame_t *frame,
					     const struct packet *p, __u32 at,
					     struct packet *quoted)
{
	void *data = (void *)(long)frame->data;
	void *data_end = (void *)(long)frame->data_end;

	if (p->v6) {
		struct ipv6hdr *ip = data + at;

		if ((void *)(ip + 1) > data_end || ip->nexthdr != IPPROTO_TCP)
			return 0;
		__builtin_memcpy(&quoted->source, &ip->saddr, 16);
		__builtin_memcpy(&quoted->destination, &ip->daddr, 16);
		return at + sizeof(*ip);
	} else {
		struct iphdr *ip = data + at;

		if ((void *)(ip + 1) > data_end || ip->ihl < 5 ||
		    ip->protocol != IPPROTO_TCP ||
		    (ip->frag_off & bpf_htons(0x1fff)))
			return 0;
		map_v4(&quoted->source, ip->saddr);
		map_v4(&quoted->destination, ip->daddr);
		return at + ip->ihl * 4;
	}
}

/* The quoted packet as if it had come in; 0: it is TCP, from `p`'s destination.
 */
static __always_inline int parse_quoted(frame_t *frame, const struct packet *p,
					struct packet *quoted)
{
	__u32 at = (p->l4 & 0xff) + ICMP_HEAD; /* for the verifier */
	__u32 head = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 l4;
	__be32 *tcp;

	if (at != p->l4 + ICMP_HEAD || need_linear(frame, at + head))
		return -1;
	l4 = parse_quoted_ip(frame, p, at, quoted) & 0x1ff;
	if (!l4 || l4 + QUOTED_TCP > p->end ||
	    l4 + QUOTED_SUM - 1 == p->end) /* Half of it tells, too. */
		return -1;
	if (need_linear(frame, l4 + (l4 + QUOTED_SUM > p->end ? QUOTED_TCP
							       : QUOTED_SUM)))
		return -1;
	tcp = (void *)(long)frame->data + l4;
	if ((void *)(tcp + 2) > (void *)(long)frame->data_end)
		return -1;
	quoted->l3 = at;
	quoted->l4 = l4;
	quoted->source_port = bpf_ntohl(tcp[0]) >> 16;
	quoted->destination_port = bpf_ntohl(tcp[0]) & 0xffff;
	quoted->seq = bpf_ntohl(tcp[1]);
	return same_address(quoted->source.address, p->destination.address)
		   ? 0
		   : -1;
}

/* Of TCP's checksum, if it is quoted: the other end's would tell the client
 * `shift`, and nobody sums what is there only in part. Answers what it was.
 */
static __always_inline __u16 take_quoted_sum(frame_t *frame,
					     const struct packet *p, __u32 l4)
{
	__u16 *check = (void *)(long)frame->data + l4 + QUOTED_SUM - 2;
	__u16 was;

	if (l4 + QUOTED_SUM > p->end ||
	    (void *)(check + 1) > (void *)(long)frame->data_end)
		return 0;
	was = *check;
	*check = 0;
	return was;
}

static __always_inline int write_quoted(frame_t *frame, const struct packet *p,
					const struct packet *quoted,
					const struct rewrite *to,
					__u32 *difference)
{
	void *data = (void *)(long)frame->data;
	void *data_end = (void *)(long)frame->data_end;
	__u32 at = quoted->l3 & 0x1ff, l4 = quoted->l4 & 0x1ff;
	__u64 from_sum, to_sum;
	__be32 *tcp = data + l4;

	if ((void *)(tcp + 2) > data_end)
		return HG_PACKET_FAILED;
	from_sum = sum_words(tcp, 2);
	tcp[0] = bpf_htonl(to->source_port << 16 | to->destination_port);
	tcp[1] = bpf_htonl(to->seq);
	to_sum = sum_words(tcp, 2);
	if (p->v6) {
		struct ipv6hdr *ip = data + at;

		if ((void *)(ip + 1) > data_end)
			return HG_PACKET_FAILED;
		from_sum += sum_words(&ip->saddr, 8);
		__builtin_memcpy(&ip->saddr, to->source->address, 16);
		__builtin_memcpy(&ip->daddr, to->destination->address, 16);
		to_sum += sum_words(&ip->saddr, 8);
	} else {
		struct iphdr *ip = data + at;
		struct rewrite same = *to;

		if ((void *)(ip + 1) > data_end)
			return HG_PACKET_FAILED;
		same.ttl = ip->ttl;
		write_v4(ip, &same); /* Its own sum makes up for it. */
	}
	from_sum += take_quoted_sum(frame, p, l4);
	*difference = sum_difference(from_sum, to_sum);
	return 0;
}

/* `outer`: the addresses of the error itself; `inner`: the packet that the
 * receiver of the error has sent.
 */
static __noinline int rewrite_icmp(frame_t *frame, const struct packet *p,
				   const struct packet *quoted,
				   const struct rewrite *outer,
				   const struct rewrite *inner)
{
	__u32 check = (p->l4 & 0xff) + 2;
	void *data, *data_end;
	__u32 difference;

	if (write_quoted(frame, p, quoted, inner, &difference))
		return HG_PACKET_FAILED;
	data = (void *)(long)frame->data;
	data_end = (void *)(long)frame->data_end;
	if (data + ETH_HLEN + sizeof(struct ipv6hdr) > data_end)
		return HG_PACKET_FAILED;
	if (p->v6)
		write_v6(data + ETH_HLEN, outer);
	else
		write_v4(data + ETH_HLEN, outer);
	if (add_to_sum(frame, check, difference))
		return HG_PACKET_FAILED;
	add_ttl_to_frame_sum(frame, p, outer);
	if (!p->v6)
		return 0;
	difference = sum_difference(
	    sum_address(&p->source, 1) + sum_address(&p->destination, 1),
	    sum_address(outer->source, 1) + sum_address(outer->destination, 1));
	return add_addresses_to_sum(frame, check, difference, 1)
		   ? HG_PACKET_FAILED
		   : 0;
}

/* The error comes from whom the receiver talks to, as far as it knows. */
static __noinline int forward_icmp(frame_t *frame, struct packet *p,
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
	exit = rewrite_icmp(frame, p, quoted, &outer, &inner);
	return sent(exit ? exit : forward(frame, p, &outer),
		    HG_PACKET_ICMP_ERROR);
}

/* Whether the error says of the flow's SYN that it does not get to the backend. */
static __always_inline int says_unreachable(const struct packet *p,
					    const __u8 *kind,
					    const struct packet *quoted,
					    const struct hg_flow *flow)
{
	if (flow->state != HG_FLOW_SYN_SENT ||
	    quoted->seq != flow->isn + flow->shift)
		return 0;
	if (p->v6)
		return kind[0] == ICMPV6_DEST_UNREACH;
	return kind[0] == ICMP_UNREACHABLE &&
	       kind[1] != ICMP_FRAGMENTATION_NEEDED;
}

/* What is about no flow is for a socket of this machine, if for anyone. */
static __always_inline int handle_icmp(frame_t *frame, struct packet *p,
				       const struct hg_packet_address *local,
				       struct packet_scratch *s)
{
	struct packet *quoted = &s->quoted;
	struct hg_flow_key key;
	struct hg_flow *flow;
	__u32 value, number;
	__u8 kind[2]; /* type, code */
	int exit;

	if (load(frame, p->l4, kind, 2) || !is_icmp_error(p, kind[0]) ||
	    is_forged(p) || parse_quoted(frame, p, quoted))
		return VERDICT_NOT_OURS;
	__builtin_memcpy(key.remote, quoted->destination.address, 16);
	key.local = local->id;
	key.remote_port = quoted->destination_port;
	key.local_port = quoted->source_port;
	value = find_key(&key, NO_VALUE);
	if (value == NO_VALUE)
		return VERDICT_NOT_OURS;
	p->flow = value + 1;
	if (p->fragment)
		return drop(HG_PACKET_FRAGMENT);
	if (p->extended)
		return drop(HG_PACKET_EXTENSION);
	number = value / 2;
	flow = bpf_map_lookup_elem(&packet_flows, &number);
	if (!flow)
		return VERDICT_NOT_OURS;
	p->isn = flow->isn;
	if (flow->state == HG_FLOW_MOVING)
		return drop(HG_PACKET_EARLY);
	if (value % 2 == HG_FROM_BACKEND &&
	    says_unreachable(p, kind, quoted, flow)) {
		exit = refuse_client(flow, HG_FLOW_UNREACHABLE, s);
		if (exit)
			return drop(exit);
		if (is_taken_over(flow, p))
			return drop(HG_PACKET_EARLY);
		close_flow(flow, number);
	} else if (value % 2 == HG_FROM_BACKEND &&
		   !is_believed(frame, p, flow)) {
		return drop(HG_PACKET_REVERSE_PATH);
	}
	return forward_icmp(frame, p, quoted, flow, value % 2);
}

#endif
