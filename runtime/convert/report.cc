// The report as JSON.
#include <nlohmann/json.hpp>

#include "runtime/convert/convert.h"

namespace bitnet {

bool ConvertReport::lossless() const {
  if (config_rounded) return false;
  for (const ConvertedTensor& tensor : tensors) {
    if (tensor.max_error != 0.0 || tensor.kind_changed) return false;
  }
  return true;
}

std::string ConvertReport::json(const std::string& input, const std::string& output, const std::string& error) const {
  using Json = nlohmann::ordered_json;
  Json list = Json::array();
  for (const ConvertedTensor& tensor : tensors) {
    list.push_back({{"from", tensor.from},
                    {"from_type", tensor.from_type},
                    {"to", tensor.to},
                    {"type", tensor.to_type.empty() ? Json(nullptr) : Json(tensor.to_type)},
                    {"shape", tensor.shape},
                    {"rounded", tensor.rounded},
                    {"error", {{"max", tensor.max_error}, {"relative", tensor.relative_error}}}});
  }
  Json left_out = Json::array();
  for (const auto& [tensor, reason] : unmapped) left_out.push_back({{"name", tensor}, {"reason", reason}});
  Json json = {{"input", input},
               {"output", output},
               {"name", name},
               {"architecture", config.architecture},
               {"bytes", bytes},
               {"lossless", error.empty() && lossless()},
               {"error", error.empty() ? Json(nullptr) : Json(error)},
               {"tensors", std::move(list)},
               {"unmapped", std::move(left_out)},
               {"missing", missing},
               {"unexpected", unexpected},
               {"warnings", warnings}};
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace bitnet
