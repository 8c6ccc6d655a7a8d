// One layer of a model, step by step, with a chosen set of kernels: what the parity tests feed with the dumped inputs
// of another implementation, so that each step is compared on its own and no error is carried from one to the next.
//
// KernelChoices lists the sets: the built-in kernels of every target that this CPU executes, and those of a bundle
// where bitnet-codegen has been built. NodeFiles reads a graph dump (runtime/model/node_dump.h). Activations are float
// rows [tokens][width] throughout.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/buffer.h"
#include "runtime/bundle/bundle.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/tensors.h"
#include "tests/model_files.h"

namespace bitnet::test {

using Floats = std::vector<float>;

template <typename T>
std::vector<T> read_array(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  REQUIRE_MESSAGE(file, path);
  std::vector<T> data(static_cast<std::size_t>(file.tellg()) / sizeof(T));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size() * sizeof(T)));
  REQUIRE_MESSAGE(file.good(), path);
  return data;
}

// The nodes of one dump: BEGINNINGnodes.txt and BEGINNINGt.NNN.<node>.<op>.f32.
class NodeFiles {
 public:
  explicit NodeFiles(std::string beginning);
  // The data of node "name.OP" (in a name, ( and ) read _), the occurrence-th of those that are called so. Fails the
  // test where there is none, or where its file does not have the elements of its shape.
  [[nodiscard]] Floats operator()(const std::string& key, int occurrence = 1) const;

 private:
  struct Node {
    std::string key;
    std::string file;
    std::size_t elements = 0;
  };
  std::string beginning_;
  std::vector<Node> nodes_;
};

// Largest |ours - reference| over the largest |reference|. Fails the test for other sizes and values not finite.
[[nodiscard]] double difference_to_largest(const std::string& node, std::span<const float> ours,
                                           std::span<const float> reference);
// Largest |ours - reference| / |reference| of an element; infinite where only the reference is 0.
[[nodiscard]] double difference_by_element(const std::string& node, std::span<const float> ours,
                                           std::span<const float> reference);
// Attention rounds each weight to 13 significant bits, 2^-13 of itself at most, and divides by the sum of the rounded
// ones: a probability moves by less than 2^-13 of the largest, the mean of values by less than 2^-13 of their spread,
// and that is at most twice the largest of them.
constexpr double kProbabilityBound = 0x1p-13 + 1e-5;
constexpr double kAttentionBound = 0x1p-12 + 1e-5;

// The same as checks against a bound; the result is the measure.
double check_near(const std::string& node, const Floats& ours, const Floats& reference, double bound);
double check_product(const std::string& node, const Floats& ours, const Floats& reference);  // 1e-6 by element

[[nodiscard]] double cosine(std::span<const float> a, std::span<const float> b);
[[nodiscard]] std::int32_t arg_max(std::span<const float> logits);
[[nodiscard]] Floats sum(Floats a, const Floats& b);

// A bundle for the model, made by bitnet-codegen once in this process; empty (and said so) where that is not built.
[[nodiscard]] std::optional<std::string> bundle_of(const std::string& model);

// One set of kernels under test.
struct KernelChoice {
  std::string label;
  std::span<const Kernel> first;  // a bundle's; the built-in ones stand behind them, as in the runtime
  std::vector<Isa> usable;
  [[nodiscard]] const Kernel& find(Op op, Format format, std::int64_t n, std::int64_t k) const;
};

class KernelChoices {
 public:
  explicit KernelChoices(const std::string& model);
  [[nodiscard]] const std::vector<KernelChoice>& all() const { return choices_; }
  // What ModelOptions::bundle may be for the same kernels: "none", and the bundle's path where there is one.
  [[nodiscard]] const std::vector<std::string>& bundles() const { return bundles_; }

 private:
  std::optional<Bundle> bundle_;
  std::vector<KernelChoice> choices_;
  std::vector<std::string> bundles_{"none"};
};

// Activations as the products take them: rows of int8, zero-padded to BITNET_ACTIVATION_WIDTH(k).
struct Quantized {
  std::int64_t tokens = 0;
  std::int64_t k = 0;
  std::int64_t padded = 0;
  Buffer q;
  Floats scales;                        // [tokens], x ~ q / scale
  std::vector<std::int32_t> sums;       // [tokens]
  [[nodiscard]] Floats values() const;  // q as floats without the padding, [tokens][k]
  // From whole numbers in [-127, 127], [tokens][k], and their scales.
  static Quantized from(const Floats& values, Floats scales);
};

class Layer {
 public:
  Layer(const gguf::File& file, const KernelChoice& kernels, std::int64_t index = 0);
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const LayerTensors& tensors() const { return tensors_.layers[index_]; }
  [[nodiscard]] Floats output_gain() const { return gain(*tensors_.output_norm); }
  static Floats gain(const gguf::Tensor& tensor);

  [[nodiscard]] Floats norm(const Floats& x, const Floats& gains) const;
  [[nodiscard]] Quantized quantize(const Floats& x, std::int64_t k) const;
  // The fused kernel that the runtime runs.
  [[nodiscard]] Quantized norm_quantize(const Floats& x, const Floats& gains) const;

  // q . t, [tokens][n], by the GEMV token by token and by the GEMM, which must agree in every bit.
  [[nodiscard]] std::vector<std::int32_t> integer_product(FusedMatrix::Role role, const Quantized& x) const;
  // (q . t) * (weight scale / activation scale), [tokens][n].
  [[nodiscard]] Floats scaled(FusedMatrix::Role role, const std::vector<std::int32_t>& sums, const Quantized& x) const;
  [[nodiscard]] Floats product(FusedMatrix::Role role, const Floats& x) const;

  // Columns [first, first + width) of rows of `stride`.
  static Floats columns(const Floats& x, std::int64_t stride, std::int64_t first, std::int64_t width);

  // Positions 0, 1, ...
  [[nodiscard]] Floats rope(Floats x, std::int64_t heads) const;
  // Attention of rotated q [tokens][heads * dim] over k, v [tokens][kv_heads * dim]; `values` replaces v where given,
  // as float16 [kv_heads][tokens][dim]. Result [tokens][heads * dim].
  [[nodiscard]] Floats attention(Floats q, const Floats& k, const Floats& v,
                                 const std::vector<std::uint16_t>* values = nullptr) const;
  [[nodiscard]] Floats gate(const Floats& gates, const Floats& up) const;

  // [tokens][n] dot products of float16 rows with float vectors of width k.
  [[nodiscard]] Floats head(const std::uint16_t* rows, std::int64_t n, const Floats& x, std::int64_t k) const;
  [[nodiscard]] Floats logits(const Floats& x) const;
  // Rows of the embedding, [ids][hidden].
  [[nodiscard]] Floats embedding(std::span<const std::int32_t> ids) const;

 private:
  [[nodiscard]] const std::uint16_t* embedding_rows() const;  // float16 [vocab][hidden]
  [[nodiscard]] const FusedMatrix& matrix(FusedMatrix::Role role) const;
  const KernelChoice& kernels_;
  ModelConfig config_;
  ModelTensors tensors_;
  std::size_t index_ = 0;
};

}  // namespace bitnet::test
