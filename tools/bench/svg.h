// A small writer of SVG pictures: boxes, lines, circles, text; all text escaped. Colours are classes of one style sheet
// that follows the reader's light or dark scheme and has no background of its own.
#pragma once

#include <sstream>
#include <string>
#include <string_view>

namespace bitnet::bench {

// For text and attributes; bytes that XML does not allow become '?'. Valid UTF-8 is assumed.
[[nodiscard]] std::string xml_escaped(std::string_view text);

class Svg {
 public:
  // Size in user units.
  Svg(double width, double height);
  // `style` names classes of the style sheet: "ink" (text), "faint" (text), "axis", "grid", "roof", "line" (strokes),
  // "c0" .. "c5" (fills), "box" (fill behind text).
  void line(double x1, double y1, double x2, double y2, std::string_view style);
  void circle(double x, double y, double radius, std::string_view style, std::string_view title = {});
  void box(double x, double y, double width, double height, std::string_view style, std::string_view title = {});
  enum class Anchor { kStart, kMiddle, kEnd };
  void text(double x, double y, std::string_view text, std::string_view style = "ink", Anchor anchor = Anchor::kStart,
            double turn = 0);  // degrees about (x, y)
  [[nodiscard]] std::string finish() const;

 private:
  void close(std::string_view element, std::string_view title);
  std::ostringstream out_;
};

// "0.25", "10", "466": short, for axes and labels.
[[nodiscard]] std::string short_number(double value);

}  // namespace bitnet::bench
