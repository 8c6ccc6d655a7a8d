// The foundations: buffers, mapped files, SHA-256, binary16, thread pool.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/buffer.h"
#include "runtime/base/half.h"
#include "runtime/base/mapped_file.h"
#include "runtime/base/sha256.h"
#include "runtime/base/thread_pool.h"
#include "tests/sanitizers.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;

struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "bitnet_base_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST_CASE("Buffer is zeroed, aligned and writable from end to end") {
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{65}, std::size_t{4097},
        (std::size_t{1} << 20) - 1, std::size_t{1} << 20, (std::size_t{2} << 20) + 1, std::size_t{5} << 20}) {
    CAPTURE(size);
    auto allocated = Buffer::allocate(size);
    REQUIRE(allocated.ok());
    Buffer buffer = std::move(*allocated);
    CHECK(buffer.size() == size);
    const std::size_t alignment = size >= (std::size_t{1} << 20) ? std::size_t{2} << 20 : 64;
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % alignment == 0);
    CHECK(std::all_of(buffer.data(), buffer.data() + size, [](std::byte b) { return b == std::byte{0}; }));
    std::memset(buffer.data(), 0x5a, size);

    Buffer moved(std::move(buffer));
    CHECK(buffer.data() == nullptr);
    CHECK(moved.data()[size - 1] == std::byte{0x5a});
    Buffer assigned;
    assigned = std::move(moved);
    CHECK(assigned.size() == size);
    CHECK(*assigned.as<std::uint8_t>(size - 1) == 0x5a);
  }
}

TEST_CASE("Buffer: nothing, and too much") {
  auto empty = Buffer::allocate(0);
  REQUIRE(empty.ok());
  CHECK(empty->size() == 0);
  CHECK(empty->data() == nullptr);
  for (const std::size_t size : {std::numeric_limits<std::size_t>::max(), std::size_t{1} << 62}) {
    auto refused = Buffer::allocate(size);
    REQUIRE(!refused.ok());
    CHECK(refused.error().code == ErrorCode::kMemory);
    CHECK(refused.error().message.find(std::to_string(size)) != std::string::npos);
  }
}

TEST_CASE("MappedFile shows the bytes of a file") {
  const TemporaryFolder folder;
  const std::string path = folder.path / "data";
  std::string contents(3 * 4096 + 17, '\0');
  for (std::size_t i = 0; i < contents.size(); ++i) contents[i] = static_cast<char>(i * 7);
  std::ofstream(path, std::ios::binary) << contents;
  REQUIRE(chmod(path.c_str(), 0644) == 0);

  auto opened = MappedFile::open(path);
  REQUIRE(opened.ok());
  MappedFile file = std::move(*opened);
  REQUIRE(file.bytes().size() == contents.size());
  CHECK(std::memcmp(file.bytes().data(), contents.data(), contents.size()) == 0);
  CHECK(!file.world_writable());

  file.release(file.bytes());
  file.release(file.bytes().subspan(100, 10));
  CHECK(std::memcmp(file.bytes().data(), contents.data(), contents.size()) == 0);

  MappedFile moved(std::move(file));
  CHECK(file.bytes().empty());
  CHECK(moved.bytes().size() == contents.size());

  REQUIRE(chmod(path.c_str(), 0646) == 0);
  auto writable = MappedFile::open(path);
  REQUIRE(writable.ok());
  CHECK(writable->world_writable());
  *writable = std::move(moved);
  CHECK(!writable->world_writable());
}

TEST_CASE("MappedFile: release() leaves foreign memory alone") {
  const TemporaryFolder folder;
  const std::string path = folder.path / "data";
  std::ofstream(path) << "x";
  auto file = MappedFile::open(path);
  REQUIRE(file.ok());
  auto other = Buffer::allocate(std::size_t{2} << 20);
  REQUIRE(other.ok());
  std::memset(other->data(), 1, other->size());
  file->release({other->data(), other->size()});
  CHECK(other->data()[4096] == std::byte{1});
}

TEST_CASE("MappedFile refuses what is not a readable regular file") {
  const TemporaryFolder folder;
  const auto refusal = [](const std::string& path) {
    auto file = MappedFile::open(path);
    REQUIRE(!file.ok());
    return file.error().message;
  };
  const std::string missing = folder.path / "missing";
  CHECK(refusal(missing) == missing + ": cannot open: No such file or directory");
  CHECK(refusal(folder.path.string()).find("expected a regular file, found a directory") != std::string::npos);
  CHECK(refusal("").find("empty") != std::string::npos);
  const std::string fifo = folder.path / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(refusal(fifo).find("expected a regular file, found a device, pipe or socket") != std::string::npos);

  const std::string empty = folder.path / "empty";
  std::ofstream(empty).flush();
  auto opened = MappedFile::open(empty);
  REQUIRE(opened.ok());
  CHECK(opened->bytes().empty());
}

TEST_CASE("SHA-256 of known texts (FIPS 180-4), at once and in pieces") {
  const std::pair<std::string, std::string> cases[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const auto& [text, expected] : cases) {
    CHECK(to_hex(sha256(bytes_of(text))) == expected);
    Sha256 pieces;
    for (std::size_t at = 0; at < text.size(); at += 977) {
      pieces.update(bytes_of(text).subspan(at, std::min<std::size_t>(977, text.size() - at)));
    }
    CHECK(to_hex(pieces.finish()) == expected);
  }
}

// The compiler's own binary16 is the oracle; its conversions are exact resp. round to nearest even.
std::uint16_t oracle_to_half(float f) { return std::bit_cast<std::uint16_t>(static_cast<_Float16>(f)); }

TEST_CASE("binary16 to float: every value equals the compiler's, and comes back") {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float expected = static_cast<float>(std::bit_cast<_Float16>(half));
    const float found = half_to_float(half);
    const bool nan = std::isnan(expected);
    const bool same = nan ? std::isnan(found) && std::signbit(found) == std::signbit(expected)
                          : std::bit_cast<std::uint32_t>(found) == std::bit_cast<std::uint32_t>(expected);
    const std::uint16_t back = float_to_half(found);
    // A signalling NaN comes back quiet.
    const auto expected_back = static_cast<std::uint16_t>(nan ? half | 0x0200u : half);
    if ((!same || back != expected_back) && ++wrong <= 5) {
      FAIL_CHECK("half " << bits << ": found " << found << ", expected " << expected << "; back " << back);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("float to binary16 rounds like the compiler") {
  int wrong = 0;
  const auto check = [&wrong](std::uint32_t bits) {
    const float f = std::bit_cast<float>(bits);
    const std::uint16_t found = float_to_half(f);
    const std::uint16_t expected = oracle_to_half(f);
    const bool same = std::isnan(f) ? (found & 0x7e00u) == 0x7e00u && (found >> 15) == (bits >> 31) : found == expected;
    if (!same && ++wrong <= 5) FAIL_CHECK("float bits " << bits << ": found " << found << ", expected " << expected);
  };
  // Around every border between two neighbouring halves: the half, the tie, and the floats beside them.
  for (std::uint32_t half = 0; half < 0x7c00; ++half) {
    const float low = half_to_float(static_cast<std::uint16_t>(half));
    const float high = half_to_float(static_cast<std::uint16_t>(half + 1));
    const float tie = half + 1 == 0x7c00 ? 65520.0f : low + (high - low) / 2;
    for (const float centre : {low, tie}) {
      const auto bits = std::bit_cast<std::uint32_t>(centre);
      for (std::uint32_t near = bits < 2 ? 0 : bits - 2; near <= bits + 2; ++near) {
        check(near);
        check(near | 0x80000000u);
      }
    }
  }
  // Infinities, NaNs, float subnormals, the extremes.
  for (const std::uint32_t bits : {0x7f800000u, 0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0x7f7fffffu, 0x00000001u,
                                   0x007fffffu, 0x00800000u, 0x33000000u, 0x33000001u, 0x32ffffffu}) {
    check(bits);
    check(bits | 0x80000000u);
  }
  std::mt19937 random(7);
  for (int i = 0; i < 2'000'000; ++i) check(static_cast<std::uint32_t>(random()));
  CHECK(wrong == 0);
}

TEST_CASE("ThreadPool calls each thread once per run, also with more threads than CPUs") {
  for (const int threads : {1, 2, 3, 4, 16, 64}) {
    CAPTURE(threads);
    auto created = ThreadPool::create(threads);
    REQUIRE(created.ok());
    ThreadPool& pool = **created;
    CHECK(pool.size() == threads);
    std::vector<int> calls(static_cast<std::size_t>(threads), 0);  // plain ints: run() itself must order the accesses
    const int rounds = threads <= 4 ? 20000 : 500;
    bool each_once = true;
    for (int round = 1; round <= rounds; ++round) {
      pool.run([&](int thread) { ++calls[static_cast<std::size_t>(thread)]; });
      for (const int count : calls) each_once = each_once && count == round;
    }
    CHECK(each_once);
  }
}

TEST_CASE("ThreadPool: threads that meet see what the others wrote before, also with more threads than CPUs") {
  for (const int threads : {1, 2, 3, 5, 16}) {
    CAPTURE(threads);
    auto created = ThreadPool::create(threads);
    REQUIRE(created.ok());
    ThreadPool& pool = **created;
    const int meetings = threads <= 3 ? 5000 : 200;
    std::vector<int> reached(static_cast<std::size_t>(threads), 0);  // plain ints: meet() must order the accesses
    std::atomic<int> wrong{0};
    for (int run = 0; run < 3; ++run) {
      pool.run([&](int thread) {
        for (int i = 1; i <= meetings; ++i) {
          if (i == 7 && thread == run % threads) usleep(300);  // long past the spin: the others sleep
          reached[static_cast<std::size_t>(thread)] = run * meetings + i;
          pool.meet();
          for (const int other : reached) {
            if (other != run * meetings + i) wrong.fetch_add(1);
          }
          pool.meet();
        }
      });
    }
    CHECK(wrong.load() == 0);
  }
}

TEST_CASE("ThreadPool wakes sleepers on both sides") {
  auto created = ThreadPool::create(4);
  REQUIRE(created.ok());
  std::atomic<int> done{0};
  for (int round = 0; round < 60; ++round) {
    if (round % 3 == 0) usleep(300);  // long past the spin: the workers sleep
    (*created)->run([&](int thread) {
      if (round % 3 == 1 && thread == 1 + round % 2) usleep(300);  // the caller sleeps
      if (round % 3 == 2 && thread == 0) usleep(300);              // the workers are done long before the caller
      done.fetch_add(1);
    });
    CHECK(done.load() == 4 * (round + 1));
  }
}

TEST_CASE("ThreadPool can be destroyed at any moment after a run, and unused") {
  for (int i = 0; i < 300; ++i) {
    auto created = ThreadPool::create(1 + i % 5);
    REQUIRE(created.ok());
    int calls = 0;
    if (i % 2 == 0)
      (*created)->run([&](int thread) {
        if (thread == 0) ++calls;
      });
    if (i % 7 == 0) usleep(100);
    CHECK(calls == (i % 2 == 0 ? 1 : 0));
  }
}

TEST_CASE("parallel_for covers the range once, cut at multiples of the granule") {
  for (const int threads : {1, 2, 3, 4, 7}) {
    auto created = ThreadPool::create(threads);
    REQUIRE(created.ok());
    for (const std::int64_t granule : {1, 16, 64}) {
      for (const std::int64_t count : {0, 1, 15, 16, 17, 63, 64, 65, 100, 1000, 6912}) {
        std::vector<std::atomic<int>> hits(static_cast<std::size_t>(count));
        std::atomic<int> bad_borders{0};
        (*created)->parallel_for(count, granule, [&](std::int64_t begin, std::int64_t end, int thread) {
          if (begin % granule != 0 || (end % granule != 0 && end != count) || begin >= end) ++bad_borders;
          if (thread < 0 || thread >= threads) ++bad_borders;
          for (std::int64_t i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
        });
        CHECK(bad_borders.load() == 0);
        CHECK(std::all_of(hits.begin(), hits.end(), [](const std::atomic<int>& n) { return n.load() == 1; }));
      }
    }
  }
}

TEST_CASE("ThreadPool refuses impossible sizes") {
  for (const int threads : {0, -1, 1025}) {
    auto created = ThreadPool::create(threads);
    REQUIRE(!created.ok());
    CHECK(created.error().code == ErrorCode::kUsage);
    CHECK(created.error().message.find("found " + std::to_string(threads)) != std::string::npos);
  }
}

// Sanitizers need far more address space than this test leaves.
#if !BITNET_TEST_SANITIZED
TEST_CASE("ThreadPool: threads that cannot be started are an error, not an exception") {
  // In a child process with little address space: a thread's stack (8 MiB by default) no longer fits.
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit limit{std::size_t{256} << 20, std::size_t{256} << 20};
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(3);
    const auto created = ThreadPool::create(1024);
    if (created.ok()) _exit(2);
    _exit(created.error().code == ErrorCode::kMemory && created.error().message.find("of 1024") != std::string::npos
              ? 0
              : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
#endif

}  // namespace
}  // namespace bitnet
