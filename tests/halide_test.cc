// The Halide pipelines: bitnet-halide compiles them in a child for every target that this CPU executes, clang wraps the
// objects with schedules/halide_adapter.h the way bitnet-codegen does (freestanding, no libc), and the kernels of the
// resulting shared object are compared with the scalar reference, bit for bit. The program's messages are tested too.
// Under qemu-user (see CMakeLists.txt) the same test runs on a CPU that has exactly the target's instructions.
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <elf.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "runtime/kernels/kernel.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/reference/reference.h"

namespace {

namespace fs = std::filesystem;
using bitnet::Isa;

struct TargetRow {
  Isa isa;
  std::string name;
  std::string triple;
  std::string llvm_features;
  std::string halide_target;
};

std::vector<TargetRow> target_rows() {
  return {
#define BITNET_TARGET(id, name, triple, llvm_features, halide_target, implies, part_of, qemu_cpu) \
  {Isa::id, name, triple, llvm_features, halide_target},
#include "runtime/kernels/targets.def"
#undef BITNET_TARGET
  };
}

const std::vector<std::int64_t> kRowLengths = {1, 5, 16, 17, 31, 64, 100, 256, 512, 1024, 1536, 2560, 4096, 6912, 8640};

class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "bitnet_halide_XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }
  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

struct Outcome {
  int code = -1;
  std::string output;  // standard output and error
};

std::string shell_word(const std::string& word) {
  std::string quoted_word = "'";
  for (const char c : word) quoted_word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted_word + "'";
}

Outcome run(const std::vector<std::string>& arguments, const std::string& working_folder = "/") {
  std::string command = "cd " + shell_word(working_folder) + " &&";
  for (const std::string& argument : arguments) command += " " + shell_word(argument);
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  Outcome outcome;
  std::array<char, 4096> block{};
  for (std::size_t n = 0; (n = std::fread(block.data(), 1, block.size(), pipe)) > 0;) {
    outcome.output.append(block.data(), n);
  }
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  return outcome;
}

std::string halide_tool() {
  const char* folder = std::getenv("BITNET_BIN");
  REQUIRE_MESSAGE(folder != nullptr, "BITNET_BIN names no folder with bitnet-halide; run the test through ctest");
  return std::string(folder) + "/bitnet-halide";
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Entries in the relocation sections of a 64-bit shared object.
std::uint64_t relocations(const std::string& elf) {
  REQUIRE(elf.size() > sizeof(Elf64_Ehdr));
  Elf64_Ehdr header;
  std::memcpy(&header, elf.data(), sizeof header);
  std::uint64_t count = 0;
  for (int i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section;
    std::memcpy(&section, elf.data() + header.e_shoff + static_cast<std::uint64_t>(i) * sizeof section, sizeof section);
    if (section.sh_type == SHT_RELA || section.sh_type == SHT_REL) count += section.sh_size / section.sh_entsize;
  }
  return count;
}

// One pipeline of a shared object, with the knobs of its schedule.
struct Variant {
  std::int64_t k;
  std::string knobs;  // ":LANES=4", "" = the schedule's own choice
  [[nodiscard]] std::string name() const {
    std::string text = "nq_k" + std::to_string(k) + knobs;
    for (char& c : text) {
      if (c == ':' || c == '=') c = '_';
    }
    return text;
  }
};

class SharedObject {
 public:
  SharedObject(const TargetRow& target, const std::vector<Variant>& variants, const Folder& folder) {
    std::vector<std::string> halide = {halide_tool(), "--target", target.halide_target, "--out", folder.path()};
    std::string source = "#include \"runtime/kernels/kernel_abi.h\"\n#include \"schedules/halide_adapter.h\"\n";
    std::vector<std::string> link = {BITNET_TEST_CLANG,       "-shared", "-nostdlib",
                                     "-Wl,-z,defs",           "-o",      folder.file("kernels.so"),
                                     folder.file("kernels.o")};
    for (const Variant& v : variants) {
      const std::string symbol = "pipeline_" + v.name();
      halide.push_back("norm_quantize:K=" + std::to_string(v.k) + v.knobs + ":SYMBOL=" + symbol);
      source += "BITNET_HALIDE_NORM_QUANTIZE(" + v.name() + ", " + symbol + ", " + std::to_string(v.k) + ")\n";
      link.push_back(folder.file(symbol + ".o"));
    }
    std::ofstream(folder.file("kernels.cc")) << source;
    expect_success(run(halide));
    std::vector<std::string> compile = {BITNET_TEST_CLANG,
                                        "--target=" + target.triple,
                                        "-std=c++17",
                                        "-O3",
                                        "-ffreestanding",
                                        "-nostdinc",
                                        "-isystem",
                                        BITNET_TEST_CLANG_HEADERS,
                                        "-I",
                                        BITNET_TEST_SOURCE_DIR,
                                        "-fPIC",
                                        "-fvisibility=hidden",
                                        "-Wall",
                                        "-Wextra",
                                        "-Werror",
                                        "-c",
                                        folder.file("kernels.cc"),
                                        "-o",
                                        folder.file("kernels.o")};
    for (std::size_t begin = 0; begin < target.llvm_features.size();) {
      const std::size_t end = std::min(target.llvm_features.find(',', begin), target.llvm_features.size());
      for (const std::string& word : {std::string("-Xclang"), std::string("-target-feature"), std::string("-Xclang"),
                                      target.llvm_features.substr(begin, end - begin)}) {
        compile.push_back(word);
      }
      begin = end + 1;
    }
    expect_success(run(compile));
    expect_success(run(link));  // fails if anything is undefined: the objects import nothing
    CHECK(relocations(bytes_of(folder.file("kernels.so"))) == 0);
    handle_ = dlopen(folder.file("kernels.so").c_str(), RTLD_NOW | RTLD_LOCAL);
    REQUIRE_MESSAGE(handle_ != nullptr, dlerror());
  }
  ~SharedObject() {
    if (handle_ != nullptr) dlclose(handle_);
  }
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;

  [[nodiscard]] bitnet::Kernel kernel(const TargetRow& target, const Variant& v) const {
    bitnet::Kernel kernel;
    kernel.format = bitnet::Format::kI8;
    kernel.op = bitnet::Op::kNormQuantize;
    kernel.k = v.k;
    kernel.isa = target.isa;
    kernel.technique = "halide";
    kernel.function = dlsym(handle_, v.name().c_str());
    REQUIRE_MESSAGE(kernel.function != nullptr, v.name());
    REQUIRE_MESSAGE(dlsym(handle_, ("pipeline_" + v.name()).c_str()) == nullptr, "the pipeline is exported");
    return kernel;
  }

 private:
  static void expect_success(const Outcome& outcome) { REQUIRE_MESSAGE(outcome.code == 0, outcome.output); }
  void* handle_ = nullptr;
};

struct Input {
  std::string name;
  std::vector<float> x;
  std::vector<float> gain;
  float eps = 1e-5F;
};

std::vector<Input> inputs(std::int64_t k) {
  std::mt19937 random(static_cast<std::uint32_t>(k));
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-40, 40);
  const auto n = static_cast<std::size_t>(k);
  std::vector<Input> list;
  const auto add = [&](const std::string& name, float eps, auto x, auto gain) {
    Input input{name, std::vector<float>(n), std::vector<float>(n), eps};
    for (std::size_t i = 0; i < n; ++i) {
      input.x[i] = x(i);
      input.gain[i] = gain(i);
    }
    list.push_back(std::move(input));
  };
  const auto any = [&](std::size_t) { return normal(random); };
  const auto one = [](std::size_t) { return 1.0F; };
  for (int i = 0; i < 3; ++i) add("random", 1e-5F, any, any);
  add("random, gain 1", 1e-6F, any, one);
  add("all magnitudes", 1e-5F, [&](std::size_t) { return std::ldexp(normal(random), exponent(random)); }, any);
  add("zeros", 1e-5F, [](std::size_t) { return 0.0F; }, any);
  add("negative zeros", 1e-5F, [](std::size_t) { return -0.0F; }, any);
  add("zero gain", 1e-5F, any, [](std::size_t) { return 0.0F; });
  add("denormals", 1e-5F, [&](std::size_t) { return 1e-40F * normal(random); }, any);
  add("squares are denormal", 1e-38F, [&](std::size_t) { return 1e-20F * normal(random); }, any);
  add("denormal products", 1e-5F, any, [&](std::size_t) { return 1e-40F * normal(random); });
  add("1e30: squares overflow", 1e-5F, [&](std::size_t) { return 1e30F * normal(random); }, any);
  add("1e18", 1e-5F, [&](std::size_t) { return 1e18F * normal(random); }, any);
  add("alternating", 1e-5F, [](std::size_t i) { return i % 2 == 0 ? 3.25F : -3.25F; }, one);
  add("alternating, gain random", 1e-5F, [](std::size_t i) { return i % 2 == 0 ? 0.1F : -0.1F; }, any);
  for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
    add("spike", 1e-5F, [&](std::size_t i) { return i == at ? -1000.0F : 0.001F * normal(random); }, one);
  }
  // x = +-1 and eps = 0 give inv = 1, so y = +-gain; the largest is 127 and scale = 1: every y * scale is a tie.
  add(
      "ties", 0.0F, [&](std::size_t i) { return i % 3 == 0 ? -1.0F : 1.0F; },
      [&](std::size_t i) { return i == n - 1 ? 127.0F : static_cast<float>(i % 127) + 0.5F; });
  return list;
}

// The kernel against the reference; the buffers lie at odd addresses with guard bytes around the outputs.
void check(const bitnet::Kernel& kernel, const std::string& what, const Input& input) {
  CAPTURE(what);
  CAPTURE(input.name);
  const auto n = static_cast<std::size_t>(kernel.k);
  std::vector<float> x(n + 1);
  std::vector<float> gain(n + 3);
  std::copy(input.x.begin(), input.x.end(), x.begin() + 1);
  std::copy(input.gain.begin(), input.gain.end(), gain.begin() + 3);
  constexpr std::int8_t kGuard = 0x5A;
  constexpr std::size_t kFront = 3;
  std::vector<std::int8_t> q(n + kFront + 64, kGuard);
  std::vector<std::int8_t> expected(n);
  std::array<float, 3> scale = {-1.0F, -1.0F, -1.0F};
  std::array<std::int32_t, 3> q_sum = {-7, -7, -7};
  float expected_scale = 0.0F;
  std::int32_t expected_sum = 0;
  bitnet::reference::norm_quantize(x.data() + 1, gain.data() + 3, kernel.k, input.eps, expected.data(), &expected_scale,
                                   &expected_sum);
  bitnet_norm_quantize_args args{};
  args.x = x.data() + 1;
  args.gain = gain.data() + 3;
  args.q = q.data() + kFront;
  args.scale = &scale[1];
  args.q_sum = &q_sum[1];
  args.scratch = nullptr;  // not used by these kernels
  args.k = kernel.k;
  args.eps = input.eps;
  kernel(args);
  CHECK(std::bit_cast<std::uint32_t>(scale[1]) == std::bit_cast<std::uint32_t>(expected_scale));
  CHECK(q_sum[1] == expected_sum);
  CHECK(std::equal(expected.begin(), expected.end(), q.begin() + kFront));
  const auto guard = [&](std::size_t begin, std::size_t end) {
    return std::all_of(q.begin() + static_cast<std::ptrdiff_t>(begin), q.begin() + static_cast<std::ptrdiff_t>(end),
                       [](std::int8_t byte) { return byte == kGuard; });
  };
  CHECK(guard(0, kFront));
  CHECK(guard(kFront + n, q.size()));
  CHECK((scale[0] == -1.0F && scale[2] == -1.0F && q_sum[0] == -7 && q_sum[2] == -7));
}

bool executable(const TargetRow& target) {
  if (bitnet::probe_isa(target.isa)) return true;
  std::printf("SKIPPED: Halide kernels of target %s (this CPU does not execute it)\n", target.name.c_str());
  return false;
}

void check_all(const TargetRow& target, const std::vector<Variant>& variants) {
  const Folder folder;
  const SharedObject object(target, variants, folder);
  for (const Variant& v : variants) {
    const bitnet::Kernel kernel = object.kernel(target, v);
    for (const Input& input : inputs(v.k)) check(kernel, target.name + " " + v.name(), input);
  }
}

}  // namespace

TEST_CASE("norm_quantize is the reference, bit for bit, on every target and length") {
  for (const TargetRow& target : target_rows()) {
    if (!executable(target)) continue;
    std::vector<Variant> variants;
    for (const std::int64_t k : kRowLengths) variants.push_back({k, ""});
    check_all(target, variants);
  }
}

TEST_CASE("the schedule's knobs change no bit") {
  for (const TargetRow& target : target_rows()) {
    if (!executable(target)) continue;
    std::vector<Variant> variants;
    for (const std::int64_t k : {3, 47, 640}) {
      for (const char* knobs : {":LANES=1:UNROLL=1", ":LANES=4:UNROLL=2", ":LANES=8:UNROLL=8", ":LANES=16:UNROLL=1"}) {
        variants.push_back({k, knobs});
      }
    }
    check_all(target, variants);
  }
}

TEST_CASE("bitnet-halide: equal requests give equal bytes, wherever and beside whatever") {
  const Folder one;
  const Folder two;
  const std::string request = "norm_quantize:K=2560:SYMBOL=first";
  for (const TargetRow& target : target_rows()) {
    const std::vector<std::string> common = {halide_tool(), "--target", target.halide_target, "--out"};
    std::vector<std::string> alone = common;
    alone.insert(alone.end(), {one.path(), request});
    std::vector<std::string> beside = common;
    beside.insert(beside.end(), {".", "norm_quantize:K=100:SYMBOL=other", request});
    REQUIRE(run(alone).code == 0);
    const std::string bytes = bytes_of(one.file("first.o"));
    CHECK(bytes.find(one.path()) == std::string::npos);
    REQUIRE(run(alone).code == 0);
    CHECK(bytes_of(one.file("first.o")) == bytes);
    REQUIRE(run(beside, two.path()).code == 0);
    CHECK(bytes_of(two.file("first.o")) == bytes);
  }
}

TEST_CASE("bitnet-halide says what is wrong") {
  const Folder folder;
  const std::string good_target = "x86-64-linux-sse41";
  const std::string good = "norm_quantize:K=64:SYMBOL=a";
  const auto expect = [&](const std::vector<std::string>& arguments, int code, const std::string& message) {
    std::vector<std::string> command = {halide_tool()};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const Outcome outcome = run(command);
    CHECK_MESSAGE(outcome.code == code, message << "; found: " << outcome.output);
    CHECK_MESSAGE(outcome.output.find(message) != std::string::npos, message << "; found: " << outcome.output);
    CHECK(fs::is_empty(folder.path()));
  };
  const auto request = [&](const std::string& text) {
    return std::vector<std::string>{"--target", good_target, "--out", folder.path(), text};
  };
  expect({"--list"}, 0, "norm_quantize");
  expect({"--list"}, 0, "K  row length; 1 to 4194304, required");
  expect({"--nonsense"}, 2, "--nonsense");
  expect({"--out", folder.path(), good}, 2, "--target is missing");
  expect({"--target", good_target, good}, 2, "--out is missing");
  expect({"--target", good_target, "--out", folder.path()}, 2, "no pipeline is given");
  expect({"--target", "z80", "--out", folder.path(), good}, 2, "unknown Halide target 'z80'");
  expect({"--target", "arm-64-linux-avx2", "--out", folder.path(), good}, 2, "incompatible");
  expect(request("nothing:K=64:SYMBOL=a"), 2, "unknown pipeline 'nothing'");
  expect(request("norm_quantize:Q=1:K=64:SYMBOL=a"), 2, "unknown parameter 'Q'");
  expect(request("norm_quantize:K:SYMBOL=a"), 2, "expected PARAMETER=VALUE, found 'K'");
  expect(request("norm_quantize:SYMBOL=a"), 2, "parameter K is missing");
  expect(request("norm_quantize:K=64"), 2, "parameter SYMBOL is missing");
  expect(request("norm_quantize:K=64:K=64:SYMBOL=a"), 2, "parameter K is given twice");
  expect(request("norm_quantize:K=64:SYMBOL=a:SYMBOL=a"), 2, "parameter SYMBOL is given twice");
  for (const char* k : {"0", "-1", "4194305", "64x", "", "99999999999999999999"}) {
    expect(request(std::string("norm_quantize:SYMBOL=a:K=") + k), 2,
           std::string("parameter K must be 1 to 4194304, found '") + k + "'");
  }
  expect(request("norm_quantize:K=64:UNROLL=3:SYMBOL=a"), 2, "UNROLL must be a power of two from 1 to 8, found '3'");
  expect(request("norm_quantize:K=64:SYMBOL=../a"), 2, "SYMBOL must be a C identifier, found '../a'");
  expect({"--target", good_target, "--out", folder.path(), good, good}, 2, "two pipelines have the symbol 'a'");
  // What only Halide can know, and the file system.
  expect({"--target", "hexagon-32-noos", "--out", folder.path(), good}, 1, "hvx");
  expect({"--target", good_target, "--out", folder.file("none"), good}, 1, "does not exist");
}
