// Lines for a LogFn that may be empty. Internal to runtime/model.
#pragma once

#include <string>

#include "runtime/model/model.h"

namespace bitnet {

struct Logger {
  const LogFn& sink;
  void info(const std::string& line) const {
    if (sink) sink(LogLevel::kInfo, line);
  }
  void warning(const std::string& line) const {
    if (sink) sink(LogLevel::kWarning, line);
  }
};

}  // namespace bitnet
