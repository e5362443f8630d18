/* What is told of packets while somebody listens: each frame as it came and as
 * it left. Off, it costs a look at packet_trace.until.
 */
#ifndef HG_LIB_PACKET_TRACE_H
#define HG_LIB_PACKET_TRACE_H

#include "bpf/lib/packet_answer.h"
#include "bpf/lib/packet_maps.h"
#include "bpf/lib/packet_parse.h"
#include "bpf/lib/packet_send.h"
#include "bpf/lib/packet_table.h"

/* Written by the control thread, but for `lost`. */
extern struct hg_trace packet_trace;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} packet_events SEC(".maps") __weak;

/* The event while its packet is handled; `time` is 0 when there is none. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hg_trace_event);
} packet_event SEC(".maps") __weak;

static __always_inline struct hg_trace_event *this_event(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&packet_event, &key);
}

/* The frame's first bytes; answers how many it has. */
static __always_inline __u32 copy_frame(frame_t *frame, __u8 *to)
{
	__u32 size = frame_length(frame), copied = size;

	/* The verifier must see both of this very register. */
	asm volatile("" : "+r"(copied));
	if (copied > HG_TRACE_BYTES)
		copied = HG_TRACE_BYTES;
	asm volatile("" : "+r"(copied));
	if (copied < ETH_HLEN || load(frame, 0, to, copied))
		return 0;
	return size;
}

static __noinline int trace_arrival(frame_t *frame)
{
	struct hg_trace_event *event = this_event();

	if (!event)
		return 0;
	event->time = 0; /* That of one that was not ours may stand there. */
	/* The daemon may have been killed while it listened. */
	if (now_seconds() > packet_trace.until)
		return 0;
	event->time = bpf_ktime_get_ns();
	event->came_by = arrived_at(frame);
	event->again = mark_of(frame) != 0;
	event->size_before = copy_frame(frame, event->before);
	return 0;
}

static __always_inline int is_client(const __u8 *client, __u32 port)
{
	const __u32 *a = (const __u32 *)packet_trace.client;
	const __u32 *b = (const __u32 *)client;

	if (packet_trace.client_port && packet_trace.client_port != port)
		return 0;
	if (!(a[0] | a[1] | a[2] | a[3]))
		return 1;
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* Says whose packet it is; 0: one that nobody asked for. Without a flow, who
 * sent it is taken for the client.
 */
static __always_inline int identify(struct hg_trace_event *event,
				    const struct packet *p)
{
	__u32 number = (p->flow - 1) / 2;
	const struct hg_flow *flow = NULL;

	if (p->flow)
		flow = bpf_map_lookup_elem(&packet_flows, &number);
	event->flow = flow ? p->flow : 0;
	event->service = flow && !p->service ? flow->service : p->service;
	event->backend = flow ? flow->backend : 0;
	if (packet_trace.service && packet_trace.service != event->service)
		return 0;
	return flow ? is_client(flow->client, flow->client_port)
		    : is_client(p->source.address, p->source_port);
}

static __noinline int trace_departure(frame_t *frame, __u32 verdict, __u32 exit)
{
	struct hg_trace_event *event = this_event();
	struct packet_scratch *s = scratch();

	if (!event || !s || !event->time)
		return 0;
	if (identify(event, &s->packet)) {
		event->exit = exit;
		event->size_after = 0;
		event->left_by = 0;
		if (verdict != VERDICT_DROP) {
			event->size_after = copy_frame(frame, event->after);
			event->left_by = s->packet.way.ifindex
					     ? s->packet.way.ifindex
					     : event->came_by;
		}
		if (bpf_ringbuf_output(&packet_events, event, sizeof(*event),
				       BPF_RB_NO_WAKEUP))
			__sync_fetch_and_add(&packet_trace.lost, 1);
	}
	event->time = 0;
	return 0;
}

#endif
