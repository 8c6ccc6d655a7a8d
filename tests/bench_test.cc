// bitnet bench: its arithmetic by hand, its pictures and its reading of perf on recorded text, its comparison on
// doctored results, and the program itself. What the machine does while this runs is never asserted.
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "runtime/probe/probes.h"
#include "tests/model_files.h"
#include "tests/programs.h"
#include "tools/bench/compare.h"
#include "tools/bench/perf.h"
#include "tools/bench/report.h"
#include "tools/bench/run.h"
#include "tools/bench/svg.h"

namespace bitnet {
namespace {

using doctest::Approx;
using nlohmann::ordered_json;
using test::Outcome;
using test::program;
using test::read_text;

constexpr const char* kShape = "2x128x256x2/1x400";

// Whether tags are closed in the order in which they were opened, attributes quoted and '&' and '<' escaped.
bool is_well_formed(std::string_view xml) {
  std::vector<std::string> open;
  std::size_t roots = 0;
  for (std::size_t at = 0; at < xml.size();) {
    if (xml[at] == '&' && xml.substr(at, 7).find(';') == std::string_view::npos) return false;
    if (xml[at] != '<') {
      ++at;
      continue;
    }
    const std::size_t end = xml.find('>', at);
    if (end == std::string_view::npos) return false;
    const std::string_view tag = xml.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.find('<') != std::string_view::npos) return false;
    if (tag.starts_with('?')) continue;
    if (tag.starts_with('/')) {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
      continue;
    }
    if (std::ranges::count(tag, '"') % 2 != 0) return false;
    if (open.empty()) ++roots;
    if (!tag.ends_with('/')) open.emplace_back(tag.substr(0, tag.find(' ')));
  }
  return open.empty() && roots == 1;
}

TEST_CASE("percentiles lie between the samples") {
  const std::vector<double> samples{40, 10, 30, 20};
  CHECK(probe::percentile(samples, 0) == 10);
  CHECK(probe::percentile(samples, 1) == 40);
  CHECK(probe::percentile(samples, 0.5) == 25);
  CHECK(probe::percentile(samples, 0.9) == Approx(37));  // rank 2.7
  CHECK(probe::percentile({7}, 0.99) == 7);
  CHECK(probe::percentile({3, 1, 2}, 0.5) == probe::median({3, 1, 2}));
  std::vector<double> many;
  for (int i = 0; i <= 100; ++i) many.push_back(100 - i);
  CHECK(probe::percentile(many, 0.99) == Approx(99));
}

TEST_CASE("bytes and operations of a token, by hand") {
  const test::TempFolder folder;
  const std::string path = test::write_synth(folder, "m.gguf", kShape);
  ModelOptions options;
  options.bundle = "none";
  options.threads = 1;
  const auto model = Model::load(path, options);
  REQUIRE(model.ok());
  const auto traffic = bench::traffic_of(**model, KvType::kF16);
  REQUIRE(traffic.ok());
  // Built-in kernels: t2, tiles of 16 rows, lines of 16 k and 64 bytes. Head size 64, one key/value head.
  //   qkv 256x128: 16 tiles x 8 lines     = 8192 bytes     output 128x128:  8 x 8  = 4096
  //   gate/up 512x128: 32 x 8             = 16384          down 128x256:    8 x 16 = 8192
  constexpr double kBytes = 2 * (8192 + 4096 + 16384 + 8192);
  constexpr double kOperations = 2.0 * 2 * (256 * 128 + 128 * 128 + 512 * 128 + 128 * 256);
  REQUIRE(traffic->ternary.size() == 1);
  CHECK(traffic->ternary[0].layout == "t2");
  CHECK(traffic->products().bytes == kBytes);
  CHECK(traffic->products().operations == kOperations);
  CHECK(traffic->head_exact_bytes() == 400 * 128 * 2);
  CHECK(traffic->head_int8_bytes() == 400 * 128);
  CHECK(traffic->head_operations() == 2 * 400 * 128);
  CHECK(traffic->kv_bytes == 2 * 2 * 64 * 2);             // layers, key and value, head size, float16
  CHECK(traffic->kv_operations == 2 * 2 * (2 * 64) * 2);  // layers, query heads, products and sums, of key and value
  const auto small = bench::traffic_of(**model, KvType::kI8);
  REQUIRE(small.ok());
  CHECK(small->kv_bytes == 2 * 2 * (64 + 4));
  // Two screened positions, three rows of them again, and one exact position.
  const HeadUse use{.exact_positions = 1, .screened_positions = 2, .int8_positions = 0, .survivors = 3};
  CHECK(traffic->head_bytes(use) == 102400 + 2 * 51200 + 3 * 256);

  const bench::ProbeReading probes{35, 466};
  CHECK(bench::limit_seconds({70e9, 0}, probes) == Approx(2));
  CHECK(bench::limit_seconds({35e9, 466e9 * 3}, probes) == Approx(3));
  CHECK(bench::is_memory_bound({70e9, 466e9}, probes));
  CHECK_FALSE(bench::is_memory_bound({35e9, 467e9}, probes));
  CHECK(bench::attended(8, 3) == 9 + 10 + 11);
  CHECK(bench::attended(0, 4) == 1 + 2 + 3 + 4);
}

TEST_CASE("a profile is the difference between two moments") {
  const test::TempFolder folder;
  ModelOptions options;
  options.bundle = "none";
  options.threads = 1;
  options.head = HeadMode::kExact;
  const auto model = Model::load(test::write_synth(folder, "m.gguf", kShape), options);
  REQUIRE(model.ok());
  const auto context = Context::create(**model, {.size = 16, .profile = true});
  REQUIRE(context.ok());
  const std::vector<std::int32_t> ids{1, 2, 3, 4};
  REQUIRE((*context)->advance(std::span(ids).first(2)).ok());
  REQUIRE((*context)->logits(1, {}).ok());
  const auto before = bench::Counters::of(**context);
  REQUIRE((*context)->advance(std::span(ids).subspan(2, 1)).ok());
  REQUIRE((*context)->logits(2, {}).ok());
  const auto traffic = bench::traffic_of(**model, KvType::kF16);
  REQUIRE(traffic.ok());
  bench::Profile profile;
  bench::add_uses((*model)->kernels(), *traffic, bench::Counters::of(**context), before, bench::attended(2, 1),
                  profile);
  double bytes = 0;
  double operations = 0;
  for (const bench::KernelTime& kernel : profile.kernels) {
    CHECK(kernel.calls > 0);
    if (!kernel.ternary) continue;
    bytes += kernel.bytes;
    operations += kernel.operations;
    CHECK(kernel.calls == 8);
  }
  CHECK(bytes == traffic->products().bytes);
  CHECK(operations == traffic->products().operations);
  const auto find = [&](const std::string& part) {
    for (const bench::KernelTime& kernel : profile.kernels) {
      if (kernel.name.find(part) != std::string::npos) return kernel;
    }
    FAIL("no kernel " << part);
    return bench::KernelTime{};
  };
  CHECK(find("_head_").operations == traffic->head_operations());
  CHECK(find("_attention_").operations == 3 * traffic->kv_operations);

  const bench::KernelTime ternary{"t", 1, 35e9, 466e9 * 2, true, 4};
  CHECK(ternary.fraction({35, 466}) == Approx(0.5));
  const bench::KernelTime head{"h", 1, 35e9, 466e9 * 2, false, 4};
  CHECK(head.fraction({35, 466}) == Approx(0.25));
  CHECK(bench::KernelTime{"n", 1, 35e9, 0, false, 0}.fraction({35, 466}) == 0);
}

bench::Run some_run() {
  bench::Run run;
  run.model = "a<b>&\"c\".gguf";
  run.target = "avx512";
  run.threads = 1;
  run.rounds = 5;
  run.cache_bytes = 32 << 20;
  run.read_gbps = {35, 34, 36};
  run.dot_gops = {466, 460, 470};
  run.traffic.kv_bytes = 512;
  run.traffic.ternary = {{"t5", 417e6, 4.17e9}};
  run.decode.tokens = 64;
  run.decode.positions = 320;
  run.decode.tps = {38, 37, 39};
  run.decode.work = {745e6, 4.17e9};
  run.decode.fraction = 0.81;
  run.decode.memory_bound = true;
  run.decode.profile = {1.0,
                        {{"t5_gemv", 120, 20e9, 200e9, true, 0.6},
                         {"i8_head_screen", 1, 10e9, 20e9, false, 0.3},
                         {"f32_norm", 61, 0, 0, false, 0.05}}};
  run.decode.profile_probes = {35, 466};
  bench::Figure prefill;
  prefill.tokens = 128;
  prefill.tps = {95, 94, 96};
  prefill.work = {417e6, 534e9};
  prefill.fraction = 0.85;
  run.prefill = {prefill};
  run.batch = {prefill};
  run.batch[0].tokens = 2;
  return run;
}

TEST_CASE("what exceeds its probe is implausible, unless a cache or an emulation explains it") {
  bench::Run run = some_run();
  CHECK(run.implausible().empty());
  run.decode.fraction = 1.02;
  CHECK(run.implausible().empty());
  run.decode.fraction = 1.03;
  REQUIRE(run.implausible().size() == 1);
  CHECK(run.implausible()[0] == "decode at 1 thread: 1.030 of the read probe");
  run.decode.work.bytes = 1e6;
  CHECK(run.implausible().empty());
  run.prefill[0].fraction = 1.5;  // no cache makes a dot product faster
  run.prefill[0].work.bytes = 1;
  CHECK(run.implausible().size() == 1);
  run.emulated = true;
  CHECK(run.implausible().empty());
}

TEST_CASE("a run as JSON, as text and as a picture") {
  const bench::Run run = some_run();
  const ordered_json json = bench::to_json(run);
  CHECK(json["decode"]["bytes_per_token"] == 745e6);
  CHECK(json["kernels"][0]["share"] == Approx(0.6));
  CHECK(json["kernels"][0]["fraction"] == Approx(20.0 / 35 / 0.6));
  CHECK(json["kernels"][2]["fraction"].is_null());
  CHECK(json["kernel_share"] == Approx(0.95));
  CHECK(bench::to_json(std::vector<bench::Run>{run}) == json);
  const ordered_json two = bench::to_json(std::vector<bench::Run>{run, run});
  CHECK(two["runs"].size() == 2);
  CHECK(two["runs"][1] == json);

  CHECK(bench::table(run).find("95.0 %") != std::string::npos);
  const std::string text = bench::roofline_text(run);
  CHECK(text.find("417.00     4170.0       11.914") != std::string::npos);  // MB, M ops, ms at 35 GB/s
  CHECK(text.find("47.0 tokens/s      38.00  (0.810)") != std::string::npos);
  CHECK(text.find("111.7 tokens/s      95.00  (0.850)") != std::string::npos);  // 466 GOPS / 4.17

  const std::string picture = bench::roofline_svg(run);
  CHECK(is_well_formed(picture));
  CHECK(picture.find("a&lt;b&gt;&amp;&quot;c&quot;.gguf") != std::string::npos);
  CHECK(picture.find(">t5_gemv<") != std::string::npos);
  CHECK(picture.find(">i8_head_screen<") != std::string::npos);
  CHECK(picture.find(">f32_norm<") == std::string::npos);  // neither bytes nor operations: it has no place
  bench::Run empty = run;
  empty.decode.profile = {};
  CHECK(is_well_formed(bench::roofline_svg(empty)));
  CHECK(bench::to_json(empty)["kernel_share"].is_null());

  CHECK(is_well_formed("<a><b x=\"1\"/>&amp;</a>"));
  for (const char* bad : {"<a><b></a></b>", "<a>", "<a>& </a>", "<a/><b/>", "<a x=\"1/>"})
    CHECK_FALSE(is_well_formed(bad));
  CHECK(bench::xml_escaped("a\x01<") == "a?&lt;");
}

// Lines as perf script 6.1 writes them, with kernel frames, a named and a nameless kernel of a bundle, a command with a
// blank, a deleted file and C++ names.
constexpr const char* kPerfScript = R"(# captured on a test machine
bitnet 15395 40317.106682:    1001001 cpu-clock: 
	    7f007fc2a8a8 t5_gemv_n256k128_avx512_vbmi+0x44 (/tmp/perf-15395.map)
	           14813 bitnet::Graph::product(bitnet::FusedMatrix::Role, bool)+0x13 (/opt/b (x86)/bitnet (deleted))
	               0 [unknown] ([unknown])

bitnet 15395 40317.107684:    1001001 cpu-clock: 
	    7f007fc2a8a8 t5_gemv_n256k128_avx512_vbmi+0x99 (/tmp/perf-15395.map)
	           14819 bitnet::Graph::product(bitnet::FusedMatrix::Role, bool)+0x19 (/opt/b (x86)/bitnet (deleted))

bitnet 15395 40317.108684:    1001001 cpu-clock: 
	    7f007fc2a8a8 [unknown] (//anon)

my worker 15396 40317.109684:    1001001 cpu-clock: 
	ffffffff8161ecc9 get_page;x+0x309 ([kernel.kallsyms])
)";

TEST_CASE("perf's samples become stacks and a picture") {
  const bench::FoldedStacks stacks = bench::fold_stacks(kPerfScript);
  REQUIRE(stacks.size() == 3);
  CHECK(stacks.at("bitnet;bitnet::Graph::product(bitnet::FusedMatrix::Role, bool);t5_gemv_n256k128_avx512_vbmi") == 2);
  CHECK(stacks.at("bitnet;[unknown]") == 1);
  CHECK(stacks.at("my worker;get_page:x") == 1);
  CHECK(bench::fold_stacks("").empty());
  CHECK(bench::fold_stacks("# nothing\n\n\tff frame+0x1 (x)\n").empty());

  const std::string picture = bench::flamegraph_svg(stacks, "a < b");
  CHECK(is_well_formed(picture));
  CHECK(picture.find("t5_gemv_n256k128_avx512_vbmi (2 samples, 50.0 %)") != std::string::npos);
  CHECK(picture.find("width=\"599.50\"") != std::string::npos);  // half of 1200, less the gap
  CHECK(picture.find("a &lt; b") != std::string::npos);

  const test::TempFolder folder;
  REQUIRE(bench::write_flamegraph(folder.file("x.folded"), kPerfScript, "x").ok());
  CHECK(read_text(folder.file("x.folded")).find("my worker;get_page:x 1\n") != std::string::npos);
  CHECK_FALSE(bench::write_flamegraph(folder.file("y.svg"), "", "x").ok());
  CHECK_FALSE(bench::write_flamegraph(folder.file("no/y.svg"), kPerfScript, "x").ok());
}

TEST_CASE("kernels get names for perf") {
  const auto ranges = bench::parse_code_ranges(
      "1000-2000 r-xp 00000000 00:00 0 \n2000-3000 rw-p 00000000 00:00 0 [heap]\nnonsense\n"
      "7f0000000000-7f0000010000 r-xp 00000000 00:00 0\n");
  REQUIRE(ranges.size() == 2);
  CHECK(ranges[0].end == 0x2000);
  CHECK(ranges[1].begin == 0x7f0000000000);
  // Two kernels of one image, the first one twice; one in data, which cannot be code.
  const auto entries = bench::size_entries({{0x7f0000000400, 0, "b"},
                                            {0x7f0000000100, 0, "a"},
                                            {0x7f0000000100, 0, "a"},
                                            {0x2100, 0, "data"},
                                            {0x1800, 0, "other"}},
                                           ranges);
  CHECK(bench::format_map(entries) == "1800 800 other\n7f0000000100 300 a\n7f0000000400 fc00 b\n");
}

TEST_CASE("two results are compared as fractions") {
  const ordered_json before = bench::to_json(some_run());
  const auto figures = bench::compare(before, before);
  REQUIRE(figures.ok());
  REQUIRE(figures->size() == 3);
  CHECK(figures->at(0).before == Approx(0.81 * 35 / 0.745));
  CHECK_FALSE(bench::has_regression(*figures, 0));

  const auto change = [&](const ordered_json& now) {
    const auto compared = bench::compare(before, now);
    REQUIRE(compared.ok());
    return *compared;
  };
  // A slower host: the rates are half, the fractions stay.
  ordered_json slower_host = before;
  slower_host["probes"]["read_gbps"] = 17.5;
  slower_host["decode"]["tps"] = 19;
  CHECK_FALSE(bench::has_regression(change(slower_host), 0.001));
  // 6 % less of the probe.
  ordered_json slower = before;
  slower["decode"]["fraction"] = 0.81 * 0.94;
  CHECK(bench::has_regression(change(slower), 0.05));
  CHECK_FALSE(bench::has_regression(change(slower), 0.07));
  CHECK(bench::describe(change(slower), 0.05).find("decode, 1 thread") != std::string::npos);
  CHECK(bench::describe(change(slower), 0.05).find("SLOWER") != std::string::npos);
  // Fewer bytes at a lower fraction of the probe: more tokens.
  ordered_json fewer = slower;
  fewer["decode"]["bytes_per_token"] = 600e6;
  CHECK(change(fewer)[0].change() == Approx(0.94 * 745 / 600 - 1));
  ordered_json prefill = before;
  prefill["prefill"][0]["fraction"] = 0.5;
  CHECK(bench::has_regression(change(prefill), 0.05));

  const auto refuses = [&](ordered_json now, const std::string& part) {
    const auto compared = bench::compare(before, now);
    REQUIRE_FALSE(compared.ok());
    CHECK(compared.error().code == ErrorCode::kUsage);
    INFO(compared.error().message);
    CHECK(compared.error().message.find(part) != std::string::npos);
  };
  ordered_json other = before;
  other["target"] = "avx2";
  refuses(other, "avx2");
  other = before;
  other["threads"] = 2;
  refuses(other, "no figure in common");
  other = before;
  other.erase("probes");
  refuses(other, "probes");
  other = before;
  other["decode"]["fraction"] = 0;
  refuses(other, "not above 0");
  other = before;
  other["decode"]["fraction"] = "fast";
  refuses(other, "later result");
}

class Programs : public test::Programs {
 public:
  [[nodiscard]] bool available() const { return !program("bitnet").empty(); }
};
constexpr const char* kQuick =
    " --bundle none --probe-mb 2 --rounds 2 --decode 4 --prefill 16 --batch 2 --context 20 -q ";

void check_schema(const ordered_json& run, int threads) {
  CHECK(run["threads"] == threads);
  CHECK(run["target"].is_string());
  for (const char* key : {"read_gbps", "dot_gops", "read_gbps_min", "dot_gops_max"}) CHECK(run["probes"][key] > 0.0);
  for (const char* name : {"decode", "context_decode"}) {
    const ordered_json& decode = run[name];
    for (const char* key : {"tokens", "tps", "bytes_per_token", "fraction", "ms_p50", "ms_p90", "ms_p99"}) {
      CHECK(decode[key] > 0.0);
    }
    CHECK(decode["tps_min"] <= decode["tps"]);
    CHECK(decode["ms_p50"] <= decode["ms_p99"]);
    CHECK(decode["tokens"] == 4);
    CHECK(decode["head"]["positions"] == 8);
  }
  CHECK(run["decode"]["context"] == 8);
  CHECK(run["context_decode"]["context"] == 20);
  REQUIRE(run["prefill"].size() == 1);
  CHECK(run["prefill"][0]["tokens"] == 16);
  REQUIRE(run["batch"].size() == 1);
  CHECK(run["batch"][0]["tokens"] == 2);
  for (const char* name : {"prefill", "batch"}) {
    CHECK(run[name][0]["tps"] > 0.0);
    CHECK(run[name][0]["fraction"] > 0.0);
  }
  for (const char* key : {"load_ms", "first_token_ms", "rss_bytes", "weight_bytes", "kv_bytes"}) CHECK(run[key] > 0.0);
  REQUIRE_FALSE(run["kernels"].empty());
  double share = 0;
  for (const ordered_json& kernel : run["kernels"]) {
    CHECK(kernel["name"].is_string());
    CHECK(kernel["calls"] > 0);
    CHECK(kernel.contains("fraction"));
    share += kernel["share"].get<double>();
  }
  CHECK(share > 0);
  CHECK(share <= 1.0001);
  CHECK(run["kernel_share"].get<double>() == Approx(share));
}

TEST_CASE("bitnet bench: JSON, table, pictures") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = test::write_synth(programs.folder, "m.gguf", kShape);
  const std::string base = "-m '" + model + "'" + kQuick;
  const std::string picture = programs.folder.file("p.svg");
  const Outcome both = programs.bitnet("bench", base + "-t 1,2 --json --plot '" + picture + "'");
  INFO(both.err);
  REQUIRE(both.code == 0);
  const ordered_json result = ordered_json::parse(both.out);
  CHECK(result["model"] == model);
  REQUIRE(result["runs"].size() == 2);
  check_schema(result["runs"][0], 1);
  check_schema(result["runs"][1], 2);
  for (const char* name : {"p.1.svg", "p.2.svg"}) CHECK(is_well_formed(read_text(programs.folder.file(name))));

  // One run stands alone; the alias; more threads than there are CPUs; the smallest of everything.
  const Outcome one =
      programs.bitnet("benchmark", "-m '" + model +
                                       "' --bundle none --probe-mb 2 --rounds 1 --decode 1 --prompt 1 --prefill 1 "
                                       "--batch 1 --context 1 -t 19 --json --kv-type i8 --head exact");
  INFO(one.err);
  REQUIRE(one.code == 0);
  const ordered_json small = ordered_json::parse(one.out);
  CHECK(small["threads"] == 19);
  CHECK(small["kv_type"] == "i8");
  CHECK(small["head"] == "exact");
  CHECK(small["decode"]["head"]["exact"] == 1);
  CHECK(small["decode"]["bytes_per_token"] == 73728 + 102400);

  const Outcome table = programs.bitnet("bench", "-m '" + model +
                                                     "' --bundle none --probe-mb 2 --rounds 1 --decode 4 -t 1 "
                                                     "--roofline --prefill 0 --batch 0 --context 0");
  INFO(table.err);
  REQUIRE(table.code == 0);
  CHECK(table.err.empty());
  CHECK(table.out.find("probes: read ") != std::string::npos);
  CHECK(table.out.find("i2s_gemv_") != std::string::npos);
  CHECK(table.out.find("ternary weights, t2") != std::string::npos);
  CHECK(table.out.find("prefill") == std::string::npos);

  const Outcome stopped =
      programs.shell("timeout --preserve-status -s INT 2 '" + program("bitnet") + "' bench -m '" + model +
                     "' --bundle none --probe-mb 2 --rounds 1000 --decode 100000 -t 1 --json");
  CHECK(stopped.code == 130);
  CHECK(stopped.out.empty());
  CHECK(stopped.err.find("interrupted") != std::string::npos);
}

TEST_CASE("bitnet bench: comparison of two files") {
  const Programs programs;
  if (!programs.available()) return;
  const auto write = [&](const char* name, const ordered_json& json) {
    std::ofstream(programs.folder.file(name)) << json.dump();
    return "'" + programs.folder.file(name) + "'";
  };
  const ordered_json before = bench::to_json(some_run());
  const std::string a = write("a.json", before);
  ordered_json doctored = before;
  doctored["batch"][0]["fraction"] = before["batch"][0]["fraction"].get<double>() * 0.9;
  const std::string b = write("b.json", doctored);
  const std::string model = "-m '" + programs.folder.file("none.gguf") + "' ";  // nothing is measured

  const Outcome same = programs.bitnet("bench", model + "--compare " + a + " --with " + a);
  INFO(same.err);
  CHECK(same.code == 0);
  CHECK(same.out.find("SLOWER") == std::string::npos);
  const Outcome slower = programs.bitnet("bench", model + "--compare " + a + " --with " + b);
  CHECK(slower.code == 17);
  CHECK(slower.out.find("batches of 2, 1 thread") != std::string::npos);
  CHECK(slower.out.find("-10.0 %  SLOWER") != std::string::npos);
  CHECK(programs.bitnet("bench", model + "--compare " + a + " --with " + b + " --tolerance 11").code == 0);
  CHECK(programs.bitnet("bench", model + "--compare " + b + " --with " + a).code == 0);

  // In a run that measures: an earlier result that no machine reaches. Its shape is that of the run.
  const std::string gguf = test::write_synth(programs.folder, "m.gguf", kShape);
  const std::string base = "-m '" + gguf + "'" + kQuick + "-t 1 ";
  ordered_json fast = ordered_json::parse(programs.bitnet("bench", base + "--json").out);
  fast["decode"]["fraction"] = 1e6;
  const Outcome measured = programs.bitnet("bench", base + "--json --compare " + write("fast.json", fast));
  CHECK(measured.code == 17);
  CHECK(ordered_json::parse(measured.out)["threads"] == 1);
  CHECK(measured.err.find("SLOWER") != std::string::npos);

  const auto refuses = [&](const std::string& arguments, int code, const std::string& part) {
    programs.refuses("bench", arguments, code, part, "");
  };
  std::ofstream(programs.folder.file("text")) << "no json";
  refuses(model + "--with " + a, 2, "--compare");
  refuses(model + "--compare '" + programs.folder.file("absent") + "' --with " + a, 1, "absent");
  refuses(model + "--compare " + a + " --with '" + programs.folder.file("text") + "'", 2, "not a JSON object");
  refuses(model + "--compare " + a, 1, "none.gguf");
}

TEST_CASE("bitnet bench: refusals") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = test::write_synth(programs.folder, "m.gguf", kShape);
  const std::string base = "-m '" + model + "'" + kQuick;
  const auto refuses = [&](const std::string& arguments, int code, const std::string& part,
                           const std::string& before = "") {
    programs.refuses("bench", arguments, code, part, before);
  };
  refuses(base + "-t 1,x", 2, "--threads");
  refuses(base + "-t 2000", 2, "--threads");
  refuses(base + "--batch 9", 2, "--batch");
  refuses(base + "--decode 0", 2, "--decode");
  refuses(base + "--rounds 0", 2, "--rounds");
  refuses(base + "--prefill -1", 2, "--prefill");
  refuses(base + "--tolerance -1", 2, "--tolerance");
  refuses(base + "--head fast", 2, "--head");
  refuses("-m '" + model + "' --probe-mb 2 --bundle '" + programs.folder.file("no.bnk") + "'", 15, "no.bnk");
  refuses(base + "-t 1 --plot '" + programs.folder.file("no/p.svg") + "'", 1, "cannot be written");
  refuses(base + "-t 1", 2, "BITNET_FORCE_ISA", "BITNET_FORCE_ISA=nothing");
  // Without perf: what to install, before anything is measured.
  refuses(base + "--flamegraph x.svg", 1, "linux-perf", "PATH=/nowhere");
}

TEST_CASE("bitnet bench: a flamegraph where perf may run") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = test::write_synth(programs.folder, "m.gguf", kShape);
  const std::string path = programs.folder.file("f.svg");
  const Outcome outcome = programs.bitnet("bench", "-m '" + model + "'" + kQuick + "-t 1 --flamegraph '" + path + "'");
  if (outcome.code == 1 && outcome.err.find("--flamegraph") != std::string::npos) {
    std::printf("SKIPPED: a flamegraph: %s", outcome.err.c_str());
    return;
  }
  INFO(outcome.err);
  CHECK(outcome.code == 0);
  CHECK(is_well_formed(read_text(path)));
  CHECK(read_text(path).find("samples, 100.0 %)") != std::string::npos);
}

}  // namespace
}  // namespace bitnet
