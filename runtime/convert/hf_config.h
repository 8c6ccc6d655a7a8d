// config.json of a packed BitNet b1.58 checkpoint.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/result.h"
#include "runtime/model/config.h"

namespace bitnet::convert {

struct HfConfig {
  ModelConfig model;  // architecture bitnet-b1.58, every number within the bounds of read_config
  std::int64_t bos = 0;
  std::int64_t eos = 0;
  std::string name;  // _name_or_path, or empty
};

// kFailure, with file, key, expected and found: keys that are missing, of another type or out of range; and every
// setting that means another graph or another way of storing weights than those of training/README.md.
[[nodiscard]] Result<HfConfig> read_hf_config(const std::string& path);

}  // namespace bitnet::convert
