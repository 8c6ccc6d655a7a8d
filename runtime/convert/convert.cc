// The order of the work: everything that can be refused without reading weights is refused before the first byte is
// written; what only the weights can tell ends the writer, which leaves nothing behind.
#include "runtime/convert/convert.h"

#include <filesystem>
#include <utility>

#include "runtime/convert/generation.h"
#include "runtime/convert/hf_config.h"
#include "runtime/convert/output.h"
#include "runtime/convert/tensors.h"
#include "runtime/convert/vocabulary.h"
#include "runtime/model/gguf_layout.h"
#include "runtime/safetensors/safetensors.h"
#include "runtime/sampling/recommended.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;

Result<safetensors::File> open_weights(const std::string& directory) {
  const std::string path = directory + "/model.safetensors";
  std::error_code ignored;
  if (!fs::exists(path, ignored) && fs::exists(path + ".index.json", ignored)) {
    return Error{ErrorCode::kFailure, path + ": expected one file, found only " + path +
                                          ".index.json; checkpoints in several files cannot be converted: save this "
                                          "one as a single file"};
  }
  return safetensors::File::open(path);
}

std::string model_name(const std::string& directory, const std::string& configured, const std::string& wanted) {
  if (!wanted.empty()) return wanted;
  if (!configured.empty()) return configured;
  std::error_code error;
  fs::path path = fs::canonical(directory, error);
  return error ? directory : path.filename().string();
}

fs::path folder_of(const std::string& output) {
  const fs::path folder = fs::path(output).parent_path();
  return folder.empty() ? fs::path(".") : folder;
}

}  // namespace

namespace convert {

Status check_output(const std::string& output, const std::string& directory) {
  std::error_code error;
  const fs::path folder = folder_of(output);
  if (!fs::is_directory(folder, error)) {
    return Error{ErrorCode::kFailure,
                 output + ": expected a folder " + folder.string() + ", found none; make it, or name another file"};
  }
  if (!fs::exists(output, error)) return {};
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    if (!entry.is_regular_file(error) || entry.path().extension() == ".gguf") continue;
    if (!fs::equivalent(entry.path(), output, error)) continue;
    return Error{ErrorCode::kUsage, output + ": expected a file of its own, found the checkpoint's " +
                                        entry.path().filename().string() + "; name another file"};
  }
  return {};
}

Status check_space(const std::string& output, std::uint64_t bytes) {
  std::error_code error;
  const fs::path folder = folder_of(output);
  const fs::space_info space = fs::space(folder, error);
  if (error || space.available >= bytes) return {};
  return Error{ErrorCode::kFailure, output + ": expected " + std::to_string(bytes) + " bytes of free space in " +
                                        folder.string() + ", found " + std::to_string(space.available) +
                                        "; make room, or name a file on another disk"};
}

}  // namespace convert

Result<ConvertReport> convert_model(const std::string& directory, const std::string& output,
                                    const ConvertOptions& options) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return Error{ErrorCode::kUsage, directory +
                                        ": expected the directory of a checkpoint (config.json, "
                                        "model.safetensors, tokenizer.model), found " +
                                        (fs::exists(directory, error) ? "a file" : "nothing") +
                                        "; name the directory itself"};
  }
  BITNET_RETURN_IF_ERROR(convert::check_output(output, directory));
  BITNET_ASSIGN_OR_RETURN(const convert::HfConfig config, convert::read_hf_config(directory + "/config.json"));
  BITNET_ASSIGN_OR_RETURN(const safetensors::File file, open_weights(directory));
  BITNET_ASSIGN_OR_RETURN(const std::vector<convert::SourceTensor> tensors,
                          convert::map_checkpoint(file, config.model));
  BITNET_ASSIGN_OR_RETURN(convert::Vocabulary vocabulary, convert::read_vocabulary(directory, config));
  BITNET_ASSIGN_OR_RETURN(const convert::Generation generation, convert::read_generation(directory));

  ConvertReport report;
  report.config = config.model;
  report.name = model_name(directory, config.name, options.name);
  report.warnings = std::move(vocabulary.warnings);
  gguf::Writer writer;
  set_metadata(config.model, report.name, vocabulary.data, writer);
  if (generation.present) recommend_sampling(generation.sampling, writer);
  std::uint64_t total = 0;
  for (const convert::SourceTensor& tensor : tensors) {
    writer.add_tensor(tensor.plan.name, tensor.plan.type, tensor.plan.ne);
    total += tensor.plan.bytes();
  }
  BITNET_ASSIGN_OR_RETURN(const std::vector<std::byte> header, writer.header());
  constexpr std::uint64_t kMostPadding = 32;  // behind the header and behind each tensor
  BITNET_RETURN_IF_ERROR(convert::check_space(output, header.size() + total + (tensors.size() + 1) * kMostPadding));

  std::uint64_t done = 0;
  const auto source = [&](std::size_t index, const gguf::Writer::Sink& sink) {
    return convert::stream_tensor(file, tensors[index], [&](std::span<const std::byte> piece) -> Status {
      BITNET_RETURN_IF_ERROR(sink(piece));
      done += piece.size();
      if (options.progress) options.progress(done, total);
      return {};
    });
  };
  BITNET_RETURN_IF_ERROR(writer.write(output, source));
  report.bytes = fs::file_size(output, error);
  if (error) return Error{ErrorCode::kFailure, output + ": cannot be found after it was written: " + error.message()};
  return report;
}

}  // namespace bitnet
