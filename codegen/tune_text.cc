// The tuner's file: TOML by hand, because its order and comments are for readers; parse_points reads it back.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "codegen/tune.h"

namespace bitnet::codegen {
namespace {

// A TOML basic string.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out.append("\\").append(1, c);
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04X", static_cast<unsigned>(static_cast<unsigned char>(c)));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

void add(std::string& text, const char* key, std::string_view value) {
  text.append(key).append(" = ").append(quoted(value)).append("\n");
}
void add(std::string& text, const char* key, std::int64_t value) {
  text.append(key).append(" = ").append(std::to_string(value)).append("\n");
}

void add_point(std::string& text, const Point& point) {
  text += "\n[[point]]\n";
  add(text, "isa", to_string(point.isa));
  add(text, "op", to_string(point.op));
  add(text, "format", to_string(point.format));
  if (point.m != 0) add(text, "m", point.m);
  add(text, "n", point.n);
  add(text, "k", point.k);
  if (!point.technique.empty()) add(text, "technique", point.technique);
  if (point.op == Op::kGemm && point.m == 0) {
    add(text, "token_tile", point.token_tile);
    add(text, "row_tiles", point.row_tiles);
  } else {
    add(text, "streams", point.streams);
    if (point.technique.empty()) add(text, "prefetch", point.prefetch);
  }
  if (!point.note.empty()) add(text, "note", point.note);
}

void add_layout(std::string& text, const LayoutPoint& layout) {
  text += "\n[[layout]]\n";
  add(text, "isa", to_string(layout.isa));
  add(text, "format", to_string(layout.format));
  add(text, "n", layout.n);
  add(text, "k", layout.k);
  if (layout.min_model_bytes != 0) add(text, "min_model_bytes", layout.min_model_bytes);
  if (!layout.note.empty()) add(text, "note", layout.note);
}

void add_rows(std::string& text, const TuneResult& result) {
  for (const LayoutPoint& layout : result.layouts) add_layout(text, layout);
  for (const Point& point : result.points) add_point(text, point);
}

bool is_of(std::span<const TuneShape> shapes, std::int64_t n, std::int64_t k) {
  return std::ranges::any_of(shapes, [&](const TuneShape& shape) { return shape.n == n && shape.k == k; });
}

}  // namespace

std::string points_text(const TuneResult& result, const TuneProvenance& provenance, const TuneResult& kept) {
  const std::string threads = std::to_string(provenance.threads) + (provenance.threads == 1 ? " thread" : " threads");
  std::string text =
      "# Which variant of a kernel family serves a shape on this CPU, as `bitnet-codegen tune` measured it "
      "(codegen/tune.h\n"
      "# says how; codegen/points.h gives the keys). Use: bitnet-codegen --points FILE, or a shipped file's name. "
      "Measure\n"
      "# again rather than edit; --compare times two such files side by side. Rows are what won against the defaults "
      "in\n"
      "# several processes; where nothing did, there is none.\n#\n";
  text += "# Last run: " + std::to_string(result.points.size()) + " of " + std::to_string(provenance.places) +
          " places won. Probes";
  text.append(provenance.full ? " (full): " : " (quick): ");
  text.append(provenance.probes).append("\n");
  add(text, "provenance",
      provenance.cpu + ", " + threads + ", " + provenance.date + ", bitnet-codegen " + provenance.version +
          (provenance.full ? " tune --full" : " tune --quick"));
  add(text, "base", "defaults");
  add_rows(text, kept);
  add_rows(text, result);
  return text;
}

Result<TuneResult> read_tuned(std::string_view toml, const std::string& path, std::span<const TuneShape> shapes) {
  BITNET_ASSIGN_OR_RETURN(const Points points, parse_points(toml, path));
  TuneResult kept;
  for (const Point& point : points.points) {
    if (point.n != 0 && !is_of(shapes, point.n, point.k)) kept.points.push_back(point);
  }
  for (const LayoutPoint& layout : points.layouts) {
    if (layout.n != 0 && !is_of(shapes, layout.n, layout.k)) kept.layouts.push_back(layout);
  }
  return kept;
}

Status write_file_whole(const std::string& path, std::string_view bytes) {
  const std::string temporary = path + "." + std::to_string(::getpid()) + ".tmp";
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  const auto failed = [&](const char* what) {
    const int reason = errno;
    if (file >= 0) ::unlink(temporary.c_str());
    return Error{ErrorCode::kFailure, "cannot write " + path + ": " + what + " (" + std::strerror(reason) + ")"};
  };
  if (file < 0) return failed("no temporary file can be made beside it");
  bool whole = true;
  for (std::size_t at = 0; whole && at < bytes.size();) {
    const ssize_t written = ::write(file, bytes.data() + at, bytes.size() - at);
    whole = written > 0 || (written < 0 && errno == EINTR);
    if (written > 0) at += static_cast<std::size_t>(written);
  }
  whole = ::close(file) == 0 && whole;
  if (!whole) return failed("the bytes did not reach the disk; is it full?");
  if (::rename(temporary.c_str(), path.c_str()) != 0) return failed("the finished file cannot be renamed");
  return {};
}

}  // namespace bitnet::codegen
