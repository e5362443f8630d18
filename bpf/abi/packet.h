/* The packet path's maps: keys and values, shared with C++; the only copy.
 * Byte order and times as in types.h, but that times are in seconds.
 */
#ifndef HG_ABI_PACKET_H
#define HG_ABI_PACKET_H

#include "bpf/abi/hash.h"
#include "bpf/abi/types.h"

enum hg_packet_limits {
	HG_MAX_PACKET_ADDRESSES = 256, /* ids 1 to 255 */
	HG_MAX_PACKET_LISTENERS = 4096,
};

/* packet_addresses: what our addresses are. Nothing that is sent elsewhere is
 * ours; a port that is neither in the range nor a listener's is not, either.
 * A hash table: an address is in the first place from hg_address_place() on
 * that was free when it came, HG_ADDRESS_PROBES at most.
 */
struct hg_packet_address {
	__u8 address[16];
	__u32 id;	  /* 0: always was free; HG_ADDRESS_GONE: has become so */
	__u32 first_port; /* of the range that backends see; 0: none */
	__u32 last_port;
	__u32 _pad;
};
HG_ABI_ASSERT(sizeof(struct hg_packet_address) == 32);

enum hg_address_table {
	HG_ADDRESS_PLACES = 1024, /* a power of two */
	HG_ADDRESS_PROBES = 32,
	HG_ADDRESS_GONE = HG_MAX_PACKET_ADDRESSES,
};

static inline __attribute__((always_inline)) __u64
hg_address_place(const __u8 *address, __u32 probe)
{
	__u64 half[2];

	__builtin_memcpy(half, address, sizeof(half));
	return (hg_mix(half[0] ^ half[1]) + probe) & (HG_ADDRESS_PLACES - 1);
}

/* packet_local: id -> address. */
struct hg_packet_local {
	__u8 address[16];
};
HG_ABI_ASSERT(sizeof(struct hg_packet_local) == 16);

/* packet_listeners */
struct hg_packet_listener_key {
	__u32 address; /* id */
	__u32 port;
};
struct hg_packet_listener {
	__u32 service;	       /* id */
	__u32 header;	       /* bytes of the PROXY header; 0: none */
	__u32 max_connections; /* 0: no limit */
	__u32 _pad;
};
HG_ABI_ASSERT(sizeof(struct hg_packet_listener) == 16);

/* packet_config: one element. */
struct hg_packet_config {
	__u32 first_port; /* that backends see */
	__u32 last_port;
	/* Address ids of the sources, and how many there are: [0] IPv4. */
	__u32 source_count[2];
	__u8 sources[2][HG_MAX_PACKET_ADDRESSES];
	/* Of packet_keys, for as long as the table lasts. Nobody who does not
	 * know it can choose clients that fall into the same bucket.
	 */
	__u64 seed;
	__u32 buckets;	   /* a power of two */
	__u32 flow_format; /* HG_FLOW_FORMAT of who made the table */
};
HG_ABI_ASSERT(sizeof(struct hg_packet_config) == 16 + 512 + 16);

enum hg_side {
	HG_FROM_CLIENT = 0,
	HG_FROM_BACKEND = 1,
};

/* What tells the packets of one side of a flow: who sends them to which address
 * and port of ours.
 */
struct hg_flow_key {
	__u8 remote[16];
	__u32 local; /* address id */
	__u16 remote_port;
	__u16 local_port;
};
HG_ABI_ASSERT(sizeof(struct hg_flow_key) == 24);

/* How long nothing is to be heard before a flow is over. */
enum hg_flow_seconds {
	HG_SYN_SECONDS = 20, /* handshakes; RFC 9293 has a SYN's sender decide,
			      * ours sends again */
	HG_TIME_WAIT_SECONDS = 60, /* closed ones; Linux's TCP_TIMEWAIT_LEN */
};

/* packet_keys: a hash table whose keys are in the flows. A bucket is a cache
 * line of entries: flow number * 2 + enum hg_side, below a tag, some bits of
 * the key's hash; 0: free. A key has its entry in its first bucket, or else, where
 * little room was left, in its second: so a full table has room for all.
 */
enum hg_key_table {
	HG_BUCKET_ENTRIES = 15,
	HG_BUCKET_SPARE = 3, /* room that is left if the second has more */
	HG_ENTRY_TAG_SHIFT = 25,
};
struct hg_key_bucket {
	__u32 entries[HG_BUCKET_ENTRIES];
	__u32 spilled; /* at least as many as are in their second instead; 0:
			* nobody need look there */
};
HG_ABI_ASSERT(sizeof(struct hg_key_bucket) == 64);

/* Keys that differ by the low 9 bits of a port, as those of a client's connections
 * in turn do, are near each other: eight have the same first bucket, and 512 those
 * of one page, which they fill evenly. Whose other port differs so, too, are there
 * as well, and may be more than have room: second buckets are anywhere.
 */
static inline __attribute__((always_inline)) __u64
hg_hash_key(const struct hg_flow_key *key, __u64 seed)
{
	const __u64 first = 0x0fffffff, second = first << 28, tag = 15ULL << 60;
	__u64 words[3], hash = seed, low, near;

	__builtin_memcpy(words, key, sizeof(words));
	low = words[2] >> 32 & 0x01ff01ff; /* of both ports */
	near = (low ^ low >> 16) & 0x1ff;
	words[2] ^= low << 32;
	if (words[0]) /* IPv6. */
		hash = hg_mix(hash ^ words[0]);
	hash = hg_mix(hg_mix(hash ^ words[1]) ^ words[2]);
	return ((hash ^ near >> 3) & first) |
	       ((hash ^ low * 0x9e3779b97f4a7c15) & second) |
	       (near & 7) << 57 | (hash & tag);
}

/* The `which`th bucket of a key, of a power of two of them. */
static inline __attribute__((always_inline)) __u64
hg_bucket_of(__u64 hash, __u32 which, __u32 buckets)
{
	return (which ? hash >> 28 : hash) & (buckets - 1);
}

static inline __attribute__((always_inline)) __u64 hg_tag(__u64 hash)
{
	__u64 tag = hash >> (32 + HG_ENTRY_TAG_SHIFT);

	return tag ? tag : 1;
}

static inline __attribute__((always_inline)) __u64 hg_entry(__u64 hash,
							    __u32 value)
{
	return hg_tag(hash) << HG_ENTRY_TAG_SHIFT | value;
}

static inline __attribute__((always_inline)) __u32 hg_entry_tag(__u32 entry)
{
	return entry >> HG_ENTRY_TAG_SHIFT;
}

static inline __attribute__((always_inline)) __u32 hg_entry_value(__u32 entry)
{
	return entry & ((1U << HG_ENTRY_TAG_SHIFT) - 1);
}

enum hg_flow_state {
	HG_FLOW_FREE = 0,
	HG_FLOW_SYN_SENT = 1,	  /* the backend has not answered */
	HG_FLOW_SYN_RECEIVED = 2, /* it has; the client not yet */
	HG_FLOW_ESTABLISHED = 3,  /* counted as a connection */
	HG_FLOW_CLOSED = 4,	  /* kept for as long as TIME_WAIT */
	HG_FLOW_MOVING = 5,	  /* as SYN_SENT; a backend is chosen */
	HG_FLOW_STATE_COUNT
};

enum hg_flow_flags {
	HG_FLOW_HEADER_SENT = 1,
	HG_FLOW_HEADER_ACKED = 2,
	HG_FLOW_FIN_IN = 4,  /* seen from the client */
	HG_FLOW_FIN_OUT = 8, /* seen from the backend */
	HG_FLOW_FIN_IN_ACKED = 16,
	HG_FLOW_FIN_OUT_ACKED = 32,
	HG_FLOW_REFUSED = 64,  /* the backend answered the SYN by RST */
	HG_FLOW_QUEUED = 128,  /* is in packet_closed */
	HG_FLOW_ODD = 256,     /* no answer to the SYN is not to be blamed */
	HG_FLOW_ANOTHER = 512, /* the client has sent the SYN of another one */
	HG_FLOW_UNREACHABLE = 1024, /* the SYN was answered so, by ICMP */
	HG_FLOW_LAPPED = 2048, /* numbers near isn are the next lap's */
	HG_FLOW_SPLIT = 4096,  /* data are to come behind their header */
	HG_FLOW_AGAIN = 8192,  /* closed again since it is in packet_closed */
};

/* What the fields of a flow and of its keys' buckets mean, where the structs'
 * sizes do not tell: flows of another format are not adopted.
 */
enum { HG_FLOW_FORMAT = 5 };

/* packet_flows: indexed by flow number; two cache lines. Sequence numbers are the
 * end points' own: `next_in` as the client counts, without the header.
 */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic" /* C++ has no anonymous structs */
struct hg_flow {
	union {
		struct hg_flow_key keys[2]; /* by enum hg_side */
		struct {
			__u8 client[16];
			__u32 listen; /* address ids */
			__u16 client_port;
			__u16 listen_port;
			__u8 backend_address[16];
			__u32 source;
			__u16 backend_port;
			__u16 source_port;
		};
	};
	__u8 service; /* ids */
	__u8 header;  /* bytes */
	__u16 backend;
	__u32 state; /* enum hg_flow_state */
	__u32 flags;
	__u32 isn;	 /* the client's first sequence number */
	__u32 shift;	 /* of the backend's side; see packet_flow.h */
	__u32 next_in;	 /* after the last byte or FIN seen */
	union {
		__u32 slot; /* of the backend, until it answers */
		__u32 next_out;
	};
	__u32 last_seen; /* s */
	__u64 since;	 /* ns: the SYN; once closed, the end */
	__u64 bytes_in;	 /* payload, retransmissions once */
	__u64 bytes_out; /* and each FIN: next_out began so much earlier */
	union {
		/* Until the backend answers: bit n says that slot n did not
		 * take the connection.
		 */
		__u64 tried[2];
		struct {
			/* What its receiver has acknowledged, and expects
			 * next, as far as is known.
			 */
			__u32 acked_in;
			__u32 acked_out;
			__u32 fin_in; /* after the FIN that was seen */
			__u32 fin_out;
		};
	};
	union {
		__u32 asked; /* ms: the backend, by its first SYN */
		/* Once it has answered: the interface that came by. */
		__u32 backend_side;
	};
	/* The interface that the client's SYN came by; 0: it left there, too. */
	__u32 client_side;
};
#pragma GCC diagnostic pop
HG_ABI_ASSERT(sizeof(struct hg_flow) == 128);

/* packet_bytes: per CPU, indexed by service id. */
struct hg_packet_bytes {
	__u64 in;
	__u64 out;
};

enum hg_packet_hook {
	HG_HOOK_TC = 0,
	HG_HOOK_XDP = 1,
	HG_HOOK_COUNT,
};

/* packet_exits: per CPU, indexed by enum hg_packet_hook * HG_PACKET_EXIT_COUNT +
 * what became of a packet. Everything from FIRST_DROP on was dropped, answered
 * or not; HEADER_ACKED has gone no further, either.
 */
#define HG_PACKET_EXITS(X)                                                     \
	X(FORWARDED, "forwarded")                                              \
	X(HEADER, "header")		/* with the PROXY header */            \
	X(HEADER_AHEAD, "header_ahead") /* the header, ahead of data */        \
	X(HEADER_ACKED, "header_acked") /* and no more: not the client's */    \
	X(ICMP_ERROR, "icmp_error")	/* about a connection of ours */       \
	X(NO_BACKEND, "no_backend")	/* a SYN; RST sent */                  \
	X(NO_FLOW, "no_flow")		/* of no connection; RST sent */       \
	X(REFUSED, "refused")	  /* RST or ICMP: another backend is tried */  \
	X(STRAY_RST, "stray_rst") /* of no connection */                       \
	X(MALFORMED, "malformed") /* no TCP segment that makes sense */        \
	X(FRAGMENT, "fragment")                                                \
	X(EXTENSION, "extension_header") /* IPv6, before TCP */                \
	X(SIGNED, "tcp_signature")	 /* covers what must be changed */     \
	X(TTL, "ttl") /* ICMP sent, mostly */                                  \
	X(REVERSE_PATH, "reverse_path") /* the backend's come another way */   \
	X(SERVICE_FULL, "service_full") /* a SYN beyond max_connections */     \
	X(BACKEND_FULL, "backend_full") /* a handshake's end, likewise */      \
	X(TABLE_FULL, "flow_table_full")                                       \
	X(NO_PORT, "no_source_port")                                           \
	X(EARLY, "before_handshake") /* neither SYN nor its answer */          \
	X(NO_ROUTE, "no_route")                                                \
	X(NOT_FORWARDING, "forwarding_off") /* sysctl */                       \
	X(TOO_BIG, "too_big") /* for the way out; ICMP sent, mostly */         \
	X(FAILED, "failed")		    /* the kernel had no memory, say */

#define HG_PACKET_EXIT_ENUM(name, text) HG_PACKET_##name,
enum hg_packet_exit {
	HG_PACKET_EXITS(HG_PACKET_EXIT_ENUM) HG_PACKET_EXIT_COUNT
};
enum { HG_PACKET_FIRST_DROP = HG_PACKET_NO_BACKEND };

/* packet_trace, a global of the program: whether it tells of packets, and of
 * which. The daemon writes `until` last.
 */
struct hg_trace {
	__u32 until;	 /* s, coarse: tells no longer; 0: nobody listens */
	__u32 service;	 /* id; 0: any */
	__u8 client[16]; /* zeros: any */
	__u32 client_port; /* 0: any */
	__u32 lost;	 /* events that the ring had no room for */
};
HG_ABI_ASSERT(sizeof(struct hg_trace) == 32);

enum hg_trace_limits {
	HG_TRACE_BYTES = 256, /* of each frame: all headers, PROXY's included */
};

/* packet_events, a ring: what became of a packet. */
struct hg_trace_event {
	__u64 time; /* ns, bpf_ktime_get_ns(): it arrived */
	__u32 exit; /* enum hg_packet_exit */
	__u32 flow; /* number * 2 + enum hg_side + 1; 0: of none */
	__u32 service;	/* ids; 0: none */
	__u32 backend;
	__u32 again; /* 1: its arrival was told before, with its header's */
	/* Interfaces, and bytes with Ethernet header. What was dropped has not
	 * left: 0.
	 */
	__u32 came_by;
	__u32 left_by;
	__u32 size_before;
	__u32 size_after;
	__u32 _pad;
	__u8 before[HG_TRACE_BYTES];
	__u8 after[HG_TRACE_BYTES];
};
HG_ABI_ASSERT(sizeof(struct hg_trace_event) == 48 + 2 * HG_TRACE_BYTES);

/* packet_left: what XDP has left to tc, of an interface and why. The control
 * thread puts the elements in.
 */
#define HG_PACKET_LEFT(X)                                                      \
	X(INCOMPLETE, "incomplete_checksum") /* or looks so */		       \
	X(EARLY_DATA, "early_data")	     /* the header goes ahead */       \
	X(NO_NEIGHBOUR, "no_neighbour")	     /* rewritten; not known yet */    \
	X(NO_TRANSMIT, "no_transmit") /* rewritten; the way out takes none */  \
	X(LENGTH, "length") /* would grow, without room; generic: change */    \
	X(JOINED, "joined_segments") /* generic: longer than the MTU */        \
	X(NO_METADATA, "no_metadata") /* all: the driver has no room for it */ \
	X(COOKIE, "syn_cookie") /* data that fit one: their ACK goes behind */ \
	X(RESET, "reset_twice") /* a client's: what it has sent is not acked */

#define HG_PACKET_LEFT_ENUM(name, text) HG_LEFT_##name,
enum hg_packet_left {
	HG_PACKET_LEFT(HG_PACKET_LEFT_ENUM) HG_LEFT_COUNT
};

struct hg_packet_left_key {
	__u32 interface;
	__u32 reason; /* enum hg_packet_left */
};

/* packet_macs, a global of the programs at XDP: whose frames are ours, in the
 * interface's place; of two that share one, the other's are left to tc.
 */
enum { HG_MAC_PLACES = 256 };

static inline __attribute__((always_inline)) __u64 hg_mac_of(const __u8 *mac,
							     __u32 interface)
{
	__u64 of = interface;
	__u32 first;
	__u16 last;

	__builtin_memcpy(&first, mac, sizeof(first));
	__builtin_memcpy(&last, mac + sizeof(first), sizeof(last));
	return (of << 16 | last) << 32 | first;
}

/* packet_sums: of an interface, by its index, of the frames that XDP has left to
 * tc for their checksums. The control thread puts the elements in.
 */
struct hg_packet_sums {
	__u64 told; /* those that tc could tell of */
	__u64 incomplete; /* and that really are */
};

/* What XDP writes ahead of a frame that it leaves to tc, if anything: */
#define HG_PACKET_REWRITTEN 0x48477277 /* tc only sends it */
/* Its checksum looks incomplete. TCP begins at the offset in the last byte. */
#define HG_PACKET_INCOMPLETE 0x48476300

/* skb->mark of a frame that comes a second time, within one hook: data that wait
 * behind the segment of their header; data that have gone ahead of their
 * acknowledgment, which this frame is to become; a RST that follows one at
 * another number.
 */
enum {
	HG_PACKET_MARK_BEHIND = 0x48476174,
	HG_PACKET_MARK_ACK,
	HG_PACKET_MARK_RESET,
	HG_PACKET_MARK_END
};

#endif
