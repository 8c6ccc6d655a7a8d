// The kernels of a bundle file, loaded as the runtime loads them, through the tester of tests/kernel_tester.h. The
// program holds no compiler, so that it runs on an emulated CPU too: the bundle is made natively beforehand
// (BITNET_TEST_BUNDLE), and the emulator faults on each instruction that the named CPU lacks.
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <string_view>

#include "runtime/bundle/bundle.h"
#include "tests/kernel_tester.h"

namespace bitnet {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool is_word_of(std::string_view word, const std::string& words) {
  std::istringstream stream(words);
  for (std::string each; stream >> each;) {
    if (each == word) return true;
  }
  return false;
}

// Dense kernels end a row with masked loads. qemu-x86_64 7.2 reads all lanes of vmaskmovps, also beyond the end of an
// array; a real CPU must not, which the native run of the same kernels shows.
bool reads_masked(const Kernel& kernel) {
  return kernel.op == Op::kNormQuantize && kernel.isa != Isa::kScalar && kernel.k % 16 != 0;
}

TEST_CASE("the kernels of a bundle file equal the scalar reference") {
  const std::string path = environment("BITNET_TEST_BUNDLE");
  REQUIRE_MESSAGE(!path.empty(), "BITNET_TEST_BUNDLE names the bundle to test");
  const std::string emulator = environment("BITNET_TEST_EMULATOR");
  const std::string how = emulator.empty() ? "run natively" : "emulated by " + emulator;
  // Of an emulated CPU it is known what it executes; no image may be left out there.
  const std::string expected = environment("BITNET_TEST_EXPECT_ISAS");
  const auto file = gguf::File::open(path);
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  const auto json = file->get_string("bitnet.kernels");
  REQUIRE_MESSAGE(json.ok(), json.error().message);
  const auto table = parse_kernel_table(*json, path);
  REQUIRE_MESSAGE(table.ok(), table.error().message);
  const test::TestPlan plan = test::plan_from_environment();
  std::size_t tested = 0;
  for (const ImageRecord& image : table->images) {
    const std::string isa(to_string(image.isa));
    const bool runs = probe_isa(image.isa);
    if (!expected.empty()) CHECK_MESSAGE(runs == is_word_of(isa, expected), isa);
    if (!runs) {
      std::printf("image %-8s not run: this CPU does not execute it%s%s\n", isa.c_str(), emulator.empty() ? "" : ", ",
                  emulator.c_str());
      continue;
    }
    const auto bundle = Bundle::open(path, "", std::span(&image.isa, 1));
    REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
    REQUIRE(bundle->isa() == image.isa);
    REQUIRE_FALSE(bundle->kernels().empty());
    for (const Kernel& kernel : bundle->kernels()) {
      if (!emulator.empty() && reads_masked(kernel)) {
        std::printf("%-40s SKIPPED: the emulator reads whole vectors at masked loads, so the guard pages object\n",
                    kernel.name().c_str());
        continue;
      }
      const std::vector<std::string> failures = test::test_kernel(kernel, plan);
      std::printf("%-40s %s\n", kernel.name().c_str(), how.c_str());
      std::fflush(stdout);
      for (const std::string& failure : failures) FAIL_CHECK(failure);
    }
    ++tested;
  }
  CHECK_MESSAGE(tested > 0, "no image of " << path << " was run");
}

TEST_CASE("an image for another CPU is not loaded") {
  const std::string path = environment("BITNET_TEST_BUNDLE");
  REQUIRE_FALSE(path.empty());
  const auto bundle = Bundle::open(path, "", std::span<const Isa>());
  REQUIRE_FALSE(bundle.ok());
  CHECK(bundle.error().message.find("none that this CPU executes") != std::string::npos);
}

}  // namespace
}  // namespace bitnet
