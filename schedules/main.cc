// bitnet-halide: compiles pipelines to objects. bitnet-codegen runs it as a child with a time limit, so that Halide's
// LLVM never meets its own, and a crash inside Halide is a message there.
//
// Exit codes: 0 all written, 1 a compilation failed, 2 the command line is wrong (nothing was written).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <set>
#include <string>
#include <vector>

#include "schedules/pipelines.h"

namespace {

using bitnet::Error;
using bitnet::ErrorCode;

int report(const Error& error) {
  std::string message = error.message;
  while (!message.empty() && message.back() == '\n') message.pop_back();
  std::fprintf(stderr, "bitnet-halide: %s\n", message.c_str());
  return static_cast<int>(error.code);
}

int run(int argc, char** argv) {
  CLI::App app{"Compiles Halide pipelines to object files", "bitnet-halide"};
  std::string target_text;
  std::string folder;
  std::vector<std::string> texts;
  bool list = false;
  app.add_option("--target", target_text, "Halide target string, for example x86-64-linux-sse41-avx-avx2-fma-f16c");
  app.add_option("--out", folder, "existing folder for the objects SYMBOL.o");
  app.add_flag("--list", list, "print the pipelines and their parameters");
  app.add_option("pipelines", texts, "NAME:PARAMETER=VALUE:...:SYMBOL=NAME");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ErrorCode::kUsage);
  }
  if (list) {
    std::fputs(bitnet::schedules::describe_pipelines().c_str(), stdout);
    return 0;
  }
  const auto missing = [](const char* what) { return report({ErrorCode::kUsage, std::string(what) + "; see --help"}); };
  if (target_text.empty()) return missing("--target is missing");
  if (folder.empty()) return missing("--out is missing");
  if (texts.empty()) return missing("no pipeline is given");

  auto target = bitnet::schedules::parse_target(target_text);
  if (!target.ok()) return report(target.error());
  std::vector<bitnet::schedules::Request> requests;
  std::set<std::string> symbols;
  for (const std::string& text : texts) {
    auto request = bitnet::schedules::parse_request(text);
    if (!request.ok()) return report(request.error());
    if (!symbols.insert(request->symbol).second) {
      return report({ErrorCode::kUsage, "two pipelines have the symbol '" + request->symbol + "'"});
    }
    requests.push_back(*request);
  }
  for (const auto& request : requests) {
    const bitnet::Status status = bitnet::schedules::compile(request, *target, folder);
    if (!status.ok()) return report(status.error());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    return report({ErrorCode::kFailure, error.what()});
  }
}
