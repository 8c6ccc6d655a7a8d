// bitnet-codegen list-targets.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "codegen/targets.h"
#include "tools/codegen_commands.h"
#include "tools/output.h"

namespace bitnet::tools {

int list_targets_command(bool json) {
  std::string text;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const codegen::Target& target : codegen::targets()) {
    const bool executable = probe_isa(target.isa);
    if (json) {
      rows.push_back({{"name", target.name},
                      {"triple", target.triple},
                      {"features", target.features},
                      {"implies", target.implies},
                      {"executable", executable}});
    } else {
      char columns[64];
      std::snprintf(columns, sizeof columns, "%-10s %-8s ", std::string(target.name).c_str(),
                    executable ? "runs" : "-");
      text.append(columns).append(target.features.empty() ? "(baseline)" : target.features).append(1, '\n');
    }
  }
  return show_result("bitnet-codegen", json ? rows.dump(2) + "\n" : text);
}

}  // namespace bitnet::tools
