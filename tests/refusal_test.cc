// Refusals end to end: the real programs on a real (tiny) model and its bundle. An explicit --bundle that is refused
// ends the program with 15 and one message; a refused one beside the model costs one line on standard error and the
// model runs on the built-in kernels, with the same text.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <utility>

#include "runtime/bundle/bundle.h"
#include "runtime/kernels/kernel.h"
#include "runtime/kernels/kernel_abi.h"
#include "tests/bundle_files.h"
#include "tests/quick.h"
#include "tests/sanitizers.h"

extern char** environ;

namespace bitnet {
namespace {

using test::Bytes;

struct Outcome {
  int code = -1;  // 128 + signal where a signal ended it
  std::string out;
  std::string err;
  [[nodiscard]] bool says(std::string_view text) const { return err.find(text) != std::string::npos; }
};

std::string text_of(const std::string& path) {
  const Bytes bytes = test::read_file(path);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Outcome run(const test::TempDir& dir, const std::vector<std::string>& command) {
  const std::string out = dir / "stdout";
  const std::string err = dir / "stderr";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const int spawned = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  REQUIRE_MESSAGE(spawned == 0, command[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0) REQUIRE(errno == EINTR);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text_of(out), text_of(err)};
}

std::optional<std::string> program(const std::string& name) {
  const char* folder = std::getenv("BITNET_BIN");
  if (folder == nullptr) return std::nullopt;
  const std::filesystem::path path = std::filesystem::path(folder) / name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path.string();
}

std::optional<std::string> find_in_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string rest = path == nullptr ? "" : path;
  while (!rest.empty()) {
    const std::size_t colon = rest.find(':');
    const std::filesystem::path candidate = std::filesystem::path(rest.substr(0, colon)) / name;
    if (access(candidate.c_str(), X_OK) == 0) return candidate.string();
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
  }
  return std::nullopt;
}

// What bundles are made for. Compiling is nearly all of this test's time, and it is the same with and without
// sanitizers: BITNET_TEST_QUICK takes one image where the machine's own target has two.
std::string target() {
#if defined(__x86_64__)
  if (test::quick_wanted() && __builtin_cpu_supports("avx2") != 0) return "avx2";
#endif
  return "native";
}

// One tiny model with its packed native bundle, made once by the programs; nullptr where bitnet-codegen is not built.
class Setup {
 public:
  static const Setup* get() {
    static const Setup setup;
    if (setup.usable_) return &setup;
    std::printf("SKIPPED: refusals of the programs (bitnet or bitnet-codegen is not built, BITNET_BIN)\n");
    return nullptr;
  }

  // The fixed prompt as ids, greedy, few tokens.
  [[nodiscard]] Outcome generate(const std::string& model_path, const std::string& bundle_option,
                                 std::vector<std::string> front = {}) const {
    std::vector<std::string> command = std::move(front);
    command.insert(command.end(), {bitnet, "run", "-m", model_path, "--prompt-ids", "1,5,7", "-n", "4", "--greedy",
                                   "--ignore-eos", "-t", "2", "-q", "--bundle", bundle_option});
    return run(dir, command);
  }

  // The model with four undefined codes.
  [[nodiscard]] std::string undefined() const {
    std::string path = dir / "undefined.gguf";
    Bytes changed = test::read_file(model);
    const Result<gguf::File> file = gguf::File::parse(changed, model);
    REQUIRE(file.ok());
    const gguf::Tensor* down = file->find_tensor("blk.0.ffn_down.weight");
    REQUIRE(down != nullptr);
    changed[file->data_offset() + down->offset] = std::byte{0xFF};  // four codes 3
    test::write_file(path, changed);
    return path;
  }

  // A bundle without packed weights, made from the model with undefined codes, and what that said; made once.
  [[nodiscard]] const std::pair<std::string, Outcome>& unpacked() const {
    static const std::pair<std::string, Outcome> made = [this] {
      std::string path = dir / "unpacked.bnk";
      Outcome outcome = run(dir, {codegen, "--model", undefined(), "--target", target(), "-q", "-o", path});
      return std::pair(std::move(path), std::move(outcome));
    }();
    return made;
  }

  test::TempDir dir;
  std::string bitnet;
  std::string codegen;
  std::string model = dir / "tiny.gguf";
  std::string bundle = dir / "kept.bnk";
  Bytes bytes;       // of the bundle
  std::string text;  // what the model says on the built-in kernels

 private:
  Setup() {
    const auto bitnet_path = program("bitnet");
    const auto codegen_path = program("bitnet-codegen");
    if (!bitnet_path || !codegen_path) return;
    bitnet = *bitnet_path;
    codegen = *codegen_path;
    const Outcome synth = run(dir, {bitnet, "synth", "--shape", "tiny", "--seed", "1", "-q", "-o", model});
    REQUIRE_MESSAGE(synth.code == 0, synth.err);
    const Outcome made = run(dir, {codegen, "--model", model, "--target", target(), "--pack", "-q", "-o", bundle});
    REQUIRE_MESSAGE(made.code == 0, made.err);
    bytes = test::read_file(bundle);
    const Outcome plain = generate(model, "none");
    REQUIRE_MESSAGE(plain.code == 0, plain.err);
    REQUIRE(!plain.out.empty());
    text = plain.out;
    usable_ = true;
  }
  bool usable_ = false;
};

std::size_t lines(const std::string& text) { return static_cast<std::size_t>(std::ranges::count(text, '\n')); }

std::size_t occurrences(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// `damaged` in place of the bundle: refused with `reason` when asked for, one line and the built-in kernels when
// beside.
void check_refused(const Setup& setup, std::span<const std::byte> damaged, const std::string& reason, int mode = 0644) {
  CAPTURE(reason);
  const std::string path = setup.dir / "damaged.bnk";
  test::write_file(path, damaged);
  REQUIRE(chmod(path.c_str(), static_cast<mode_t>(mode)) == 0);
  const Outcome asked = setup.generate(setup.model, path);
  INFO(asked.err);
  CHECK(asked.code == 15);
  CHECK(asked.out.empty());  // nothing was generated
  CHECK(occurrences(asked.err, "refused") == 1);
  CHECK(asked.says(reason));
  CHECK(lines(asked.err) == 1);

  const std::string beside = setup.dir / "tiny.bnk";
  std::filesystem::rename(path, beside);
  const Outcome found = setup.generate(setup.model, "auto");
  std::filesystem::remove(beside);
  INFO(found.err);
  CHECK(found.code == 0);
  CHECK(found.says(reason));
  CHECK(found.says("; built-in kernels run instead"));
  CHECK(occurrences(found.err, "refused") == 1);
  CHECK(lines(found.err) == 1);
  CHECK(found.out == setup.text);
}

TEST_CASE("the good bundle is used and says the same") {
  const Setup* setup = Setup::get();
  if (setup == nullptr) return;
  const Outcome asked = setup->generate(setup->model, setup->bundle);
  INFO(asked.err);
  CHECK(asked.code == 0);
  CHECK(asked.out == setup->text);
  const Outcome verified = run(setup->dir, {setup->codegen, "verify", setup->bundle, "--model", setup->model});
  INFO(verified.out);
  CHECK(verified.code == 0);
  CHECK(verified.out.find("ok      model SHA-256") != std::string::npos);
  CHECK(verified.out.find("all checks passed") != std::string::npos);
  CHECK(verified.out.find("skipped") == std::string::npos);
  const Outcome inspected = run(setup->dir, {setup->codegen, "inspect", setup->bundle});
  CHECK(inspected.code == 0);
  CHECK(inspected.out.find("i2s_gemv_n") != std::string::npos);

  const Outcome again = run(setup->dir, {setup->codegen, "--model", setup->model, "--target", target(), "--pack", "-q",
                                         "-o", setup->dir / "again.bnk"});
  CHECK(again.code == 0);
  CHECK(test::read_file(setup->dir / "again.bnk") == setup->bytes);
}

TEST_CASE("one flipped bit is refused with its section named") {
  const Setup* setup = Setup::get();
  if (setup == nullptr) return;
  const Result<gguf::File> file = gguf::File::parse(setup->bytes, setup->bundle);
  REQUIRE(file.ok());
  const auto flipped = [&](std::size_t at) {
    Bytes bytes = setup->bytes;
    bytes[at] ^= std::byte{4};
    return bytes;
  };
  SUBCASE("metadata") {
    check_refused(*setup, flipped(file->find("bitnet.tools")->value_offset + 9),
                  "metadata: the header, metadata or tensor table was changed");
  }
  SUBCASE("digest") {
    check_refused(*setup, flipped(file->find("bitnet.bundle.digest")->value_offset + 31),
                  "metadata: the header, metadata or tensor table was changed");
  }
  SUBCASE("tensor table") { check_refused(*setup, flipped(file->header_bytes() - 1), "metadata: "); }
  SUBCASE("padding before the data") { check_refused(*setup, flipped(file->header_bytes()), "padding: "); }
  SUBCASE("padding at the end") { check_refused(*setup, flipped(setup->bytes.size() - 1), "padding: "); }
  SUBCASE("code") {
    for (const gguf::Tensor& tensor : file->tensors()) {
      if (!tensor.name.starts_with("image.")) continue;
      check_refused(*setup, flipped(file->data_offset() + tensor.offset + tensor.bytes / 2),
                    std::string(tensor.name) + ": the code does not have its SHA-256");
    }
  }
  SUBCASE("packed weights, before the first token") {
    const gguf::Tensor* packed = file->find_tensor("packed");
    REQUIRE(packed != nullptr);
    const std::size_t at = packed->bytes - 1;
    const Bytes bytes = flipped(file->data_offset() + packed->offset + at);
    check_refused(*setup, bytes, "packed weights block " + std::to_string(at / kPackedHashBlock) + ": ");
    test::write_file(setup->dir / "packed.bnk", bytes);
    const Outcome verified =
        run(setup->dir, {setup->codegen, "verify", setup->dir / "packed.bnk", "--model", setup->model});
    CHECK(verified.code == 15);
    CHECK(verified.out.find("FAILED  packed weights: ") != std::string::npos);
  }
}

TEST_CASE("packed weights that are damaged where loading does not look are refused at their first use") {
  const Setup* setup = Setup::get();
  if (setup == nullptr) return;
  const Result<gguf::File> file = gguf::File::parse(setup->bytes, "bundle");
  REQUIRE(file.ok());
  const auto refused = [&](std::string_view tensor, std::size_t at, const std::string& name) {
    Bytes bytes = setup->bytes;
    bytes[file->data_offset() + file->find_tensor(tensor)->offset + at] ^= std::byte{4};
    for (const std::string& path : {setup->dir / "damaged.bnk", setup->dir / "tiny.bnk"}) {
      test::write_file(path, bytes);
      const bool beside = path.ends_with("tiny.bnk");  // loaded by now: there is no way back to other kernels
      const Outcome outcome = setup->generate(setup->model, beside ? "auto" : path);
      INFO(outcome.err);
      CHECK(outcome.code == 15);
      CHECK(outcome.out.empty());
      CHECK(outcome.says("refused: " + name + " block 0: "));
      CHECK(outcome.says("--bundle none"));
      std::filesystem::remove(path);
    }
  };
  refused("packed", 1500, "packed weights");  // in the second tile; the first, middle and last are compared at load
  refused("head", 3000, "head");              // not in the first row
}

TEST_CASE("bundles that do not belong here are refused, each with its own message") {
  const Setup* setup = Setup::get();
  if (setup == nullptr) return;
  SUBCASE("another ABI version") {
    Bytes bytes = setup->bytes;
    test::set_u32(bytes, "bitnet.kernel_abi.version", BITNET_KERNEL_ABI_VERSION + 1);
    check_refused(*setup, bytes,
                  "kernel ABI version " + std::to_string(BITNET_KERNEL_ABI_VERSION + 1) +
                      " (bitnet.kernel_abi.version), this program needs version " +
                      std::to_string(BITNET_KERNEL_ABI_VERSION));
  }
  SUBCASE("another bundle version") {
    Bytes bytes = setup->bytes;
    test::set_u32(bytes, "bitnet.bundle.version", kBundleVersion + 1);
    check_refused(*setup, bytes, "bundle version " + std::to_string(kBundleVersion + 1) + " (bitnet.bundle.version)");
  }
  SUBCASE("another model") {
    const std::string other = setup->dir / "other.gguf";
    const Outcome synth =
        run(setup->dir, {setup->bitnet, "synth", "--shape", "2x128x256x4/2x512", "--seed", "1", "-q", "-o", other});
    REQUIRE_MESSAGE(synth.code == 0, synth.err);
    const Outcome asked = setup->generate(other, setup->bundle);
    INFO(asked.err);
    CHECK(asked.code == 15);
    CHECK(asked.says("made for a model of other shapes"));
    const Outcome verified = run(setup->dir, {setup->codegen, "verify", setup->bundle, "--model", other});
    INFO(verified.out);
    CHECK(verified.code == 15);
    CHECK(verified.out.find("FAILED  model shapes: ") != std::string::npos);
    CHECK(verified.out.find("FAILED  model SHA-256: ") != std::string::npos);
  }
  SUBCASE("the packed weights of another model of the same shapes") {
    const std::string other = setup->dir / "seed2.gguf";
    const Outcome synth =
        run(setup->dir, {setup->bitnet, "synth", "--shape", "tiny", "--seed", "2", "-q", "-o", other});
    REQUIRE_MESSAGE(synth.code == 0, synth.err);
    const Outcome plain = setup->generate(other, "none");
    REQUIRE_MESSAGE(plain.code == 0, plain.err);
    CHECK(plain.out != setup->text);
    const std::string reason = "refused: packed weights: packed from another model than " + other +
                               ": layer 0, product attention q, k, v, rows 0..15 are not this model's; run "
                               "bitnet-codegen --model " +
                               other + " --pack again";
    const Outcome asked = setup->generate(other, setup->bundle);
    INFO(asked.err);
    CHECK(asked.code == 15);
    CHECK(asked.out.empty());
    CHECK(asked.says("bundle '" + setup->bundle + "' " + reason));
    CHECK(lines(asked.err) == 1);

    const std::string beside = setup->dir / "seed2.bnk";
    std::filesystem::copy_file(setup->bundle, beside);
    const Outcome found = setup->generate(other, "auto");
    INFO(found.err);
    CHECK(found.code == 0);
    CHECK(found.says(reason + "; built-in kernels run instead"));
    CHECK(lines(found.err) == 1);
    CHECK(found.out == plain.out);
    const Outcome strict = run(setup->dir, {setup->bitnet, "run", "-m", other, "--prompt-ids", "1", "-q", "--strict"});
    CHECK(strict.code == 8);
    CHECK(strict.says(reason));

    // Without packed weights one bundle serves both.
    const auto& [shared, made] = setup->unpacked();
    REQUIRE_MESSAGE(made.code == 0, made.err);
    CHECK(setup->generate(other, shared).out == plain.out);
    CHECK(setup->generate(setup->model, shared).out == setup->text);
    // A model that differs in its very last row of weights.
    Bytes bytes = test::read_file(setup->model);
    std::uint64_t rows = 0;
    {
      const Result<gguf::File> file = gguf::File::parse(bytes, setup->model);
      REQUIRE(file.ok());
      const gguf::Tensor* last = nullptr;
      for (const gguf::Tensor& tensor : file->tensors()) {
        if (tensor.name.ends_with(".ffn_down.weight")) last = &tensor;
      }
      REQUIRE(last != nullptr);
      rows = last->ne[1];
      // Code 0 or 2 becomes 1, code 1 becomes 0.
      std::byte& code = bytes[file->data_offset() + last->offset + last->ne[0] * last->ne[1] / 4 - 1];
      code = (code & std::byte{3}) == std::byte{1} ? code & ~std::byte{3} : (code & ~std::byte{3}) | std::byte{1};
    }
    test::write_file(setup->dir / "changed.gguf", bytes);
    const Outcome changed = setup->generate(setup->dir / "changed.gguf", setup->bundle);
    INFO(changed.err);
    CHECK(changed.code == 15);
    CHECK(changed.says("product down, rows " + std::to_string(rows - 16) + ".." + std::to_string(rows - 1) +
                       " are not this model's"));
  }
  SUBCASE("another model's shapes") {
    Bytes bytes = setup->bytes;
    const Result<gguf::File> file = gguf::File::parse(bytes, setup->bundle);
    REQUIRE(file.ok());
    std::byte& digit = bytes[file->find("bitnet.model.shape_hash")->value_offset + 8];
    digit = digit == std::byte{'0'} ? std::byte{'1'} : std::byte{'0'};
    test::redigest(bytes);
    check_refused(*setup, bytes, "made for a model of other shapes");
  }
  SUBCASE("world-writable") { check_refused(*setup, setup->bytes, "permissions: the file is world-writable", 0666); }
  SUBCASE("the model itself") {
    check_refused(*setup, test::read_file(setup->model), "not a kernel bundle: general.architecture");
  }
  SUBCASE("no GGUF") {
    check_refused(*setup, std::as_bytes(std::span("hello")), "not a kernel bundle: it does not begin with 'GGUF'");
  }
  SUBCASE("truncated") {
    for (const std::size_t length : {setup->bytes.size() - 1, setup->bytes.size() - kBundleAlignment,
                                     std::size_t{kBundleAlignment}, std::size_t{100}}) {
      check_refused(*setup, std::span(setup->bytes).first(length), "truncated");
    }
  }
  SUBCASE("wrong results") {  // the code of the first gemv replaced by a return, every digest made right
    Bytes bytes = setup->bytes;
    const Result<gguf::File> file = gguf::File::parse(bytes, setup->bundle);
    REQUIRE(file.ok());
    const Result<KernelTable> table = parse_kernel_table(*file->get_string("bitnet.kernels"), setup->bundle);
    REQUIRE(table.ok());
    for (const KernelRecord& record : table->kernels) {
      if (record.kernel.op != Op::kGemv) continue;
      const gguf::Tensor* image = file->find_tensor("image." + std::string(to_string(record.kernel.isa)));
      constexpr std::byte kReturn{0xC3};
      bytes[file->data_offset() + image->offset + record.offset] = kReturn;
    }
    for (const ImageRecord& image : table->images) {
      const gguf::Tensor* tensor = file->find_tensor(image.tensor);
      const std::string digest =
          to_hex(sha256(std::span(bytes).subspan(file->data_offset() + tensor->offset, tensor->bytes)));
      std::memcpy(bytes.data() + test::find_text(bytes, image.sha256), digest.data(), digest.size());
    }
    test::redigest(bytes);
    check_refused(*setup, bytes, "self-test: kernel i2s_gemv_");
  }
}

TEST_CASE("verify: a model that cannot be read is no verdict on the bundle") {
  const Setup* setup = Setup::get();
  if (setup == nullptr) return;
  const std::string text = setup->dir / "text.gguf";
  test::write_file(text, std::as_bytes(std::span("hello")));
  for (const std::string& model : {setup->dir / "missing.gguf", text}) {
    CAPTURE(model);
    const Outcome verified = run(setup->dir, {setup->codegen, "verify", setup->bundle, "--model", model});
    INFO(verified.err);
    CHECK(verified.code == 1);
    CHECK(verified.out.empty());
    CHECK(verified.says(model));
    CHECK(lines(verified.err) == 1);
  }
}

TEST_CASE("packing counts the undefined codes as loading does") {
  const Setup* setup = Setup::get();
  if (setup == nullptr) return;
  const std::string model = setup->undefined();
  const std::string warning =
      ": " + model +
      ": tensor blk.0.ffn_down.weight: 4 codes are 3, which I2_S does not define; they are read as weight 0";
  const Outcome loaded = setup->generate(model, "none");
  INFO(loaded.err);
  CHECK(loaded.code == 0);
  CHECK(loaded.says(warning));
  const Outcome& plain = setup->unpacked().second;
  CHECK(plain.code == 0);
  CHECK(plain.err.empty());  // nothing is packed
  const Outcome packed = run(setup->dir, {setup->codegen, "--model", model, "--target", target(), "-q", "-o",
                                          setup->dir / "undefined.bnk", "--pack", "--json"});
  INFO(packed.err);
  CHECK(packed.code == 0);
  CHECK(packed.says(warning));
  CHECK(lines(packed.err) == 1);
  CHECK(packed.out.find("4 codes are 3") != std::string::npos);  // in the JSON report too
}

TEST_CASE("a missing bundle that was asked for is refused") {
  const Setup* setup = Setup::get();
  if (setup == nullptr) return;
  const Outcome missing = setup->generate(setup->model, setup->dir / "nothing.bnk");
  INFO(missing.err);
  CHECK(missing.code == 15);
  CHECK(missing.says("nothing.bnk"));
}

TEST_CASE("a CPU that executes no image of the bundle") {
  const Setup* setup = Setup::get();
  if (setup == nullptr) return;
#if BITNET_TEST_SANITIZED
  std::printf("SKIPPED: a CPU without AVX (AddressSanitizer does not run under qemu-user)\n");
  return;
#endif
  const auto qemu = find_in_path("qemu-x86_64");
  if (!qemu) {
    std::printf("SKIPPED: a CPU without AVX (no qemu-x86_64)\n");
    return;
  }
  const std::vector<std::string> nehalem{*qemu, "-cpu", "Nehalem"};
  const std::string bundle = setup->dir / "avx2.bnk";
  const Outcome made =
      run(setup->dir, {setup->codegen, "--model", setup->model, "--target", "avx2", "-q", "-o", bundle});
  REQUIRE_MESSAGE(made.code == 0, made.err);
  const Outcome asked = setup->generate(setup->model, bundle, nehalem);
  INFO(asked.err);
  CHECK(asked.code == 15);
  CHECK(asked.out.empty());
  CHECK(asked.says("images: none that this CPU executes: the bundle has avx2, usable here are scalar"));

  std::filesystem::rename(bundle, setup->dir / "tiny.avx2.bnk");
  const Outcome found = setup->generate(setup->model, "auto", nehalem);
  std::filesystem::remove(setup->dir / "tiny.avx2.bnk");
  INFO(found.err);
  CHECK(found.code == 0);
  CHECK(found.says("none that this CPU executes"));
  CHECK(lines(found.err) == 1);
  CHECK(found.out == setup->text);
}

}  // namespace
}  // namespace bitnet
