// Weight formats: the logits of every format that this CPU has kernels for are those of the built-in kernels, bit for
// bit, with weights packed at load or in the bundle.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <set>

#include "tests/model_evaluation.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

using test::check_equal;
using test::codegen_program;
using test::context_of;
using test::evaluate_all;
using test::EvaluationCase;
using test::kEvaluationCases;
using test::load;
using test::Logits;
using test::make_bundle;
using test::prompt;
using test::ScopedEnvironment;
using test::TempFolder;

// A weight format, the target that is asked for it and the image that then holds it.
struct FormatCase {
  const char* format;
  const char* target;
  Isa image;
};
constexpr FormatCase kFormatCases[] = {{"t5", "scalar", Isa::kScalar},    {"tl1", "scalar", Isa::kScalar},
                                       {"tl2", "scalar", Isa::kScalar},   {"tl1", "avx2", Isa::kAvx2},
                                       {"tl2", "avx2", Isa::kAvx2},       {"tl2", "avx512", Isa::kAvx512},
                                       {"t5", "avx512", Isa::kAvx512Vbmi}};

// What bitnet-codegen printed on standard error.
std::string said_by(const std::string& command, const TempFolder& folder, int& code) {
  code = std::system((command + " 2> '" + folder.file("err") + "'").c_str());
  std::ifstream file(folder.file("err"));
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_CASE("nor on the format of the weights") {
  const auto codegen = codegen_program("logits of weight formats");
  if (!codegen.has_value()) return;
  const TempFolder folder;
  const EvaluationCase& c = kEvaluationCases[0];
  const std::string path = write_synth(folder, "m.gguf", c.shape, c.architecture);
  const auto plain = load(path, 1);
  const std::vector<std::int32_t> ids = prompt(c.length, plain->config().vocab);
  const Logits expected = evaluate_all(*context_of(*plain, c.length), ids);
  for (const FormatCase& f : kFormatCases) {
    const std::string image(to_string(f.image));
    INFO(f.format, " on ", image);
    if (!probe_isa(f.image)) {
      std::printf("SKIPPED: logits of %s on %s (this CPU does not execute it)\n", f.format, image.c_str());
      continue;
    }
    // The scalar kernels get weights packed at load, the others the bundle's packed ones.
    const std::string bundle = folder.file("format.bnk");
    const bool packed = f.image != Isa::kScalar;
    const std::string options = std::string("--target ") + f.target + " --format " + f.format;
    REQUIRE(make_bundle(*codegen, path, bundle, options + (packed ? " --pack" : "")) == 0);
    const ScopedEnvironment force("BITNET_FORCE_ISA", image.c_str());
    std::vector<std::string> lines;
    const auto loaded = Model::load(
        path, {.threads = 3, .bundle = bundle, .strict = false, .log = [&](LogLevel, std::string_view line) {
                 lines.emplace_back(line);
               }});
    REQUIRE_MESSAGE(loaded.ok(), (loaded.ok() ? "" : loaded.error().message));
    Model& model = **loaded;
    REQUIRE(lines.size() == 2);  // the reading of I2_S, and the kernels; nothing to warn of
    CHECK(model.target() == image);
    for (const Layout layout : model.kernels().layouts()) CHECK(to_string(format_of(layout)) == f.format);
    CHECK(model.kernels().products_without_bundle().empty());
    for (const std::int64_t batch : {1, 2, 3, 5, 8, 16, 33}) {
      INFO("batch ", batch);
      const auto context = context_of(model, c.length, batch);
      const Logits all = evaluate_all(*context, ids);
      for (std::size_t i = 0; i < all.size(); ++i) check_equal(all[i], expected[i]);
      std::set<std::string> ran;
      for (const KernelUse& use : context->kernel_uses()) {
        CHECK_FALSE(use.name.starts_with("i2s_"));
        if (use.name.starts_with(f.format)) ran.insert(use.name);
      }
      // A pass of `batch` tokens and a shorter last one; a small-batch kernel carries its m in its name.
      const std::string kind = std::string(f.format) + (batch == 1 ? "_gemv_" : "_gemm_");
      CHECK(std::any_of(ran.begin(), ran.end(), [&](const std::string& name) { return name.starts_with(kind); }));
    }
  }
}

TEST_CASE("packed weights that the kernels of this CPU do not take are packed anew, and said so") {
  const auto codegen = codegen_program("packed weights in another layout");
  if (!codegen.has_value()) return;
  if (!probe_isa(Isa::kAvx512Vbmi)) {
    std::printf("SKIPPED: packed weights in another layout (this CPU does not execute avx512-vbmi)\n");
    return;
  }
  const TempFolder folder;
  const EvaluationCase& c = kEvaluationCases[0];
  const std::string path = write_synth(folder, "m.gguf", c.shape, c.architecture);
  const std::string bundle = folder.file("t5.bnk");
  REQUIRE(make_bundle(*codegen, path, bundle, "--target avx512 --format t5 --pack") == 0);
  const auto plain = load(path, 1);
  const std::vector<std::int32_t> ids = prompt(c.length, plain->config().vocab);
  const Logits expected = evaluate_all(*context_of(*plain, c.length), ids);
  const ScopedEnvironment force("BITNET_FORCE_ISA", "avx512");  // whose image has i2s kernels
  std::vector<std::string> warnings;
  const auto model = Model::load(
      path, {.threads = 2, .bundle = bundle, .strict = false, .log = [&](LogLevel level, std::string_view line) {
               if (level == LogLevel::kWarning) warnings.emplace_back(line);
             }});
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().message));
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].find("are in the layouts t5, the kernels that run here need t2") != std::string::npos);
  CHECK((*model)->target() == "avx512");
  const Logits all = evaluate_all(*context_of(**model, c.length), ids);
  for (std::size_t i = 0; i < all.size(); ++i) check_equal(all[i], expected[i]);
}

TEST_CASE("formats that a target does not have are refused by name") {
  const auto codegen = codegen_program("refused formats");
  if (!codegen.has_value()) return;
  const TempFolder folder;
  const std::string path = write_synth(folder, "m.gguf", kEvaluationCases[0].shape);
  const std::string command = "'" + *codegen + "' -q --model '" + path + "' -o '" + folder.file("x.bnk") + "' ";
  int code = 0;
  const std::string target = said_by(command + "--target avx2 --format t5", folder, code);
  CHECK(WEXITSTATUS(code) == 2);
  for (const char* part : {"t5", "avx2", "scalar", "avx512"}) CHECK(target.find(part) != std::string::npos);
  const std::string unknown = said_by(command + "--target scalar --format tl3", folder, code);
  CHECK(WEXITSTATUS(code) == 2);
  CHECK(unknown.find("unknown format 'tl3' (known: auto, i2s, t5, tl1, tl2)") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(folder.file("x.bnk")));
}

// One tensor of rows in both types: codes of which every third is 0, times a scale that float16 holds.
void set_rows(test::ModelCopy& copy, const std::string& name, gguf::TensorType type, float scale) {
  const auto found = std::ranges::find(copy.tensors, name, &test::CopiedTensor::name);
  if (found == copy.tensors.end()) copy.tensors.push_back({name, type, copy.tensor("token_embd.weight").ne, {}});
  test::CopiedTensor& tensor = copy.tensor(name);
  tensor.type = type;
  const auto count = static_cast<std::size_t>(tensor.ne[0] * tensor.ne[1]);
  std::mt19937 random(static_cast<unsigned>(name.size()));
  std::vector<float> values(count);
  std::vector<std::byte> packed(count / 4 + 32);
  for (std::size_t i = 0; i < count; ++i) {
    const auto code = static_cast<unsigned>(random() % 3);
    values[i] = scale * (static_cast<float>(code) - 1.0F);
    packed[i / 128 * 32 + i % 32] |= static_cast<std::byte>(code << (6 - 2 * (i % 128 / 32)));
  }
  if (type == gguf::TensorType::kI2_S) {
    std::memcpy(packed.data() + count / 4, &scale, sizeof scale);
    tensor.data = packed;
  } else {
    tensor.data.resize(count * sizeof(float));
    std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
  }
}

TEST_CASE("an embedding and a head in I2_S give the logits of the same rows in float32") {
  const TempFolder folder;
  const std::string made = write_synth(folder, "m.gguf", "2x128x256x2/2x300", "bitnet");
  const std::string path = folder.file("rows.gguf");
  const std::vector<std::int32_t> ids = prompt(5, 300);
  for (const bool untied : {false, true}) {
    CAPTURE(untied);
    std::vector<Logits> logits;
    for (const auto type : {gguf::TensorType::kF32, gguf::TensorType::kI2_S}) {
      test::ModelCopy copy = test::ModelCopy::read(made);
      set_rows(copy, "token_embd.weight", type, 0.75F);
      if (untied) set_rows(copy, "output.weight", type, 0.375F);
      copy.write(path);
      const auto model = load(path, 2);
      logits.push_back(evaluate_all(*context_of(*model, 8), ids));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) check_equal(logits[1][i], logits[0][i]);
  }
  // A code that means no weight.
  test::ModelCopy copy = test::ModelCopy::read(made);
  set_rows(copy, "token_embd.weight", gguf::TensorType::kI2_S, 0.75F);
  copy.tensor("token_embd.weight").data[100] |= std::byte{0xC0};
  copy.write(path);
  const auto refused = Model::load(path, {});
  REQUIRE_FALSE(refused.ok());
  const Error& error = refused.error();
  CHECK(error.code == ErrorCode::kTensorMapping);
  CHECK(error.message.find("token_embd.weight") != std::string::npos);
  CHECK(error.message.find("1 codes that mean no weight in rows 0..255") != std::string::npos);
}

}  // namespace
}  // namespace bitnet
