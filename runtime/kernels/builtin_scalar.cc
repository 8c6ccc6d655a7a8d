// Built-in kernels for the baseline of the platform (x86-64: SSE2). CMakeLists.txt renames the namespace xsimd here.
#include <xsimd/xsimd.hpp>

#if defined(__SSE2__)
#define BITNET_XSIMD_ARCH xsimd::sse2
#else
#define BITNET_XSIMD_ARCH xsimd::default_arch
#endif
#define BITNET_BUILTIN_FAMILY kScalarFamily
#define BITNET_GEMV_STREAMS 4
#define BITNET_GEMM_TOKENS 4
#define BITNET_GEMM_TILES 2
#define BITNET_PACK_VECTOR 16
#include "runtime/kernels/builtin_family.h"
