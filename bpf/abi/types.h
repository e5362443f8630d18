/* What the kernel half and the user half share: keys and values of the maps,
 * and the arguments of the syscall program. This is the only copy; both
 * compilers check the sizes.
 *
 * Byte order: addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d;
 * every number, ports included, is in host order. Ids start at 1; 0 is "none".
 * Counters only grow, but for those named _active; both halves change them
 * with atomic adds. Times are CLOCK_MONOTONIC nanoseconds.
 */
#ifndef HG_ABI_TYPES_H
#define HG_ABI_TYPES_H

#include <linux/types.h>

#ifdef __cplusplus
#define HG_ABI_ASSERT(condition) static_assert(condition, #condition)
#else
#define HG_ABI_ASSERT(condition) _Static_assert(condition, #condition)
#endif

enum hg_limits {
	HG_NAME_LEN = 64,		/* with the final zero */
	HG_MAX_SERVICES = 256,		/* ids 1 to 255 */
	HG_MAX_BACKENDS = 4096,		/* ids 1 to 4095 */
	HG_MAX_SERVICE_BACKENDS = 512,	/* backends of one service */
	HG_MAX_WORKERS = 256,
	HG_TABLE_SIZE = 65521,		/* entries of a Maglev table; prime */
	HG_TABLE_CHUNK = 1024,		/* entries of one map element */
	HG_TABLE_CHUNKS = 64,
	HG_MAX_TABLES = 512,		/* ids 1 to 511 */
};

enum hg_health {
	HG_HEALTH_DOWN = 0,
	HG_HEALTH_UP = 1,
	HG_HEALTH_STARTING = 2,		/* no check has finished yet */
};

enum hg_admin {
	HG_ADMIN_READY = 0,
	HG_ADMIN_DRAIN = 1,		/* keeps connections, takes no new ones */
	HG_ADMIN_MAINT = 2,		/* as drain, and is not checked */
};

enum hg_balance {
	HG_BALANCE_ROUND_ROBIN = 0,
	HG_BALANCE_LEAST_CONNECTIONS = 1,
	HG_BALANCE_MAGLEV = 2,		/* by client address and port */
	HG_BALANCE_SOURCE = 3,		/* by client address, IPv6 by /64 */
	HG_BALANCE_FIRST = 4,		/* the first that is not full */
};

/* services: id -> what selection needs. An element is replaced whole. */
struct hg_service {
	char name[HG_NAME_LEN];
	enum hg_balance balance;
	__u32 panic_threshold;		/* percent; 0: never */
	__u32 use_draining;		/* 1: when nobody else is eligible */
	__u32 table;			/* id; 0: none */
	__u32 backend_count;
	__u32 backends[HG_MAX_SERVICE_BACKENDS];	/* ids */
};
HG_ABI_ASSERT(sizeof(struct hg_service) == 64 + 5 * 4 + 512 * 4);

/* tables: id * HG_TABLE_CHUNKS + chunk -> entries, each a slot: a place in the
 * service's list. An id is written before a service names it, and erased when
 * none does any more.
 */
struct hg_table_chunk {
	__u16 slots[HG_TABLE_CHUNK];
};
HG_ABI_ASSERT(sizeof(struct hg_table_chunk) == 2 * HG_TABLE_CHUNK);
HG_ABI_ASSERT(HG_TABLE_SIZE <= HG_TABLE_CHUNK * HG_TABLE_CHUNKS);

/* backends: id -> one backend of one service. An element is replaced whole. */
struct hg_backend {
	char name[HG_NAME_LEN];
	__u32 service;			/* id */
	__u32 weight;			/* 0 to 256; 0 takes no new connections */
	enum hg_health health;
	enum hg_admin admin;
	__u32 backup;			/* 1: only when no other is eligible */
	__u8 address[16];
	__u32 port;
	__u32 max_connections;		/* 0: no limit */
};
HG_ABI_ASSERT(sizeof(struct hg_backend) == 64 + 5 * 4 + 16 + 2 * 4);

/* service_stats: indexed by service id. */
struct hg_service_stats {
	__u64 cursor;			/* round robin; counts selection steps */
	__u64 connections_total;	/* accepted */
	__u64 connections_active;
	__u64 bytes_in;			/* payload from the client */
	__u64 bytes_out;		/* payload to the client */
	__u64 no_backend;		/* accepted, and nobody to give it to */
	__u64 bytes_copied;		/* of bytes_in and bytes_out: by
					 * userspace; the kernel moved the rest */
	__u64 queue_active;		/* accepted, wait for their turn */
	__u64 queue_timeout;		/* waited for too long */
	__u64 queue_full;		/* found no place to wait */
	__u64 own_active;		/* of connections_active: userspace's,
					 * which end with the daemon */
	__u64 _reserved[5];		/* whole cache lines */
};
HG_ABI_ASSERT(sizeof(struct hg_service_stats) == 128);

/* backend_stats: indexed by backend id. */
struct hg_backend_stats {
	__u64 connections_total;	/* connected, header sent */
	__u64 connections_active;
	__u64 connect_refused;
	__u64 connect_timeout;
	__u64 connect_unreachable;
	__u64 connect_reset;		/* connected, then reset before the header */
	__u64 connect_error;		/* any other reason, local ones included */
	__u64 connect_overtaken;	/* one that was tried later answered first */
	__u64 connect_no_source_port;	/* by source: all its ports are in use */
	__u64 connect_no_source_address; /* by source: the machine lacks it */
	/* After the header, before the backend's first byte and before the
	 * client's end: */
	__u64 early_closed;
	__u64 early_reset;
	__u64 greeting_timeout;
	__u64 down_resets;		/* connections reset as it went down */
	__u64 crowded;			/* no counter; 1: many source ports are
					 * in use. Set by the control thread */
	__u64 own_active;		/* as in hg_service_stats */
};
HG_ABI_ASSERT(sizeof(struct hg_backend_stats) == 128);

/* Upper bounds of the time to a backend's first byte, in milliseconds. */
#define HG_GREETING_BOUNDS_MS                                          \
	1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000

/* greeting_times: indexed by backend id. From the start of the connect that
 * succeeded, or of the client's on the packet path, to the first byte, a
 * histogram.
 */
struct hg_greeting_times {
	__u64 counts[14];		/* each up to its bound; the last: above */
	__u64 sum_us;
	__u64 _reserved;		/* whole cache lines */
};
HG_ABI_ASSERT(sizeof(struct hg_greeting_times) == 128);

/* The argument of select_backend, answered in place. */
struct hg_select {
	__u32 service;			/* in: id */
	__u32 backend;			/* out: id, 0: none is eligible */
	__u32 slot;			/* out: its place in the service's list */
	__u32 port;			/* out */
	__u8 address[16];		/* out */
	__u64 tried[HG_MAX_SERVICE_BACKENDS / 64]; /* in: slots to leave out */
	__u8 client[16];		/* in */
	__u32 client_port;		/* in */
	__u32 full;			/* out, with backend 0: 1: one would do if
					 * it were not at its max_connections */
	__u32 max_connections;		/* out: of the backend; 0: no limit */
	__u32 _pad;
};
HG_ABI_ASSERT(sizeof(struct hg_select) == 128);

enum hg_splice_mode {
	HG_SPLICE_OFF = 0,		/* every byte goes to userspace */
	HG_SPLICE_ON = 1,
	HG_SPLICE_BROKEN = 2,		/* the stream cannot be kept right: abort */
};

/* splice_flows: one direction of one connection that the kernel carries, from
 * a source socket to a sink socket. Indexed by the flow number that
 * splice_index has for the source's cookie.
 *
 * A redirect may overtake nothing: it happens only while everything passed to
 * userspace has been sent on to the sink, passed == relayed.
 */
struct hg_splice_flow {
	/* Written by userspace before the source is inserted. */
	__u32 service;
	__u32 outward;			/* 1: towards the client, bytes_out */
	__u32 worker;			/* whose event ring to use */
	__u32 generation;		/* changes when the number is reused */
	__u64 backlog_limit;		/* bytes */
	/* Written by userspace at any time. */
	__u64 relayed;			/* passed bytes that the sink has got */
	__u32 mode;			/* enum hg_splice_mode; the kernel sets
					 * BROKEN */
	__u32 notified;			/* 1: an event is in the ring; set by
					 * the kernel, cleared by userspace */
	__u32 _pad[6];
	/* Written by the kernel only; a cache line of its own. */
	__u64 redirected;		/* bytes */
	__u64 passed;			/* bytes */
	__u64 last_active;		/* when a byte last arrived */
	__u32 started;			/* 1: the two fields below are valid */
	__u32 next_seq;			/* of the source: what comes next */
	__u32 sink_seq;			/* write_seq of the sink at the start */
	__u32 _reserved[7];
};
HG_ABI_ASSERT(sizeof(struct hg_splice_flow) == 128);

/* What the event rings carry: this flow has passed bytes to userspace. */
struct hg_splice_event {
	__u32 flow;
	__u32 generation;
};
HG_ABI_ASSERT(sizeof(struct hg_splice_event) == 8);

/* splice_verdicts: per CPU, indexed by what became of an skb. */
#define HG_VERDICTS(X)                                                 \
	X(REDIRECTED, "redirected")                                    \
	X(EMPTY, "empty")               /* a bare FIN: dropped */      \
	X(DUPLICATE, "duplicate")       /* all of it seen before */    \
	X(PASSED_UNKNOWN, "passed_unknown")   /* no flow for it */     \
	X(PASSED_MODE, "passed_mode")         /* splicing is off */    \
	X(PASSED_ORDER, "passed_order") /* earlier bytes on the way */ \
	X(PASSED_BACKLOG, "passed_backlog")   /* the sink is slow */   \
	X(PASSED_NO_SINK, "passed_no_sink")                            \
	X(PASSED_FAILED, "passed_failed")     /* redirect refused */   \
	X(PASSED_BROKEN, "passed_broken")

#define HG_VERDICT_ENUM(name, text) HG_VERDICT_##name,
enum hg_verdict { HG_VERDICTS(HG_VERDICT_ENUM) HG_VERDICT_COUNT };

/* splice_fallbacks: connections that the kernel never carried, and why. */
#define HG_FALLBACKS(X)                                                  \
	X(SHORT, "short")       /* ended before it had moved enough */  \
	X(OFF, "off")           /* splice.mode: off */                   \
	X(RELAY, "relay")       /* the service's datapath is relay */    \
	X(KERNEL, "kernel")     /* the kernel cannot do it safely */     \
	X(NO_FLOW, "no_flow")   /* all flow numbers are in use */        \
	X(BACKLOG, "backlog")   /* splice backlog budget is used up */   \
	X(BUSY, "busy")         /* saturated: splice(2) is faster */     \
	X(INTERACTIVE, "interactive") /* small pieces: copying is faster */ \
	X(CLOSING, "closing")   /* one side had closed already */        \
	X(REFUSED, "refused")   /* the sockmap refused the socket */

#define HG_FALLBACK_ENUM(name, text) HG_FALLBACK_##name,
enum hg_fallback { HG_FALLBACKS(HG_FALLBACK_ENUM) HG_FALLBACK_COUNT };

struct hg_counter {
	__u64 count;
};

#endif
