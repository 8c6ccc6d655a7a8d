// bitnet-codegen list-targets.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "codegen/targets.h"
#include "tools/codegen_commands.h"

namespace bitnet::tools {

int list_targets_command(bool json) {
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
      std::printf("%-10s %-8s %s\n", std::string(target.name).c_str(), executable ? "runs" : "-",
                  target.features.empty() ? "(baseline)" : std::string(target.features).c_str());
    }
  }
  if (json) std::printf("%s\n", rows.dump(2).c_str());
  return 0;
}

}  // namespace bitnet::tools
