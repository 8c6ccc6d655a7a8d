// compare_nodes OURS REFERENCE: lays two graph dumps side by side and names the first node that diverges.
//
// Each argument is a folder written by `bitnet run --dump-nodes`, or the common beginning of the files of one dump in a
// folder with several ("ref/tiny.A.batch."): BEGINNINGnodes.txt and BEGINNINGt.NNN.<node>.<op>.f32. Nodes are paired by
// name, operation and how often both came before, so that one dump may have nodes that the other lacks; these are
// listed. The measure of a node is its largest absolute difference over the largest absolute value of the reference.
// Exit code 0: every common node within the tolerance; 1: one diverges; 2: usage, or a dump that cannot be read.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet {
namespace {

struct Node {
  std::string name;
  std::string operation;
  std::string shape;  // "[512,7,1,1]"
  std::string key;    // name, operation, occurrence
  std::uint64_t elements = 0;
  bool contiguous = true;
  std::string file;
};

Error bad(const std::string& what) { return Error{ErrorCode::kUsage, what}; }

// "003 Qcur-0 op=MUL_MAT ne=[512,7,1,1] contiguous=1"
Result<Node> parse_line(const std::string& line, const std::string& where) {
  std::istringstream words(line);
  std::string index;
  std::string operation;
  std::string shape;
  std::string contiguous;
  Node node;
  words >> index >> node.name >> operation >> shape >> contiguous;
  std::uint64_t ne[4] = {};
  if (!words || !operation.starts_with("op=") ||
      std::sscanf(shape.c_str(), "ne=[%lu,%lu,%lu,%lu]", &ne[0], &ne[1], &ne[2], &ne[3]) != 4) {
    return bad(where + ": expected \"NNN name op=OP ne=[a,b,c,d] contiguous=0|1\", found \"" + line + "\"");
  }
  node.operation = operation.substr(3);
  node.shape = shape.substr(3);
  node.elements = ne[0] * ne[1] * ne[2] * ne[3];
  node.contiguous = contiguous == "contiguous=1";
  std::string file_name = node.name;
  for (char& c : file_name) {
    if (c == '(' || c == ')' || c == '/' || c == ' ') c = '_';
  }
  node.file = "t." + index + "." + file_name + "." + node.operation + ".f32";
  return node;
}

Result<std::vector<Node>> read_dump(const std::string& argument) {
  std::error_code ignored;  // of a path that cannot be looked at: it cannot be read below either
  const std::string beginning = std::filesystem::is_directory(argument, ignored) ? argument + "/" : argument;
  const std::string list_path = beginning + "nodes.txt";
  std::ifstream list(list_path);
  if (!list) return bad(list_path + ": cannot be read; give a dump folder or the common beginning of a dump's files");
  std::vector<Node> nodes;
  std::map<std::string, int> seen;
  std::string line;
  while (std::getline(list, line)) {
    if (line.empty()) continue;
    BITNET_ASSIGN_OR_RETURN(Node node, parse_line(line, list_path));
    node.file = beginning + node.file;
    const std::string kind = node.name + " " + node.operation;
    node.key = kind + " #" + std::to_string(++seen[kind]);
    nodes.push_back(std::move(node));
  }
  if (nodes.empty()) return bad(list_path + ": no nodes");
  return nodes;
}

Result<std::vector<float>> read_data(const Node& node) {
  std::error_code error;
  const std::uint64_t size = std::filesystem::file_size(node.file, error);
  if (error || size != node.elements * sizeof(float)) {
    return bad(node.file + ": expected " + std::to_string(node.elements * sizeof(float)) + " bytes for shape " +
               node.shape + ", found " + (error ? error.message() : std::to_string(size)));
  }
  std::vector<float> data(node.elements);
  std::ifstream file(node.file, std::ios::binary);
  file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(size));
  if (!file) return bad(node.file + ": cannot be read");
  return data;
}

struct Difference {
  double largest = 0.0;    // |ours - reference|; infinite where exactly one is not finite
  double magnitude = 0.0;  // |reference|
  std::size_t at = 0;
};

Difference compare(const std::vector<float>& ours, const std::vector<float>& reference) {
  Difference difference;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double a = static_cast<double>(ours[i]);
    const double b = static_cast<double>(reference[i]);
    if (std::isfinite(b)) difference.magnitude = std::max(difference.magnitude, std::abs(b));
    const bool same = a == b || (std::isnan(a) && std::isnan(b));
    double d = same ? 0.0 : std::abs(a - b);
    if (!std::isfinite(d)) d = HUGE_VAL;
    if (d > difference.largest) {
      difference.largest = d;
      difference.at = i;
    }
  }
  return difference;
}

// Prints a line per node; the result is the exit code.
Result<int> compare_dumps(const std::string& ours_path, const std::string& reference_path, double tolerance) {
  BITNET_ASSIGN_OR_RETURN(const std::vector<Node> ours, read_dump(ours_path));
  BITNET_ASSIGN_OR_RETURN(const std::vector<Node> reference, read_dump(reference_path));
  std::map<std::string, const Node*> by_key;
  for (const Node& node : reference) by_key[node.key] = &node;
  std::string first_divergence;
  std::size_t common = 0;
  std::printf("%-34s %-16s %12s %12s %10s\n", "node", "shape", "max |diff|", "max |ref|", "ratio");
  for (const Node& node : ours) {
    const auto found = by_key.find(node.key);
    if (found == by_key.end()) {
      std::printf("%-34s %-16s only in %s\n", node.key.c_str(), node.shape.c_str(), ours_path.c_str());
      continue;
    }
    const Node& other = *found->second;
    by_key.erase(found);
    if (!node.contiguous && !other.contiguous) continue;  // views have no data
    if (node.shape != other.shape) {
      return bad("node " + node.key + ": shapes " + node.shape + " and " + other.shape +
                 " differ; the dumps are of different models or prompts");
    }
    BITNET_ASSIGN_OR_RETURN(const std::vector<float> a, read_data(node));
    BITNET_ASSIGN_OR_RETURN(const std::vector<float> b, read_data(other));
    const Difference d = compare(a, b);
    const double ratio = d.largest == 0.0 ? 0.0 : d.magnitude > 0.0 ? d.largest / d.magnitude : HUGE_VAL;
    const bool diverges = !(ratio <= tolerance);
    std::printf("%-34s %-16s %12.4e %12.4e %10.2e%s\n", node.key.c_str(), node.shape.c_str(), d.largest, d.magnitude,
                ratio, diverges ? "  DIVERGES" : "");
    if (diverges && first_divergence.empty()) {
      first_divergence = node.key + ", element " + std::to_string(d.at) + ": " + std::to_string(a[d.at]) + " against " +
                         std::to_string(b[d.at]);
    }
    ++common;
  }
  for (const auto& [key, node] : by_key) {
    std::printf("%-34s %-16s only in %s\n", key.c_str(), node->shape.c_str(), reference_path.c_str());
  }
  if (common == 0) return bad("the two dumps have no node in common");
  if (first_divergence.empty()) {
    std::printf("%zu nodes within %g\n", common, tolerance);
    return 0;
  }
  std::printf("first divergence beyond %g: %s\n", tolerance, first_divergence.c_str());
  return 1;
}

}  // namespace
}  // namespace bitnet

int main(int argc, char** argv) {
  CLI::App app{"Compares two graph dumps and names the first node that diverges.", "compare_nodes"};
  std::string ours;
  std::string reference;
  double tolerance = 1e-3;
  app.add_option("ours", ours, "Folder (or common beginning of the files) of one dump")->required();
  app.add_option("reference", reference, "The same of the reference")->required();
  app.add_option("--tolerance", tolerance, "Largest difference over the reference's largest value")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const bitnet::Result<int> result = bitnet::compare_dumps(ours, reference, tolerance);
  if (!result.ok()) {
    std::fprintf(stderr, "compare_nodes: %s\n", result.error().message.c_str());
    return static_cast<int>(result.error().code);
  }
  return *result;
}
