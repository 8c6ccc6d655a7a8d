// Ternary and dense tensor types against files of other writers: values and bytes.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/formats/ternary.h"
#include "runtime/formats/tiles.h"
#include "tests/assets.h"
#include "tests/formats_files.h"

namespace bitnet {
namespace {

using namespace formats;
using test::all_codes;
using test::Codes;
using test::open_ternary;

TEST_CASE("bitnet.cpp's I2_S, TL1 and TL2 of one model hold the same integers") {
  const auto i2s = test::asset("bitnet_cpp/tiny.b158.i2_s.gguf", "three types of one model");
  if (!i2s) return;
  const auto file = gguf::File::open(*i2s);
  REQUIRE(file.ok());
  for (const std::string type : {"tl1", "tl2"}) {
    CAPTURE(type);
    const auto path = test::asset("bitnet_cpp/tiny.b158." + type + ".gguf", "TL1 and TL2");
    const auto tiles = test::asset("bitnet_cpp/" + type + ".ini", "tiles of TL1 and TL2");
    REQUIRE((path && tiles));
    const auto other = gguf::File::open(*path);
    REQUIRE(other.ok());
    ReadOptions options;
    options.tile_config = *tiles;
    std::size_t compared = 0;
    for (const gguf::Tensor& tensor : file->tensors()) {
      if (tensor.type != gguf::TensorType::kI2_S) continue;
      CAPTURE(tensor.name);
      const gguf::Tensor* same = other->find_tensor(tensor.name);
      REQUIRE(same != nullptr);
      const TernaryMatrix expected = open_ternary(*file, tensor);
      const TernaryMatrix found = open_ternary(*other, *same, options);
      std::uint64_t undefined = 1;
      CHECK(all_codes(found, &undefined) == all_codes(expected));
      CHECK(undefined == 0);
      CHECK(found.scale_kind() == ScaleKind::kTensor);
      CHECK(found.scales()[0] == expected.scales()[0]);
      ++compared;
    }
    CHECK(compared == 21);
  }
}

}  // namespace
}  // namespace bitnet
