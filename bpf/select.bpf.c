/* select_backend: the selection for connections that userspace accepts, run
 * through BPF_PROG_TEST_RUN.
 */
#include "bpf/lib/select.h"

char LICENSE[] SEC("license") = "GPL";

SEC("syscall")
int select_backend(struct hg_select *ctx)
{
	struct hg_select request = {};
	__u64 tried[HG_MAX_SERVICE_BACKENDS / 64];

	__builtin_memcpy(tried, ctx->tried, sizeof(tried));
	request.service = ctx->service;
	__builtin_memcpy(request.client, ctx->client, sizeof(request.client));
	request.client_port = ctx->client_port;
	select_backend_for(&request, tried);
	ctx->backend = request.backend;
	ctx->slot = request.slot;
	ctx->port = request.port;
	ctx->full = request.full;
	ctx->max_connections = request.max_connections;
	__builtin_memcpy(ctx->address, request.address, sizeof(ctx->address));
	return 0;
}
