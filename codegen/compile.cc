// Compilations (clang in this process, Halide in child processes) run side by side; what follows is a few milliseconds
// per image and runs in order: link, audit, flatten, kernel table, self-test.
#include "codegen/compile.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "codegen/audit.h"
#include "codegen/audit_source.h"
#include "codegen/clang_backend.h"
#include "codegen/elf_image.h"
#include "codegen/embedded.h"
#include "codegen/emit.h"
#include "codegen/halide_backend.h"
#include "codegen/link.h"
#include "runtime/base/sha256.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/kernels/layout.h"

namespace bitnet::codegen {
namespace {

using Clock = std::chrono::steady_clock;

// Times phases from several threads.
class Stopwatch {
 public:
  template <typename Fn>
  auto time(std::string phase, Fn&& fn) {
    const Clock::time_point begin = Clock::now();
    auto result = fn();
    const std::chrono::duration<double, std::milli> elapsed = Clock::now() - begin;
    const std::lock_guard lock(mutex_);
    times_.push_back({std::move(phase), elapsed.count()});
    return result;
  }
  std::vector<PhaseTime> take() { return std::move(times_); }

 private:
  std::mutex mutex_;
  std::vector<PhaseTime> times_;
};

// Runs the tasks on `jobs` threads, in order of their start.
void run_tasks(const std::vector<std::function<void()>>& tasks, int jobs) {
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < tasks.size(); i = next++) tasks[i]();
  };
  std::vector<std::jthread> threads;
  const auto wanted = std::min(tasks.size(), static_cast<std::size_t>(jobs));
  for (std::size_t i = 1; i < wanted; ++i) threads.emplace_back(work);
  work();
}

struct ImageWork {
  std::string unit;
  std::optional<Result<ClangOutput>> clang;
  std::optional<Result<std::vector<std::string>>> halide;
};

class Compiler {
 public:
  Compiler(const Plan& plan, const CompileOptions& options) : plan_(plan), options_(options) {}

  Result<CompiledBundle> run() {
    BITNET_ASSIGN_OR_RETURN(halide_tool_, needs_halide() ? halide_tool() : Result<std::string>(std::string()));
    compile_all();
    for (std::size_t i = 0; i < plan_.images.size(); ++i) {
      BITNET_RETURN_IF_ERROR(finish_image(plan_.images[i], work_[i]));
    }
    if (options_.self_test) BITNET_RETURN_IF_ERROR(self_test_all());
    result_.tools = "bitnet-codegen " BITNET_VERSION ", " + clang_version();
    if (needs_halide()) result_.tools += ", " + halide_version();
    collect_sources();
    result_.times = stopwatch_.take();
    return std::move(result_);
  }

 private:
  [[nodiscard]] bool needs_halide() const {
    return std::ranges::any_of(plan_.images, [](const ImagePlan& image) {
      return std::ranges::any_of(image.kernels, [](const KernelSpec& spec) { return !spec.pipeline_symbol.empty(); });
    });
  }

  Result<std::string> halide_tool() const {
    if (!options_.halide_tool.empty()) return options_.halide_tool;
    return find_halide_tool();
  }

  void compile_all() {
    work_.resize(plan_.images.size());
    std::vector<std::function<void()>> tasks;
    for (std::size_t i = 0; i < plan_.images.size(); ++i) {
      const ImagePlan& image = plan_.images[i];
      const std::string name(image.target->name);
      ImageWork& work = work_[i];
      work.unit = emit_translation_unit(image);
      if (needs_halide()) {
        tasks.emplace_back([this, &image, &work, name] {
          work.halide = stopwatch_.time("halide " + name, [&] { return compile_with_halide(halide_tool_, image); });
        });
      } else {
        work.halide = std::vector<std::string>();
      }
      tasks.emplace_back([this, &image, &work, name] {
        work.clang = stopwatch_.time("clang " + name, [&] {
          return compile_with_clang(work.unit, translation_unit_name(image), *image.target, options_.overrides);
        });
      });
    }
    const auto cpus = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    run_tasks(tasks, options_.jobs > 0 ? options_.jobs : cpus);
  }

  Status finish_image(const ImagePlan& image, const ImageWork& work) {
    const std::string name(image.target->name);
    BITNET_RETURN_IF_ERROR(*work.clang);
    BITNET_RETURN_IF_ERROR(*work.halide);
    BITNET_RETURN_IF_ERROR(audit_source(work.clang->value().facts, image));
    std::vector<std::string> kernels;
    std::vector<std::string> constants;
    for (const KernelSpec& spec : image.kernels) {
      kernels.push_back(spec.name());
      if (is_ternary(spec.kernel.op)) constants.push_back(spec.scratch_symbol());
    }
    std::vector<std::string> objects = {work.clang->value().object};
    objects.insert(objects.end(), work.halide->value().begin(), work.halide->value().end());
    std::vector<std::string> exports = kernels;
    exports.insert(exports.end(), constants.begin(), constants.end());

    BITNET_ASSIGN_OR_RETURN(const std::string linked,
                            stopwatch_.time("link " + name, [&] { return link_image(objects, exports); }));
    BITNET_ASSIGN_OR_RETURN(const ElfImage elf, ElfImage::parse(std::as_bytes(std::span(linked))));
    BITNET_RETURN_IF_ERROR(
        stopwatch_.time("audit " + name, [&] { return audit_image(elf, *image.target, kernels, constants); }));
    BundleImage flat;
    flat.isa = image.target->isa;
    BITNET_ASSIGN_OR_RETURN(flat.bytes, elf.flatten());
    result_.table.images.push_back({flat.isa, "image." + name, to_hex(sha256(flat.bytes))});
    for (const KernelSpec& spec : image.kernels) {
      result_.table.kernels.push_back(record(spec, elf, flat.bytes, *image.target));
    }
    result_.images.push_back(std::move(flat));
    result_.objects.push_back(std::move(objects));
    return {};
  }

  // The audit has shown that the symbols exist and what they are.
  static KernelRecord record(const KernelSpec& spec, const ElfImage& elf, std::span<const std::byte> image,
                             const Target& target) {
    KernelRecord record;
    record.kernel = spec.kernel;
    record.name = spec.name();
    record.offset = elf.find(record.name)->symbol.st_value;
    record.features = std::string(target.features);
    record.tokens_max = spec.kernel.op == Op::kGemm ? spec.kernel.m : 1;
    if (is_ternary(spec.kernel.op)) {
      record.layout = info(layout_of(spec.kernel.format)).name;
      record.row_granularity = BITNET_TILE_ROWS;
      std::uint64_t bytes = 0;
      std::memcpy(&bytes, image.data() + elf.find(spec.scratch_symbol())->symbol.st_value, sizeof bytes);
      record.kernel.scratch_bytes = bytes;
    }
    return record;
  }

  Status self_test_all() {
    for (const BundleImage& image : result_.images) {
      const std::string name(to_string(image.isa));
      if (!probe_isa(image.isa)) continue;
      const Status status = stopwatch_.time("self-test " + name, [&] { return self_test_image(image, result_.table); });
      if (!status.ok()) {
        return Error{status.error().code, "self-test of image " + name + ": " + status.error().message};
      }
      result_.self_tested.push_back(name);
    }
    return {};
  }

  void collect_sources() {
    std::set<std::string> headers;
    for (std::size_t i = 0; i < plan_.images.size(); ++i) {
      result_.sources.push_back({translation_unit_name(plan_.images[i]), work_[i].unit});
      const std::vector<std::string>& used = work_[i].clang->value().headers;
      headers.insert(used.begin(), used.end());
    }
    for (const std::string& path : headers) {
      if (const auto replaced = options_.overrides.find(path); replaced != options_.overrides.end()) {
        result_.sources.push_back({path, replaced->second});
      } else if (const EmbeddedFile* file = find_embedded(path); file != nullptr) {
        result_.sources.push_back({path, std::string(file->text)});
      }
    }
  }

  const Plan& plan_;
  const CompileOptions& options_;
  std::string halide_tool_;
  std::vector<ImageWork> work_;
  Stopwatch stopwatch_;
  CompiledBundle result_;
};

}  // namespace

Result<CompiledBundle> compile(const Plan& plan, const CompileOptions& options) {
  return Compiler(plan, options).run();
}

Status self_test_image(const BundleImage& image, const KernelTable& table) {
  const Sha256Digest digest = sha256(image.bytes);
  BITNET_ASSIGN_OR_RETURN(const CodeImage code,
                          CodeImage::load(image.bytes, digest, "image." + std::string(to_string(image.isa))));
  std::vector<Kernel> kernels;
  for (const KernelRecord& record : table.kernels) {
    if (record.kernel.isa != image.isa) continue;
    kernels.push_back(record.kernel);
    kernels.back().function = code.at(record.offset);
  }
  return self_test(kernels);
}

}  // namespace bitnet::codegen
