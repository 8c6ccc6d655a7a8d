// The roofline as a picture: operations per second over operations per byte, both logarithmic. Kernels stand as
// numbered points; the numbers are explained at the right, so that names need not fit between points.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "tools/bench/report.h"
#include "tools/bench/svg.h"

namespace bitnet::bench {
namespace {

constexpr double kLeft = 70;
constexpr double kTop = 60;
constexpr double kPlotWidth = 640;
constexpr double kPlotHeight = 480;
constexpr double kLegend = 430;
constexpr double kLegendRow = 15;

struct Point {
  std::string phase;
  std::string name;
  double intensity = 0;  // operations per byte
  double gops = 0;
  double fraction = 0;
  int colour = 0;
};

struct Axis {
  double low = 0;  // log10
  double high = 1;
  double begin = 0;  // on the picture
  double end = 1;
  [[nodiscard]] double at(double value) const {
    return begin + (std::log10(value) - low) / (high - low) * (end - begin);
  }
};

void add_points(const Figure& figure, const std::string& phase, int colour, std::vector<Point>& points) {
  for (const KernelTime& kernel : figure.profile.kernels) {
    if (kernel.seconds <= 0 || kernel.bytes <= 0 || kernel.operations <= 0) continue;
    points.push_back({phase, kernel.name, kernel.operations / kernel.bytes, kernel.operations / kernel.seconds * 1e-9,
                      kernel.fraction(figure.profile_probes), colour});
  }
}

std::vector<Point> points_of(const Run& run) {
  std::vector<Point> points;
  add_points(run.decode, "decode", 0, points);
  if (run.context_decode.has_value()) {
    add_points(*run.context_decode, "at " + std::to_string(run.context_decode->context), 1, points);
  }
  for (const Figure& figure : run.batch) add_points(figure, "batch " + std::to_string(figure.tokens), 2, points);
  for (const Figure& figure : run.prefill) add_points(figure, "prefill " + std::to_string(figure.tokens), 3, points);
  return points;
}

// Decades that hold the values, with some room.
void cover(Axis& axis, double low, double high) {
  axis.low = std::floor(std::log10(low) - 0.1);
  axis.high = std::ceil(std::log10(high) + 0.1);
}

void draw_axes(Svg& svg, const Axis& x, const Axis& y) {
  for (int decade = static_cast<int>(x.low); decade <= static_cast<int>(x.high); ++decade) {
    const double at = x.at(std::pow(10.0, decade));
    svg.line(at, y.begin, at, y.end, "grid");
    svg.text(at, y.begin + 18, short_number(std::pow(10.0, decade)), "ink", Svg::Anchor::kMiddle);
  }
  for (int decade = static_cast<int>(y.low); decade <= static_cast<int>(y.high); ++decade) {
    const double at = y.at(std::pow(10.0, decade));
    svg.line(x.begin, at, x.end, at, "grid");
    svg.text(x.begin - 8, at + 4, short_number(std::pow(10.0, decade)), "ink", Svg::Anchor::kEnd);
  }
  svg.line(x.begin, y.begin, x.end, y.begin, "axis");
  svg.line(x.begin, y.begin, x.begin, y.end, "axis");
  svg.text((x.begin + x.end) / 2, y.begin + 38, "operations per byte read", "ink", Svg::Anchor::kMiddle);
  svg.text(18, (y.begin + y.end) / 2, "10\xE2\x81\xB9 operations per second", "ink", Svg::Anchor::kMiddle, -90);
}

// Places for the numbers: each at the first of some places around its point, further and further out, where no earlier
// number and no point is.
class Labels {
 public:
  Labels(const Axis& x, const Axis& y) : x_(x), y_(y) {}
  void reserve(double x, double y, double width = 8, double height = 8) {
    taken_.push_back({x - width / 2, y - height / 2, width, height});
  }
  struct Place {
    double x;
    double y;
    bool far;
  };
  Place place(double x, double y, double width) {
    constexpr double kHeight = 11;
    Place best{x + 6, y - 4, false};
    for (const double radius : {9.0, 16.0, 26.0, 38.0, 52.0, 68.0, 86.0, 106.0}) {
      for (int turn = 0; turn < 16; ++turn) {
        const double angle = turn * std::acos(-1.0) / 8;
        const Box box{x + radius * std::cos(angle) - width / 2, y - radius * std::sin(angle) - kHeight / 2, width,
                      kHeight};
        if (box.x < x_.begin || box.x + width > x_.end || box.y < y_.end || box.y + kHeight > y_.begin) continue;
        if (std::ranges::any_of(taken_, [&](const Box& other) { return overlap(box, other); })) continue;
        taken_.push_back(box);
        return {box.x, box.y + kHeight - 2, radius > 12};
      }
    }
    return best;
  }

 private:
  struct Box {
    double x, y, width, height;
  };
  static bool overlap(const Box& a, const Box& b) {
    return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
  }
  const Axis& x_;
  const Axis& y_;
  std::vector<Box> taken_;
};

// Their names are taken places for numbers.
void draw_roofs(Svg& svg, const Axis& x, const Axis& y, const ProbeReading& probes, Labels& labels) {
  const double ridge = probes.dot_gops / probes.read_gbps;
  // The memory roof begins at the left or at the lower edge.
  const double start = std::max(std::pow(10.0, x.low), std::pow(10.0, y.low) / probes.read_gbps);
  const double end = std::max(ridge, start);
  svg.line(x.at(start), y.at(start * probes.read_gbps), x.at(end), y.at(end * probes.read_gbps), "roof");
  svg.line(x.at(end), y.at(probes.dot_gops), x.end, y.at(probes.dot_gops), "roof");
  const double turn = -std::atan2(std::abs(y.end - y.begin) / (y.high - y.low), (x.end - x.begin) / (x.high - x.low)) *
                      180 / std::acos(-1.0);
  const double middle = std::sqrt(start * end);
  svg.text(x.at(middle) - 6, y.at(middle * probes.read_gbps) - 8,
           "read probe " + short_number(probes.read_gbps) + " GB/s", "ink", Svg::Anchor::kMiddle, turn);
  svg.text(x.end - 4, y.at(probes.dot_gops) - 8, "dot probe " + short_number(probes.dot_gops) + " GOPS", "ink",
           Svg::Anchor::kEnd);
  labels.reserve(x.end - 64, y.at(probes.dot_gops) - 13, 130, 14);
  for (int letter = -5; letter <= 5; ++letter) {  // along the slope
    const double along = 11.0 * letter;
    const double angle = turn * std::acos(-1.0) / 180;
    labels.reserve(x.at(middle) - 8 + along * std::cos(angle),
                   y.at(middle * probes.read_gbps) - 12 + along * std::sin(angle), 14, 14);
  }
}

}  // namespace

std::string roofline_svg(const Run& run) {
  const std::vector<Point> points = points_of(run);
  const ProbeReading probes = run.probes();
  const double ridge = probes.dot_gops / probes.read_gbps;
  Axis x{.begin = kLeft, .end = kLeft + kPlotWidth};
  Axis y{.begin = kTop + kPlotHeight, .end = kTop};
  double left = ridge / 10;
  double right = ridge * 4;
  double low = probes.dot_gops / 10;
  for (const Point& point : points) {
    left = std::min(left, point.intensity);
    right = std::max(right, point.intensity);
    low = std::min(low, point.gops);
  }
  cover(x, left, right);
  cover(y, low, probes.dot_gops);

  const double legend_height = static_cast<double>(points.size() + 4) * kLegendRow;
  Svg svg(kLeft + kPlotWidth + 30 + kLegend, kTop + std::max(kPlotHeight + 60, legend_height));
  char title[240];
  std::snprintf(title, sizeof title, "Roofline: target %s, %d thread%s", run.target.c_str(), run.threads,
                run.threads == 1 ? "" : "s");
  svg.text(kLeft, 24, title, "head");
  svg.text(kLeft, 42, run.model + (run.emulated ? "; emulated CPU: times mean nothing" : "; " + run.cpu), "faint");
  draw_axes(svg, x, y);
  Labels labels(x, y);
  draw_roofs(svg, x, y, probes, labels);
  for (const Point& point : points) labels.reserve(x.at(point.intensity), y.at(point.gops));
  const double legend = kLeft + kPlotWidth + 30;
  svg.text(legend, kTop, "fraction of its probe, kernel", "faint");
  if (points.empty()) svg.text(legend, kTop + kLegendRow, "no kernel's time was taken");
  for (std::size_t i = 0; i < points.size(); ++i) {
    const Point& point = points[i];
    const std::string number = std::to_string(i + 1);
    const std::string style = "c" + std::to_string(point.colour);
    char detail[120];
    std::snprintf(detail, sizeof detail, ": %.2f operations per byte, %.1f GOPS", point.intensity, point.gops);
    const double px = x.at(point.intensity);
    const double py = y.at(point.gops);
    const double width = 6.0 * static_cast<double>(number.size()) + 3;
    const Labels::Place place = labels.place(px, py, width);
    if (place.far) svg.line(px, py, place.x + width / 2, place.y - 4, "line");
    svg.circle(px, py, 3.5, style, point.name + detail);
    svg.text(place.x + width / 2, place.y, number, "ink small", Svg::Anchor::kMiddle);
    const double row = kTop + static_cast<double>(i + 1) * kLegendRow + 4;
    svg.text(legend + 20, row, number, "ink small", Svg::Anchor::kEnd);
    svg.circle(legend + 28, row - 4, 3.5, style);
    // Only the dot probe and the read probe's bytes are a measure; without one there is no fraction.
    if (point.fraction > 0) {
      char fraction[16];
      std::snprintf(fraction, sizeof fraction, "%.2f", point.fraction);
      svg.text(legend + 38, row, fraction, "small");
    }
    svg.text(legend + 66, row, point.phase, "faint small");
    svg.text(legend + 130, row, point.name, "small");
  }
  return svg.finish();
}

}  // namespace bitnet::bench
