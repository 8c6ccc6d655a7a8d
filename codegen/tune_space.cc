#include "codegen/tune_space.h"

#include <algorithm>
#include <span>
#include <tuple>

namespace bitnet::codegen {
namespace {

// Short lists for a quick run: what won or came close on some CPU so far.
constexpr std::int32_t kQuickStreams[] = {1, 2, 4};
constexpr std::int32_t kFullStreams[] = {1, 2, 3, 4, 6, 8};
constexpr std::int32_t kQuickPrefetch[] = {512, 1024, 2048};
constexpr std::int32_t kFullPrefetch[] = {0, 256, 512, 1024, 1536, 2048, 4096};
// Lines of the lookup layouts are several times as long.
constexpr std::int32_t kQuickFar[] = {2560, 3840};
constexpr std::int32_t kFullFar[] = {1280, 2560, 3840, 5120};

struct Tile {
  std::int32_t tokens;
  std::int32_t rows;
};
constexpr Tile kQuickTiles[] = {{4, 1}, {6, 1}, {8, 1}, {16, 1}, {8, 2}, {4, 4}};
constexpr Tile kFullTiles[] = {{2, 1}, {4, 1}, {5, 1}, {6, 1},  {8, 1}, {12, 1}, {16, 1}, {24, 1}, {2, 2},
                               {4, 2}, {6, 2}, {8, 2}, {12, 2}, {4, 3}, {8, 3},  {4, 4},  {4, 6}};

std::span<const std::int32_t> streams(bool full) {
  return full ? std::span<const std::int32_t>(kFullStreams) : std::span<const std::int32_t>(kQuickStreams);
}

std::span<const std::int32_t> prefetches(Format format, bool full) {
  if (format == Format::kTl1 || format == Format::kTl2) {
    return full ? std::span<const std::int32_t>(kFullFar) : std::span<const std::int32_t>(kQuickFar);
  }
  return full ? std::span<const std::int32_t>(kFullPrefetch) : std::span<const std::int32_t>(kQuickPrefetch);
}

std::span<const Tile> tiles(bool full) {
  return full ? std::span<const Tile>(kFullTiles) : std::span<const Tile>(kQuickTiles);
}

auto simplicity(const Point& p) {
  return std::tuple(!p.technique.empty(), p.streams, p.token_tile * p.row_tiles, p.row_tiles, p.prefetch);
}

}  // namespace

bool same_kernel(const Point& a, const Point& b) {
  return a.isa == b.isa && a.op == b.op && a.format == b.format && a.m == b.m && a.streams == b.streams &&
         a.prefetch == b.prefetch && a.token_tile == b.token_tile && a.row_tiles == b.row_tiles &&
         a.technique == b.technique;
}

std::string describe(const Point& point) {
  std::string text = point.technique.empty() ? "" : "Halide, ";
  if (point.op == Op::kGemm && point.m == 0) {
    return text + std::to_string(point.token_tile) + " x " + std::to_string(point.row_tiles) + " tiles";
  }
  text += std::to_string(point.streams) + (point.streams == 1 ? " stream" : " streams");
  return point.technique.empty() ? text + ", prefetch " + std::to_string(point.prefetch) : text;
}

std::vector<Point> tune_space(const Point& place, const std::vector<Point>& known, bool full, bool halide) {
  std::vector<Point> space;
  const auto add = [&space](Point point) {
    const bool there = std::ranges::any_of(space, [&](const Point& other) { return same_kernel(point, other); });
    if (!there) space.push_back(std::move(point));
  };
  Point point;
  point.isa = place.isa;
  point.op = place.op;
  point.format = place.format;
  point.m = place.m;
  const bool with_halide = halide && place.format == Format::kI2s && place.m == 0;
  if (place.op == Op::kGemm && place.m == 0) {
    for (const Tile& tile : tiles(full)) {
      point.token_tile = tile.tokens;
      point.row_tiles = tile.rows;
      point.technique.clear();
      add(point);
      if (with_halide && tile.rows == 1 && tile.tokens >= 4 && tile.tokens <= 16) {
        point.technique = "halide";
        add(point);
      }
    }
  } else {
    for (const std::int32_t count : streams(full)) {
      point.streams = count;
      point.technique.clear();
      for (const std::int32_t ahead : prefetches(place.format, full)) {
        point.prefetch = ahead;
        add(point);
      }
      if (with_halide && count <= 4) {
        point.prefetch = 0;
        point.technique = "halide";
        add(point);
      }
    }
  }
  for (const Point& old : known) {
    Point general = old;
    general.n = 0;
    general.k = 0;
    general.note.clear();
    add(std::move(general));
  }
  std::ranges::stable_sort(space, {}, simplicity);
  return space;
}

}  // namespace bitnet::codegen
