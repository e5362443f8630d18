/* What a frame is: the fields of IP and TCP that the packet path uses, in host
 * order, addresses as 16 bytes.
 */
#ifndef HG_LIB_PACKET_PARSE_H
#define HG_LIB_PACKET_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bpf/abi/packet.h"
#include "bpf/lib/packet_frame.h"

enum {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_PSH = 8,
	TCP_ACK = 16,
	TCP_ECE = 64,
	TCP_CWR = 128,

	TCP_BASE = sizeof(struct tcphdr),
	TCP_MAX_OPTIONS = 40,
};

struct packet {
	struct hg_packet_local source; /* addresses */
	struct hg_packet_local destination;
	__u32 v6;	/* 1: IPv6 */
	__u32 protocol; /* IPPROTO_ */
	__u32 l3;	/* offsets in the frame */
	__u32 l4;
	__u32 end;	/* of the IP packet; Ethernet may pad. A length of 0
			 * means BIG TCP: the frame's */
	__u32 fragment; /* 1: is one */
	__u32 later;	/* 1: and not the first: has no ports */
	__u32 extended; /* 1: IPv6 extension headers before TCP */
	__u32 ttl;
	/* TCP */
	__u32 source_port;
	__u32 destination_port;
	__u32 seq;
	__u32 ack;
	__u32 flags;
	__u32 options; /* bytes */
	__u32 payload; /* bytes */
	__u32 mark;    /* HG_PACKET_MARK_: it comes again; 0: it does not */
	__u32 isn;     /* of the flow when it was found */
	/* For who wants to know; 0: none. */
	__u32 flow;    /* number * 2 + enum hg_side + 1 */
	__u32 service; /* id; of a SYN that begins a connection */
	/* How it leaves; ifindex 0: where it came by. */
	struct bpf_fib_lookup way __attribute__((aligned(8)));
};

static __always_inline void map_v4(struct hg_packet_local *to, __be32 address)
{
	__u32 *words = (__u32 *)to->address;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = address;
}

static __always_inline int same_address(const __u8 *a, const __u8 *b)
{
	const __u64 *halves = (const __u64 *)a, *others = (const __u64 *)b;

	return halves[0] == others[0] && halves[1] == others[1];
}

static __always_inline int is_mapped(const struct hg_packet_local *a)
{
	const __u32 *words = (const __u32 *)a->address;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

/* IPv6 with addresses that stand for IPv4: the kernel takes none, either. */
static __always_inline int is_forged(const struct packet *p)
{
	return p->v6 && (is_mapped(&p->source) || is_mapped(&p->destination));
}

static __always_inline int is_linear(frame_t *frame, __u32 need)
{
	void *data = (void *)(long)frame->data;

	return data + need <= (void *)(long)frame->data_end;
}

/* 0: `need` bytes of the frame can be read directly. */
static __always_inline int need_linear(frame_t *frame, __u32 need)
{
	if (is_linear(frame, need))
		return 0;
	return pull(frame, need) || !is_linear(frame, need);
}

static __always_inline int parse_v4(frame_t *frame, struct packet *p)
{
	void *data = (void *)(long)frame->data;
	void *data_end = (void *)(long)frame->data_end;
	struct iphdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > data_end || ip->version != 4 || ip->ihl < 5)
		return -1;
	p->v6 = 0;
	p->protocol = ip->protocol;
	p->l3 = ETH_HLEN;
	p->l4 = ETH_HLEN + ip->ihl * 4;
	p->end = ip->tot_len ? ETH_HLEN + bpf_ntohs(ip->tot_len)
			     : frame_length(frame);
	p->fragment = (ip->frag_off & bpf_htons(0x3fff)) != 0;
	p->later = (ip->frag_off & bpf_htons(0x1fff)) != 0;
	p->extended = 0;
	p->ttl = ip->ttl;
	map_v4(&p->source, ip->saddr);
	map_v4(&p->destination, ip->daddr);
	return 0;
}

static __always_inline int is_extension(__u32 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING ||
	       next == IPPROTO_FRAGMENT || next == IPPROTO_DSTOPTS;
}

/* A header of one option, which has the length of what is longer than 64 KiB
 * (RFC 2675): by the kernel that joined segments to that, behind XDP.
 */
static __always_inline int is_jumbo(const struct ipv6hdr *ip, __u32 next,
				    const __u8 *head)
{
	return HOOK == HG_HOOK_TC && next == IPPROTO_HOPOPTS &&
	       !ip->payload_len && !head[1] && head[2] == 0xc2;
}

static __always_inline int parse_v6(frame_t *frame, struct packet *p)
{
	void *data = (void *)(long)frame->data;
	void *data_end = (void *)(long)frame->data_end;
	struct ipv6hdr *ip = data + ETH_HLEN;
	__u32 next;

	if ((void *)(ip + 1) > data_end)
		return -1;
	p->v6 = 1;
	p->l3 = ETH_HLEN;
	p->l4 = ETH_HLEN + sizeof(*ip);
	p->end = ip->payload_len ? p->l4 + bpf_ntohs(ip->payload_len)
				 : frame_length(frame);
	p->fragment = 0;
	p->later = 0;
	p->extended = 0;
	p->ttl = ip->hop_limit;
	__builtin_memcpy(&p->source, &ip->saddr, 16);
	__builtin_memcpy(&p->destination, &ip->daddr, 16);
	next = ip->nexthdr;
	for (int i = 0; i < 6 && !p->later && is_extension(next); i++) {
		/* Next header, length beyond the first 8, and an option's kind;
		 * of a fragment, the offset is in the upper 13 bits of the last
		 * two.
		 */
		__u8 head[4];

		if (load(frame, p->l4, head, sizeof(head)))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			p->fragment = 1;
			p->later = (head[2] | head[3] >> 3) != 0;
		}
		if (!is_jumbo(ip, next, head))
			p->extended = 1;
		p->l4 += next == IPPROTO_FRAGMENT ? 8 : 8 + head[1] * 8;
		next = head[0];
	}
	p->protocol = next;
	return 0;
}

/* Ethernet and IP. 0: an IP packet. */
static __always_inline int parse_ip(frame_t *frame, struct packet *p)
{
	__be16 protocol = frame_protocol(frame);

	if (protocol == bpf_htons(ETH_P_IP))
		return need_linear(frame, ETH_HLEN + sizeof(struct iphdr)) ||
		       parse_v4(frame, p);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return need_linear(frame, ETH_HLEN + sizeof(struct ipv6hdr)) ||
		       parse_v6(frame, p);
	return -1;
}

/* 0: a segment whose lengths fit together. */
static __always_inline int parse_tcp(frame_t *frame, struct packet *p)
{
	struct tcphdr *tcp;
	void *data, *data_end;
	__u32 l4 = p->l4 & 0xff; /* for the verifier */
	__u32 head;

	if (l4 != p->l4 || p->end > frame_length(frame) ||
	    need_linear(frame, l4 + sizeof(*tcp)))
		return -1;
	data = (void *)(long)frame->data;
	data_end = (void *)(long)frame->data_end;
	tcp = data + l4;
	if ((void *)(tcp + 1) > data_end)
		return -1;
	head = tcp->doff * 4;
	if (head < TCP_BASE || l4 + head > p->end)
		return -1;
	p->source_port = bpf_ntohs(tcp->source);
	p->destination_port = bpf_ntohs(tcp->dest);
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack_seq);
	p->flags = ((__u8 *)tcp)[13];
	p->options = head - TCP_BASE;
	p->payload = p->end - l4 - head;
	return 0;
}

/* Or IPv6 extension headers. */
static __always_inline int has_ip_options(const struct packet *p)
{
	__u32 head = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	return p->l4 - p->l3 != head;
}

static __always_inline int before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

#endif
