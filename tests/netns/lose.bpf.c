/* Loses chosen segments of chosen connections, told apart by the client's port.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "tests/netns/lose.h"

char LICENSE[] SEC("license") = "GPL";

/* By port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct lose_rule);
} lose_rules SEC(".maps");

/* The client's port, by the one that the backend sees; + 65536 for IPv6. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} lose_clients SEC(".maps");

struct segment {
	__u32 v6;
	__u32 source;
	__u32 destination;
	int is_syn;
	int is_end; /* FIN or RST */
	__u32 payload;
	__u32 payload_at;
};

/* IP without options or extension headers. 0: a segment. */
static __always_inline int parse(struct __sk_buff *skb, struct segment *s)
{
	__u32 l4, end;
	struct tcphdr tcp;
	struct iphdr ip;
	struct ipv6hdr ip6;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) ||
		    ip.protocol != IPPROTO_TCP)
			return -1;
		l4 = ETH_HLEN + sizeof(ip);
		end = ETH_HLEN + bpf_ntohs(ip.tot_len);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip6, sizeof(ip6)) ||
		    ip6.nexthdr != IPPROTO_TCP)
			return -1;
		l4 = ETH_HLEN + sizeof(ip6);
		end = l4 + bpf_ntohs(ip6.payload_len);
	} else {
		return -1;
	}
	if (bpf_skb_load_bytes(skb, l4, &tcp, sizeof(tcp)))
		return -1;
	s->v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	s->source = bpf_ntohs(tcp.source);
	s->destination = bpf_ntohs(tcp.dest);
	s->is_syn = tcp.syn;
	s->is_end = tcp.fin || tcp.rst;
	s->payload_at = l4 + tcp.doff * 4;
	s->payload = end - s->payload_at;
	return 0;
}

static __always_inline int has_header(struct __sk_buff *skb,
				      const struct segment *s)
{
	__u8 begin[8];

	return s->payload >= 28 &&
	       !bpf_skb_load_bytes(skb, s->payload_at, begin, sizeof(begin)) &&
	       *(__u32 *)begin == bpf_htonl(0x0d0a0d0a) &&
	       *(__u32 *)(begin + 4) == bpf_htonl(0x000d0a51);
}

static __always_inline int is_lost(struct lose_rule *rule, __u32 what, int up)
{
	if (!(rule->what & what))
		return 0;
	if (rule->times) {
		if (rule->lost >= rule->times)
			return 0;
	} else if (bpf_get_prandom_u32() % 100 >= rule->percent) {
		rule->row[up] = 0;
		return 0;
	}
	rule->row[up]++;
	if (rule->row[up] > rule->longest_row)
		rule->longest_row = rule->row[up];
	__sync_fetch_and_add(&rule->lost, 1);
	return 1;
}

static __always_inline int pass_or_lose(__u32 port, __u32 what, int up)
{
	struct lose_rule *rule = bpf_map_lookup_elem(&lose_rules, &port);

	return rule && is_lost(rule, what, up) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("tc")
int at_client(struct __sk_buff *skb)
{
	struct segment s;

	if (parse(skb, &s))
		return TC_ACT_UNSPEC;
	return pass_or_lose(s.destination,
			    (s.is_syn ? LOSE_SYN_ACK : 0) |
				(s.payload ? LOSE_DATA : 0),
			    0);
}

SEC("tc")
int from_client(struct __sk_buff *skb)
{
	struct segment s;

	if (parse(skb, &s) || s.is_syn || s.is_end || s.payload)
		return TC_ACT_UNSPEC;
	return pass_or_lose(s.source, LOSE_ACK, 1);
}

/* Who the client is, the header says, which comes ahead of all data. 0: it has
 * not come.
 */
static __always_inline __u32 client_of(struct __sk_buff *skb,
				       const struct segment *s, int header)
{
	__u32 key = s->v6 << 16 | s->source;
	__u32 at = s->payload_at + (s->v6 ? 48 : 24);
	__be16 in_header;
	__u32 port, *known;

	if (header && !bpf_skb_load_bytes(skb, at, &in_header, 2)) {
		port = bpf_ntohs(in_header);
		bpf_map_update_elem(&lose_clients, &key, &port, BPF_ANY);
	}
	known = bpf_map_lookup_elem(&lose_clients, &key);
	return known ? *known : 0;
}

SEC("tc")
int at_backend(struct __sk_buff *skb)
{
	struct segment s;
	int header;

	if (parse(skb, &s) || !s.payload)
		return TC_ACT_UNSPEC;
	header = has_header(skb, &s);
	return pass_or_lose(client_of(skb, &s, header),
			    (header ? LOSE_HEADER : 0) | LOSE_DATA, 1);
}
