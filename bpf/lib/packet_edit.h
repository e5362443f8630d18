/* Changes to a frame. All functions answer 0, or the exit to take. */
#ifndef HG_LIB_PACKET_EDIT_H
#define HG_LIB_PACKET_EDIT_H

#include <stddef.h>

#include "bpf/lib/packet_flow.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_parse.h"

enum {
	TCP_OPTION_END = 0,
	TCP_OPTION_NOP = 1,
	TCP_OPTION_MSS = 2,
	TCP_OPTION_SACK = 5,
	TCP_OPTION_MD5 = 19,
	TCP_OPTION_AO = 29,
	TCP_OPTION_MPTCP = 30,
	TCP_OPTION_FAST_OPEN = 34,
	TCP_OPTION_EXPERIMENT = 254, /* Fast Open before RFC 7413 */
};

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u64 sum_words(const void *data, __u32 words)
{
	const __u32 *word = data;
	__u64 sum = 0;

	for (__u32 i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

/* Of the addresses as they stand in the IP header: the last word of IPv4. */
static __always_inline __u64 sum_address(const struct hg_packet_local *a,
					 __u32 v6)
{
	const __u32 *words = (const __u32 *)a->address;

	return v6 ? sum_words(words, 4) : words[3];
}

/* Of the pseudo-header of TCP. */
static __always_inline __u64 sum_pseudo(const struct hg_packet_local *source,
					const struct hg_packet_local *destination,
					__u32 v6, __u32 length)
{
	return sum_address(source, v6) + sum_address(destination, v6) +
	       bpf_htonl(length) + bpf_htons(IPPROTO_TCP);
}

/* What a sum must grow by when `from` is replaced by `to`. */
static __always_inline __u32 sum_difference(__u64 from, __u64 to)
{
	return fold(to) + (__u16)~fold(from);
}

/* ---- the IP and TCP headers ---------------------------------------------- */

struct rewrite {
	const struct hg_packet_local *source;
	const struct hg_packet_local *destination;
	__u32 source_port;
	__u32 destination_port;
	__u32 seq;
	__u32 ack;
	__u32 ttl;
	__u32 options_sum; /* what the options' sum has grown by */
};

static __always_inline void write_v4(struct iphdr *ip, const struct rewrite *to)
{
	__u64 sum = (__u16)~ip->check;

	sum += (__u16) ~*(__u16 *)&ip->ttl;
	sum += (__u32)~ip->saddr;
	sum += (__u32)~ip->daddr;
	ip->ttl = to->ttl;
	ip->saddr = ((const __u32 *)to->source->address)[3];
	ip->daddr = ((const __u32 *)to->destination->address)[3];
	sum += *(__u16 *)&ip->ttl;
	sum += ip->saddr;
	sum += ip->daddr;
	ip->check = ~fold(sum);
}

static __always_inline void write_v6(struct ipv6hdr *ip,
				     const struct rewrite *to)
{
	ip->hop_limit = to->ttl;
	__builtin_memcpy(&ip->saddr, to->source->address, 16);
	__builtin_memcpy(&ip->daddr, to->destination->address, 16);
}

/* IPv6 has no sum of its own that the hop limit would cancel out in. */
static __always_inline void add_ttl_to_frame_sum(frame_t *frame,
						 const struct packet *p,
						 const struct rewrite *to)
{
	if (p->v6)
		add_to_frame_sum(frame, sum_difference(bpf_htons(p->ttl),
						       bpf_htons(to->ttl)));
}

static __noinline int rewrite(frame_t *frame, const struct packet *p,
			      const struct rewrite *to)
{
	__u32 l4 = p->l4 & 0xff;
	__u32 check = l4 + offsetof(struct tcphdr, check);
	__u64 from_sum, to_sum;
	__u32 addresses, fields;
	struct tcphdr *tcp;
	void *data, *data_end;

	if (need_linear(frame, l4 + TCP_BASE))
		return HG_PACKET_FAILED;
	data = (void *)(long)frame->data;
	data_end = (void *)(long)frame->data_end;
	tcp = data + l4;
	if (data + ETH_HLEN + sizeof(struct ipv6hdr) > data_end ||
	    (void *)(tcp + 1) > data_end)
		return HG_PACKET_FAILED;
	if (p->v6)
		write_v6(data + ETH_HLEN, to);
	else
		write_v4(data + ETH_HLEN, to);
	from_sum = sum_words(tcp, 3);
	tcp->source = bpf_htons(to->source_port);
	tcp->dest = bpf_htons(to->destination_port);
	tcp->seq = bpf_htonl(to->seq);
	tcp->ack_seq = bpf_htonl(to->ack);
	to_sum = sum_words(tcp, 3);
	fields = sum_difference(from_sum, to_sum + to->options_sum);
	addresses = sum_difference(sum_address(&p->source, p->v6) +
				       sum_address(&p->destination, p->v6),
				   sum_address(to->source, p->v6) +
				       sum_address(to->destination, p->v6));
	if (add_addresses_to_sum(frame, check, addresses, p->v6) ||
	    add_to_sum(frame, check, fields))
		return HG_PACKET_FAILED;
	add_ttl_to_frame_sum(frame, p, to);
	return 0;
}

/* The packet shall end at p->end. */
static __always_inline int write_length(frame_t *frame, const struct packet *p)
{
	void *data = (void *)(long)frame->data;
	void *data_end = (void *)(long)frame->data_end;

	if (data + ETH_HLEN + sizeof(struct ipv6hdr) > data_end)
		return HG_PACKET_FAILED;
	if (p->v6) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		ip->payload_len =
		    bpf_htons(p->end - ETH_HLEN - sizeof(struct ipv6hdr));
	} else {
		struct iphdr *ip = data + ETH_HLEN;
		__u64 sum = (__u16)~ip->check;

		sum += (__u16)~ip->tot_len;
		ip->tot_len = bpf_htons(p->end - ETH_HLEN);
		sum += ip->tot_len;
		ip->check = ~fold(sum);
	}
	return 0;
}

/* Cuts the frame off behind so many bytes of TCP. IPv6 of more than 64 KiB loses
 * the header that had its length (see is_jumbo()).
 */
static __noinline int cut_behind(frame_t *frame, struct packet *p, __u32 length)
{
	enum { JUMBO = 8 };
	static const __u8 tcp = IPPROTO_TCP;

	if (set_length(frame, p->l4 + length))
		return HG_PACKET_FAILED;
	if (p->v6 && p->l4 != ETH_HLEN + sizeof(struct ipv6hdr)) {
		if (take_out(frame, JUMBO) ||
		    store(frame, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr),
			  &tcp, 1))
			return HG_PACKET_FAILED;
		p->l4 -= JUMBO;
	}
	p->end = p->l4 + length;
	return 0;
}

struct sum_walk {
	frame_t *frame;
	__u8 *chunk; /* SUM_CHUNK bytes */
	__u32 at;
	__u32 end;
	__u64 sum;
};

static long sum_chunk(__u64 step __attribute__((unused)), struct sum_walk *walk)
{
	__u32 length = walk->end - walk->at;

	if (!length)
		return 1;
	if (length >= SUM_CHUNK) {
		length = SUM_CHUNK;
	} else {
		/* So that verifiers before 6.8 see that it is not 0, too. */
		length--;
		asm volatile("%0 &= %1" : "+r"(length) : "i"(SUM_CHUNK - 1));
		length++;
		/* Odd bytes at the end are summed with zeros behind them. */
		*(__u32 *)(walk->chunk + (length & (SUM_CHUNK - 4))) = 0;
	}
	if (load(walk->frame, walk->at, walk->chunk, length))
		return 1;
	walk->at += length;
	walk->sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)walk->chunk,
					  (length + 3) & ~3U, 0);
	return 0;
}

/* Whether the checksum of a segment, as it came, is right, or hardware's to
 * complete. To be asked before it is sealed, or answered: what is sealed looks
 * right whatever it was before. If it is not, the frame is spoiled. Who has put
 * many into one has looked at each.
 */
static __noinline int is_intact(frame_t *frame, const struct packet *p,
				struct packet_scratch *s)
{
	__u32 length = p->end - p->l4;
	struct sum_walk walk = {
	    .frame = frame,
	    .chunk = s->chunk,
	    .at = p->l4,
	    .end = p->end,
	    .sum = sum_pseudo(&p->source, &p->destination, p->v6, length),
	};

	if (segment_size(frame))
		return 1;
	bpf_loop(length / SUM_CHUNK + 1, sum_chunk, &walk, 0);
	return (walk.at == walk.end && fold(walk.sum) == 0xffff) ||
	       is_partial(frame, p->l4 + offsetof(struct tcphdr, check)) == 1;
}

/* Lengths and checksum of a segment that was made shorter or longer: of 0 to
 * 64 bytes of payload, a multiple of 4.
 */
static __noinline int seal(frame_t *frame, const struct packet *p,
			   const struct rewrite *to, __u8 *buffer)
{
	__u32 l4 = p->l4 & 0xff;
	__u32 check = l4 + offsetof(struct tcphdr, check);
	__u32 length = p->end - p->l4;
	__u64 sum = sum_pseudo(to->source, to->destination, p->v6, length);
	__u16 result = 0;
	int partial;

	if (write_length(frame, p))
		return HG_PACKET_FAILED;
	partial = is_partial(frame, check);
	if (partial < 0)
		return HG_PACKET_FAILED;
	if (partial) {
		result = fold(sum);
	} else {
		if (length < TCP_BASE || length > 128 ||
		    store(frame, check, &result, 2) ||
		    load(frame, l4, buffer, length))
			return HG_PACKET_FAILED;
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)buffer,
					    length & ~3U & 0xff, 0);
		result = ~fold(sum);
	}
	return store(frame, check, &result, 2) ? HG_PACKET_FAILED : 0;
}

/* ---- TCP options --------------------------------------------------------- */

struct option_walk {
	__u8 *options;		    /* 64 bytes */
	const struct hg_flow *flow; /* whose SACK edges move; may be null */
	__u32 length;
	__u32 at;
	__u32 max_mss; /* 0: is no SYN */
	__u32 changed;
	__u32 is_signed;
};

static __always_inline __u32 read_edge(const __u8 *options, __u32 at)
{
	return (__u32)options[at & 63] << 24 | options[(at + 1) & 63] << 16 |
	       options[(at + 2) & 63] << 8 | options[(at + 3) & 63];
}

static __always_inline void write_edge(__u8 *options, __u32 at, __u32 value)
{
	options[at & 63] = value >> 24;
	options[(at + 1) & 63] = value >> 16;
	options[(at + 2) & 63] = value >> 8;
	options[(at + 3) & 63] = value;
}

/* A block within the header becomes empty, which receivers ignore. */
static __always_inline void move_edges(struct option_walk *walk, __u32 length)
{
	for (__u32 i = 0; i < 8; i++) {
		__u32 at = walk->at + 2 + 4 * i;

		if (2 + 4 * i + 4 > length)
			break;
		write_edge(
		    walk->options, at,
		    ack_to_client(walk->flow, read_edge(walk->options, at)));
	}
	walk->changed = 1;
}

static __always_inline void erase_option(struct option_walk *walk, __u32 length)
{
	for (__u32 i = 0; i < TCP_MAX_OPTIONS && i < length; i++)
		walk->options[(walk->at + i) & 63] = TCP_OPTION_NOP;
	walk->changed = 1;
}

static __always_inline void clamp_mss(struct option_walk *walk)
{
	__u32 at = walk->at + 2;
	__u32 mss = walk->options[at & 63] << 8 | walk->options[(at + 1) & 63];

	if (mss <= walk->max_mss)
		return;
	walk->options[at & 63] = walk->max_mss >> 8;
	walk->options[(at + 1) & 63] = walk->max_mss;
	walk->changed = 1;
}

static long visit_option(__u64 step __attribute__((unused)),
			 struct option_walk *walk)
{
	__u32 kind, length;

	if (walk->at >= walk->length)
		return 1;
	kind = walk->options[walk->at & 63];
	length = walk->options[(walk->at + 1) & 63];
	if (kind == TCP_OPTION_END)
		return 1;
	if (kind == TCP_OPTION_NOP) {
		walk->at++;
		return 0;
	}
	if (length < 2 || walk->at + length > walk->length)
		return 1; /* Malformed: the receiver's to judge. */
	if (kind == TCP_OPTION_MD5 || kind == TCP_OPTION_AO)
		walk->is_signed = 1;
	if (walk->max_mss) {
		if (kind == TCP_OPTION_MSS && length == 4)
			clamp_mss(walk);
		if (kind == TCP_OPTION_MPTCP || kind == TCP_OPTION_FAST_OPEN ||
		    kind == TCP_OPTION_EXPERIMENT)
			erase_option(walk, length);
	} else if (kind == TCP_OPTION_SACK && walk->flow) {
		move_edges(walk, length);
	}
	walk->at += length;
	return 0;
}

/* Applies it to the segment's options and adds to `*sum` what their sum has
 * grown by.
 */
static __noinline int edit_options(frame_t *frame, const struct packet *p,
				   struct option_walk *walk, __u32 *sum)
{
	__u32 length = p->options;
	__u32 at = (p->l4 & 0xff) + TCP_BASE;
	__s64 difference;

	if (length < 4 || length > TCP_MAX_OPTIONS)
		return 0;
	if (load(frame, at, walk->options, length))
		return HG_PACKET_FAILED;
	difference =
	    bpf_csum_diff((__be32 *)walk->options, length & ~3U, NULL, 0, 0);
	walk->length = length;
	walk->at = 0;
	bpf_loop(TCP_MAX_OPTIONS, visit_option, walk, 0);
	if (walk->is_signed)
		return HG_PACKET_SIGNED;
	if (!walk->changed)
		return 0;
	difference = bpf_csum_diff(NULL, 0, (__be32 *)walk->options,
				   length & ~3U, (__u32)difference);
	*sum = difference;
	return store(frame, at, walk->options, length) ? HG_PACKET_FAILED : 0;
}

/* Linux's layout of segments without news: two NOPs and the timestamps. */
static __always_inline int only_timestamps(frame_t *frame,
					   const struct packet *p)
{
	__u32 l4 = p->l4 & 0xff;
	void *data = (void *)(long)frame->data;
	void *data_end = (void *)(long)frame->data_end;

	if (p->options != 12 || data + l4 + TCP_BASE + 4 > data_end)
		return 0;
	return *(__be32 *)(data + l4 + TCP_BASE) == bpf_htonl(0x0101080a);
}

#endif
