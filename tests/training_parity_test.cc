// Parity with PyTorch: every step of every block of a trained model, computed by our kernels from the inputs that
// PyTorch had, and the whole model end to end. BITNET_TRAINING_PARITY names a folder with PyTorch's nodes
// (training/dump_nodes.py) and model.gguf, which `bitnet convert` made of the same exported directory. Each set of
// kernels goes through the same checks, see tests/layer_kernels.h.
//
// Bounds. Equal in every bit: embeddings, integer products, int8 activations for a given scale, and what one float32
// addition makes of two nodes. The scale itself is 127 / m, m = max |x|; PyTorch evaluates 127.0 / tensor as (1 / m) *
// 127, rounded twice, so that about a quarter of its scales are one unit in the last place beside ours: it must be one
// of the two, exactly. Products: two float32 roundings of the same numbers, 1e-6 of each element. Norms, RoPE, gate,
// attention and head: float32 sums in another order, and another exp; within 1e-5 of the node's largest value, but for
// attention, which rounds its weights (tests/layer_kernels.h).
// Attention sees the same float16 queries, keys and values on both sides, because PyTorch rounds them as the cache
// does. End to end such last bits now and then turn an int8 rounding, so logits are compared by their angle, and the
// mean negative log-likelihood within 0.5 %.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/model/likelihood.h"
#include "runtime/model/model.h"
#include "tests/layer_kernels.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

using test::Floats;
using test::Layer;
using test::Quantized;
using Role = FusedMatrix::Role;

// What PyTorch was fed with and what it computed.
struct Dump {
  std::string model;  // path of the GGUF
  test::NodeFiles nodes;
  std::vector<std::int32_t> ids;      // fed
  std::vector<std::int32_t> targets;  // what follows each
};

// "1,2,3\n"
std::vector<std::int32_t> read_ids(const std::string& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file, path);
  std::vector<std::int32_t> ids;
  std::string word;
  while (std::getline(file, word, ',')) ids.push_back(std::stoi(word));
  REQUIRE_FALSE(ids.empty());
  return ids;
}

std::optional<Dump> find_dump() {
  const char* folder = std::getenv("BITNET_TRAINING_PARITY");
  if (folder == nullptr || *folder == '\0') {
    std::printf(
        "SKIPPED: parity with PyTorch (BITNET_TRAINING_PARITY is not set). Make the folder that it names of an "
        "exported "
        "model:\n  .venv-training/bin/python training/dump_nodes.py --model MODEL --data TEXT -o FOLDER\n"
        "  bitnet convert MODEL -o FOLDER/model.gguf\n");
    return std::nullopt;
  }
  const std::string path = std::string(folder) + "/";
  return Dump{path + "model.gguf", test::NodeFiles(path), read_ids(path + "ids.txt"), read_ids(path + "targets.txt")};
}

gguf::File open(const std::string& path) {
  auto file = gguf::File::open(path);
  REQUIRE_MESSAGE(file.ok(), (file.ok() ? "" : file.error().message));
  return std::move(file).value();
}

std::size_t count_different(const std::string& node, const Floats& ours, const Floats& reference) {
  REQUIRE_MESSAGE(ours.size() == reference.size(), node);
  std::size_t different = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) different += ours[i] == reference[i] ? 0 : 1;
  return different;
}

void check_equal(const std::string& node, const Floats& ours, const Floats& reference) {
  const std::size_t different = count_different(node, ours, reference);
  CHECK_MESSAGE(different == 0, node, ": ", different, " of ", ours.size(), " elements differ");
}

// What was found over all blocks: the largest difference of each kind of step, and how many of PyTorch's activation
// scales have all our bits.
struct Measures {
  std::map<std::string, double> largest;
  std::size_t scales = 0;
  std::size_t equal_scales = 0;
};

// `ours` quantises the rows x, [tokens][k], as `theirs` did.
void check_quantized(const std::string& node, const Floats& x, const Quantized& ours, const Quantized& theirs,
                     Measures& measures) {
  const Floats our_values = ours.values();
  const Floats their_values = theirs.values();
  std::size_t wrong_scales = 0;
  std::size_t wrong_values = 0;
  for (std::size_t t = 0; t < ours.scales.size(); ++t) {
    const std::size_t begin = t * static_cast<std::size_t>(ours.k);
    const std::size_t end = begin + static_cast<std::size_t>(ours.k);
    float largest = 1e-5F;
    for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(x[i]));
    const float scale = theirs.scales[t];
    const bool equal = scale == ours.scales[t];
    measures.equal_scales += equal ? 1 : 0;
    wrong_scales += equal || scale == (1.0F / largest) * 127.0F ? 0 : 1;
    for (std::size_t i = begin; i < end; ++i) {
      const float expected = equal ? our_values[i] : std::nearbyint(x[i] * scale);
      wrong_values += their_values[i] == expected ? 0 : 1;
    }
  }
  measures.scales += ours.scales.size();
  CHECK_MESSAGE(wrong_scales == 0, node, ": ", wrong_scales, " of ", ours.scales.size(), " scales are wrong");
  CHECK_MESSAGE(wrong_values == 0, node, ": ", wrong_values, " of ", x.size(), " int8 activations differ");
}

// One block; every function takes PyTorch's nodes as inputs and compares with PyTorch's outputs.
class Block {
 public:
  Block(const Layer& layer, const Dump& dump, std::int64_t index, Measures& measures)
      : layer_(layer), nodes_(dump.nodes), index_(index), measures_(measures) {}

  void check() const {
    const ModelConfig& c = layer_.config();
    const LayerTensors& tensors = layer_.tensors();
    const std::int64_t q_width = c.heads * c.head_dim;
    const std::int64_t kv_width = c.kv_heads * c.head_dim;
    const Floats input =
        index_ == 0 ? nodes_("inp_embd.GET_ROWS") : nodes_("l_out-" + std::to_string(index_ - 1) + ".ADD");

    const Quantized normed = check_norm("attn_norm", input, *tensors.attn_norm);
    check_products(Role::kQkv, normed, {{"Qcur", q_width}, {"Kcur", kv_width}, {"Vcur", kv_width}});
    near("RoPE", "Qcur", "ROPE", layer_.rope(node("Qcur", "MUL_MAT"), c.heads));
    near("RoPE", "Kcur", "ROPE", layer_.rope(node("Kcur", "MUL_MAT"), c.kv_heads));
    const Floats attended = layer_.attention(node("Qcur", "ROPE"), node("Kcur", "ROPE"), node("Vcur", "MUL_MAT"));
    near("attention", "kqv_out", "CONT", attended, test::kAttentionBound);

    const Quantized sub_normed = check_norm("attn_sub_norm", node("kqv_out", "CONT"), *tensors.attn_sub_norm);
    check_products(Role::kAttentionOutput, sub_normed, {{"attn_o_out", c.hidden}});
    check_equal(name("ffn_inp"), test::sum(node("attn_o_out", "MUL_MAT"), input), node("ffn_inp", "ADD"));

    const Quantized ffn_normed = check_norm("ffn_norm", node("ffn_inp", "ADD"), *tensors.ffn_norm);
    check_products(Role::kGateUp, ffn_normed, {{"ffn_gate", c.ffn}, {"ffn_up", c.ffn}});
    const Floats gate = node("ffn_gate", "MUL_MAT");
    near("gate", "ffn_sqr_relu_", "SQR", layer_.gate(gate, Floats(gate.size(), 1.0F)));
    near("gate", "ffn_out", "MUL", layer_.gate(gate, node("ffn_up", "MUL_MAT")));

    const Quantized gated = check_norm("ffn_sub_norm", node("ffn_out", "MUL"), *tensors.ffn_sub_norm);
    check_products(Role::kDown, gated, {{"ffn_down", c.hidden}});
    check_equal(name("l_out"), test::sum(node("ffn_down", "MUL_MAT"), node("ffn_inp", "ADD")), node("l_out", "ADD"));
  }

 private:
  struct Part {
    std::string product;
    std::int64_t rows = 0;
  };

  // In the names of files ( and ) are _, so "ffn_sqr(relu)-0" reads "ffn_sqr_relu_-0".
  [[nodiscard]] std::string name(const std::string& node) const { return node + "-" + std::to_string(index_); }
  [[nodiscard]] Floats node(const std::string& node, const std::string& operation) const {
    return nodes_(name(node) + "." + operation);
  }

  void measure(const std::string& kind, double difference) const {
    double& largest = measures_.largest[kind];
    largest = std::max(largest, difference);
  }
  void near(const std::string& kind, const std::string& node, const std::string& operation, const Floats& ours,
            double bound = 1e-5) const {
    measure(kind, test::check_near(name(node) + "." + operation, ours, this->node(node, operation), bound));
  }

  // The norm, and the quantisation of PyTorch's norm; the fused kernel of both must be the two, bit for bit. Returns
  // PyTorch's int8 activations.
  [[nodiscard]] Quantized check_norm(const std::string& node, const Floats& input, const gguf::Tensor& gain) const {
    const Floats gains = Layer::gain(gain);
    const auto k = static_cast<std::int64_t>(gains.size());
    const Floats normed = layer_.norm(input, gains);
    near("norm", node, "MUL", normed);
    const Quantized fused = layer_.norm_quantize(input, gains);
    const Quantized two = layer_.quantize(normed, k);
    check_equal(name(node) + " fused", fused.values(), two.values());
    check_equal(name(node) + " fused scale", fused.scales, two.scales);
    CHECK_MESSAGE(fused.sums == two.sums, name(node));

    Quantized theirs = Quantized::from(this->node(node + "_q", "QUANTIZE"), this->node(node + "_scale", "QUANTIZE"));
    const Floats their_norm = this->node(node, "MUL");
    REQUIRE_MESSAGE((theirs.k == k && their_norm.size() == normed.size()), name(node));
    check_quantized(name(node), their_norm, layer_.quantize(their_norm, k), theirs, measures_);
    return theirs;
  }

  // The parts' rows lie one after the other in a row of the product.
  void check_products(Role role, const Quantized& input, const std::vector<Part>& parts) const {
    const std::vector<std::int32_t> integers = layer_.integer_product(role, input);
    const Floats sums(integers.begin(), integers.end());  // exact: below 2^24 (runtime/model/limits.h)
    const Floats products = layer_.scaled(role, integers, input);
    std::int64_t stride = 0;
    for (const Part& part : parts) stride += part.rows;
    std::int64_t first = 0;
    for (const auto& [product, rows] : parts) {
      check_equal(name(product + "_sum"), Layer::columns(sums, stride, first, rows), node(product + "_sum", "MUL_MAT"));
      measure("products", test::check_product(name(product), Layer::columns(products, stride, first, rows),
                                              node(product, "MUL_MAT")));
      first += rows;
    }
  }

  const Layer& layer_;
  const test::NodeFiles& nodes_;
  std::int64_t index_;
  Measures& measures_;
};

TEST_CASE("every step of every block, fed with PyTorch's own inputs") {
  const auto dump = find_dump();
  if (!dump.has_value()) return;
  const gguf::File file = open(dump->model);
  const test::KernelChoices choices(dump->model);
  for (const test::KernelChoice& choice : choices.all()) {
    INFO(choice.label);
    Measures measures;
    const Layer first(file, choice);
    const std::int64_t layers = first.config().layers;
    REQUIRE(first.config().activation == Activation::kRelu2);
    check_equal("inp_embd", first.embedding(dump->ids), dump->nodes("inp_embd.GET_ROWS"));
    for (std::int64_t i = 0; i < layers; ++i) Block(Layer(file, choice, i), *dump, i, measures).check();
    const Floats last = dump->nodes("l_out-" + std::to_string(layers - 1) + ".ADD");
    const Floats result = dump->nodes("result_norm.MUL");
    measures.largest["output norm"] =
        test::check_near("result_norm", first.norm(last, first.output_gain()), result, 1e-5);
    measures.largest["head"] =
        test::check_near("result_output", first.logits(result), dump->nodes("result_output.MUL_MAT"), 1e-5);
    std::printf(
        "PyTorch's inputs, %lld blocks, %zu tokens, %s: %zu of %zu activation scales equal; largest differences:",
        static_cast<long long>(layers), dump->ids.size(), choice.label.c_str(), measures.equal_scales, measures.scales);
    for (const auto& [kind, difference] : measures.largest) std::printf(" %s %.1e", kind.c_str(), difference);
    std::printf("\n");
  }
}

// I2_S: the first weight's code (weight + 1) lies in bits 7:6 of the first byte, the float32 scale behind all codes.
TEST_CASE("a single changed weight and a scale that is off are noticed") {
  const auto dump = find_dump();
  if (!dump.has_value()) return;
  const test::TempFolder folder;
  const std::string path = folder.file("changed.gguf");
  auto copy = test::ModelCopy::read(dump->model);
  test::CopiedTensor& weights = copy.tensor("blk.0.attn_q.weight");
  const auto old = std::to_integer<unsigned>(weights.data[0]);
  weights.data[0] = static_cast<std::byte>((old & 0x3FU) | (((old >> 6) + 1) % 3) << 6);
  std::byte* const scale_at = weights.data.data() + weights.ne[0] * weights.ne[1] / 4;
  float scale = 0.0F;
  std::memcpy(&scale, scale_at, sizeof scale);
  scale *= 1.0F + 3e-6F;
  std::memcpy(scale_at, &scale, sizeof scale);
  copy.write(path);

  const gguf::File file = open(path);
  const test::KernelChoice choice{"built-in", {}, executable_isas()};
  const Layer layer(file, choice);
  const ModelConfig& c = layer.config();
  const std::int64_t width = c.heads * c.head_dim;
  const std::int64_t stride = width + 2 * c.kv_heads * c.head_dim;
  const Quantized input =
      Quantized::from(dump->nodes("attn_norm_q-0.QUANTIZE"), dump->nodes("attn_norm_scale-0.QUANTIZE"));
  const std::vector<std::int32_t> integers = layer.integer_product(Role::kQkv, input);
  const Floats sums(integers.begin(), integers.end());
  const std::size_t different =
      count_different("Qcur", Layer::columns(sums, stride, 0, width), dump->nodes("Qcur_sum-0.MUL_MAT"));
  CHECK(different > 0);
  CHECK(different <= dump->ids.size());  // the first row of the product
  // The second row has its weights, so only the scale is off.
  const Floats products = layer.scaled(Role::kQkv, integers, input);
  const double off = test::difference_by_element("Qcur", Layer::columns(products, stride, 1, 1),
                                                 Layer::columns(dump->nodes("Qcur-0.MUL_MAT"), width, 1, 1));
  CHECK(off > 2e-6);
}

TEST_CASE("end to end against PyTorch's logits") {
  const auto dump = find_dump();
  if (!dump.has_value()) return;
  const test::KernelChoices choices(dump->model);
  const Floats reference = dump->nodes("result_output.MUL_MAT");
  const Floats reference_nll = dump->nodes("nll.CROSS_ENTROPY_LOSS");
  const std::size_t tokens = dump->ids.size();
  REQUIRE(dump->targets.size() == tokens);
  REQUIRE(reference_nll.size() == tokens);
  for (const std::string& bundle : choices.bundles()) {
    ModelOptions options;
    options.threads = 2;
    options.bundle = bundle;
    options.strict = bundle != "none";  // no product without a kernel of the bundle
    const auto model = Model::load(dump->model, options);
    REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().message));
    const auto vocab = static_cast<std::size_t>((*model)->config().vocab);
    REQUIRE(reference.size() == tokens * vocab);
    auto context = Context::create(**model, {.size = static_cast<std::int64_t>(tokens)});
    REQUIRE(context.ok());
    std::vector<double> cosines;
    std::size_t equal = 0;
    double nll = 0.0;
    double expected_nll = 0.0;
    const Status done = (*context)->eval_all(dump->ids, [&](std::int64_t position, std::span<const float> logits) {
      const auto t = static_cast<std::size_t>(position);
      const auto theirs = std::span(reference).subspan(t * vocab, vocab);
      cosines.push_back(test::cosine(logits, theirs));
      equal += test::arg_max(logits) == test::arg_max(theirs) ? 1 : 0;
      nll += negative_log_likelihood(logits, dump->targets[t]) / static_cast<double>(tokens);
      expected_nll += static_cast<double>(reference_nll[t]) / static_cast<double>(tokens);
      return Status();
    });
    REQUIRE(done.ok());
    REQUIRE(cosines.size() == tokens);
    std::sort(cosines.begin(), cosines.end());
    const double median = cosines[(tokens - 1) / 2];
    std::printf(
        "end to end, %zu tokens, %s %s: cosine %.6f at least, %.6f median, %.1f %% equal arg max; mean nll %.6f, "
        "PyTorch %.6f (%+.4f %%)\n",
        tokens, bundle == "none" ? "built-in" : "bundle", std::string((*model)->target()).c_str(), cosines.front(),
        median, 100.0 * static_cast<double>(equal) / static_cast<double>(tokens), nll, expected_nll,
        100.0 * (nll / expected_nll - 1.0));
    CHECK(median >= 0.999);
    CHECK(std::abs(nll - expected_nll) <= 0.005 * expected_nll);
  }
}

}  // namespace
}  // namespace bitnet
