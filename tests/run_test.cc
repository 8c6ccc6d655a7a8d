// bitnet run and compare_nodes as their users see them: output, files, exit codes. And the filter for stop strings.
#include <doctest/doctest.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/model_files.h"
#include "tests/programs.h"
#include "tools/text_stream.h"

namespace bitnet {
namespace {

using nlohmann::json;
using test::Outcome;
using test::program;
using test::read_text;

class Programs : public test::Programs {
 public:
  [[nodiscard]] bool available() const { return !program("bitnet").empty() && !program("compare_nodes").empty(); }
  [[nodiscard]] Outcome run(const std::string& arguments, const std::string& before = "") const {
    return bitnet("run", arguments, before);
  }
};

TEST_CASE("stop strings: nothing of them is shown, and what could become one is held back") {
  tools::StopFilter filter({"END", "", "\n\n"});
  CHECK(filter.push("abcE") == "abc");
  CHECK(filter.push("N") == "");
  CHECK(filter.push("x\n") == "ENx");
  CHECK(filter.push("y") == "\ny");
  CHECK_FALSE(filter.stopped());
  CHECK(filter.push("zENDmore") == "z");
  CHECK(filter.stopped());
  CHECK(filter.push("later") == "");
  CHECK(filter.finish() == "");
  tools::StopFilter open({"abc"});
  CHECK(open.push("ab") == "");
  CHECK(open.finish() == "ab");
  tools::StopFilter overlapping({"aab"});
  CHECK(overlapping.push("aa") == "");
  CHECK(overlapping.push("ab") == "a");
  CHECK(overlapping.stopped());
  tools::StopFilter earliest({"later", "la"});
  CHECK(earliest.push("xlater") == "x");
}

TEST_CASE("bitnet run: text, JSON, files") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = write_synth(programs.folder, "m.gguf", "2x128x256x2/1x400");
  const std::string base = "-m '" + model + "' ";

  // The same tokens whatever the threads, the source of the prompt, and with --json.
  const Outcome text = programs.run(base + "-p 'Once upon' -n 12 --seed 3 --ignore-eos -t 1");
  CHECK(text.code == 0);
  CHECK_FALSE(text.out.empty());
  CHECK(text.err.find("running on built-in kernels") != std::string::npos);
  CHECK(text.err.find("tokens/s") != std::string::npos);
  CHECK(text.err.find("bitnet-codegen --model " + model + " --target native") != std::string::npos);
  CHECK(text.err.find("f16_attention") == std::string::npos);
  for (const char* option : {"-v", "--metrics"}) {
    const Outcome named = programs.run(base + "--prompt-ids 1 -n 1 --seed 3 " + option);
    CHECK(named.err.find("f16_attention") != std::string::npos);
  }
  std::ofstream(programs.folder.file("prompt")) << "Once upon";
  CHECK(programs.run(base + "-f '" + programs.folder.file("prompt") + "' -n 12 --seed 3 --ignore-eos -t 3").out ==
        text.out);
  const Outcome piped = programs.run(base + "-n 12 --seed 3 --ignore-eos -q", "printf 'Once upon' |");
  CHECK(piped.out == text.out);
  CHECK(piped.err.empty());

  const Outcome object = programs.run(base + "-p 'Once upon' -n 12 --seed 3 --ignore-eos --json");
  CHECK(object.code == 0);
  const json result = json::parse(object.out);
  std::string shown = result["text"];
  if (shown.empty() || shown.back() != '\n') shown += "\n";
  CHECK(shown == text.out);
  CHECK(result["prompt"] == "Once upon");
  CHECK(result["tokens"].size() == 12);
  CHECK(result["finish_reason"] == "length");
  CHECK(result["counts"]["generated"] == 12);
  CHECK(result["seed"] == 3);
  CHECK(result["model"]["architecture"] == "bitnet-b1.58");
  CHECK(result["bundle"]["path"].is_null());
  for (const char* key : {"load", "tokenize", "prefill", "decode", "total"}) CHECK(result["timing_ms"][key] >= 0.0);
  CHECK(result["memory"]["rss_bytes"] > 0);
  // 11 tokens are decoded: 2 layers of 4 products each.
  std::int64_t gemv = 0;
  for (const json& kernel : result["bundle"]["kernels"]) {
    if (std::string(kernel["name"]).starts_with("i2s_gemv_")) gemv += std::int64_t{kernel["calls"]};
  }
  CHECK(gemv == 11 * 2 * 4);

  const Outcome lines = programs.run(base + "-p 'Once upon' -n 3 --seed 3 --ignore-eos --jsonl");
  std::istringstream stream(lines.out);
  std::string line;
  std::vector<json> parsed;
  while (std::getline(stream, line)) parsed.push_back(json::parse(line));
  REQUIRE(parsed.size() == 4);
  CHECK(parsed[0]["token"] == result["tokens"][0]);
  CHECK(parsed[3]["tokens"].size() == 3);

  // The lines are the whole text, also where its end was held back as the beginning of a stop string.
  const std::string whole = result["text"];
  REQUIRE_FALSE(whole.empty());
  std::size_t last = whole.size() - 1;
  while (last > 0 && (static_cast<unsigned char>(whole[last]) & 0xC0) == 0x80) --last;
  std::ofstream(programs.folder.file("stop")) << whole.substr(last) << "and more";
  const Outcome held = programs.run(base + "-p 'Once upon' -n 12 --seed 3 --ignore-eos --jsonl --stop \"$(cat '" +
                                    programs.folder.file("stop") + "')\"");
  REQUIRE_MESSAGE(held.code == 0, held.err);
  std::istringstream held_stream(held.out);
  std::string joined;
  std::vector<json> held_lines;
  while (std::getline(held_stream, line)) held_lines.push_back(json::parse(line));
  REQUIRE(held_lines.size() == 14);
  for (std::size_t i = 0; i + 1 < held_lines.size(); ++i) joined += held_lines[i]["text"].get<std::string>();
  CHECK(joined == whole);
  CHECK(held_lines.back()["text"] == whole);
  CHECK(held_lines[12]["token"].is_null());
  CHECK(held_lines[12]["text"] == whole.substr(last));

  // Greedy is what the logits say; the file holds prompt positions, then generated ones.
  const std::string logits_path = programs.folder.file("logits");
  const Outcome greedy =
      programs.run(base + "--prompt-ids 5,6,7 -n 2 --greedy --ignore-eos --json --dump-logits '" + logits_path + "'");
  REQUIRE(greedy.code == 0);
  const std::string bytes = read_text(logits_path);
  REQUIRE(bytes.size() == 5 * 400 * sizeof(float));
  std::vector<float> logits(bytes.size() / sizeof(float));
  std::memcpy(logits.data(), bytes.data(), bytes.size());
  const json tokens = json::parse(greedy.out)["tokens"];
  for (int i = 0; i < 2; ++i) {
    const auto row = logits.begin() + (2 + i) * 400;
    CHECK(tokens[static_cast<std::size_t>(i)] == std::max_element(row, row + 400) - row);
  }
  const int first = tokens[0];
  const Outcome stopped =
      programs.run(base + "--prompt-ids 5,6,7 -n 5 --greedy --json --stop-id " + std::to_string(first));
  CHECK(json::parse(stopped.out)["finish_reason"] == "stop");
  CHECK(json::parse(stopped.out)["tokens"].empty());

  // Without a tokenizer the ids are printed.
  const std::string bare = programs.folder.file("bare.gguf");
  test::ModelCopy::read(model).write(bare);
  const Outcome ids = programs.run("-m '" + bare + "' --prompt-ids 5,6,7 -n 2 --greedy");
  CHECK(ids.code == 0);
  CHECK(ids.out == std::to_string(first) + " " + std::to_string(int{tokens[1]}) + "\n");
  CHECK(programs.run("-m '" + bare + "' -p hello -n 2").code == 4);
}

TEST_CASE("bitnet run: a chat template of no known kind is told, and refused in strict mode") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string ternary = write_synth(programs.folder, "m.gguf", "1x128x256x2/1x300");
  const std::string dense = programs.folder.file("dense.gguf");  // has no use for a bundle, which strict mode asks for
  REQUIRE(programs.bitnet("convert", "-i '" + ternary + "' -o '" + dense + "' --type f16").code == 0);
  const auto file = gguf::File::open(dense);
  REQUIRE(file.ok());
  gguf::Writer writer;
  for (const gguf::KeyValue& entry : file->metadata()) {
    if (entry.key != "tokenizer.chat_template") writer.copy(entry);
  }
  writer.set("tokenizer.chat_template", "{{ '[A] ' + message['content'] }}");
  for (const gguf::Tensor& tensor : file->tensors()) {
    writer.add_tensor(std::string(tensor.name), tensor.type, {tensor.ne.begin(), tensor.ne.begin() + tensor.n_dims});
  }
  const std::string model = programs.folder.file("template.gguf");
  REQUIRE(
      writer.write(model, [&](std::size_t i, const gguf::Writer::Sink& sink) { return sink(file->tensors()[i].data); })
          .ok());
  const std::string base = "-m '" + model + "' -p x -n 2 --greedy ";
  const Outcome told = programs.run(base + "-q");
  CHECK(told.code == 0);
  CHECK(told.err.find("tokenizer.chat_template is of no known kind") != std::string::npos);
  CHECK(programs.run(base + "-q --prompt-template raw").err.empty());
  CHECK(programs.run(base + "-q --prompt-template raw").out == told.out);
  programs.refuses("run", base + "--strict", 8, "tokenizer.chat_template is of no known kind", "");
  CHECK(programs.run(base + "--strict --prompt-template raw").code == 0);
  CHECK(programs.run("-m '" + dense + "' -p x -n 2 --greedy -q").err.empty());
}

TEST_CASE("bitnet embed: every text begins anew, whatever came before") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = write_synth(programs.folder, "m.gguf", "2x128x256x2/1x300");
  const auto vectors = [&](const std::string& texts) {
    const Outcome outcome = programs.bitnet("embed", "-m '" + model + "' --pooling mean " + texts);
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    std::vector<std::string> lines;
    std::istringstream stream(outcome.out);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
  };
  const auto a = vectors("-p 'one text'");
  const auto b = vectors("-p 'another, longer text'");
  REQUIRE(a.size() == 1);
  REQUIRE(b.size() == 1);
  CHECK(a != b);
  const std::string pair = "-p 'one text' -p 'another, longer text' ";
  CHECK(vectors(pair) == std::vector{a[0], b[0]});
  CHECK(vectors("-p 'another, longer text' -p 'one text'") == std::vector{b[0], a[0]});
  CHECK(vectors(pair + pair) == std::vector{a[0], b[0], a[0], b[0]});
}

TEST_CASE("bitnet run: the model's recommended sampling, and the user's before it") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = programs.folder.file("m.gguf");
  const std::string plain = write_synth(programs.folder, "plain.gguf", "2x128x256x2/1x400");
  test::ModelCopy copy = test::ModelCopy::read(plain);
  copy.set("general.sampling.temp", 0.0F);
  copy.set("general.sampling.penalty_repeat", 1.5F);
  copy.write(model);
  // The copy has no vocabulary, so all of this is in token ids.
  const auto result = [&](const std::string& file, const std::string& options) {
    const Outcome outcome = programs.run("-m '" + file + "' --prompt-ids 1,5,9 -n 40 --ignore-eos --json " + options);
    REQUIRE(outcome.code == 0);
    return json::parse(outcome.out);
  };
  const json recommended = result(model, "");
  CHECK(recommended["sampling"]["temperature"] == 0.0);
  CHECK(recommended["sampling"]["repetition_penalty"] == 1.5);
  CHECK(recommended["sampling"]["top_k"] == 50);
  CHECK(recommended["tokens"] == result(plain, "--greedy --repetition-penalty 1.5")["tokens"]);
  CHECK(recommended["tokens"] != result(plain, "--greedy")["tokens"]);
  const json chosen = result(model, "--temperature 0.7 --repetition-penalty 1 --seed 4");
  CHECK(chosen["tokens"] == result(plain, "--seed 4")["tokens"]);
  CHECK(result(plain, "--seed 4")["sampling"]["repetition_penalty"] == 1.0);
  copy.set("general.sampling.penalty_repeat", -1.0F);
  copy.write(model);
  const Outcome refused = programs.run("-m '" + model + "' --prompt-ids 1 -n 1");
  CHECK(refused.code == 1);
  CHECK(refused.err.find("general.sampling") != std::string::npos);
}

TEST_CASE("bitnet run: errors and their exit codes") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = write_synth(programs.folder, "m.gguf", "1x128x256x2/1x300");
  const std::string base = "-m '" + model + "' ";
  const auto fails = [&](const std::string& arguments, int code, const std::string& part,
                         const std::string& before = "") { programs.refuses("run", arguments, code, part, before); };
  fails("-p x -m", 2, "--model");
  fails(base + "-p x --prompt-ids 1", 2, "excludes");
  fails(base + "-p x --temperature -1 -q", 2, "temperature");
  fails(base + "--prompt-ids 1,300 -q", 2, "token id 300");
  fails(base + "-p '' --no-bos -q", 2, "prompt is empty");
  fails("-m '" + programs.folder.file("absent.gguf") + "' -p x", 1, "absent.gguf");
  fails(base + "-f '" + programs.folder.file("absent.txt") + "' -q", 1, "absent.txt");
  fails(base + "-p x --bundle '" + model + "'", 15, "refused");
  fails(base + "-p x --strict", 8, "strict mode");
  fails(base + "-p x", 2, "BITNET_FORCE_ISA", "BITNET_FORCE_ISA=sse9");
  // Ids that are none: never a prompt from standard input instead, and never at the cost of the next option.
  for (const char* ids : {"''", ",,", "1,,2", "1,", "x", "1.5", "99999999999", ""}) {
    fails(base + "-q -n 2 --prompt-ids " + ids, 2, "--prompt-ids", "printf text |");
  }
  fails(base + "--prompt-ids ,, -n 2", 2, "found \",,\"");
  fails(base + "--prompt-ids 1 2 -n 2", 2, "2");
  fails(base + "-p x --stop-id '' -n 2", 2, "--stop-id");
  fails(base + "--prompt-ids -1 -q", 2, "token id -1");
  fails(base + "-p x --stop-id 1,300", 2, "token id 300");
  fails(base + "-p x --stop a b -n 2", 2, "b");
  for (const char* seed : {"-1", "18446744073709551616", "''", "1x"}) {
    fails(base + "-p x --seed " + seed, 2, "--seed");
  }
  // What needs no model is reported before the model is even looked for.
  const std::string absent = "-m '" + programs.folder.file("absent.gguf") + "' -q ";
  fails(absent + "-p x --top-p 2", 2, "top-p");
  fails(absent + "-p x --stop \"$(printf 'ab\\303x')\"", 2, "--stop: expected UTF-8, found byte 0xC3 at position 2");
  fails(absent + "-f '" + programs.folder.file("absent.txt") + "'", 1, "absent.txt");
  fails(absent + "-f /", 1, "/: cannot be read");
  fails(absent + "-p x --dump-logits /nonexistent/file", 1, "/nonexistent/file");
  fails(absent + "-p x --dump-nodes /dev/null/folder", 1, "/dev/null/folder");
  fails(base + "-p x --dump-logits '" + model + "'", 2, "overwrite");
  fails(base + "--prompt-ids 1,2,3 -C 2 -q", 1, "--ctx-size");
  fails(base + "--prompt-ids 1 -q -n 1 --dump-logits /nonexistent/file", 1, "/nonexistent/file");
  test::ModelCopy copy = test::ModelCopy::read(model);
  copy.remove("output_norm.weight");
  const std::string broken = programs.folder.file("broken.gguf");
  copy.write(broken);
  fails("-m '" + broken + "' --prompt-ids 1", 3, "output_norm.weight");
  // A full context ends the generation; it is no error.
  const Outcome full = programs.run(base + "--prompt-ids 1,2,3 -C 5 -n 50 --ignore-eos --json");
  CHECK(full.code == 0);
  CHECK(json::parse(full.out)["counts"]["generated"] == 3);
}

TEST_CASE("bitnet run: --draft changes no output") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = write_synth(programs.folder, "m.gguf", "2x128x256x2/1x400");
  const std::string plain_logits = programs.folder.file("plain");
  const std::string logits = programs.folder.file("drafted");
  std::size_t accepted = 0;
  for (const char* options : {"--greedy --ignore-eos -n 100", "--seed 3 --ignore-eos -n 60 -t 2",
                              "--seed 4 --top-k 3 --temperature 0.3 -n 80", "--greedy -n 100 --stop e --stop ab",
                              "--greedy --ignore-eos --repetition-penalty 1.2 -n -1 -C 70"}) {
    INFO(options);
    const std::string base = "-m '" + model + "' -p 'to be or not to be or not to be' " + options;
    const Outcome plain = programs.run(base);
    const Outcome drafted = programs.run(base + " --draft ngram --metrics");
    CHECK(plain.code == 0);
    CHECK(drafted.code == 0);
    CHECK(drafted.out == plain.out);
    CHECK(drafted.err.find("bitnet: drafted ") != std::string::npos);
    CHECK(plain.err.find("drafted") == std::string::npos);
    const auto lines = [](const Outcome& outcome) {  // one a token; the object behind them has times
      return outcome.out.substr(0, outcome.out.rfind('\n', outcome.out.size() - 2) + 1);
    };
    CHECK(lines(programs.run(base + " --jsonl --draft ngram")) == lines(programs.run(base + " --jsonl --draft none")));
    const json a = json::parse(programs.run(base + " --json --dump-logits '" + plain_logits + "'").out);
    const json b = json::parse(programs.run(base + " --json --draft ngram --dump-logits '" + logits + "'").out);
    for (const char* key : {"text", "tokens", "finish_reason", "counts"}) CHECK(a[key] == b[key]);
    CHECK(read_text(plain_logits) == read_text(logits));
    CHECK(a["draft"] == json{{"proposed", 0}, {"accepted", 0}, {"passes", 0}});
    CHECK(b["draft"]["accepted"] <= b["draft"]["proposed"]);
    CHECK(b["draft"]["passes"] <= b["draft"]["proposed"]);
    accepted += b["draft"]["accepted"].get<std::size_t>();
  }
  MESSAGE("drafted tokens that were accepted: ", accepted);
  programs.refuses("run", "-m '" + model + "' -p x --draft model", 2, "--draft", "");
}

TEST_CASE("bitnet run: options with several values take one each, and lists keep their order") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = write_synth(programs.folder, "m.gguf", "1x128x256x2/1x300");
  const Outcome outcome = programs.run("-m '" + model +
                                       "' --prompt-ids 1,2 --prompt-ids 3 -n 2 --stop unseen --stop '' --stop-id 298 "
                                       "--stop-id 299 --ignore-eos --seed 18446744073709551615 --json");
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  const json result = json::parse(outcome.out);
  CHECK(result["counts"]["prompt"] == 3);
  CHECK(result["counts"]["generated"] == 2);
  CHECK(result["seed"] == 18446744073709551615U);
}

TEST_CASE("bitnet run: output that cannot be written is an error") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = write_synth(programs.folder, "m.gguf", "1x128x256x2/1x300");
  const std::string logits = programs.folder.file("logits");
  for (const char* form : {"", "--json", "--jsonl"}) {
    for (const char* target : {">/dev/full", ">&-"}) {
      const Outcome outcome = programs.run("-m '" + model + "' -p x -n 4 --seed 1 --ignore-eos -q --dump-logits '" +
                                           logits + "' " + form + " " + target);
      INFO(form, " ", target, ": ", outcome.err);
      CHECK(outcome.code == 1);
      CHECK(outcome.err.find("standard output") != std::string::npos);
    }
  }
}

TEST_CASE("bitnet run: an interrupt ends with 130 and keeps what there is") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = write_synth(programs.folder, "m.gguf", "1x128x256x2/1x300");
  // The interrupt comes when the first text has been written.
  const std::string text = programs.folder.file("text");
  const Outcome outcome = programs.shell(
      "'" + program("bitnet") + "' run -m '" + model + "' -p x -n -1 -C 1000000 --ignore-eos -t 1 >'" + text +
      "' & p=$!; while [ ! -s '" + text + "' ] && kill -0 $p; do sleep 0.01; done; kill -INT $p; wait $p");
  CHECK(outcome.code == 130);
  CHECK_FALSE(read_text(text).empty());
}

TEST_CASE("graph dumps: compare_nodes finds the node that differs") {
  const Programs programs;
  if (!programs.available()) return;
  const std::string model = write_synth(programs.folder, "m.gguf", "2x128x256x2/1x300", "bitnet");
  const auto dump = [&](const std::string& name, const std::string& threads) {
    const std::string folder = programs.folder.file(name);
    const Outcome outcome = programs.run("-m '" + model + "' --prompt-ids 1,2,3,4,5,6,7,8,9 -n 1 -q -t " + threads +
                                         " --dump-nodes '" + folder + "'");
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    return folder;
  };
  const std::string a = dump("a", "1");
  const std::string b = dump("b", "2");
  const std::string compare = "'" + program("compare_nodes") + "' ";
  const Outcome equal = programs.shell(compare + "--tolerance 0 '" + a + "' '" + b + "'");
  CHECK(equal.code == 0);
  CHECK(equal.out.find("29 nodes within 0") != std::string::npos);
  CHECK(programs.shell(compare + "'" + a + "/' '" + b + "'").code == 0);  // a common beginning of files

  const std::string damaged = b + "/t.019.ffn_norm-0.MUL.f32";
  REQUIRE(std::filesystem::exists(damaged));
  std::fstream file(damaged, std::ios::in | std::ios::out | std::ios::binary);
  const float value = 1000.0F;
  file.seekp(40);
  file.write(reinterpret_cast<const char*>(&value), 4);
  file.close();
  const Outcome differs = programs.shell(compare + "'" + a + "' '" + b + "'");
  CHECK(differs.code == 1);
  CHECK(differs.out.find("first divergence beyond 0.001: ffn_norm-0 MUL #1, element 10: ") != std::string::npos);
  std::filesystem::resize_file(damaged, 100);
  CHECK(programs.shell(compare + "'" + a + "' '" + b + "'").code == 2);
  CHECK(programs.shell(compare + "'" + a + "' /nonexistent").code == 2);
}

}  // namespace
}  // namespace bitnet
