/* The splice program without any of its rules, to show what the kernel does
 * then, and a probe on the kernel function that sends what was redirected.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

/* Cookie of a source -> its sink. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u64);
} naive_sinks SEC(".maps");

/* Cookie of a source -> itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u64);
} naive_sources SEC(".maps");

int pass_fin;
__u64 backlog_runs;

SEC("sk_skb/stream_verdict")
int naive_verdict(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb);

	if (skb->len == 0 && pass_fin)
		return SK_PASS;
	return bpf_sk_redirect_hash(skb, &naive_sinks, &cookie, 0);
}

SEC("fexit/sk_psock_backlog")
int count_backlog_run(void *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&backlog_runs, 1);
	return 0;
}
