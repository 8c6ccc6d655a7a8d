// Graph dump: the nodes of one evaluation under the names, shapes and memory layouts of bitnet.cpp's graph, so that the
// two can be laid side by side (tools/compare_nodes). All nodes of the layers that are wanted (layer 0 unless told
// otherwise), the output of every layer, and the result.
//
// A folder holds nodes.txt, a line per node: "003 Qcur-0 op=MUL_MAT ne=[512,7,1,1] contiguous=1", and for each its
// float32 data in t.003.Qcur-0.MUL_MAT.f32. Views (contiguous=0) have empty files, as in the reference. Nodes that our
// fused kernels never materialise (the norm before its gain, attention scores and probabilities) are computed for the
// dump by the same kernels.
#pragma once

#include <array>
#include <cstdint>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/tensors.h"

namespace bitnet {

class NodeDump {
 public:
  // Creates the folder if it is not there. kFailure with the path where it cannot be written. `layers`: whose nodes are
  // shown; nullopt: those of every layer.
  [[nodiscard]] static Result<NodeDump> create(const std::string& directory,
                                               std::optional<std::vector<std::int64_t>> layers = {{0}});
  [[nodiscard]] bool wants(std::int64_t layer) const;

  // ne[0] is the fastest dimension. The first failure is kept for finish().
  void node(const std::string& name, const std::string& op, std::array<std::int64_t, 4> ne,
            std::span<const float> data);
  void view(const std::string& name, const std::string& op, std::array<std::int64_t, 4> ne);
  // Appends to the last node's file: result_output comes in pieces.
  void append(std::span<const float> data);
  void fail(const std::string& message);
  [[nodiscard]] Status finish();

 private:
  NodeDump() = default;
  void open(const std::string& name, const std::string& op, std::array<std::int64_t, 4> ne, bool contiguous);
  std::string directory_;
  std::optional<std::vector<std::int64_t>> layers_;
  std::ofstream list_;
  std::ofstream data_;
  std::string data_path_;
  std::string failed_;
  int index_ = 0;
};

struct Graph;
struct LayerWeights;

// Called by the forward pass at the points of their names (forward.cc), before or after the step they describe.
void dump_embedding(Graph& graph);
void dump_qkv(Graph& graph, std::int64_t index, const LayerWeights& layer);
void dump_attention(Graph& graph, std::int64_t index, const LayerWeights& layer);
void dump_product(Graph& graph, std::int64_t index, const LayerWeights& layer, FusedMatrix::Role role);
void dump_ffn_input(Graph& graph, std::int64_t index, const LayerWeights& layer);
void dump_gate(Graph& graph, std::int64_t index, const LayerWeights& layer);
void dump_layer_output(Graph& graph, std::int64_t index);
void dump_result_norm(Graph& graph, NodeDump& dump);
// `rows` rows of logits; the first call opens the node.
void dump_result_output(Graph& graph, NodeDump& dump, std::int64_t first, std::int64_t rows);

}  // namespace bitnet
