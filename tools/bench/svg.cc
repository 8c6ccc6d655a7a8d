// See svg.h.
#include "tools/bench/svg.h"

#include <array>
#include <charconv>
#include <cstdio>

namespace bitnet::bench {
namespace {

constexpr std::string_view kStyle = R"(<style>
text { font: 12px sans-serif; fill: #333; }
text.faint { fill: #777; } text.small { font-size: 10px; } text.head { font-size: 15px; font-weight: bold; }
.axis { stroke: #555; stroke-width: 1; } .grid { stroke: #999; stroke-width: 0.5; stroke-opacity: 0.4; }
.roof { stroke: #c0392b; stroke-width: 2; } .line { stroke: #888; stroke-width: 0.6; }
.c0 { fill: #2e86c1; } .c1 { fill: #8e44ad; } .c2 { fill: #28a060; } .c3 { fill: #d68910; } .c4 { fill: #b03a5b; }
.c5 { fill: #7f8c8d; } .pale { fill-opacity: 0.55; }
@media (prefers-color-scheme: dark) { text { fill: #ddd; } text.faint { fill: #999; } .axis { stroke: #aaa; } }
</style>
)";

// Two decimals: finer than any screen.
std::string coordinate(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, 2).ptr;
  return {text.data(), end};
}

std::string attribute(std::string_view name, double value) {
  return " " + std::string(name) + "=\"" + coordinate(value) + "\"";
}

std::string style_attribute(std::string_view style) { return " class=\"" + xml_escaped(style) + "\""; }

}  // namespace

std::string xml_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += byte < 0x20 && c != '\n' && c != '\t' ? '?' : c;
    }
  }
  return out;
}

Svg::Svg(double width, double height) {
  out_ << "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\""
       << attribute("width", width) << attribute("height", height) << " viewBox=\"0 0 " << coordinate(width) << ' '
       << coordinate(height) << "\">\n"
       << kStyle;
}

void Svg::close(std::string_view element, std::string_view title) {
  if (title.empty()) {
    out_ << "/>\n";
  } else {
    out_ << "><title>" << xml_escaped(title) << "</title></" << element << ">\n";
  }
}

void Svg::line(double x1, double y1, double x2, double y2, std::string_view style) {
  out_ << "<line" << attribute("x1", x1) << attribute("y1", y1) << attribute("x2", x2) << attribute("y2", y2)
       << style_attribute(style) << "/>\n";
}

void Svg::circle(double x, double y, double radius, std::string_view style, std::string_view title) {
  out_ << "<circle" << attribute("cx", x) << attribute("cy", y) << attribute("r", radius) << style_attribute(style);
  close("circle", title);
}

void Svg::box(double x, double y, double width, double height, std::string_view style, std::string_view title) {
  out_ << "<rect" << attribute("x", x) << attribute("y", y) << attribute("width", width) << attribute("height", height)
       << style_attribute(style);
  close("rect", title);
}

void Svg::text(double x, double y, std::string_view text, std::string_view style, Anchor anchor, double turn) {
  out_ << "<text" << attribute("x", x) << attribute("y", y) << style_attribute(style);
  if (anchor == Anchor::kMiddle) out_ << " text-anchor=\"middle\"";
  if (anchor == Anchor::kEnd) out_ << " text-anchor=\"end\"";
  if (turn != 0)
    out_ << " transform=\"rotate(" << coordinate(turn) << ' ' << coordinate(x) << ' ' << coordinate(y) << ")\"";
  out_ << '>' << xml_escaped(text) << "</text>\n";
}

std::string Svg::finish() const { return out_.str() + "</svg>\n"; }

std::string short_number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), value >= 100 ? "%.0f" : value >= 10 ? "%.3g" : "%.2g", value);
  return text.data();
}

}  // namespace bitnet::bench
