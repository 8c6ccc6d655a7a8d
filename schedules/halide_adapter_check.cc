// Fails to compile when halide_adapter.h and the SDK's HalideRuntime.h disagree on a structure.
#include <HalideRuntime.h>

#include <cstddef>
#include <utility>

#include "schedules/halide_adapter.h"

// sizeof of a pointer field is meant.
// NOLINTBEGIN(bugprone-sizeof-expression)
#define BITNET_SAME_FIELD(ours, theirs, field)                                                  \
  static_assert(offsetof(ours, field) == offsetof(theirs, field) &&                             \
                    sizeof(std::declval<ours>().field) == sizeof(std::declval<theirs>().field), \
                #ours "." #field " of halide_adapter.h is not where HalideRuntime.h has it")

static_assert(sizeof(bitnet_halide_type) == sizeof(halide_type_t));
BITNET_SAME_FIELD(bitnet_halide_type, halide_type_t, code);
BITNET_SAME_FIELD(bitnet_halide_type, halide_type_t, bits);
BITNET_SAME_FIELD(bitnet_halide_type, halide_type_t, lanes);
static_assert(halide_type_int == 0 && halide_type_uint == 1 && halide_type_float == 2);

static_assert(sizeof(bitnet_halide_dimension) == sizeof(halide_dimension_t));
BITNET_SAME_FIELD(bitnet_halide_dimension, halide_dimension_t, min);
BITNET_SAME_FIELD(bitnet_halide_dimension, halide_dimension_t, extent);
BITNET_SAME_FIELD(bitnet_halide_dimension, halide_dimension_t, stride);
BITNET_SAME_FIELD(bitnet_halide_dimension, halide_dimension_t, flags);

static_assert(sizeof(bitnet_halide_buffer) == sizeof(halide_buffer_t));
BITNET_SAME_FIELD(bitnet_halide_buffer, halide_buffer_t, device);
BITNET_SAME_FIELD(bitnet_halide_buffer, halide_buffer_t, device_interface);
BITNET_SAME_FIELD(bitnet_halide_buffer, halide_buffer_t, host);
BITNET_SAME_FIELD(bitnet_halide_buffer, halide_buffer_t, flags);
BITNET_SAME_FIELD(bitnet_halide_buffer, halide_buffer_t, type);
BITNET_SAME_FIELD(bitnet_halide_buffer, halide_buffer_t, dimensions);
BITNET_SAME_FIELD(bitnet_halide_buffer, halide_buffer_t, dim);
BITNET_SAME_FIELD(bitnet_halide_buffer, halide_buffer_t, padding);
// NOLINTEND(bugprone-sizeof-expression)
