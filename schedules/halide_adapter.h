// Wraps Halide pipelines as kernels of runtime/kernels/kernel_abi.h: kernel arguments in, halide_buffer_t on the stack,
// one direct call.
//
// clang compiles it in process beside the generated kernels, freestanding: HalideRuntime.h cannot be used there,
// because in C++ it includes <array>, <cstring> and <string_view>. So the three structures are declared here once more,
// under their own names; schedules/halide_adapter_check.cc compares them with the SDK's at build time, field by field.
#ifndef BITNET_SCHEDULES_HALIDE_ADAPTER_H_
#define BITNET_SCHEDULES_HALIDE_ADAPTER_H_

#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

extern "C" {

struct bitnet_halide_type {
  uint8_t code;  // 0 signed integer, 2 float
  uint8_t bits;
  uint16_t lanes;
};

struct bitnet_halide_dimension {
  int32_t min;
  int32_t extent;
  int32_t stride;  // in elements
  uint32_t flags;
};

struct bitnet_halide_buffer {
  uint64_t device;
  const void* device_interface;
  uint8_t* host;
  uint64_t flags;
  bitnet_halide_type type;
  int32_t dimensions;
  bitnet_halide_dimension* dim;  // [dimensions]
  void* padding;
};

}  // extern "C"

// Defines `void KERNEL(const bitnet_norm_quantize_args*)` over the pipeline norm_quantize compiled for the same
// constant K as PIPELINE (schedules/norm_quantize.h). The arguments' k and scratch are not used. The pipeline's symbol
// is hidden: the call needs no PLT and the image no relocation. It returns 0 always (compiled with no_asserts).
#define BITNET_HALIDE_NORM_QUANTIZE(KERNEL, PIPELINE, K)                                                       \
  extern "C" __attribute__((visibility("hidden"))) int PIPELINE(                                               \
      bitnet_halide_buffer* x, bitnet_halide_buffer* gain, float eps, bitnet_halide_buffer* q,                 \
      bitnet_halide_buffer* scale, bitnet_halide_buffer* q_sum) noexcept;                                      \
  extern "C" __attribute__((visibility("default"))) void KERNEL(const bitnet_norm_quantize_args* a) noexcept { \
    static_assert((K) >= 1 && (K) <= (1 << 22), "row length out of the pipeline's range");                     \
    const bitnet_halide_type f32 = {2, 32, 1};                                                                 \
    const bitnet_halide_type i32 = {0, 32, 1};                                                                 \
    const bitnet_halide_type i8 = {0, 8, 1};                                                                   \
    bitnet_halide_dimension row = {0, (K), 1, 0};                                                              \
    bitnet_halide_buffer x = {0, nullptr, (uint8_t*)a->x, 0, f32, 1, &row, nullptr};                           \
    bitnet_halide_buffer gain = {0, nullptr, (uint8_t*)a->gain, 0, f32, 1, &row, nullptr};                     \
    bitnet_halide_buffer q = {0, nullptr, (uint8_t*)a->q, 0, i8, 1, &row, nullptr};                            \
    bitnet_halide_buffer scale = {0, nullptr, (uint8_t*)a->scale, 0, f32, 0, nullptr, nullptr};                \
    bitnet_halide_buffer q_sum = {0, nullptr, (uint8_t*)a->q_sum, 0, i32, 0, nullptr, nullptr};                \
    (void)PIPELINE(&x, &gain, a->eps, &q, &scale, &q_sum);                                                     \
  }

#endif  // BITNET_SCHEDULES_HALIDE_ADAPTER_H_
