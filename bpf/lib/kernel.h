/* The few kernel types that are read by field name (CO-RE), and the kfuncs
 * that give access to them.
 */
#ifndef HG_LIB_KERNEL_H
#define HG_LIB_KERNEL_H

#include <linux/types.h>
#include <bpf/bpf_core_read.h>

#define HG_CORE __attribute__((preserve_access_index))

struct sk_buff {
	char cb[48];
	unsigned char *head;
	unsigned int end; /* from the head: where skb_shared_info is */
} HG_CORE;

struct skb_shared_info {
	unsigned int gso_type;
} HG_CORE;

struct tcp_skb_cb {
	__u32 seq;
} HG_CORE;

struct sk_buff_head {
	__u32 qlen;
} HG_CORE;

struct sk_psock {
	struct sk_buff_head ingress_skb; /* what waits to be sent out of it */
} HG_CORE;

struct sock {
	void *sk_user_data;
} HG_CORE;

struct tcp_sock {
	__u32 copied_seq;
	__u32 write_seq;
} HG_CORE;

/* Weak: a kernel without them must still load the other programs. */
extern void *bpf_cast_to_kern_ctx(void *obj) __ksym __weak;
extern void *bpf_rdonly_cast(void *obj, __u32 btf_id) __ksym __weak;

#endif
