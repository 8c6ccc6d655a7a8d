// What commands that run a model share: the options that choose it, its kernels and its threads, and what they tell
// about it afterwards.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "runtime/model/model.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tools/read_options.h"

namespace bitnet::tools {

// The model that comes with the programs, share/bitnet/default.gguf of an installation or models/default.gguf of a
// checkout; empty where it is not found.
[[nodiscard]] std::string default_model();
// -m, into `path`; required where there is no default model.
void add_model_option(CLI::App& command, std::string& path, const char* help = "Model file (GGUF)");
// -t, --bundle, --strict and --head, into `options`.
void add_load_options(CLI::App& command, ModelOptions& options);
// The same without -t.
void add_kernel_options(CLI::App& command, ModelOptions& options);

// --kv-type, into `type`.
void add_kv_option(CLI::App& command, KvType& type);

// Says on standard error what was assumed about the tokenizer.
void print_tokenizer_notes(const Tokenizer& tokenizer);

// A log that prints to standard error: warnings always, information only with `details`.
[[nodiscard]] LogFn log_to_stderr(bool details);
// Progress of a long load on standard error: redrawn on a terminal at every percent, otherwise a line at every quarter.
[[nodiscard]] ProgressFn progress_to_stderr();

// For --json: {path, target, kernels [{name, calls}]}; path is null without a bundle. `uses`: what has really run.
[[nodiscard]] nlohmann::ordered_json bundle_json(const Model& model, std::span<const KernelUse> uses);

// For --json: {mode, exact, screened, int8 (positions), survivors (rows scored again, mean over screened positions)}.
[[nodiscard]] nlohmann::ordered_json head_json(HeadMode mode, const HeadUse& use);
// The same as a line: "head screened: 1 positions exact, 23 screened (41.5 rows scored again on average)".
[[nodiscard]] std::string describe_head(HeadMode mode, const HeadUse& use);
// Says on standard error that the logits of --head int8 are approximate.
void print_head_advice(HeadMode mode);

// For a summary: "5 kernels of x.avx2.bnk and 3 built-in kernels", "8 built-in kernels and no bundle".
[[nodiscard]] std::string describe_kernels(const Model& model, std::span<const KernelUse> uses);

// Says on standard error how to make a bundle, if there is none.
void print_bundle_advice(const Model& model);

}  // namespace bitnet::tools
