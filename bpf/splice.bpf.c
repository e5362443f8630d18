/* splice_verdict: the kernel carries a direction of a connection. It runs on
 * every skb that a source socket receives and sends it out of the sink socket.
 *
 * sk_skb redirects have no flow control, no memory limit and no order against
 * bytes that userspace moves (net/core/skmsg.c); the rules here supply them:
 *   - an skb without bytes is a bare FIN: sending it on would kill the sink;
 *   - bytes seen before (an overlapping retransmission) are cut off, because
 *     tcp_read_skb() hands over whole skbs;
 *   - bytes go to userspace while it still has earlier ones, or while the
 *     sink's backlog is full; there the receive buffer bounds them and the
 *     sender's window closes;
 *   - bytes are never dropped.
 */
#include "bpf/lib/maps.h"
#include "bpf/lib/kernel.h"

#include <stdbool.h>

char LICENSE[] SEC("license") = "GPL";

enum {
	MAX_CUT = 4095,		/* of one bpf_skb_adjust_room */
	MAX_CUTS = 40,		/* a 64 KiB skb, and some */
	SKB_OVERHEAD = 3072,	/* of memory: an Ethernet frame may sit
				 * in a page of its own */
};

static __always_inline void count(enum hg_verdict verdict)
{
	__u32 key = verdict;
	struct hg_counter *counter;

	counter = bpf_map_lookup_elem(&splice_verdicts, &key);
	if (counter)
		counter->count++;
}

static __always_inline void notify(struct hg_splice_flow *flow, __u32 number)
{
	struct hg_splice_event event = {
		.flow = number, .generation = flow->generation,
	};
	__u32 worker = flow->worker;
	void *ring;

	if (__sync_lock_test_and_set(&flow->notified, 1))
		return;
	ring = bpf_map_lookup_elem(&splice_events, &worker);
	if (ring)
		bpf_ringbuf_output(ring, &event, sizeof(event), 0);
}

static __always_inline int pass(struct __sk_buff *skb,
				struct hg_splice_flow *flow, __u32 number,
				enum hg_verdict verdict)
{
	count(verdict);
	flow->passed += skb->len;
	notify(flow, number);
	return SK_PASS;
}

static __always_inline __u32 skb_seq(struct __sk_buff *skb)
{
	struct sk_buff *kernel_skb = bpf_cast_to_kern_ctx(skb);
	struct tcp_skb_cb *cb = bpf_rdonly_cast(
		kernel_skb->cb, bpf_core_type_id_kernel(struct tcp_skb_cb));

	return cb->seq;
}

/* Cuts `bytes` off the front; false when the kernel will not. */
static __always_inline bool cut_front(struct __sk_buff *skb, __u32 bytes)
{
	for (int i = 0; i < MAX_CUTS && bytes; i++) {
		__u32 step = bytes < MAX_CUT ? bytes : MAX_CUT;

		if (bpf_skb_adjust_room(skb, -(__s32)step, 0, 0))
			return false;
		bytes -= step;
	}
	return bytes == 0;
}

struct sink_state {
	__u32 write_seq;
	__u32 queued_skbs;	/* redirected, not yet in the send queue */
};

/* False when there is no sink. */
static __always_inline bool read_sink(__u64 cookie, struct sink_state *state)
{
	struct bpf_sock *sink = bpf_map_lookup_elem(&splice_sinks, &cookie);
	struct tcp_sock *tcp;
	struct sk_psock *psock;
	struct sock *sock;

	if (!sink)
		return false;
	tcp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sink);
	if (tcp) {
		state->write_seq = tcp->write_seq;
		sock = bpf_rdonly_cast(tcp,
				       bpf_core_type_id_kernel(struct sock));
		psock = bpf_rdonly_cast(
			(void *)((__u64)sock->sk_user_data & ~7ULL),
			bpf_core_type_id_kernel(struct sk_psock));
		state->queued_skbs = psock->ingress_skb.qlen;
	}
	bpf_sk_release(sink);
	return tcp != NULL;
}

/* What waits costs memory: its bytes, and what every skb takes besides, or a
 * sender of single bytes would cost a thousand times its limit.
 */
static __always_inline bool has_room(const struct hg_splice_flow *flow,
				     const struct sink_state *sink,
				     __u32 length)
{
	__u32 bytes = (__u32)(flow->redirected + flow->relayed) -
		      (sink->write_seq - flow->sink_seq);
	__u64 cost = bytes + (__u64)sink->queued_skbs * SKB_OVERHEAD;

	return cost == 0 || cost + length + SKB_OVERHEAD <= flow->backlog_limit;
}

static __always_inline void start(struct __sk_buff *skb,
				  struct hg_splice_flow *flow, __u32 write_seq)
{
	struct tcp_sock *source = NULL;

	if (skb->sk)
		source = (struct tcp_sock *)bpf_skc_to_tcp_sock(skb->sk);
	flow->next_seq = source ? source->copied_seq : skb_seq(skb);
	flow->sink_seq = write_seq;
	flow->started = 1;
}

static __always_inline void count_bytes(const struct hg_splice_flow *flow,
					__u32 length)
{
	__u32 service = flow->service;
	struct hg_service_stats *stats;

	stats = bpf_map_lookup_elem(&service_stats, &service);
	if (!stats)
		return;
	if (flow->outward)
		__sync_fetch_and_add(&stats->bytes_out, length);
	else
		__sync_fetch_and_add(&stats->bytes_in, length);
}

SEC("sk_skb/stream_verdict")
int splice_verdict(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct hg_splice_flow *flow = NULL;
	struct sink_state sink = {};
	__u32 *number, length;
	__s32 overlap;
	bool has_sink;

	if (skb->len == 0) {
		count(HG_VERDICT_EMPTY);
		return SK_DROP;
	}
	number = bpf_map_lookup_elem(&splice_index, &cookie);
	if (number)
		flow = bpf_map_lookup_elem(&splice_flows, number);
	if (!flow) {
		count(HG_VERDICT_PASSED_UNKNOWN);
		return SK_PASS;
	}
	has_sink = read_sink(cookie, &sink);
	if (!flow->started)
		start(skb, flow, sink.write_seq);
	flow->last_active = bpf_ktime_get_ns();

	overlap = flow->next_seq - skb_seq(skb);
	if (overlap > 0) {
		if (overlap >= (__s32)skb->len) {
			count(HG_VERDICT_DUPLICATE);
			overlap = skb->len;
		}
		if (!cut_front(skb, overlap)) {
			flow->mode = HG_SPLICE_BROKEN;
			return pass(skb, flow, *number,
				    HG_VERDICT_PASSED_BROKEN);
		}
		if (skb->len == 0)
			return SK_DROP;
	}
	length = skb->len;
	flow->next_seq += length;

	if (flow->mode != HG_SPLICE_ON)
		return pass(skb, flow, *number, HG_VERDICT_PASSED_MODE);
	if (flow->passed != flow->relayed)
		return pass(skb, flow, *number, HG_VERDICT_PASSED_ORDER);
	if (!has_sink)
		return pass(skb, flow, *number, HG_VERDICT_PASSED_NO_SINK);
	if (!has_room(flow, &sink, length))
		return pass(skb, flow, *number, HG_VERDICT_PASSED_BACKLOG);
	if (bpf_sk_redirect_hash(skb, &splice_sinks, &cookie, 0) != SK_PASS)
		return pass(skb, flow, *number, HG_VERDICT_PASSED_FAILED);
	flow->redirected += length;
	count_bytes(flow, length);
	count(HG_VERDICT_REDIRECTED);
	return SK_PASS;
}
