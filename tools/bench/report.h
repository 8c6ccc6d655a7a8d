// A run in the forms that it is shown in: JSON, a table, the roofline in words, the roofline as a picture.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "tools/bench/run.h"

namespace bitnet::bench {

// {model, target, threads, probes{read_gbps, dot_gops}, decode{tokens, tps, bytes_per_token, fraction},
// prefill[{tokens, tps, fraction}], batch[{tokens, tps}], load_ms, rss_bytes, kernels[{name, calls, share, fraction}]}
// and more beside these. A kernel's share is that of the decoding; share and fraction are null where no time was taken
// or no probe is its measure.
[[nodiscard]] nlohmann::ordered_json to_json(const Run& run);
// One run as it is; several as {"model", "runs": [...]}.
[[nodiscard]] nlohmann::ordered_json to_json(std::span<const Run> runs);

[[nodiscard]] std::string table(const Run& run);

// Bytes and operations of a token by part, the limits that this run's probes set, and what was reached.
[[nodiscard]] std::string roofline_text(const Run& run);

// The roofs of the run's probes and every kernel of its profiles as a numbered point, log-log; names beside it.
[[nodiscard]] std::string roofline_svg(const Run& run);

[[nodiscard]] std::string_view to_string(HeadMode head);  // "screened"

}  // namespace bitnet::bench
