// The order of the work: everything that can be refused without reading weights is refused before the first byte is
// written; what only the weights can tell ends the writer, which leaves nothing behind.
#include "runtime/convert/convert.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "runtime/base/new_file.h"
#include "runtime/convert/checkpoint.h"
#include "runtime/convert/generation.h"
#include "runtime/convert/gguf_source.h"
#include "runtime/convert/hf_check.h"
#include "runtime/convert/hf_config.h"
#include "runtime/convert/hf_output.h"
#include "runtime/convert/hf_tensors.h"
#include "runtime/convert/llama3_scaling.h"
#include "runtime/convert/metadata.h"
#include "runtime/convert/output.h"
#include "runtime/convert/plan.h"
#include "runtime/convert/stream.h"
#include "runtime/gguf/types.h"
#include "runtime/model/tensors.h"
#include "runtime/safetensors/safetensors.h"
#include "runtime/sampling/recommended.h"
#include "runtime/tokenizer/directory.h"
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using convert::SourceTensor;
using gguf::TensorType;

std::string model_name(const std::string& directory, const std::string& configured, const std::string& wanted) {
  if (!wanted.empty()) return wanted;
  if (!configured.empty()) return configured;
  std::error_code error;
  const fs::path path = fs::canonical(directory, error);
  return error ? directory : path.filename().string();
}

// x with x * scale == product, where there is one, else the nearest.
float factor_of(float product, float scale) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float quotient = product / scale;
  for (const float candidate : {quotient, std::nextafter(quotient, kInfinity), std::nextafter(quotient, -kInfinity)}) {
    if (candidate * scale == product) return candidate;
  }
  return quotient;
}

fs::path folder_of(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
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
  const auto belongs = [&](const fs::path& part) {
    return Error{ErrorCode::kUsage, output + ": expected a file of its own, found the checkpoint's " +
                                        part.filename().string() + "; name another file"};
  };
  if (!fs::is_directory(directory, error)) {
    return fs::equivalent(directory, output, error) ? Status(belongs(directory)) : Status();
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    if (!entry.is_regular_file(error) || entry.path().extension() == ".gguf") continue;
    if (fs::equivalent(entry.path(), output, error)) return belongs(entry.path());
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

namespace {

// The model to convert, opened and looked through.
struct Source {
  std::string directory;  // of a checkpoint; empty for a GGUF file
  std::optional<convert::Checkpoint> checkpoint;
  std::optional<gguf::File> file;
  convert::HfConfig config;  // of a GGUF file: what a checkpoint of it would say
  std::vector<SourceTensor> tensors;
};

class Conversion {
 public:
  Conversion(const std::string& input, const std::string& output, const ConvertOptions& options, ConvertReport& report)
      : input_(input), output_(output), options_(options), report_(report) {}

  Status run() {
    format_ = options_.format.value_or(fs::path(output_).extension() == ".safetensors" ? ConvertFormat::kSafetensors
                                                                                       : ConvertFormat::kGguf);
    BITNET_RETURN_IF_ERROR(open());
    report_.config = source_.config.model;
    BITNET_RETURN_IF_ERROR(format_ == ConvertFormat::kGguf ? write_gguf() : write_safetensors());
    if (options_.progress && shown_ < total_) options_.progress(total_, total_);
    std::error_code error;
    report_.bytes = fs::file_size(output_, error);
    if (!error) return {};
    return Error{ErrorCode::kFailure, output_ + ": cannot be found after it was written: " + error.message()};
  }

 private:
  Status open() {
    std::error_code error;
    if (fs::is_directory(input_, error)) return open_checkpoint(input_, "");
    if (fs::is_regular_file(input_, error)) {
      if (fs::path(input_).extension() == ".safetensors") return open_checkpoint(folder_of(input_).string(), input_);
      const auto mapped = MappedFile::open(input_);
      constexpr std::string_view kMagic = "GGUF";
      if (mapped.ok() && mapped->bytes().size() >= kMagic.size() &&
          std::equal(kMagic.begin(), kMagic.end(), reinterpret_cast<const char*>(mapped->bytes().data()))) {
        return open_gguf();
      }
    }
    return Error{ErrorCode::kUsage, input_ +
                                        ": expected the directory of a checkpoint (config.json, model.safetensors, "
                                        "tokenizer files), a .safetensors file in such a directory, or a GGUF file, "
                                        "found " +
                                        (fs::exists(input_, error) ? "a file of another kind" : "nothing")};
  }

  Status open_checkpoint(const std::string& directory, const std::string& file) {
    source_.directory = directory;
    BITNET_RETURN_IF_ERROR(convert::check_output(output_, directory));
    BITNET_ASSIGN_OR_RETURN(source_.config, convert::read_hf_config(directory));
    BITNET_ASSIGN_OR_RETURN(source_.checkpoint, file.empty() ? convert::Checkpoint::open_directory(directory)
                                                             : convert::Checkpoint::open_file(file));
    BITNET_ASSIGN_OR_RETURN(convert::HfTensors mapped, convert::map_checkpoint(*source_.checkpoint, source_.config));
    for (convert::Unmapped& tensor : mapped.unmapped) {
      report_.unmapped.emplace_back(std::move(tensor.name), std::move(tensor.reason));
    }
    report_.missing = mapped.missing;
    report_.unexpected = mapped.unexpected;
    for (const SourceTensor& tensor : mapped.tensors) list(tensor.from, tensor.type, tensor.name, tensor.ne);
    BITNET_RETURN_IF_ERROR(convert::check_names(*source_.checkpoint, mapped));
    source_.tensors = std::move(mapped.tensors);
    report_.name = model_name(directory, source_.config.name, options_.name);
    report_.warnings = source_.config.warnings;
    return {};
  }

  Status open_gguf() {
    BITNET_RETURN_IF_ERROR(convert::check_output(output_, input_));
    BITNET_ASSIGN_OR_RETURN(source_.file, gguf::File::open(input_));
    auto read = read_config(*source_.file);
    if (!read.ok() && read.error().code == ErrorCode::kTensorMapping &&
        source_.file->find_tensor("token_embd.weight") == nullptr) {
      report_.missing = {"token_embd.weight"};  // nothing else is looked for without it
    }
    BITNET_ASSIGN_OR_RETURN(const ModelConfig config, std::move(read));
    report_.config = config;
    // What loading would refuse: a part of a model must not become a whole one.
    BITNET_ASSIGN_OR_RETURN(TensorNames names, check_names(*source_.file, config));
    report_.missing = std::move(names.missing);
    report_.unexpected = std::move(names.foreign);
    for (const gguf::Tensor& tensor : source_.file->tensors()) {
      const std::string name(tensor.name);
      const auto& foreign = report_.unexpected;
      if (std::find(foreign.begin(), foreign.end(), name) != foreign.end()) continue;
      list({name}, std::string(gguf::type_name(tensor)), name,
           {tensor.ne.begin(), tensor.ne.begin() + std::max(tensor.n_dims, 1U)});
    }
    BITNET_RETURN_IF_ERROR(convert::refuse_names(
        input_, report_.missing, report_.unexpected,
        "the file is not a whole model of architecture " + config.architecture + ": fetch or convert it again"));
    const bool tied = config.tied_only || source_.file->find_tensor("output.weight") == nullptr;
    source_.config = convert::hf_config_of(config, tied);
    BITNET_ASSIGN_OR_RETURN(source_.config.bos, read_token_id(*source_.file, "bos"));
    BITNET_ASSIGN_OR_RETURN(source_.config.eos, read_token_id(*source_.file, "eos"));
    BITNET_ASSIGN_OR_RETURN(source_.tensors, convert::gguf_tensors(*source_.file, options_.read, report_.warnings));
    for (const auto& [name, factors] : {std::pair("rope_freqs.weight", &source_.config.rope_factors),
                                        {"rope_factors_long.weight", &source_.config.rope_long},
                                        {"rope_factors_short.weight", &source_.config.rope_short}}) {
      for (const SourceTensor& tensor : source_.tensors) {
        if (tensor.name != name || !tensor.floats) continue;
        factors->resize(static_cast<std::size_t>(tensor.elements()));
        tensor.floats(0, tensor.rows(), factors->data());
      }
    }
    BITNET_RETURN_IF_ERROR(read_llama3());
    report_.name = options_.name;
    if (options_.name.empty() && source_.file->find("general.name") != nullptr) {
      BITNET_ASSIGN_OR_RETURN(const std::string_view name, source_.file->get_string("general.name"));
      report_.name = std::string(name);
    }
    return {};
  }

  [[nodiscard]] Result<TensorType> projection_type() const {
    if (options_.type) return *options_.type;
    if (source_.file) {
      return Error{ErrorCode::kUsage, "--type: expected the type of the result's matrices, one of " +
                                          std::string(target_type_names()) + ", found none; a GGUF file needs it"};
    }
    const bool plain =
        source_.config.storage == convert::Storage::kPlain && source_.config.family != convert::Family::kBitNet;
    return plain ? TensorType::kF16 : TensorType::kI2_S;
  }

  // What a conversion of this program noted about the factors that it wrote, if they are still there.
  Status read_llama3() {
    convert::HfConfig& config = source_.config;
    const std::string prefix = config.model.architecture + std::string(convert::kLlama3Keys);
    if (config.rope_factors.empty() || source_.file->find(prefix + "factor") == nullptr) return {};
    convert::Llama3Scaling noted;
    for (const auto& [key, value] :
         {std::pair("factor", &noted.factor), {"low_freq_factor", &noted.low}, {"high_freq_factor", &noted.high}}) {
      BITNET_ASSIGN_OR_RETURN(const double stated, source_.file->get_float(prefix + key));
      *value = static_cast<float>(stated);
    }
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t context, source_.file->get_uint(prefix + "original_context_length"));
    noted.original_context = static_cast<std::int64_t>(context);
    if (convert::llama3_factors(noted, config.model.rope_base, config.model.rope_dim) == config.rope_factors) {
      config.llama3 = noted;
    }
    return {};
  }

  // A tensor of the source that has its place in the model, for the report; what it becomes is known later.
  void list(std::vector<std::string> from, std::string type, std::string to, std::vector<std::uint64_t> shape) {
    ConvertedTensor& tensor = report_.tensors.emplace_back();
    tensor.from = std::move(from);
    tensor.from_type = std::move(type);
    tensor.to = std::move(to);
    tensor.shape = std::move(shape);
  }

  // What each tensor becomes; completes the report's list of tensors.
  Status plan(bool packed) {
    BITNET_ASSIGN_OR_RETURN(const TensorType type, projection_type());
    convert::PlanOptions wanted;
    wanted.type = type;
    wanted.embedding = options_.embedding;
    wanted.head = options_.head;
    wanted.keep_types = source_.file.has_value() && format_ == ConvertFormat::kGguf;
    wanted.ternarize = options_.ternarize;
    wanted.packed = packed;
    wanted.tile_config = options_.tile_config.empty() ? options_.read.tile_config : options_.tile_config;
    wanted.strict = options_.read.strict;
    type_ = type;
    BITNET_ASSIGN_OR_RETURN(targets_, convert::plan_targets(source_.tensors, wanted, report_.warnings));
    for (std::size_t i = 0; i < source_.tensors.size(); ++i) {
      const SourceTensor& tensor = source_.tensors[i];
      report_.tensors[i].to_type =
          convert::is_copied(tensor, targets_[i]) ? tensor.type : convert::type_name(targets_[i]);
      elements_ += tensor.elements();
    }
    return {};
  }

  // One tensor to a writer's sink, with progress and a look at the interrupt.
  Status stream(std::size_t index, const convert::Sink& sink) {
    const auto step = [this](std::uint64_t elements) -> Status {
      elements_done_ += elements;
      if (options_.interrupted && options_.interrupted()) {
        return Error{ErrorCode::kInterrupted, output_ + ": interrupted; nothing was written"};
      }
      const auto bytes = elements_ == 0 ? total_
                                        : static_cast<std::uint64_t>(static_cast<double>(total_) *
                                                                     static_cast<double>(elements_done_) /
                                                                     static_cast<double>(elements_));
      if (!options_.progress || bytes <= shown_) return {};
      shown_ = std::min(bytes, total_);
      options_.progress(shown_, total_);
      return {};
    };
    BITNET_RETURN_IF_ERROR(convert::stream_tensor(source_.tensors[index], targets_[index], sink, step,
                                                  report_.tensors[index], report_.warnings));
    report_.tensors[index].max_error = std::max(report_.tensors[index].max_error, source_.tensors[index].error);
    return {};
  }

  Status write_gguf() {
    std::uint32_t alignment = 32;
    if (source_.file) alignment = static_cast<std::uint32_t>(source_.file->alignment());
    gguf::Writer writer(alignment);
    BITNET_RETURN_IF_ERROR(plan(/*packed=*/false));
    BITNET_RETURN_IF_ERROR(source_.file ? copy_metadata(writer) : make_metadata(writer));
    for (std::size_t i = 0; i < source_.tensors.size(); ++i) {
      const SourceTensor& tensor = source_.tensors[i];
      const bool copied = convert::is_copied(tensor, targets_[i]);
      writer.add_tensor(tensor.name, targets_[i].type, tensor.ne, copied ? tensor.raw.size() : 0);
      BITNET_ASSIGN_OR_RETURN(const std::uint64_t bytes, convert::target_bytes(tensor, targets_[i]));
      total_ += bytes;
    }
    BITNET_ASSIGN_OR_RETURN(const std::vector<std::byte> header, writer.header());
    const std::uint64_t padding = (source_.tensors.size() + 1) * alignment;
    BITNET_RETURN_IF_ERROR(convert::check_space(output_, header.size() + total_ + padding));
    return writer.write(output_,
                        [this](std::size_t index, const gguf::Writer::Sink& sink) { return stream(index, sink); });
  }

  Status make_metadata(gguf::Writer& writer) {
    if (options_.weights_only) {
      convert::set_model_metadata(source_.config, report_.name, type_, writer);
      return {};
    }
    BITNET_ASSIGN_OR_RETURN(const VocabularyData vocabulary,
                            read_tokenizer_directory(source_.directory, source_.config.model.vocab, report_.warnings));
    BITNET_ASSIGN_OR_RETURN(const convert::Generation generation, convert::read_generation(source_.directory));
    convert::set_model_metadata(source_.config, report_.name, type_, writer);
    set_vocabulary(vocabulary, writer);
    writer.set("general.quantization_version", std::uint32_t{2});
    if (generation.present) recommend_sampling(generation.sampling, writer);
    return {};
  }

  Status copy_metadata(gguf::Writer& writer) {
    for (const gguf::KeyValue& entry : source_.file->metadata()) {
      if (entry.key == "general.file_type") {
        writer.set("general.file_type", convert::file_type(type_));
      } else if (entry.key == "general.name" && !options_.name.empty()) {
        writer.set("general.name", std::string_view(options_.name));
      } else {
        writer.copy(entry);
      }
    }
    if (source_.file->find("general.name") == nullptr && !options_.name.empty()) {
      writer.set("general.name", std::string_view(options_.name));
    }
    return {};
  }

  Status write_safetensors() {
    BITNET_ASSIGN_OR_RETURN(const TensorType type, projection_type());
    const bool packed = type == TensorType::kI2_S;
    const std::string config_path = (folder_of(output_) / "config.json").string();
    BITNET_ASSIGN_OR_RETURN(const std::string config_text, make_config_json(packed));
    std::error_code ignored;
    if (fs::exists(config_path, ignored)) {
      return Error{ErrorCode::kUsage, config_path + ": expected no such file, because the result's config.json goes " +
                                          "there, found one; name a file in a folder of its own"};
    }
    std::vector<convert::Unmapped> unmapped;
    BITNET_ASSIGN_OR_RETURN(source_.tensors, convert::hf_tensors(std::move(source_.tensors), source_.config, unmapped));
    for (convert::Unmapped& tensor : unmapped) {
      report_.unmapped.emplace_back(std::move(tensor.name), std::move(tensor.reason));
    }
    report_.tensors.clear();  // names, shapes and places are the result's from here on
    for (const SourceTensor& tensor : source_.tensors) list(tensor.from, tensor.type, tensor.name, tensor.ne);
    BITNET_RETURN_IF_ERROR(plan(packed));
    report_.warnings.emplace_back("the tokenizer is not written: a checkpoint keeps it in files of its own");

    safetensors::Writer writer;
    writer.set("format", "pt");
    std::vector<float> scales;
    std::map<std::string, float> scale_of;
    for (std::size_t i = 0; i < source_.tensors.size(); ++i) {
      const SourceTensor& tensor = source_.tensors[i];
      BITNET_ASSIGN_OR_RETURN(const std::uint64_t bytes, convert::target_bytes(tensor, targets_[i]));
      total_ += bytes;
      std::vector<std::uint64_t> shape(tensor.ne.rbegin(), tensor.ne.rend());
      if (targets_[i].packed) shape.front() = (shape.front() + 3) / 4;
      BITNET_ASSIGN_OR_RETURN(const safetensors::DType dtype, convert::safetensors_type(targets_[i]));
      writer.add_tensor(tensor.name, dtype, std::move(shape));
    }
    // The scales stand before their matrices in the file.
    for (std::size_t i = 0; i < source_.tensors.size(); ++i) {
      if (!targets_[i].packed) continue;
      BITNET_ASSIGN_OR_RETURN(const float scale, convert::packed_scale(source_.tensors[i], targets_[i]));
      writer.add_tensor(source_.tensors[i].name + "_scale", safetensors::DType::kF32, {1});
      scales.push_back(scale);
      scale_of[source_.tensors[i].name] = scale;
    }
    BITNET_RETURN_IF_ERROR(divide_biases(scale_of));
    BITNET_ASSIGN_OR_RETURN(const std::vector<std::byte> header, writer.header());
    BITNET_RETURN_IF_ERROR(convert::check_space(output_, header.size() + total_ + scales.size() * sizeof(float)));
    BITNET_RETURN_IF_ERROR(
        writer.write(output_, [&](std::size_t index, const safetensors::Writer::Sink& sink) -> Status {
          if (index < source_.tensors.size()) return stream(index, sink);
          return sink(std::as_bytes(std::span(&scales[index - source_.tensors.size()], 1)));
        }));
    NewFile config(config_path);
    BITNET_RETURN_IF_ERROR(config.open());
    BITNET_RETURN_IF_ERROR(config.append(std::as_bytes(std::span(config_text))));
    return config.commit();
  }

  // Of the result, whose storage source_.config has from here on.
  Result<std::string> make_config_json(bool packed) {
    convert::HfConfig& config = source_.config;
    if (packed) {
      config.storage = convert::Storage::kPacked;
      config.unquantised.clear();
    } else if (config.storage == convert::Storage::kPacked) {
      config.storage = convert::Storage::kPlain;
    }
    config.scale_divides = false;
    config.name = report_.name;
    const std::string_view own[] = {"_norm_in.weight", "attn_sub_norm.weight", "ffn_sub_norm.weight"};
    for (const SourceTensor& tensor : source_.tensors) {
      const bool sub_norm = tensor.name.ends_with(own[1]) || tensor.name.ends_with(own[2]);
      const bool single = tensor.name.ends_with(own[0]) && tensor.name.find("attn_output") == std::string::npos &&
                          tensor.name.find("ffn_down") == std::string::npos;
      const bool behind = tensor.name.ends_with(own[0]) && !single;
      if (single || ((sub_norm || behind) && config.family != convert::Family::kBitNet)) config.own_norms = true;
    }
    convert::note_biases_and_norms(source_.tensors, config, report_.warnings);
    if (!config.rope_factors.empty() && !config.llama3) {
      const auto found = convert::find_llama3(config.rope_factors, config.model.rope_base, config.model.rope_dim);
      if (found) config.llama3 = found->scaling;
    }
    const auto refuse = [&](const Error& error) {
      return Error{error.code, input_ + ": its config.json cannot be written: " + error.message +
                                   "; keep the model in a GGUF file"};
    };
    const auto text = convert::hf_config_json(config);
    if (!text.ok()) return refuse(text.error());
    const auto difference = convert::check_config_json(config, *text);
    if (!difference.ok()) return refuse(difference.error());
    if (*difference != 0.0) {
      report_.config_rounded = true;
      char shown[32];
      std::snprintf(shown, sizeof shown, "%.2g", *difference);
      report_.warnings.push_back("config.json states numbers of the model up to a relative difference of " +
                                 std::string(shown) + ", so the logits are not the same to the last bit");
    }
    if (config.model.pooling != Pooling::kNone) {
      report_.warnings.emplace_back("the pooling is not written: a checkpoint keeps it in 1_Pooling/config.json");
    }
    return *text;
  }

  // Layers of packed weights multiply their biases by the weights' scale too.
  Status divide_biases(const std::map<std::string, float>& scales) {
    for (SourceTensor& tensor : source_.tensors) {
      if (!tensor.name.ends_with(".bias")) continue;
      const auto scale = scales.find(tensor.name.substr(0, tensor.name.size() - 4) + "weight");
      if (scale == scales.end()) continue;
      std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
      tensor.floats(0, tensor.rows(), values.data());
      for (float& value : values) {
        const float wanted = value;
        value = factor_of(wanted, scale->second);
        if (!std::isfinite(value)) {
          return Error{ErrorCode::kTensorMapping,
                       tensor.place + ": expected a bias that can be divided by the weights' scale of " +
                           std::to_string(scale->second) + ", as packed layers have it, found " +
                           std::to_string(wanted) + ", which is too large for that; choose --type f16"};
        }
        const auto difference = std::fabs(static_cast<double>(value * scale->second) - static_cast<double>(wanted));
        tensor.error = std::max(tensor.error, difference);
      }
      tensor.raw_type.reset();
      tensor.floats = [values = std::move(values)](std::int64_t, std::int64_t, float* out) {
        std::copy(values.begin(), values.end(), out);
      };
    }
    return {};
  }

  const std::string& input_;
  const std::string& output_;
  const ConvertOptions& options_;
  ConvertReport& report_;
  ConvertFormat format_ = ConvertFormat::kGguf;
  Source source_;
  TensorType type_ = TensorType::kI2_S;
  std::vector<convert::Target> targets_;  // beside source_.tensors
  std::uint64_t elements_ = 0, elements_done_ = 0, total_ = 0, shown_ = 0;
};

}  // namespace

Status convert_model(const std::string& input, const std::string& output, const ConvertOptions& options,
                     ConvertReport& report) {
  report = {};
  return Conversion(input, output, options, report).run();
}

Result<ConvertReport> convert_model(const std::string& input, const std::string& output,
                                    const ConvertOptions& options) {
  ConvertReport report;
  BITNET_RETURN_IF_ERROR(convert_model(input, output, options, report));
  return report;
}

}  // namespace bitnet
