// The Halide pipelines, op by op against the scalar reference, bit for bit, and the messages of bitnet-halide. Under
// qemu-user (see CMakeLists.txt) the same test runs on CPUs that have exactly the instructions of a target.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "runtime/kernels/kernel.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/reference/reference.h"
#include "tests/halide_objects.h"
#include "tests/kernel_tester.h"
#include "tests/quick.h"

namespace bitnet::test {
namespace {

namespace fs = std::filesystem;

const std::vector<std::int64_t> kRowLengths = {1, 5, 16, 17, 31, 64, 100, 256, 512, 1024, 1536, 2560, 4096, 6912, 8640};

// norm_quantize of rows of k, with the knobs of its schedule: ":LANES=4", "" = the schedule's own choice.
PipelineKernel norm_quantize(const TargetRow& target, std::int64_t k, const std::string& knobs) {
  PipelineKernel result;
  result.kernel.format = Format::kI8;
  result.kernel.op = Op::kNormQuantize;
  result.kernel.k = k;
  result.kernel.isa = target.isa;
  result.request = "norm_quantize:K=" + std::to_string(k) + knobs;
  result.name = "nq_k" + std::to_string(k) + knobs;
  for (char& c : result.name) {
    if (c == ':' || c == '=') c = '_';
  }
  return result;
}

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
void check(const Kernel& kernel, const std::string& what, const Input& input) {
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
  reference::norm_quantize(x.data() + 1, gain.data() + 3, kernel.k, input.eps, expected.data(), &expected_scale,
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

void check_all(const TargetRow& target, const std::vector<PipelineKernel>& kernels) {
  const Folder folder;
  const SharedObject object(target, kernels, folder);
  for (const PipelineKernel& each : kernels) {
    const Kernel kernel = object.kernel(each);
    for (const Input& input : inputs(kernel.k)) check(kernel, target.name + " " + each.name, input);
  }
}

}  // namespace

TEST_CASE("norm_quantize is the reference, bit for bit, on every target and length") {
  for (const TargetRow& target : target_rows()) {
    if (!executable(target)) continue;
    std::vector<PipelineKernel> kernels;
    // Quickly: one value, below a block, whole blocks, blocks and a rest.
    const std::vector<std::int64_t> few = {1, 5, 64, 100, 2560};
    for (const std::int64_t k : quick_wanted() ? few : kRowLengths) kernels.push_back(norm_quantize(target, k, ""));
    check_all(target, kernels);
  }
}

TEST_CASE("the schedule's knobs change no bit") {
  for (const TargetRow& target : target_rows()) {
    if (!executable(target)) continue;
    std::vector<PipelineKernel> kernels;
    for (const std::int64_t k : {3, 47, 640}) {
      if (quick_wanted() && k != 47) continue;
      for (const char* knobs : {":LANES=1:UNROLL=1", ":LANES=4:UNROLL=2", ":LANES=8:UNROLL=8", ":LANES=16:UNROLL=1"}) {
        kernels.push_back(norm_quantize(target, k, knobs));
      }
    }
    check_all(target, kernels);
  }
}

TEST_CASE("bitnet-halide: equal requests give equal bytes, wherever and beside whatever") {
  const Folder one;
  const Folder two;
  const std::vector<std::string> requests = {"norm_quantize:K=2560:SYMBOL=a", "i2s_gemv:K=600:STREAMS=2:SYMBOL=b",
                                             "i2s_gemm:K=600:TOKENS=2:SYMBOL=c"};
  for (const TargetRow& target : target_rows()) {
    const std::vector<std::string> common = {halide_tool(), "--target", target.halide_target, "--out"};
    std::vector<std::string> there = common;
    there.push_back(one.path());
    there.insert(there.end(), requests.begin(), requests.end());
    std::vector<std::string> beside = common;
    beside.insert(beside.end(), {".", "norm_quantize:K=100:SYMBOL=other"});
    beside.insert(beside.end(), requests.rbegin(), requests.rend());
    REQUIRE(run(there).code == 0);
    REQUIRE(run(beside, two.path()).code == 0);
    for (const char* object : {"a.o", "b.o", "c.o"}) {
      const std::string bytes = bytes_of(one.file(object));
      CHECK(bytes.find(one.path()) == std::string::npos);
      CHECK(bytes_of(two.file(object)) == bytes);
    }
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
  expect({"--list"}, 0, "K  row length; 1 to 132104, required");
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
  for (const char* k : {"0", "-1", "132105", "64x", "", "99999999999999999999"}) {
    expect(request(std::string("norm_quantize:SYMBOL=a:K=") + k), 2,
           std::string("parameter K must be 1 to 132104, found '") + k + "'");
  }
  for (const char* gemv : {"K=0", "K=132105", "STREAMS=0", "STREAMS=9", "DOT=5", "LANES=32"}) {
    const std::string knob(gemv);
    const std::string k = knob[0] == 'K' ? ":" : ":K=64:";
    expect(request("i2s_gemv" + k + knob + ":SYMBOL=a"), 2,
           "parameter " + knob.substr(0, knob.find('=')) + " must be ");
  }
  expect(request("i2s_gemv:K=64:PASSES=3:SYMBOL=a"), 2,
         "parameter PASSES must be 0 or a power of two up to 4, found '3'");
  expect(request("i2s_gemv:K=64:TOKENS=4:SYMBOL=a"), 2, "unknown parameter 'TOKENS'");
  expect(request("i2s_gemm:K=64:SYMBOL=a"), 2, "parameter TOKENS is missing");
  expect(request("i2s_gemm:K=64:TOKENS=33:SYMBOL=a"), 2, "parameter TOKENS must be 1 to 32, found '33'");
  expect(request("norm_quantize:K=64:UNROLL=3:SYMBOL=a"), 2, "UNROLL must be a power of two from 1 to 8, found '3'");
  expect(request("norm_quantize:K=64:SYMBOL=../a"), 2, "SYMBOL must be a C identifier, found '../a'");
  expect({"--target", good_target, "--out", folder.path(), good, good}, 2, "two pipelines have the symbol 'a'");
  // What only Halide can know, and the file system.
  expect({"--target", "hexagon-32-noos", "--out", folder.path(), good}, 1, "hvx");
  expect({"--target", good_target, "--out", folder.file("none"), good}, 1, "does not exist");
}

}  // namespace bitnet::test
