/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL itself, with the one rank that one GPU can have: a communicator, an all-reduce and a
 * message to oneself on the device, and both again from a graph. More ranks are
 * tests/comm/nccl_test.c, over an NCCL of our own. */
#include "comm/comm.h"
#include "tests/test.h"

#include <cuda_runtime_api.h>

enum { COUNT = 1000 };

#define CUDA(call)                                                                             \
    do {                                                                                       \
        const cudaError_t error_ = (call);                                                     \
        CHECK_MSG(!error_, "%s: %s", #call, cudaGetErrorString(error_));                       \
    } while (0)
#define RIGHT(call)                                                                            \
    do {                                                                                       \
        const banyan_status status_ = (call);                                                  \
        CHECK_MSG(!status_, "%s: %s", #call, banyan_error_message());                          \
    } while (0)

/* from is added up with nobody's, then sent to `to`. */
static void queue_work(banyan_comm *comm, float *from, float *to, cudaStream_t stream)
{
    RIGHT(banyan_comm_device_allreduce(comm, from, COUNT, BANYAN_SUM, stream));
    RIGHT(banyan_comm_device_start(comm, 1, 0, to, COUNT * sizeof(float)));
    RIGHT(banyan_comm_device_start(comm, 0, 0, from, COUNT * sizeof(float)));
    RIGHT(banyan_comm_device_flush(comm, stream));
}

/* The stream is none that the default stream's work is ordered with. */
static void check_arrived(banyan_comm *comm, float *to, cudaStream_t stream)
{
    float host[COUNT];
    int wrong = 0;
    RIGHT(banyan_comm_device_wait(comm, stream));
    CUDA(cudaMemcpy(host, to, sizeof host, cudaMemcpyDeviceToHost));
    for (int i = 0; i < COUNT; i++) wrong += host[i] != (float)(3 * i);
    CHECK_MSG(!wrong, "%d of %d numbers did not arrive", wrong, (int)COUNT);
    CUDA(cudaMemsetAsync(to, 0xff, sizeof host, stream));
}

int main(void)
{
    banyan_comm *comm = NULL;
    float host[COUNT], *from = NULL, *to = NULL;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t replay;
    RIGHT(banyan_comm_create("nccl", NULL, &comm));
    if (!comm) return test_end();
    for (int i = 0; i < COUNT; i++) host[i] = (float)(3 * i);
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaMalloc((void **)&from, sizeof host));
    CUDA(cudaMalloc((void **)&to, sizeof host));
    CUDA(cudaMemcpy(from, host, sizeof host, cudaMemcpyHostToDevice));
    CUDA(cudaMemset(to, 0xff, sizeof host));
    CUDA(cudaDeviceSynchronize());
    queue_work(comm, from, to, stream);
    check_arrived(comm, to, stream);

    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    queue_work(comm, from, to, stream);
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&replay, graph, 0));
    for (int i = 0; i < 2; i++) {
        CUDA(cudaGraphLaunch(replay, stream));
        check_arrived(comm, to, stream);
    }
    CUDA(cudaGraphExecDestroy(replay));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaFree(from));
    CUDA(cudaFree(to));
    CUDA(cudaStreamDestroy(stream));
    banyan_comm_destroy(comm);
    return test_end();
}
