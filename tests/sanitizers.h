// Whether this build has AddressSanitizer or ThreadSanitizer, for tests that limit the address space (sanitizers need
// far more of it) or read the resident set: g++ says it by macros, clang by features.
#ifndef BITNET_TESTS_SANITIZERS_H_
#define BITNET_TESTS_SANITIZERS_H_

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BITNET_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BITNET_TEST_SANITIZED 1
#endif
#endif
#ifndef BITNET_TEST_SANITIZED
#define BITNET_TEST_SANITIZED 0
#endif

#endif  // BITNET_TESTS_SANITIZERS_H_
