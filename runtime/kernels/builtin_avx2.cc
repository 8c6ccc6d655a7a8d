// Built-in kernels for AVX2 with F16C. CMakeLists.txt gives this unit its ISA flags and renames the namespace xsimd;
// tests/isa_symbols.sh checks that nothing but the record below leaves it.
#include <xsimd/xsimd.hpp>

#define BITNET_XSIMD_ARCH xsimd::avx2
#define BITNET_BUILTIN_FAMILY kAvx2Family
#define BITNET_GEMV_STREAMS 4
#define BITNET_GEMM_TOKENS 4
#define BITNET_GEMM_TILES 1
#define BITNET_PACK_VECTOR 32
#include "runtime/kernels/builtin_family.h"
