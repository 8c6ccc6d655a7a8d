// Whether tests keep to one case of each kind: under sanitizers and emulators, where the same takes ten times as long.
#ifndef BITNET_TESTS_QUICK_H_
#define BITNET_TESTS_QUICK_H_

#include <cstdlib>

namespace bitnet::test {

// Set by tools/test.sh for its sanitizer build: BITNET_TEST_QUICK, to anything but nothing.
inline bool quick_wanted() {
  const char* quick = std::getenv("BITNET_TEST_QUICK");
  return quick != nullptr && *quick != '\0';
}

}  // namespace bitnet::test

#endif  // BITNET_TESTS_QUICK_H_
