/* ICMP errors of our own: the sender of a segment that goes no further is told
 * why (RFC 1191, RFC 4443), from the address that it was sent to.
 */
#ifndef HG_LIB_PACKET_ERROR_H
#define HG_LIB_PACKET_ERROR_H

#include "bpf/lib/packet_answer.h"
#include "bpf/lib/packet_count.h"
#include "bpf/lib/packet_edit.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_parse.h"
#include "bpf/lib/packet_send.h"

enum {
	/* <linux/icmp.h> is for programs with a C library. */
	ICMP_UNREACHABLE = 3,
	ICMP_FRAGMENTATION_NEEDED = 4, /* code */
	ICMP_TIME_EXCEEDED = 11,

	QUOTED_TCP = 8,	      /* ports and sequence number */
	TOS_OF_ERRORS = 0xc0, /* RFC 1812, 4.3.2.5 */

	/* Of each CPU: the kernel's icmp_msgs_per_sec and icmp_msgs_burst. */
	ERRORS_PER_SECOND = 1000,
	ERRORS_AT_ONCE = 50,
};

/* A flood of what cannot be sent on must not become one of errors. */
static __always_inline int may_tell(struct packet_scratch *s)
{
	const __u64 each = 1000000000ULL / ERRORS_PER_SECOND;
	__u64 now = bpf_ktime_get_ns();
	__u64 first = now - (ERRORS_AT_ONCE - 1) * each;
	__u64 due = s->next_error > first ? s->next_error : first;

	if (due > now)
		return 0;
	s->next_error = due + each;
	return 1;
}

/* Of IPv4 also where fragments are allowed, which RFC 1812 would make: there are
 * none on this path, and hosts send less all the same.
 */
static __always_inline void write_reason(const struct packet *p, __u32 exit,
					 struct icmp6hdr *icmp)
{
	int too_big = exit == HG_PACKET_TOO_BIG;

	icmp->icmp6_code = 0;
	icmp->icmp6_cksum = 0;
	icmp->icmp6_mtu = too_big ? bpf_htonl(p->way.mtu_result) : 0;
	if (p->v6) {
		icmp->icmp6_type =
		    too_big ? ICMPV6_PKT_TOOBIG : ICMPV6_TIME_EXCEED;
	} else if (too_big) {
		icmp->icmp6_type = ICMP_UNREACHABLE;
		icmp->icmp6_code = ICMP_FRAGMENTATION_NEEDED;
	} else {
		icmp->icmp6_type = ICMP_TIME_EXCEEDED;
	}
}

/* The beginning of the segment as it came, whatever it has become since. */
static __always_inline int quote(frame_t *frame, const struct packet *p,
				 __u8 *quoted, __u32 length)
{
	struct rewrite as_it_came = {
	    .source = &p->source,
	    .destination = &p->destination,
	    .ttl = p->ttl,
	};
	__be32 *tcp = (void *)quoted + ((length - QUOTED_TCP) & 63);

	if (load(frame, ETH_HLEN, quoted, length))
		return -1;
	if (p->v6)
		write_v6((void *)quoted, &as_it_came);
	else
		write_v4((void *)quoted, &as_it_came);
	tcp[0] = bpf_htonl(p->source_port << 16 | p->destination_port);
	tcp[1] = bpf_htonl(p->seq);
	return 0;
}

/* Nobody is told of a header that came damaged: it may be anybody's (RFC 1812,
 * 5.2.2). `length`: of the quoted IPv4 header.
 */
static __always_inline int is_damaged(const struct packet *p, __u8 *quoted,
				      __u32 length)
{
	return !p->v6 && fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)quoted,
						   length & 0x3c, 0)) != 0xffff;
}

/* `length`: from the ICMP header on. */
static __always_inline void write_v4_head(const struct packet *p,
					  struct icmp_error *e, __u32 length)
{
	e->v4 = (struct iphdr){
	    .version = 4,
	    .ihl = sizeof(e->v4) / 4,
	    .tos = TOS_OF_ERRORS,
	    .tot_len = bpf_htons(sizeof(e->v4) + length),
	    .frag_off = bpf_htons(0x4000), /* DF, and no id for a fragment */
	    .ttl = TTL_OF_OURS,
	    .protocol = IPPROTO_ICMP,
	    .saddr = ((const __u32 *)p->destination.address)[3],
	    .daddr = ((const __u32 *)p->source.address)[3],
	};
	e->v4.check = ~fold(sum_words(&e->v4, sizeof(e->v4) / 4));
}

static __always_inline void write_v6_head(const struct packet *p,
					  struct icmp_error *e, __u32 length)
{
	e->v6 = (struct ipv6hdr){
	    .version = 6,
	    .payload_len = bpf_htons(length),
	    .nexthdr = IPPROTO_ICMPV6,
	    .hop_limit = TTL_OF_OURS,
	};
	__builtin_memcpy(&e->v6.saddr, &p->destination, 16);
	__builtin_memcpy(&e->v6.daddr, &p->source, 16);
}

/* Turns the segment into the error about it, and sends that back to where it
 * came from.
 */
static __noinline int tell_sender(frame_t *frame, const struct packet *p,
				  __u32 exit, struct icmp_error *e)
{
	__u32 quoted = (p->l4 & 0xff) - ETH_HLEN + QUOTED_TCP;
	__u32 head = p->v6 ? sizeof(e->v6) : sizeof(e->v4);
	__u32 length;
	__u64 sum = 0;

	/* The verifier must see the bounds of this very register. */
	asm volatile("" : "+r"(quoted));
	if (quoted < sizeof(e->v4) + QUOTED_TCP || quoted > sizeof(e->quoted) ||
	    quote(frame, p, e->quoted, quoted) ||
	    is_damaged(p, e->quoted, quoted - QUOTED_TCP))
		return HG_PACKET_FAILED;
	length = sizeof(e->icmp) + quoted;
	write_reason(p, exit, &e->icmp);
	if (p->v6) {
		write_v6_head(p, e, length);
		sum = sum_words(&e->v6.saddr, 8) + bpf_htonl(length) +
		      bpf_htons(IPPROTO_ICMPV6);
	} else {
		write_v4_head(p, e, length);
	}
	sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&e->icmp, length & 0x7c,
				    0);
	e->icmp.icmp6_cksum = ~fold(sum);
	if (start_over(frame, ETH_HLEN + head + length) ||
	    store(frame, ETH_HLEN, (void *)&e->icmp - head, head + length) ||
	    swap_macs(frame))
		return HG_PACKET_FAILED;
	return send_back(frame);
}

/* For tc, which finds the same again, and answers. SACK edges stay where they
 * were moved to: nobody gets to see them.
 */
static __always_inline int put_back(frame_t *frame, const struct packet *p,
				    struct packet *now)
{
	struct rewrite as_it_came = {
	    .source = &p->source,
	    .destination = &p->destination,
	    .source_port = p->source_port,
	    .destination_port = p->destination_port,
	    .seq = p->seq,
	    .ack = p->ack,
	    .ttl = p->ttl,
	};

	return parse_ip(frame, now) || rewrite(frame, now, &as_it_came);
}

/* What was dropped for a reason that its sender can do something about is
 * answered, and counts as dropped.
 */
static __always_inline int explain(frame_t *frame, const struct packet *p,
				   int dropped, struct packet_scratch *s)
{
	__u32 exit = (__u32)dropped >> 8;
	int told;

	if (exit != HG_PACKET_TOO_BIG && exit != HG_PACKET_TTL)
		return dropped;
	if (left_for_length(frame))
		return put_back(frame, p, &s->quoted) ? dropped
						      : VERDICT_NOT_OURS;
	if (!may_tell(s))
		return dropped;
	told = tell_sender(frame, p, exit, &s->error);
	return told > 0 ? dropped : outcome(verdict_of(told), exit);
}

#endif
