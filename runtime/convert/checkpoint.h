// The weights of a Hugging Face style checkpoint: one SafeTensors file, or several with an index.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/safetensors/safetensors.h"

namespace bitnet::convert {

// Immutable after opening, thread-safe, cheap to copy (files stay mapped as long as a copy lives).
class Checkpoint {
 public:
  struct Place {
    const safetensors::File* file = nullptr;  // lives as long as the Checkpoint
    const safetensors::Tensor* tensor = nullptr;
  };

  // model.safetensors of `directory`; where there is none, model.safetensors.index.json and the shards that it names.
  // kFailure, with file, tensor and what to do: everything that safetensors::File refuses; an index that is no object
  // of tensor names and file names, that names files outside `directory`, tensors that are not in their file, or leaves
  // out tensors of a file.
  [[nodiscard]] static Result<Checkpoint> open_directory(const std::string& directory);
  [[nodiscard]] static Result<Checkpoint> open_file(const std::string& path);

  [[nodiscard]] const std::string& path() const { return path_; }  // of the one file, or of the index
  // nullptr where there is no such tensor.
  [[nodiscard]] const Place* find(std::string_view name) const;
  // By name.
  [[nodiscard]] const std::map<std::string, Place, std::less<>>& tensors() const { return tensors_; }
  // Whether `path` is one of the files, under any name.
  [[nodiscard]] bool is_part(const std::string& path) const;

 private:
  std::string path_;
  std::vector<std::shared_ptr<const safetensors::File>> files_;
  std::map<std::string, Place, std::less<>> tensors_;
};

}  // namespace bitnet::convert
