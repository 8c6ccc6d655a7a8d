// Test data that is not part of the repository (../shared/assets beside a developer's checkout). Tests that need it say
// visibly that they skip where it is absent.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace bitnet::test {

// Path of `relative` below the assets, or nullopt after printing that `what` is skipped.
inline std::optional<std::string> asset(const std::string& relative, const char* what) {
  const char* root = std::getenv("BITNET_ASSETS");
  if (root != nullptr) {
    const std::filesystem::path path = std::filesystem::path(root) / relative;
    if (std::filesystem::exists(path)) return path.string();
  }
  std::printf("SKIPPED: %s (no test asset %s)\n", what, relative.c_str());
  return std::nullopt;
}

}  // namespace bitnet::test
