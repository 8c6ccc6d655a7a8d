#include "runtime/convert/generation.h"

#include <cstdint>
#include <filesystem>
#include <limits>

#include "runtime/convert/settings.h"

namespace bitnet::convert {
namespace {

Status read_number(const Settings& settings, std::string_view key, float& value) {
  if (!settings.has(key)) return {};
  BITNET_ASSIGN_OR_RETURN(value, settings.number(key));
  return {};
}

}  // namespace

Result<Generation> read_generation(const std::string& directory) {
  const std::string path = directory + "/generation_config.json";
  Generation generation;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return generation;
  BITNET_ASSIGN_OR_RETURN(const Settings settings, Settings::read(path, ErrorCode::kFailure));
  SamplingParams& sampling = generation.sampling;
  BITNET_RETURN_IF_ERROR(read_number(settings, "temperature", sampling.temperature));
  BITNET_RETURN_IF_ERROR(read_number(settings, "top_p", sampling.top_p));
  BITNET_RETURN_IF_ERROR(read_number(settings, "min_p", sampling.min_p));
  BITNET_RETURN_IF_ERROR(read_number(settings, "repetition_penalty", sampling.repetition_penalty));
  if (settings.has("top_k")) {
    BITNET_ASSIGN_OR_RETURN(const std::int64_t top_k,
                            settings.integer("top_k", 0, std::numeric_limits<std::int32_t>::max()));
    sampling.top_k = static_cast<std::int32_t>(top_k);
  }
  if (settings.has("do_sample")) {
    BITNET_ASSIGN_OR_RETURN(const bool sample, settings.boolean("do_sample"));
    if (!sample) sampling.temperature = 0.0F;
  }
  const auto checked = Sampler::create(sampling, 1);
  if (!checked.ok()) return Error{ErrorCode::kFailure, path + ": " + checked.error().message};
  generation.present = true;
  return generation;
}

}  // namespace bitnet::convert
