/* What lose.bpf.c loses of a connection; shared with C++. */
#ifndef HG_TESTS_LOSE_H
#define HG_TESTS_LOSE_H

#include <linux/types.h>

enum lose_what {
	LOSE_NOTHING = 0,
	LOSE_SYN_ACK = 1, /* at the client */
	LOSE_ACK = 2,	  /* a bare one, as the client sends it */
	LOSE_HEADER = 4,  /* the PROXY header, at the backend */
	LOSE_DATA = 8,	  /* the header's segment too, at either end */
};

struct lose_rule {
	__u32 what;
	__u32 times;   /* the first so many; 0: by chance */
	__u32 percent; /* then */
	__u32 lost;
	/* One after the other, of what arrives at the client and at the backend.
	 */
	__u32 row[2];
	__u32 longest_row;
};

#endif
