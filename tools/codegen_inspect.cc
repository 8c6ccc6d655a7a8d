#include "tools/codegen_inspect.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "runtime/base/sha256.h"
#include "runtime/bundle/bundle_checks.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/model/screened_head.h"
#include "runtime/model/tensors.h"
#include "tools/output.h"

namespace bitnet::tools {
namespace {

using Json = nlohmann::ordered_json;

std::string print(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

Json to_json_object(const gguf::File& file, const bundle_checks::Manifest& manifest) {
  Json out;
  out["path"] = file.path();
  out["bytes"] = file.bytes().size();
  out["bundle_version"] = kBundleVersion;
  out["kernel_abi_version"] = BITNET_KERNEL_ABI_VERSION;
  out["target"] = manifest.target;
  out["shape_hash"] = manifest.shape_hash;
  out["model_sha256"] = manifest.model_sha256;
  out["tools"] = manifest.tools;
  out["points"] = manifest.points;
  const Json table = Json::parse(to_json(manifest.table));
  out["images"] = table["images"];
  for (std::size_t i = 0; i < out["images"].size(); ++i) out["images"][i]["bytes"] = file.tensors()[i].bytes;
  out["kernels"] = table["kernels"];
  out["packed"] = {{"layout", manifest.packed.empty() ? "" : to_string(manifest.packed_layouts)},
                   {"bytes", manifest.packed.bytes.size()}};
  out["head"] = {{"version", manifest.head_version}, {"bytes", manifest.head.bytes.size()}};
  return out;
}

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(text.size(), width), ' ');
  return text;
}

// A bundle's strings are anyone's bytes: none of them may talk to the terminal.
std::string printable(std::string text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = '?';
  }
  return text;
}

// Columns as wide as their widest cell.
std::string columns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line = " ";
    for (std::size_t c = 0; c < row.size(); ++c) line += " " + padded(row[c], widths[c] + 1);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string to_text(const gguf::File& file, const bundle_checks::Manifest& manifest) {
  std::string text = file.path() + ": kernel bundle version " + std::to_string(kBundleVersion) + ", kernel ABI " +
                     std::to_string(BITNET_KERNEL_ABI_VERSION) + ", " + std::to_string(file.bytes().size()) +
                     " bytes\n";
  text += "target      " + printable(manifest.target) + "\n";
  text += "shape hash  " + printable(manifest.shape_hash) + "\n";
  text += "model       " + printable(manifest.model_sha256) + "\n";
  text += "tools       " + printable(manifest.tools) + "\n";
  text += "points      " + printable(manifest.points) + "\n";
  text += "images\n";
  std::vector<std::vector<std::string>> rows{{"tensor", "bytes", "kernels", "sha256", "features"}};
  for (std::size_t i = 0; i < manifest.table.images.size(); ++i) {
    const ImageRecord& image = manifest.table.images[i];
    std::size_t count = 0;
    std::string features;  // those that its kernels need, each list once
    for (const KernelRecord& kernel : manifest.table.kernels) {
      if (kernel.kernel.isa != image.isa) continue;
      ++count;
      if (features.find(kernel.features) != std::string::npos) continue;
      features += (features.empty() ? "" : " ") + printable(kernel.features);
    }
    rows.push_back({image.tensor, std::to_string(file.tensors()[i].bytes), std::to_string(count), image.sha256,
                    features.empty() ? "-" : features});
  }
  text += columns(rows);
  if (!manifest.packed.empty()) {
    text += "packed weights\n  layout " + to_string(manifest.packed_layouts) + ", " +
            std::to_string(manifest.packed.bytes.size()) + " bytes\n";
  }
  if (!manifest.head.empty()) {
    text += "head\n  int8 rows, version " + std::to_string(manifest.head_version) + ", " +
            std::to_string(manifest.head.bytes.size()) + " bytes\n";
  }
  text += "kernels\n";
  rows = {{"name", "layout", "tokens", "tile", "rows", "scratch", "offset"}};
  for (const KernelRecord& record : manifest.table.kernels) {
    const std::string most = record.tokens_max == 0 ? "any" : std::to_string(record.tokens_max);
    rows.push_back({printable(record.name), record.layout.empty() ? "-" : record.layout,
                    std::to_string(record.tokens_min) + ".." + most, std::to_string(record.kernel.token_tile),
                    std::to_string(record.row_granularity), std::to_string(record.kernel.scratch_bytes),
                    std::to_string(record.offset)});
  }
  return text + columns(rows);
}

// The checks as they run: once one that others rely on has failed, those are listed as skipped, never as passed.
class Checklist {
 public:
  // Runs `check` unless an essential one failed; returns whether it passed.
  bool run(const std::string& name, const std::function<Status()>& check, bool essential = false) {
    if (!blocked_.empty()) {
      rows_.push_back({name, "skipped", "relies on " + blocked_});
      return false;
    }
    const Status status = check();
    rows_.push_back({name, status.ok() ? "ok" : "failed", status.ok() ? "" : status.error().message});
    if (status.ok()) return true;
    ok_ = false;
    if (essential) blocked_ = name;
    return false;
  }
  void skip(const std::string& name, const std::string& reason) { rows_.push_back({name, "skipped", reason}); }

  [[nodiscard]] VerifyReport report(const std::string& path, const std::string& model, bool json) const {
    if (json) {
      Json out{{"bundle", path}, {"model", model}, {"ok", ok_}, {"checks", Json::array()}};
      for (const Row& row : rows_) {
        Json check{{"name", row.name}, {"result", row.result}};
        if (!row.reason.empty()) check["reason"] = row.reason;
        out["checks"].push_back(std::move(check));
      }
      return {print(out), ok_};
    }
    std::string text;
    for (const Row& row : rows_) {
      text += (row.result == "failed" ? "FAILED  " : padded(row.result, 7) + " ") + row.name +
              (row.reason.empty() ? "" : ": " + row.reason) + "\n";
    }
    return {text + "bundle '" + path + "': " + (ok_ ? "all checks passed\n" : "REFUSED\n"), ok_};
  }

 private:
  struct Row {
    std::string name;
    std::string result;
    std::string reason;
  };
  std::vector<Row> rows_;
  std::string blocked_;
  bool ok_ = true;
};

struct ModelFile {
  gguf::File file;
  ModelTensors tensors;
};

// Fills `out` in place: the tensors point into its file.
Status open_model(const std::string& path, const formats::ReadOptions& read, ModelFile& out) {
  BITNET_ASSIGN_OR_RETURN(out.file, gguf::File::open(path));
  BITNET_ASSIGN_OR_RETURN(const ModelConfig config, read_config(out.file));
  BITNET_ASSIGN_OR_RETURN(out.tensors, map_tensors(out.file, config, read));
  return {};
}

void check_model(Checklist& checks, const gguf::File& bundle, const bundle_checks::Manifest& manifest,
                 const ModelFile& model) {
  checks.run("model shapes",
             [&] { return bundle_checks::check_shape_hash(bundle, manifest, kernel_shapes(model.tensors).hash()); });
  checks.run("model SHA-256", [&]() -> Status {
    const std::string found = to_hex(sha256_of_file(*model.file.mapping()));
    if (found == manifest.model_sha256) return {};
    return bundle_checks::refuse(bundle.path(), "metadata",
                                 "made from another model file: expected SHA-256 " + manifest.model_sha256 + ", '" +
                                     model.file.path() + "' has " + found);
  });
  const auto check_size = [&](const HashedBytes& section, std::size_t expected) {
    if (section.empty()) return;
    checks.run(std::string(section.name) + (section.name.ends_with('s') ? "' size" : "'s size"), [&]() -> Status {
      if (expected == section.bytes.size()) return {};
      return bundle_checks::refuse(bundle.path(), section.name,
                                   "expected " + std::to_string(expected) + " bytes for this model, found " +
                                       std::to_string(section.bytes.size()));
    });
  };
  const gguf::Tensor& head = *model.tensors.head;
  ProductLayouts layouts = manifest.packed_layouts;
  const std::size_t shapes = kernel_shapes(model.tensors).ternary.size();
  if (layouts.size() == 1) layouts.resize(shapes, layouts.front());
  if (layouts.size() == shapes) {
    check_size(manifest.packed, packed_layout(model.tensors, layouts).bytes);
  } else if (!manifest.packed.empty()) {
    checks.run("packed weights' layouts", [&]() -> Status {
      return bundle_checks::refuse(bundle.path(), "metadata",
                                   "expected layouts of " + std::to_string(shapes) + " shapes for this model, found " +
                                       to_string(manifest.packed_layouts));
    });
  }
  check_size(manifest.head,
             screened_layout(static_cast<std::int64_t>(head.ne[1]), static_cast<std::int64_t>(head.ne[0])).bytes);
}

}  // namespace

Result<std::string> describe_bundle(const std::string& path, bool json) {
  BITNET_ASSIGN_OR_RETURN(const gguf::File file, bundle_checks::open_container(path));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_metadata(file));
  BITNET_ASSIGN_OR_RETURN(const bundle_checks::Manifest manifest, bundle_checks::read_manifest(file));
  return json ? print(to_json_object(file, manifest)) : to_text(file, manifest);
}

Result<VerifyReport> verify_bundle(const std::string& path, const std::string& model, bool json,
                                   const formats::ReadOptions& read) {
  ModelFile model_file;
  if (!model.empty()) BITNET_RETURN_IF_ERROR(open_model(model, read, model_file));
  Checklist checks;
  gguf::File file;
  bundle_checks::Manifest manifest;
  const auto open = [&]() -> Status {
    BITNET_ASSIGN_OR_RETURN(file, bundle_checks::open_container(path));
    return {};
  };
  const auto read_table = [&]() -> Status {
    BITNET_ASSIGN_OR_RETURN(manifest, bundle_checks::read_manifest(file));
    return {};
  };
  checks.run("container", open, /*essential=*/true);
  checks.run("permissions", [&] {
    return bundle_checks::check_permissions(path, file.mapping() == nullptr || file.mapping()->world_writable());
  });
  checks.run("metadata digest and versions", [&] { return bundle_checks::check_metadata(file); }, /*essential=*/true);
  checks.run("manifest and kernel table", read_table, /*essential=*/true);
  checks.run("padding", [&] { return bundle_checks::check_padding(file); });
  for (const ImageRecord& image : manifest.table.images) {
    checks.run(image.tensor, [&] { return bundle_checks::check_image(file, image); });
  }
  for (const HashedBytes* section : {&manifest.packed, &manifest.head}) {
    if (section->empty()) continue;
    checks.run(std::string(section->name), [&] { return bundle_checks::check_blocks(file, *section); });
  }
  if (model.empty()) {
    checks.skip("model", "no --model given");
  } else {
    check_model(checks, file, manifest, model_file);
  }
  return checks.report(path, model, json);
}

int inspect_command(const std::string& path, bool json) {
  const Result<std::string> text = describe_bundle(path, json);
  if (!text.ok()) return report_error("bitnet-codegen", text.error());
  return show_result("bitnet-codegen", *text);
}

int verify_command(const std::string& path, const std::string& model, bool json, const formats::ReadOptions& read) {
  const Result<VerifyReport> report = verify_bundle(path, model, json, read);
  if (!report.ok()) return report_error("bitnet-codegen", report.error());
  const int shown = show_result("bitnet-codegen", report->text);
  return report->ok ? shown : static_cast<int>(ErrorCode::kVerification);
}

}  // namespace bitnet::tools
