// Models for tests: synthetic ones, and copies of them with something changed.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/synth/synth.h"

namespace bitnet::test {

// A folder that goes away with the test.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "bitnet_model_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Sets an environment variable for the life of the object.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value) : name_(name) {
    const char* old = std::getenv(name);
    if (old != nullptr) old_ = old;
    had_ = old != nullptr;
    value == nullptr ? unsetenv(name) : setenv(name, value, 1);
  }
  ~ScopedEnvironment() { had_ ? setenv(name_, old_.c_str(), 1) : unsetenv(name_); }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  const char* name_;
  std::string old_;
  bool had_ = false;
};

inline std::string write_synth(const TempFolder& folder, const std::string& name, const std::string& shape,
                               const std::string& architecture = "bitnet-b1.58") {
  auto spec = parse_synth_shape(shape);
  REQUIRE_MESSAGE(spec.ok(), (spec.ok() ? "" : spec.error().message));
  spec->architecture = architecture;
  spec->seed = 7;
  const std::string path = folder.file(name);
  const Status status = write_synthetic_model(*spec, path);
  REQUIRE_MESSAGE(status.ok(), (status.ok() ? "" : status.error().message));
  return path;
}

struct CopiedTensor {
  std::string name;
  gguf::TensorType type = gguf::TensorType::kF32;
  std::vector<std::uint64_t> ne;
  std::vector<std::byte> data;
};

// A model in memory that a test may change before it is written: scalar and string metadata without the tokenizer's.
struct ModelCopy {
  std::vector<std::pair<std::string, gguf::Value>> metadata;
  std::vector<CopiedTensor> tensors;

  static ModelCopy read(const std::string& path) {
    ModelCopy copy;
    const auto file = gguf::File::open(path);
    REQUIRE(file.ok());
    copy.strings_ = std::make_shared<std::vector<std::unique_ptr<std::string>>>();
    for (const gguf::KeyValue& entry : file->metadata()) {
      if (std::holds_alternative<gguf::Array>(entry.value) || entry.key.starts_with("tokenizer.")) continue;
      gguf::Value value = entry.value;
      if (std::holds_alternative<std::string_view>(value)) value = copy.keep(std::get<std::string_view>(value));
      copy.metadata.emplace_back(std::string(entry.key), value);
    }
    for (const gguf::Tensor& tensor : file->tensors()) {
      copy.tensors.push_back({std::string(tensor.name),
                              tensor.type,
                              {tensor.ne.begin(), tensor.ne.begin() + tensor.n_dims},
                              {tensor.data.begin(), tensor.data.end()}});
    }
    return copy;
  }

  CopiedTensor& tensor(const std::string& name) {
    for (CopiedTensor& candidate : tensors) {
      if (candidate.name == name) return candidate;
    }
    FAIL("no tensor " << name);
    return tensors.front();
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const CopiedTensor& candidate) { return candidate.name == name; });
  }
  void add_floats(const std::string& name, std::size_t count) {
    tensors.push_back({name, gguf::TensorType::kF32, {count}, std::vector<std::byte>(count * sizeof(float))});
  }
  void set(const std::string& key, gguf::Value value) {
    if (std::holds_alternative<std::string_view>(value)) value = keep(std::get<std::string_view>(value));
    for (auto& [name, old] : metadata) {
      if (name == key) {
        old = value;
        return;
      }
    }
    metadata.emplace_back(key, value);
  }
  void erase(const std::string& key) {
    std::erase_if(metadata, [&](const auto& entry) { return entry.first == key; });
  }

  void write(const std::string& path, std::uint32_t alignment = 32) const {
    gguf::Writer writer(alignment);
    for (const auto& [key, value] : metadata) {
      std::visit(
          [&, name = key](const auto& v) {
            using T = std::decay_t<decltype(v)>;
            if constexpr (requires(gguf::Writer w, T x) { w.set(std::string(), x); } &&
                          !std::is_same_v<T, gguf::Array>) {
              if constexpr (std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::uint32_t> ||
                            std::is_same_v<T, std::int32_t> || std::is_same_v<T, std::uint64_t> ||
                            std::is_same_v<T, float> || std::is_same_v<T, bool> ||
                            std::is_same_v<T, std::string_view>) {
                writer.set(name, v);
              }
            }
          },
          value);
    }
    for (const CopiedTensor& tensor : tensors) writer.add_tensor(tensor.name, tensor.type, tensor.ne);
    const Status status = writer.write(
        path, [&](std::size_t i, const gguf::Writer::Sink& sink) -> Status { return sink(tensors[i].data); });
    REQUIRE_MESSAGE(status.ok(), (status.ok() ? "" : status.error().message));
  }

 private:
  std::string_view keep(std::string_view text) {
    strings_->push_back(std::make_unique<std::string>(text));
    return *strings_->back();
  }
  std::shared_ptr<std::vector<std::unique_ptr<std::string>>> strings_;
};

}  // namespace bitnet::test
