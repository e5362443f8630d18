/* Every map, with who writes and who reads it. They are weak because each
 * program file that includes this has them; the linker keeps one of each.
 */
#ifndef HG_LIB_MAPS_H
#define HG_LIB_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "bpf/abi/types.h"

/* Written by the control thread, read by selection. Without preallocation an
 * element that is replaced stays readable until its readers are done.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HG_MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct hg_service);
} services SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HG_MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct hg_backend);
} backends SEC(".maps") __weak;

/* In pieces of a hash rather than whole in a map of maps: there every update
 * waits for a grace period, some 10 ms (syscall.c, maybe_wait_bpf_programs).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HG_MAX_TABLES *HG_TABLE_CHUNKS);
	__type(key, __u32);
	__type(value, struct hg_table_chunk);
} tables SEC(".maps") __weak;

/* Counted by the programs and, through a shared mapping, by the workers. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HG_MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct hg_service_stats);
} service_stats SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HG_MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct hg_backend_stats);
} backend_stats SEC(".maps") __weak;

/* Counted as the statistics are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HG_MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct hg_greeting_times);
} greeting_times SEC(".maps") __weak;

/* Counted by the workers. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HG_FALLBACK_COUNT);
	__type(key, __u32); /* enum hg_fallback */
	__type(value, struct hg_counter);
} splice_fallback SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HG_VERDICT_COUNT);
	__type(key, __u32); /* enum hg_verdict */
	__type(value, struct hg_counter);
} splice_verdicts SEC(".maps") __weak;

/* The loader sizes the splice maps by RLIMIT_NOFILE. */

/* Socket cookie of a source -> flow number. Written by the workers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32);
} splice_index SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hg_splice_flow);
} splice_flows SEC(".maps") __weak;

/* Cookie of a source -> its sink. No program runs on this map's sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} splice_sinks SEC(".maps") __weak;

/* Cookie of a source -> itself. The verdict runs on what these receive. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} splice_sources SEC(".maps") __weak;

/* One ring a worker. A flow has at most one event in its ring, so a ring for
 * all flows never overflows.
 */
struct splice_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, HG_MAX_WORKERS);
	__type(key, __u32);
	__array(values, struct splice_ring);
} splice_events SEC(".maps") __weak;

#endif
