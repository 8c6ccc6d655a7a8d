// An index states the same as the headers of its files: each tensor is looked up in both directions, so that neither a
// shard of another export nor a forgotten tensor goes unseen.
#include "runtime/convert/checkpoint.h"

#include <filesystem>
#include <set>
#include <utility>

#include "runtime/convert/settings.h"
#include "runtime/gguf/types.h"

namespace bitnet::convert {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAdvice = "the files do not belong together: fetch or export the checkpoint again";

}  // namespace

Result<Checkpoint> Checkpoint::open_file(const std::string& path) {
  BITNET_ASSIGN_OR_RETURN(safetensors::File opened, safetensors::File::open(path));
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  checkpoint.files_.push_back(std::make_shared<const safetensors::File>(std::move(opened)));
  const safetensors::File* file = checkpoint.files_.back().get();
  for (const safetensors::Tensor& tensor : file->tensors()) checkpoint.tensors_[tensor.name] = {file, &tensor};
  return checkpoint;
}

Result<Checkpoint> Checkpoint::open_directory(const std::string& directory) {
  const std::string single = directory + "/model.safetensors";
  const std::string index = single + ".index.json";
  std::error_code ignored;
  if (fs::exists(single, ignored) || !fs::exists(index, ignored)) return open_file(single);

  Checkpoint checkpoint;
  checkpoint.path_ = index;
  const auto fail = [&](const std::string& what) { return Error{ErrorCode::kFailure, index + ": " + what}; };
  BITNET_ASSIGN_OR_RETURN(const Settings settings, Settings::read(index, ErrorCode::kFailure));
  BITNET_ASSIGN_OR_RETURN(const auto listed, settings.text_members("weight_map"));
  std::set<std::string> names;
  for (const auto& [tensor, file] : listed) {
    if (file.empty() || file.find('/') != std::string::npos || file.find('\0') != std::string::npos || file == "..") {
      return fail("tensor " + gguf::quoted(tensor) + ": expected the name of a file in the same folder, found " +
                  gguf::quoted(file) + "; " + kAdvice);
    }
    names.insert(file);
  }
  const std::string folder = directory + "/";
  for (const std::string& name : names) {
    BITNET_ASSIGN_OR_RETURN(safetensors::File opened, safetensors::File::open(folder + name));
    checkpoint.files_.push_back(std::make_shared<const safetensors::File>(std::move(opened)));
    const safetensors::File* file = checkpoint.files_.back().get();
    for (const safetensors::Tensor& tensor : file->tensors()) {
      const auto entry = listed.find(tensor.name);
      if (entry == listed.end() || entry->second != name) {
        return fail("tensor " + gguf::quoted(tensor.name) + ": expected it to be listed in " + name +
                    ", where it is, found " + (entry == listed.end() ? "no entry" : gguf::quoted(entry->second)) +
                    "; " + kAdvice);
      }
      checkpoint.tensors_[tensor.name] = {file, &tensor};
    }
  }
  for (const auto& [tensor, file] : listed) {
    if (checkpoint.tensors_.contains(tensor)) continue;
    return fail("tensor " + gguf::quoted(tensor) + ": expected it in " + file + ", found no such tensor there; " +
                kAdvice);
  }
  return checkpoint;
}

const Checkpoint::Place* Checkpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

bool Checkpoint::is_part(const std::string& path) const {
  std::error_code ignored;
  for (const auto& file : files_) {
    if (fs::equivalent(file->path(), path, ignored)) return true;
  }
  return false;
}

}  // namespace bitnet::convert
