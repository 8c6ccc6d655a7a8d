#include "runtime/sampling/recommended.h"

#include <limits>
#include <string>

namespace bitnet {
namespace {

constexpr const char* kTemperature = "general.sampling.temp";
constexpr const char* kTopK = "general.sampling.top_k";
constexpr const char* kTopP = "general.sampling.top_p";
constexpr const char* kMinP = "general.sampling.min_p";
constexpr const char* kRepetitionPenalty = "general.sampling.penalty_repeat";

Status read_float(const gguf::File& file, std::string_view key, float& value) {
  if (file.find(key) == nullptr) return {};
  BITNET_ASSIGN_OR_RETURN(const double wide, file.get_float(key));
  value = static_cast<float>(wide);
  return {};
}

}  // namespace

Result<SamplingParams> recommended_sampling(const gguf::File& file) {
  SamplingParams params;
  BITNET_RETURN_IF_ERROR(read_float(file, kTemperature, params.temperature));
  BITNET_RETURN_IF_ERROR(read_float(file, kTopP, params.top_p));
  BITNET_RETURN_IF_ERROR(read_float(file, kMinP, params.min_p));
  BITNET_RETURN_IF_ERROR(read_float(file, kRepetitionPenalty, params.repetition_penalty));
  if (file.find(kTopK) != nullptr) {
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t top_k, file.get_uint(kTopK));
    if (top_k > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) {
      return Error{ErrorCode::kFailure,
                   file.path() + ": " + kTopK + " is " + std::to_string(top_k) + "; expected 0 to 2^31 - 1"};
    }
    params.top_k = static_cast<std::int32_t>(top_k);
  }
  const auto checked = Sampler::create(params, 1);
  if (!checked.ok()) {
    return Error{ErrorCode::kFailure,
                 file.path() + ": the sampling that general.sampling.* recommends: " + checked.error().message};
  }
  return params;
}

void recommend_sampling(const SamplingParams& params, gguf::Writer& writer) {
  writer.set(kTemperature, params.temperature);
  writer.set(kTopK, params.top_k);
  writer.set(kTopP, params.top_p);
  writer.set(kMinP, params.min_p);
  writer.set(kRepetitionPenalty, params.repetition_penalty);
}

}  // namespace bitnet
