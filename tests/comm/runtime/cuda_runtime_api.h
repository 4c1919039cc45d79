/* SPDX-License-Identifier: Apache-2.0 */
/* As much of the CUDA runtime as the nccl transport calls, over the streams of
 * tests/comm/stream.c (nccl_runtime.c): its test needs neither a toolkit nor the emulator. */
#ifndef BANYAN_TESTS_CUDA_RUNTIME_API_H
#define BANYAN_TESTS_CUDA_RUNTIME_API_H

#define CUDART_VERSION 13000

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600
} cudaError_t;

typedef struct CUstream_st *cudaStream_t; /* a stream of tests/comm/stream.h */

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);

/* For tests: what cudaGetDeviceCount says, and on which bus the device is. */
extern cudaError_t runtime_devices;
extern int runtime_bus;

#endif
