// Result<T>: a value or an Error, never an exception across a library boundary.
//
// A message says what failed, where (file, tensor, key, offset), what was expected, what was found, and what to do
// next. Codes are the exit codes of the programs (see docs of `bitnet --help`), so a tool returns them unchanged.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace bitnet {

enum class ErrorCode : int {
  kFailure = 1,
  kUsage = 2,
  kTensorMapping = 3,
  kTokenizer = 4,
  kStrict = 8,
  kMemory = 10,
  kVerification = 15,
  kInterrupted = 130,
};

struct Error {
  ErrorCode code = ErrorCode::kFailure;
  std::string message;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Precondition of value(): ok(). Precondition of error(): !ok().
  [[nodiscard]] T& value() & { return std::get<0>(state_); }
  [[nodiscard]] const T& value() const& { return std::get<0>(state_); }
  [[nodiscard]] T&& value() && { return std::get<0>(std::move(state_)); }
  [[nodiscard]] const Error& error() const { return std::get<1>(state_); }

  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), failed_(true) {}

  [[nodiscard]] bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const { return error_; }

 private:
  Error error_;
  bool failed_ = false;
};

using Status = Result<void>;

}  // namespace bitnet

#define BITNET_CONCAT_INNER(a, b) a##b
#define BITNET_CONCAT(a, b) BITNET_CONCAT_INNER(a, b)

// Returns the error of a failed Result/Status expression from the enclosing function.
#define BITNET_RETURN_IF_ERROR(expression)                               \
  do {                                                                   \
    if (const auto& bitnet_status = (expression); !bitnet_status.ok()) { \
      return bitnet_status.error();                                      \
    }                                                                    \
  } while (false)

// Declares `declaration` from the value of a Result expression, or returns its error.
#define BITNET_ASSIGN_OR_RETURN(declaration, expression) \
  BITNET_ASSIGN_OR_RETURN_IMPL(BITNET_CONCAT(bitnet_result_, __LINE__), declaration, expression)
#define BITNET_ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                         \
  if (!result.ok()) return result.error();                            \
  declaration = std::move(result).value()
